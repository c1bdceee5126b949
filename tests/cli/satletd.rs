//! `satletd` as operators run it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs it to its end, with no terminal and an environment of its own.
fn satletd(home: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_satletd"))
        .args(args)
        .env_clear()
        .env("HOME", home)
        .env("TMPDIR", home)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// A folder with a configuration made by `init`, on a free port.
fn configured() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("provider.json");
    let data = dir.path().join("data");
    let args = [
        "init",
        "--yes",
        "--json",
        "--config",
        config.to_str().unwrap(),
        "--data-dir",
        data.to_str().unwrap(),
        "--public-host",
        "box.example.org",
        "--listen",
        "127.0.0.1:0",
        "--mint",
        "https://mint.example.org",
        "--relay",
        "wss://relay.example.org",
    ];
    let output = satletd(dir.path(), &args);
    assert!(output.status.success(), "{output:?}");
    assert!(json(&output)["npub"].as_str().unwrap().starts_with("npub1"));
    (dir, config)
}

fn with_config(command: &[&str]) -> (Output, tempfile::TempDir) {
    let (dir, config) = configured();
    let args = [command, &["--config", config.to_str().unwrap()]].concat();
    (satletd(dir.path(), &args), dir)
}

#[test]
fn help_of_every_command_names_its_options() {
    let dir = tempfile::tempdir().unwrap();
    for (command, wanted) in [
        (vec!["--help"], "Exit codes"),
        (vec!["run", "--help"], "SIGTERM"),
        (vec!["init", "--help"], "--public-host"),
        (vec!["check", "--help"], "--strict"),
        (vec!["leases", "--help"], "--json"),
        (vec!["money", "--help"], "may have to go back"),
        (vec!["withdraw", "--help"], "is paid once"),
        (vec!["mints", "--help"], "locked tokens"),
        (vec!["offer", "--help"], "--json"),
    ] {
        let output = satletd(dir.path(), &command);
        assert!(output.status.success());
        let help = text(&output.stdout);
        assert!(help.contains(wanted), "{command:?}: {help}");
    }
    assert_eq!(satletd(dir.path(), &["rnu"]).status.code(), Some(2));
}

#[test]
fn withdraw_needs_an_amount_that_can_be_read_and_a_daemon() {
    let (dir, config) = configured();
    let config = config.to_str().unwrap();
    let to = ["withdraw", "me@pay.example", "--config", config];
    let wrong = satletd(dir.path(), &[&to[..], &["--amount", "lots"]].concat());
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    let alone = satletd(dir.path(), &[&to[..], &["--amount", "5sat"]].concat());
    assert_eq!(alone.status.code(), Some(5), "{alone:?}");
    assert!(text(&alone.stderr).contains("satletd run"), "{alone:?}");
}

#[test]
fn init_without_a_terminal_asks_nothing_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("provider.json");
    let output = satletd(dir.path(), &["init", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("--yes"));
    assert!(!config.exists());
}

#[test]
fn check_says_everything_that_is_wrong_at_once() {
    let (dir, config) = configured();
    let mut value: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    value["tiers"][0]["memory"] = "lots".into();
    value["tires"] = Value::Array(Vec::new());
    value["gateway"]["listen"] = 2222.into();
    std::fs::write(&config, value.to_string()).unwrap();
    let path = config.to_str().unwrap();

    let output = satletd(dir.path(), &["check", "--json", "--config", path]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let report = json(&output);
    assert_eq!(report["ok"], false);
    let mut places: Vec<&str> = report["config"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| problem["pointer"].as_str().unwrap())
        .collect();
    places.sort_unstable();
    assert_eq!(places, ["/gateway/listen", "/tiers/0/memory", "/tires"]);

    let output = satletd(dir.path(), &["check", "--config", path]);
    let said = text(&output.stderr);
    assert!(said.contains("Did you mean \"tiers\"?"), "{said}");
    // Every command that needs the configuration says the same.
    for command in ["run", "leases", "money", "mints", "offer"] {
        let output = satletd(dir.path(), &[command, "--config", path]);
        assert_eq!(output.status.code(), Some(3), "{command}: {output:?}");
    }
}

#[test]
fn check_of_a_good_configuration_ends_with_a_verdict_and_json_agrees() {
    let (output, dir) = with_config(&["check", "--offline"]);
    let code = output.status.code().unwrap();
    assert!(code == 0 || code == 4, "{output:?}");
    let said = text(&output.stdout);
    let verdict = said.lines().last().unwrap();
    assert_eq!(code == 4, verdict.contains("will not run"), "{said}");

    let config = dir.path().join("provider.json");
    let args = [
        "check",
        "--offline",
        "--json",
        "--config",
        config.to_str().unwrap(),
    ];
    let report = json(&satletd(dir.path(), &args));
    assert_eq!(report["ok"], code == 0);
    assert_eq!(report["config"], Value::Array(Vec::new()));
    let findings = report["findings"].as_array().unwrap();
    let errors = findings.iter().filter(|f| f["level"] == "error").count();
    assert_eq!(errors > 0, code == 4, "{findings:?}");
    assert!(
        !dir.path().join("data").exists(),
        "check has made something"
    );
}

#[test]
fn secrets_that_others_can_read_stop_every_command() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, config) = configured();
    let nsec = dir.path().join("nsec");
    std::fs::set_permissions(&nsec, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = satletd(dir.path(), &["run", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(text(&output.stderr).contains("chmod 600"));
    assert!(!text(&output.stderr).contains("nsec1"));
}

#[test]
fn leases_and_money_without_a_daemon_have_an_exit_code_of_their_own() {
    for command in ["leases", "money", "mints"] {
        let (output, _dir) = with_config(&[command, "--json"]);
        assert_eq!(output.status.code(), Some(5), "{output:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn offer_shows_what_the_configuration_makes_of_this_host() {
    let (output, _dir) = with_config(&["offer", "--json"]);
    if !output.status.success() {
        let said = text(&output.stderr);
        skip!("no backend on this host: {said}");
    }
    let offer = json(&output);
    assert_eq!(offer["whitelisted_mints"][0], "https://mint.example.org");
    assert_eq!(offer["satlet"]["gateway"]["host"], "box.example.org");
    assert_eq!(offer["satlet"]["dialects"][0], "satlet/1");
    assert!(text(&output.stderr).contains("does not run"));
}

/// A daemon that is ended when the test is.
struct Daemon(std::process::Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks until the answer is as wanted, for at most half a minute.
fn poll(home: &Path, args: &[&str], good: impl Fn(&Output) -> bool) -> Output {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let output = satletd(home, args);
        if good(&output) || std::time::Instant::now() > deadline {
            return output;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn a_running_daemon_answers_and_ends_at_sigterm() {
    let (dir, config) = configured();
    let mut value: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    // Nobody listens there: a relay and a mint that are down stop nothing.
    value["relays"] = serde_json::json!(["ws://127.0.0.1:9"]);
    value["mints"][0]["url"] = "http://127.0.0.1:9".into();
    value["backend"]["kind"] = "fake".into();
    std::fs::write(&config, value.to_string()).unwrap();
    let path = config.to_str().unwrap();
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_satletd"))
        .args(["run", "--config", path])
        .env("SATLET_LOG", "debug")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut daemon = Daemon(child);

    let asked = ["leases", "--json", "--config", path];
    let output = poll(dir.path(), &asked, |output| output.status.success());
    let said = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert_eq!(text(&output.stdout).trim(), "[]", "{output:?} {said}");

    let money = json(&satletd(dir.path(), &["money", "--json", "--config", path]));
    assert_eq!(money["purses"], serde_json::json!([]), "{money}");
    assert_eq!(money["received_msat"], 0);

    let output = satletd(dir.path(), &["offer", "--json", "--config", path]);
    let offer = json(&output);
    assert_eq!(offer["capabilities"][0], "fake");
    let key = offer["satlet"]["gateway"]["host_key"].as_str().unwrap();
    assert!(key.starts_with("ssh-ed25519 "), "{key}");
    assert!(output.stderr.is_empty(), "{output:?}");

    // A second daemon on the same data is refused, and harms nothing.
    let second = satletd(dir.path(), &["run", "--config", path]);
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(satletd(dir.path(), &asked).status.success());

    let output = satletd(
        dir.path(),
        &["check", "--offline", "--json", "--config", path],
    );
    let findings = text(&output.stdout);
    assert!(
        findings.contains(&format!("process {}", daemon.0.id())),
        "{findings}"
    );

    let pid = nix::unistd::Pid::from_raw(daemon.0.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = daemon.0.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(satletd(dir.path(), &asked).status.code(), Some(5));
    let said = std::fs::read_to_string(dir.path().join("log")).unwrap();
    let words = std::fs::read_to_string(dir.path().join("mnemonic")).unwrap();
    assert!(
        !said.contains("nsec1") && !said.contains(words.trim()),
        "{said}"
    );
}
