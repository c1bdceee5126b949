//! What several tests need.

pub mod clients;
pub mod coins;
pub mod crash;
pub mod elder;
pub mod engine;
pub mod lightning;
pub mod local_backend;
pub mod local_gateway;
pub mod oci;
pub mod old_client;
pub mod openssh;
pub mod password_host;
pub mod proxy;
pub mod servers;
pub mod shop;
pub mod world;

use std::io::Write;
use std::path::{Path, PathBuf};

/// Ends a test that cannot run here, and says so: a line `SKIPPED name: why`
/// on stderr, and the same line in the file that `$SATLET_SKIPS` names, which
/// `.ci/run` counts. `skip!("why")` takes the test's name from the thread,
/// `skip!("name", "why {x}")` names it.
macro_rules! skip {
    ($name:expr, $why:literal $(, $arg:expr)* $(,)?) => {{
        $crate::support::record_skip($name, &format!($why $(, $arg)*));
        return;
    }};
    ($why:literal $(, $arg:expr)* $(,)?) => {{
        $crate::support::record_skip(&$crate::support::test_name(), &format!($why $(, $arg)*));
        return;
    }};
}

/// The name of the running test: libtest names the thread after it.
pub fn test_name() -> String {
    let thread = std::thread::current();
    thread.name().unwrap_or("unnamed").to_owned()
}

/// Notes that a test was skipped. One `write` of one line in append mode, so
/// that tests side by side do not mix their lines.
pub fn record_skip(name: &str, why: &str) {
    let line = format!("SKIPPED {name}: {}\n", why.replace('\n', " "));
    // Not `eprint!`: libtest would capture it, and nobody would see it.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("SATLET_SKIPS") {
        append(Path::new(&path), &line).expect("the file that SATLET_SKIPS names can be written");
    }
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)?;
    file.write_all(line.as_bytes())
}

/// The top of the source tree.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the source tree as text.
pub fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files under `dir` with this extension, sorted.
pub fn files_under(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.expect("directory entry").path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_skip_is_written_down_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("skips");
    append(&file, "SKIPPED a: b\n").unwrap();
    append(&file, "SKIPPED c: d\n").unwrap();
    assert_eq!(
        std::fs::read_to_string(file).unwrap(),
        "SKIPPED a: b\nSKIPPED c: d\n"
    );
}
pub mod host;
pub mod lan;
pub mod outside;
