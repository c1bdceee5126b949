//! Arrows between modules point one way, and `core` is pure.
//!
//! Reads every source file as tokens (comments and strings left out), finds
//! the top-level module that each `crate::…`, `super::…` and `satlet::…` path
//! leads to, and compares with [`may_use`].

use std::path::Path;

use crate::support::{files_under, root};

/// Layers from the ground up; a module may use modules of lower layers.
const LAYERS: &[&[&str]] = &[
    &["core", "telemetry"],
    &["protocol"],
    &["ledger", "relay", "wallet", "compute", "gateway", "fence"],
    &["provider", "consumer"],
    &["config"],
    &["doctor", "demo"],
    &["cli"],
    &["bin"],
];

/// Arrows within a layer that are allowed.
const SIDEWAYS: &[(&str, &str)] = &[("gateway", "compute")];

/// Words that have no place in `core`: engines, clocks, chance, logs, waiting.
const IMPURE: &[&str] = &[
    "tokio",
    "bollard",
    "cdk",
    "cdk_redb",
    "nostr_sdk",
    "redb",
    "russh",
    "SystemTime",
    "Instant",
    "Utc",
    "Local",
    "rand",
    "new_v4",
    "tracing",
    "async",
    "await",
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|names| names.contains(&module))
}

fn may_use(from: &str, to: &str) -> bool {
    if from == to || SIDEWAYS.contains(&(from, to)) {
        return true;
    }
    match (layer(from), layer(to)) {
        (Some(from), Some(to)) => to < from,
        _ => true,
    }
}

/// A word, or one other character; `::` is one token.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Path,
    Other(char),
}

/// Skips what stands between `open` and its end: a string, a char, a comment.
/// Gives the rest of the text after it.
fn skip_quoted(text: &str) -> Option<&str> {
    if let Some(rest) = text.strip_prefix("//") {
        return Some(rest.find('\n').map_or("", |end| &rest[end..]));
    }
    if let Some(rest) = text.strip_prefix("/*") {
        let mut depth = 1;
        let mut at = 0;
        while depth > 0 && at < rest.len() {
            let here = &rest[at..];
            if here.starts_with("*/") {
                depth -= 1;
                at += 2;
            } else if here.starts_with("/*") {
                depth += 1;
                at += 2;
            } else {
                at += here.chars().next().map_or(1, char::len_utf8);
            }
        }
        return Some(&rest[at..]);
    }
    for prefix in ["br", "cr", "r"] {
        let Some(rest) = text.strip_prefix(prefix) else {
            continue;
        };
        let hashes = rest.chars().take_while(|c| *c == '#').count();
        if rest[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = &rest[hashes + 1..];
            return Some(body.find(&end).map_or("", |at| &body[at + end.len()..]));
        }
    }
    if let Some(rest) = text.strip_prefix('"') {
        let mut chars = rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => drop(chars.next()),
                '"' => return Some(&rest[at + 1..]),
                _ => {}
            }
        }
        return Some("");
    }
    let mut chars = text.strip_prefix('\'')?.chars();
    match (chars.next()?, chars.next()?) {
        ('\\', escaped) => {
            let rest = &text[2 + escaped.len_utf8()..];
            Some(rest.find('\'').map_or("", |at| &rest[at + 1..]))
        }
        (c, '\'') => Some(&text[2 + c.len_utf8()..]),
        _ => None,
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut text = text;
    while let Some(c) = text.chars().next() {
        if let Some(rest) = skip_quoted(text) {
            text = rest;
        } else if c.is_alphanumeric() || c == '_' {
            let end = text
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(text.len());
            found.push(Token::Word(text[..end].to_owned()));
            text = &text[end..];
        } else if let Some(rest) = text.strip_prefix("::") {
            found.push(Token::Path);
            text = rest;
        } else {
            if !c.is_whitespace() {
                found.push(Token::Other(c));
            }
            text = &text[c.len_utf8()..];
        }
    }
    found
}

/// The words that a path continues with: one, or the heads of a `{…}` group.
fn heads(tokens: &[Token]) -> Vec<String> {
    match tokens.first() {
        Some(Token::Word(word)) => vec![word.clone()],
        Some(Token::Other('{')) => {
            let mut depth = 0;
            let mut heads = Vec::new();
            let mut at_head = false;
            for token in tokens {
                match token {
                    Token::Other('{') => {
                        depth += 1;
                        at_head = depth == 1;
                    }
                    Token::Other('}') if depth == 1 => break,
                    Token::Other('}') => depth -= 1,
                    Token::Other(',') => at_head = depth == 1,
                    Token::Word(word) if at_head => {
                        heads.push(word.clone());
                        at_head = false;
                    }
                    _ => {}
                }
            }
            heads
        }
        _ => Vec::new(),
    }
}

/// Top-level modules that a file's paths lead to. `depth` is how many `super`
/// lead from the file to the crate's root.
fn leads_to(tokens: &[Token], depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut braces = 0usize;
    let mut inline_modules = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            Token::Other('{') => {
                let opens_module = at >= 2 && tokens[at - 2] == Token::Word("mod".into());
                if opens_module {
                    inline_modules.push(braces);
                }
                braces += 1;
            }
            Token::Other('}') => {
                braces = braces.saturating_sub(1);
                if inline_modules.last() == Some(&braces) {
                    inline_modules.pop();
                }
            }
            Token::Word(word)
                if (word == "crate" || word == "satlet")
                    && tokens.get(at + 1) == Some(&Token::Path) =>
            {
                found.extend(heads(&tokens[at + 2..]));
            }
            Token::Word(word) if word == "super" => {
                let mut supers = 0;
                while tokens.get(at) == Some(&Token::Word("super".into()))
                    && tokens.get(at + 1) == Some(&Token::Path)
                {
                    supers += 1;
                    at += 2;
                }
                if supers == 0 {
                    // `pub(super)` leads nowhere.
                    at += 1;
                } else if supers == depth + inline_modules.len() {
                    found.extend(heads(&tokens[at..]));
                }
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// What is wrong with a file of this path (relative to `src`) and text.
fn violations(path: &str, text: &str) -> Vec<String> {
    let parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    let from = parts[0];
    let is_mod = parts.last() == Some(&"mod");
    let depth = parts.len() - usize::from(is_mod);
    let is_test = parts.last() == Some(&"tests") || parts[..parts.len() - 1].contains(&"tests");
    let tokens = tokens(text);
    let mut wrong = Vec::new();
    if from == "core" {
        for token in &tokens {
            if let Token::Word(word) = token
                && IMPURE.contains(&word.as_str())
            {
                wrong.push(format!("src/{path}: `{word}` has no place in core"));
            }
        }
    }
    // Unit tests may borrow a relay or a backend from elsewhere.
    if !is_test {
        for to in leads_to(&tokens, depth) {
            if !may_use(from, &to) {
                wrong.push(format!("src/{path}: `{from}` must not use `{to}`"));
            }
        }
    }
    wrong
}

#[test]
fn arrows_point_one_way_and_core_is_pure() {
    let src = root().join("src");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in files_under(&src, "rs") {
        let path = file
            .strip_prefix(&src)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        if path == "lib.rs" {
            continue;
        }
        seen += 1;
        wrong.extend(violations(&path, &std::fs::read_to_string(&file).unwrap()));
    }
    assert!(seen > 20, "only {seen} files were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_top_level_module_has_a_layer() {
    for entry in std::fs::read_dir(root().join("src")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name != "lib" {
            assert!(
                layer(&name).is_some(),
                "src/{name} has no layer in tests/layering.rs"
            );
        }
    }
    assert!(Path::new(&root()).join("src/core").is_dir());
}

#[test]
fn wrong_arrows_are_found_however_they_are_written() {
    for (path, text) in [
        ("core/money.rs", "use crate::protocol::kinds;"),
        ("core/money.rs", "use super::super::protocol::kinds;"),
        ("core/mod.rs", "use super::protocol::kinds;"),
        (
            "protocol/offer.rs",
            "use crate::{core::ids::Name, wallet::MintUrl};",
        ),
        ("wallet/mod.rs", "fn f() { crate::relay::go() }"),
        (
            "wallet/a/b.rs",
            "mod inner { use super::super::super::super::ledger::X; }",
        ),
        ("compute/mod.rs", "use crate::gateway::Doors;"),
        ("relay/mod.rs", "use satlet::provider::settings::Settings;"),
        ("provider/mod.rs", "use crate::consumer::X;"),
        ("provider/mod.rs", "use crate::cli::X;"),
        ("config/mod.rs", "use crate::doctor::X;"),
    ] {
        assert_eq!(violations(path, text).len(), 1, "{path}: {text}");
    }
}

#[test]
fn right_arrows_are_let_through() {
    for (path, text) in [
        (
            "gateway/mod.rs",
            "use crate::compute::Handle; use crate::core::ids::LeaseId;",
        ),
        (
            "provider/mod.rs",
            "use crate::{wallet::{Wallet, fake::provider}, core::{money, time}};",
        ),
        (
            "cli/satletd.rs",
            "use crate::provider::daemon; use crate::doctor::check;",
        ),
        ("bin/satletd.rs", "use satlet::cli::satletd;"),
        (
            "consumer/mod.rs",
            "use self::wallet::X; use super::core::money::Msat;",
        ),
        ("consumer/ls.rs", "use super::provider::Lookup;"),
        ("wallet/mod.rs", "mod tests { use super::relay; }"),
        (
            "wallet/mod.rs",
            "pub(super) fn relay() {} pub(in super) struct X;",
        ),
        (
            "core/time.rs",
            "// tokio, Instant\n/// `SystemTime`\nconst X: &str = \"redb crate::cli::x\";",
        ),
        (
            "core/time.rs",
            "const Q: char = '\"'; const S: &str = r#\"use tokio;\"#; fn f<'a>(x: &'a str) {}",
        ),
        ("relay/tests.rs", "use crate::demo::relay;"),
    ] {
        assert_eq!(
            violations(path, text),
            Vec::<String>::new(),
            "{path}: {text}"
        );
    }
}

#[test]
fn engines_and_clocks_are_found_in_core() {
    for text in [
        "use std::time::Instant;",
        "fn now() -> u64 { std::time::SystemTime::now() }",
        "async fn f() {}",
        "use tokio::sync::mpsc;",
        "fn f() { let x = 'a'; let y = '\\''; redb::Database::open(p) }",
        "use cdk::wallet::Wallet;",
        "use nostr_sdk::Keys;",
        "use bollard::Docker;",
    ] {
        assert_eq!(violations("core/lease/mod.rs", text).len(), 1, "{text}");
    }
}
