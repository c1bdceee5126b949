//! Against programs that others wrote.

mod gateway;
