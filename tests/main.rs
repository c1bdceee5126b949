//! The one integration binary.

mod scenarios;
