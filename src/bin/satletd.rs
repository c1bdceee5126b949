//! The provider's daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args
        .next()
        .is_some_and(|arg| arg == satlet::compute::sandbox::HELPER_ARG)
    {
        return satlet::compute::sandbox::helper_main(args);
    }
    ExitCode::SUCCESS
}
