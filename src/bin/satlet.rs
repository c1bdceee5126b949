//! The consumer's CLI: parse, call, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(satlet::cli::satlet::main(std::env::args_os()))
}
