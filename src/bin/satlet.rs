//! The consumer's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The demo runs a provider in this process, and with it its helpers.
    #[cfg(feature = "provider")]
    {
        let mut args = std::env::args_os().skip(1);
        if args
            .next()
            .is_some_and(|arg| arg == satlet::compute::sandbox::HELPER_ARG)
        {
            return satlet::compute::sandbox::helper_main(args);
        }
    }
    ExitCode::SUCCESS
}
