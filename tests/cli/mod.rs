//! The built binaries, as users call them.

mod satlet;
