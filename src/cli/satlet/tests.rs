use clap::CommandFactory;

use super::args::Cli;
use crate::cli::output::{duration, escape, escape_lines, parse_duration, table};

#[test]
fn the_arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn durations_are_read_and_shown() {
    for (text, seconds) in [
        ("90", 90),
        ("90s", 90),
        ("15m", 900),
        ("1h30m", 5_400),
        ("2h", 7_200),
        ("7d", 604_800),
    ] {
        assert_eq!(parse_duration(text), Ok(seconds), "{text}");
    }
    for text in ["", "0", "h", "2x", "-5", "1.5h", "99999999999999999999d"] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
    for (seconds, text) in [
        (0, "0s"),
        (59, "59s"),
        (7_500, "2h 5m"),
        (3_600, "1h"),
        (273_600, "3d 4h"),
        (3_601, "1h"),
    ] {
        assert_eq!(duration(seconds), text);
    }
}

#[test]
fn strangers_cannot_write_to_the_terminal() {
    assert_eq!(
        escape("a\u{1b}[2Jb\n\u{202e}c"),
        "a\\u{1b}[2Jb\\u{a}\\u{202e}c"
    );
    assert_eq!(escape_lines("a\n\tb\u{7}"), "a\n\tb\\u{7}");
    assert_eq!(
        table(&["A"], &[vec!["x\u{1b}".to_owned()]]),
        "A\nx\\u{1b}\n"
    );
}
