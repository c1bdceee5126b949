//! Against real programs and a real kernel.

mod programs;
