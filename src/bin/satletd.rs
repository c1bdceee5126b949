//! The provider's daemon: arguments, command, exit code. Everything else is in
//! the library, [`satlet::cli::satletd`].

use std::process::ExitCode;

use clap::Parser;
use satlet::cli::satletd;

fn main() -> ExitCode {
    satletd::main(&satletd::Args::parse())
}
