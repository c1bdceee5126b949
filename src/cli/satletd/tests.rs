use std::os::unix::fs::MetadataExt;
use std::path::Path;

use clap::{CommandFactory, Parser};

use super::*;
use crate::doctor::{Finding, Level};
use crate::provider::control::LeaseView;

/// Runs a command; gives the exit code, standard output and standard error.
fn satletd(line: &[&str]) -> (Exit, String, String) {
    let args = Args::try_parse_from([&["satletd"], line].concat()).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut output = Output::new(&mut out, &mut err);
    let done = match &args.command {
        Command::Init(args) => init::init(&mut output, args),
        Command::Leases { config, json } => leases::leases(&mut output, config, *json),
        Command::Money { config, json } => money::money(&mut output, config, *json),
        _ => panic!("not here"),
    };
    drop(output);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let err = match &done {
        Ok(_) => text(err),
        Err(error) => format!("{}{error:#}", text(err)),
    };
    (done.unwrap_or(Exit::Failed), text(out), err)
}

fn init(dir: &Path, more: &[&str]) -> (Exit, String, String) {
    let config = dir.join("etc/provider.json");
    let data = dir.join("data");
    let mut line = vec![
        "init",
        "--config",
        config.to_str().unwrap(),
        "--data-dir",
        data.to_str().unwrap(),
    ];
    line.extend(more);
    satletd(&line)
}

const FLAGS: [&str; 5] = [
    "--yes",
    "--public-host",
    "box.example.org",
    "--mint",
    "https://mint.example.org",
];

#[test]
fn the_command_line_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn init_writes_a_valid_configuration_and_private_files() {
    let dir = tempfile::tempdir().unwrap();
    let (exit, out, err) = init(dir.path(), &FLAGS);
    assert_eq!(exit, Exit::Done, "{err}");
    assert!(out.contains("npub1") && !out.contains("nsec1"), "{out}");
    for name in ["provider.json", "nsec", "mnemonic"] {
        let meta = std::fs::metadata(dir.path().join("etc").join(name)).unwrap();
        assert_eq!(meta.mode() & 0o777, 0o600, "{name}");
    }
    let folder = std::fs::metadata(dir.path().join("etc")).unwrap();
    assert_eq!(folder.mode() & 0o777, 0o700);
    let config = crate::config::load(&dir.path().join("etc/provider.json")).unwrap();
    assert_eq!(config.settings.gateway.public_host, "box.example.org");
    assert!(!config.settings.tiers.is_empty());
    let text = std::fs::read_to_string(dir.path().join("etc/provider.json")).unwrap();
    let words = std::fs::read_to_string(dir.path().join("etc/mnemonic")).unwrap();
    assert!(!text.contains(words.trim()) && !text.contains("nsec1"));
}

#[test]
fn init_overwrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), &FLAGS);
    let read = |name: &str| std::fs::read(dir.path().join("etc").join(name)).unwrap();
    let before = ["provider.json", "nsec", "mnemonic"].map(read);
    let (exit, _, err) = init(dir.path(), &FLAGS);
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("not overwritten"), "{err}");
    assert_eq!(["provider.json", "nsec", "mnemonic"].map(read), before);
    // Without a configuration the keys that are there are taken, as they are.
    std::fs::remove_file(dir.path().join("etc/provider.json")).unwrap();
    assert_eq!(init(dir.path(), &FLAGS).0, Exit::Done);
    assert_eq!(["nsec", "mnemonic"].map(read).as_slice(), &before[1..]);
}

#[test]
fn init_without_a_terminal_refuses_to_ask_and_names_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (exit, _, err) = init(dir.path(), &["--yes"]);
    assert_eq!(exit, Exit::Usage);
    assert!(err.contains("--public-host and --mint"), "{err}");
    assert!(!dir.path().join("etc").exists(), "something was written");
}

#[test]
fn init_writes_nothing_where_the_answers_are_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let mut flags = FLAGS.to_vec();
    flags[4] = "mint.example.org";
    let (exit, _, err) = init(dir.path(), &flags);
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("/mints/0/url"), "{err}");
    assert!(!dir.path().join("etc").exists(), "something was written");
}

#[test]
fn init_asks_for_what_no_flag_says() {
    let line = ["satletd", "init", "--location", "Lisbon"];
    let Command::Init(args) = Args::parse_from(line).command else {
        panic!()
    };
    let mut typed = [
        "Heron",
        "",
        "box.example.org",
        "",
        "",
        "https://a.org, https://b.org",
    ]
    .into_iter();
    let mut prompts = Vec::new();
    let mut output = Output::new(std::io::sink(), &mut prompts);
    let mut line = || typed.next().map(str::to_owned);
    let answers = init::ask_all(&mut output, &args, &mut line).unwrap();
    drop(output);
    assert_eq!(answers.hostname, "Heron");
    assert_eq!(answers.location.as_deref(), Some("Lisbon"));
    // An empty line where there is no default is asked again.
    assert_eq!(answers.public_host, "box.example.org");
    assert_eq!(answers.relays.len(), 2);
    assert_eq!(answers.mints, ["https://a.org", "https://b.org"]);
    let prompts = String::from_utf8(prompts).unwrap();
    assert!(!prompts.contains("Where it stands"), "{prompts}");
}

#[test]
fn asking_ends_where_nobody_answers() {
    let Command::Init(args) = Args::parse_from(["satletd", "init"]).command else {
        panic!()
    };
    let mut output = Output::new(std::io::sink(), std::io::sink());
    assert!(init::ask_all(&mut output, &args, &mut || None).is_err());
}

#[test]
fn leases_and_money_without_a_daemon_say_so() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), &FLAGS);
    let config = dir.path().join("etc/provider.json");
    for command in ["leases", "money"] {
        let (exit, out, err) = satletd(&[command, "--json", "--config", config.to_str().unwrap()]);
        assert_eq!((exit, out.as_str()), (Exit::NotRunning, ""));
        assert!(err.contains("satletd run"), "{err}");
    }
}

#[test]
fn money_says_whether_it_covers_what_may_have_to_go_back() {
    use crate::core::money::Msat;
    use crate::core::time::Timestamp;
    use crate::provider::control::{MoneyView, PoolView, PurseView};

    let purse = PurseView {
        mint: "https://evil\u{1b}[2J".to_owned(),
        unit: "sat".to_owned(),
        balance_msat: Msat::new(50_000),
        owed_msat: Msat::new(1_000),
        unclaimed_msat: Msat::new(7_000),
        credit_msat: Msat::new(500),
        unserved_msat: Msat::new(40_000),
        float_msat: Msat::new(41_500),
        earned_msat: -1_500,
        withdrawn_msat: Msat::new(20_000),
        payout_fees_msat: Msat::new(2_000),
        leaving_msat: Msat::ZERO,
        coming_msat: Msat::ZERO,
        mint_fees_msat: Msat::new(3_000),
        merge_fees_msat: Msat::ZERO,
        short_msat: Msat::ZERO,
        short_since: None,
        unexplained_msat: Msat::new(9_000),
    };
    let shown = |purse: PurseView| {
        let money = MoneyView {
            purses: vec![purse],
            ..MoneyView::default()
        };
        money::render(&money)
    };
    let lines = shown(purse.clone());
    assert_eq!(lines[0], "https://evil\\u{1b}[2J (sat)");
    let line = |lines: &[String], name: &str| {
        let found = lines.iter().find(|line| line.trim().starts_with(name));
        found
            .unwrap_or_else(|| panic!("no {name}: {lines:?}"))
            .clone()
    };
    assert!(line(&lines, "float needed").contains("41.5 sat"));
    assert!(line(&lines, "earned").contains("-1.5 sat"));
    assert!(line(&lines, "solvent").ends_with("yes"));
    assert!(line(&lines, "unexplained").contains("9 sat"));
    let short = PurseView {
        balance_msat: Msat::new(40_000),
        short_msat: Msat::new(1_500),
        short_since: Some(Timestamp::from_secs(1_790_000_000)),
        ..purse
    };
    let lines = shown(short);
    let solvent = line(&lines, "solvent");
    assert!(solvent.contains("short by 1.5 sat"), "{solvent}");
    assert!(solvent.contains("since 2026-09-21T14:13:20Z"), "{solvent}");
    assert_eq!(money::render(&MoneyView::default()), ["No money yet."]);
    let pool = PoolView {
        share_percent: 7,
        balance_msat: Msat::new(1_500),
        earned_msat: Msat::new(100_000),
        credited_msat: Msat::new(7_000),
        given_msat: Msat::new(6_000),
        returned_msat: Msat::new(500),
        today_msat: Msat::ZERO,
    };
    let lines = money::render(&MoneyView {
        pool: Some(pool),
        ..MoneyView::default()
    });
    assert_eq!(lines[0], "The pool (7 per cent)");
    assert!(line(&lines, "balance").contains("1.5 sat"), "{lines:?}");
    assert!(line(&lines, "returned").contains("0.5 sat"), "{lines:?}");
}

#[test]
fn mints_are_shown_with_what_they_say_of_themselves_escaped() {
    use crate::core::mint::Standing;
    use crate::core::money::Msat;
    use crate::core::time::Timestamp;
    use crate::provider::control::MintView;

    let mint = MintView {
        mint: "https://mint.example.org".to_owned(),
        state: Standing::Paused,
        why: "the last one: no\u{1b}[2J".to_owned(),
        since: Timestamp::from_secs(1_790_000_000),
        latency_ms: Some(812),
        failing_per_thousand: 683,
        input_fee_ppk: None,
        max_input_fee_ppk: 1000,
        nuts: vec![7, 9],
        keyset_expires_at: None,
        exposure_msat: Msat::new(150_000),
        max_exposure_msat: Some(Msat::new(100_000)),
        probed_at: None,
    };
    let lines = mints::render(std::slice::from_ref(&mint));
    assert_eq!(lines[0], "https://mint.example.org");
    let line = |name: &str| {
        let found = lines.iter().find(|line| line.trim().starts_with(name));
        found.unwrap_or_else(|| panic!("no {name}: {lines:?}"))
    };
    assert!(line("state").contains("no\\u{1b}[2J"));
    assert!(line("answers in").contains("812 ms"));
    assert!(line("failing").contains("68 %"));
    assert!(line("fee").contains("not known yet"));
    assert!(line("exposure").contains("150 sat of 100 sat"));
}

#[test]
fn a_strangers_image_cannot_move_the_cursor() {
    let file = include_str!("../../../specs/vectors/reply-status.json");
    let value: serde_json::Value = serde_json::from_str(file).unwrap();
    let mut status = value["cases"][0]["json"]["result"].clone();
    status["image"] = "evil\u{1b}[2J\n".into();
    status["owner"] = "07".repeat(32).into();
    status["backend"] = "sandbox".into();
    let lease: LeaseView = serde_json::from_value(status).unwrap();
    let lines = leases::render(&[lease]);
    assert_eq!(lines.len(), 2);
    assert!(
        lines[1].starts_with("k3zpq7vtt2lm  active  small  3590s  07070707  evil"),
        "{lines:?}"
    );
    assert!(
        !lines[1].contains('\u{1b}') && lines[1].contains("paid until"),
        "{lines:?}"
    );
}

#[test]
fn what_is_worst_comes_first_and_decides_the_exit_code() {
    let finding = |level, about: &'static str| Finding {
        level,
        about,
        message: "M.".to_owned(),
        fix: "F.".to_owned(),
    };
    let lines = check::render(&[
        finding(Level::Note, "a"),
        finding(Level::Error, "b"),
        finding(Level::Warning, "c"),
    ]);
    assert!(lines[0].starts_with("error    b: M."), "{lines:?}");
    assert_eq!(
        lines.last().unwrap(),
        "It will not run; 1 errors, 1 warnings."
    );
    for (worst, strict, wanted) in [
        (None, true, Exit::Done),
        (Some(Level::Note), true, Exit::Done),
        (Some(Level::Warning), false, Exit::Done),
        (Some(Level::Warning), true, Exit::Unfit),
        (Some(Level::Error), false, Exit::Unfit),
    ] {
        assert_eq!(check::exit_for(worst, strict), wanted);
    }
}
