//! The one integration binary: it links once.

mod real;
mod support;
