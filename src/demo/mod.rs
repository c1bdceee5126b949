//! Both sides of a lease, a relay and a mint in one process: `satlet demo` and
//! what integration tests run against.

pub mod mint;
pub mod relay;

/// What `satlet demo` was asked for.
#[derive(Clone, Debug, Default)]
pub struct DemoArgs {
    /// One JSON object a step on standard output.
    pub json: bool,
    /// What to run in the workload.
    pub run: Option<String>,
    /// Leave everything up at the end.
    pub keep: bool,
}

/// Runs the demo and gives the exit code.
pub async fn run(args: DemoArgs) -> u8 {
    let _ = args;
    1
}
