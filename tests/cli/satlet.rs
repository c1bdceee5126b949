//! `satlet` as users call it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use satlet::demo::relay::TestRelay;
use serde_json::Value;
use tempfile::TempDir;

use crate::scenarios::consumer::Provider;

fn satlet(home: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_satlet"))
        .args(args)
        .env("SATLET_HOME", home)
        .env_remove("SATLET_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

fn home() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Every command with arguments that it takes.
const COMMANDS: &[&[&str]] = &[
    &["list"],
    &["info"],
    &["quote"],
    &["spawn"],
    &["ls"],
    &["status"],
    &["topup"],
    &["ssh"],
    &["exec"],
    &["cp"],
    &["logs"],
    &["receipt"],
    &["receipt", "verify"],
    &["stop"],
    &["wallet"],
    &["wallet", "balance"],
    &["wallet", "receive"],
    &["wallet", "send"],
    &["wallet", "mint"],
    &["wallet", "mints"],
    &["wallet", "refunds"],
    &["wallet", "history"],
    &["identity"],
    &["config"],
    &["config", "get"],
    &["config", "set"],
    &["demo"],
];

#[test]
fn every_command_has_help() {
    let home = home();
    for command in COMMANDS {
        let mut args = command.to_vec();
        args.push("--help");
        let output = satlet(home.path(), &args);
        assert!(output.status.success(), "{command:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("Usage: satlet"), "{command:?}: {text}");
    }
    let text = String::from_utf8(satlet(home.path(), &["help"]).stdout).unwrap();
    assert!(text.contains("Exit codes: 0 ok"), "{text}");
    assert_eq!(
        std::fs::read_dir(home.path()).unwrap().count(),
        0,
        "help makes no files"
    );
}

#[test]
fn the_documentation_has_every_command_and_exit_code() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    for command in COMMANDS {
        let name = format!("satlet {}", command.join(" "));
        assert!(docs.contains(&name), "docs/cli.md lacks {name}");
    }
    for code in 0..=7 {
        assert!(
            docs.contains(&format!("| {code} |")),
            "docs/cli.md lacks exit code {code}"
        );
    }
}

#[test]
fn errors_are_json_with_a_stable_exit_code() {
    let home = home();
    let nowhere = "ws://127.0.0.1:9";
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--json", "nonsense"], 2, "usage"),
        (&["--json", "spawn"], 2, "usage"),
        (&["exec", "x", "--json"], 2, "usage"),
        (&["--json", "status", "nolease"], 3, "lease_not_found"),
        (
            &["--json", "status", "8d7c3a52-7a4b-4f3e-9d55-0a3b7a1f0b11"],
            3,
            "request_not_found",
        ),
        (&["--json", "stop", "nolease"], 3, "lease_not_found"),
        (
            &["--json", "topup", "nolease", "--amount", "5"],
            3,
            "lease_not_found",
        ),
        (&["--json", "ssh", "nolease"], 3, "lease_not_found"),
        (&["--json", "cp", "a", "b"], 2, "usage"),
        (
            &["--json", "config", "set", "nosuch", "1"],
            2,
            "unknown_setting",
        ),
        (
            &["--json", "config", "set", "relays", "http://x"],
            2,
            "bad_setting",
        ),
        (
            &["--json", "wallet", "mints", "--add", "http://mint.example"],
            2,
            "bad_setting",
        ),
        (
            &["--json", "wallet", "receive", "nonsense"],
            2,
            "malformed_token",
        ),
        (&["--json", "wallet", "send", "5"], 5, "no_mint"),
        (&["--json", "wallet", "mint", "5"], 5, "no_mint"),
        (&["--json", "list", "--relay", nowhere], 7, "no_relay"),
        (&["--json", "list", "--relay", "nonsense"], 7, "no_relay"),
    ];
    for (args, code, name) in cases {
        let output = satlet(home.path(), args);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {output:?}");
        let error = &json(&output)["error"];
        assert_eq!(error["code"], *name, "{args:?}");
        assert!(!error["message"].as_str().unwrap().is_empty(), "{args:?}");
        assert!(
            error["suggestion"].is_string() && error["money"] == "untouched",
            "{args:?}: {error}"
        );
    }
    let plain = satlet(home.path(), &["status", "nolease"]);
    assert!(plain.stdout.is_empty(), "errors are not output");
    assert!(String::from_utf8_lossy(&plain.stderr).contains("error: no lease 'nolease'"));
}

#[test]
fn the_identity_is_private_and_stays() {
    let dir = home();
    let home = dir.path().join("new");
    let first = json(&satlet(&home, &["identity", "--json"]));
    assert!(first["npub"].as_str().unwrap().starts_with("npub1"));
    assert_eq!(first["hex"].as_str().unwrap().len(), 64);
    assert_eq!(first["nsec"], Value::Null);
    assert_eq!(json(&satlet(&home, &["--json", "identity"])), first);
    let shown = json(&satlet(&home, &["identity", "--export", "--json"]));
    assert!(shown["nsec"].as_str().unwrap().starts_with("nsec1"));
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&home), 0o700);
    assert_eq!(mode(&home.join("identity")), 0o600);
    assert_eq!(
        shown["nsec"],
        std::fs::read_to_string(home.join("identity"))
            .unwrap()
            .trim()
    );
}

#[test]
fn a_new_wallet_is_empty_and_settings_are_kept() {
    let home = home();
    let balance = json(&satlet(home.path(), &["wallet", "balance", "--json"]));
    assert_eq!(balance["total_msat"], 0);
    assert_eq!(balance["balances"], Value::Array(vec![]));
    let url = "https://mint.example/Bitcoin";
    satlet(home.path(), &["wallet", "mints", "--add", url]);
    assert_eq!(
        json(&satlet(home.path(), &["--json", "config", "get"]))["mints"][0],
        url
    );
    satlet(
        home.path(),
        &[
            "config",
            "set",
            "relays",
            "wss://a.example,wss://b.example/",
        ],
    );
    let relays = json(&satlet(home.path(), &["--json", "config", "get", "relays"]));
    assert_eq!(
        relays["relays"],
        serde_json::json!(["wss://a.example", "wss://b.example"])
    );
    let ls = json(&satlet(home.path(), &["--json", "ls"]));
    assert_eq!(ls, serde_json::json!({ "leases": [], "requests": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_are_listed_and_found_by_name() {
    let relay = TestRelay::start().await.unwrap();
    let mut providers = Vec::new();
    for name in ["Alpha\u{1b}[2J", "Alpine", "Beta"] {
        let provider = Provider::start(&relay, "https://mint.example").await;
        provider.offer(name).await;
        providers.push(provider);
    }
    let url = relay.url();
    let run = move |args: &'static [&'static str]| {
        let url = url.clone();
        tokio::task::spawn_blocking(move || {
            let home = home();
            let mut args = args.to_vec();
            args.extend(["--relay", url.as_str()]);
            satlet(home.path(), &args)
        })
    };
    let list = json(&run(&["list", "--json"]).await.unwrap());
    let listed = list["providers"].as_array().unwrap();
    assert_eq!(listed.len(), 3);
    assert!(
        listed
            .iter()
            .all(|one| one["online"] == true && one["tiers"][0]["msat_per_hour"] == 360_000)
    );
    let shown = run(&["list"]).await.unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(
        text.contains("360 sat/h") && text.contains("\\u{1b}"),
        "{text}"
    );
    assert!(
        !text.contains('\u{1b}'),
        "a name cannot write to the terminal"
    );

    let info = json(&run(&["info", "bet", "--json"]).await.unwrap());
    assert_eq!(info["hex"], providers[2].key().to_hex());
    let error = run(&["info", "alp", "--json"]).await.unwrap();
    assert_eq!(error.status.code(), Some(3));
    assert_eq!(json(&error)["error"]["code"], "provider_ambiguous");
    let error = run(&["quote", "gamma", "--json"]).await.unwrap();
    assert_eq!(
        (error.status.code(), &json(&error)["error"]["code"]),
        (Some(3), &"provider_not_found".into())
    );
    // Nobody reads the requests: no answer, and money was never in it.
    let error = run(&["spawn", "beta", "--json", "--timeout", "2s", "-q"])
        .await
        .unwrap();
    assert_eq!(error.status.code(), Some(6), "{error:?}");
    assert_eq!(json(&error)["error"]["money"], "untouched");
    assert!(
        error.stderr.len() < 400,
        "{}",
        String::from_utf8_lossy(&error.stderr)
    );
}

/// A vector of `specs/vectors/receipt.json`, by the beginning of its name.
fn receipt(part: &str, name: &str) -> Value {
    let text = crate::support::read("specs/vectors/receipt.json");
    let file: Value = serde_json::from_str(&text).unwrap();
    let cases = file[part].as_array().unwrap().iter();
    let case = cases
        .into_iter()
        .find(|case| case["name"].as_str().unwrap().starts_with(name));
    case.unwrap_or_else(|| panic!("no vector {name}"))["json"].clone()
}

#[test]
fn a_receipt_is_checked_with_nothing_but_the_receipt() {
    let dir = home();
    let nowhere = dir.path().join("none");
    let file = dir.path().join("receipt.json");
    let path = file.to_str().unwrap();
    let verify = |receipt: &Value, more: &[&str]| {
        std::fs::write(&file, receipt.to_string()).unwrap();
        satlet(&nowhere, &[&["receipt", "verify", path], more].concat())
    };
    let good = receipt("cases", "stopped early");
    let output = verify(&good, &[]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for said in [
        "of lease k3zpq7vtt2lm, final, as of 2026-09-21T14:14:00Z",
        "npub1lycg5qvjtrp3qjf5f7zl382j9x6nrjz9sdhenvyxq8c3808qxmus6gq266",
        "10.05 sat at https://mint.test: 1m 30s, mint fee 1 sat",
        "30s for 3 sat",
        "9 sat at https://mint.test (k3zpq7vtt2lm-1): the owner's choice",
        "15.05 sat paid = 3 sat served + 9 sat refunded + 1 sat mint fees + 1 sat fees of refunds + 1.05 sat credit",
        "right, and it all adds up",
    ] {
        assert!(text.contains(said), "no {said:?} in\n{text}");
    }
    let running = String::from_utf8(verify(&receipt("cases", "still"), &[]).stdout).unwrap();
    assert!(running.contains("so far") && running.contains("1m 45s for 10.5 sat"));

    let by = |key: &str| verify(&good, &["--by", key]).status.code();
    let signer = good["pubkey"].as_str().unwrap();
    assert_eq!(by(signer), Some(0));
    assert_eq!(by(&"07".repeat(32)), Some(5), "somebody else's");
    assert_eq!(by("nonsense"), Some(2));

    for (vector, reason) in [
        ("a payment of more", "its id is not that of what is in it"),
        (
            "the signature of another",
            "the signature is not that of the key",
        ),
        ("signed by another key", "has signed it"),
        (
            "signed, and the credit",
            "paid_msat + brought_msat + absorbed_msat + given_msat: it says 15050",
        ),
        ("signed, and more was served", "40 s were charged as served"),
        ("signed, and of another version", "version 2"),
    ] {
        let output = verify(&receipt("refused", vector), &[]);
        assert_eq!(output.status.code(), Some(5), "{vector}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(reason), "{vector}: {said}");
        assert!(output.stdout.is_empty(), "nothing of it is shown as true");
    }
    let none = satlet(&nowhere, &["receipt", "verify", "/nonexistent"]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
    assert!(!nowhere.exists(), "it makes no home");
}
