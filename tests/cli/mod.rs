//! The built binaries, as users call them.

mod enter;
mod satlet;
