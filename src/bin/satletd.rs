//! The provider's daemon: arguments, command, exit code. Everything else is in
//! the library, [`satlet::cli::satletd`].

use std::process::ExitCode;

use clap::Parser;
use satlet::cli::satletd;
use satlet::compute::sandbox;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == sandbox::HELPER_ARG) {
        // Before any thread or runtime: it forks.
        return sandbox::helper_main(args);
    }
    satletd::main(&satletd::Args::parse())
}
