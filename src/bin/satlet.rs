//! The consumer's CLI: parse, call, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The demo runs a provider in this process, and with it its helpers.
    #[cfg(feature = "provider")]
    {
        use satlet::compute::sandbox;
        let mut args = std::env::args_os().skip(1);
        if args.next().is_some_and(|arg| arg == sandbox::HELPER_ARG) {
            return sandbox::helper_main(args);
        }
    }
    ExitCode::from(satlet::cli::satlet::main(std::env::args_os()))
}
