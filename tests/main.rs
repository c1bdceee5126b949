//! t
mod real;
