//! The vectors of `specs/vectors`, read and written back.
//!
//! A file is `{"what", "cases", "also_read", "refused"}`: `cases` are read and
//! must be written back as they were; `also_read` are read and written back as
//! their `written`; `refused` must not be read.

use satlet::protocol::heartbeat::Heartbeat;
use satlet::protocol::offer::Offer;
use satlet::protocol::reply::Message;
use satlet::protocol::request::{Ask, Request};
use satlet::relay::receipt::open_text;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::support::{files_under, root};

mod paygress;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "what")]
    _what: String,
    cases: Vec<Case>,
    #[serde(default)]
    also_read: Vec<AlsoRead>,
    #[serde(default)]
    refused: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    json: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AlsoRead {
    name: String,
    json: Value,
    written: Value,
}

/// Reads from text, as the wire gives it, and writes back.
fn there_and_back<T: DeserializeOwned + Serialize>(json: &Value) -> Result<Value, String> {
    let text = json.to_string();
    let read: T = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let written = serde_json::to_string(&read).map_err(|e| e.to_string())?;
    serde_json::from_str(&written).map_err(|e| e.to_string())
}

/// Receipts are checked besides: what adds up and is signed is read.
fn receipt(json: &Value) -> Result<Value, String> {
    let (signed, _) = open_text(&json.to_string()).map_err(|e| e.to_string())?;
    serde_json::to_value(&signed).map_err(|e| e.to_string())
}

fn check(name: &str, file: &File, there_and_back: fn(&Value) -> Result<Value, String>) {
    assert!(!file.cases.is_empty(), "{name} has no cases");
    for case in &file.cases {
        let back = there_and_back(&case.json);
        assert_eq!(back.as_ref(), Ok(&case.json), "{name}: {}", case.name);
    }
    for case in &file.also_read {
        let back = there_and_back(&case.json);
        assert_eq!(back.as_ref(), Ok(&case.written), "{name}: {}", case.name);
    }
    for case in &file.refused {
        let back = there_and_back(&case.json);
        assert!(back.is_err(), "{name}: {} was read as {back:?}", case.name);
    }
}

fn load() -> Vec<(String, File)> {
    files_under(&root().join("specs/vectors"), "json")
        .into_iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let file = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
            (name, file)
        })
        .collect()
}

#[test]
fn vectors_are_read_and_written_back() {
    for (name, file) in load() {
        let way = match name.split('-').next() {
            Some("request") => there_and_back::<Request>,
            Some("reply" | "notice") => there_and_back::<Message>,
            Some("offer") => there_and_back::<Offer>,
            Some("heartbeat") => there_and_back::<Heartbeat>,
            Some("receipt") => receipt,
            _ => paygress::way(&name).unwrap_or_else(|| panic!("{name}: no such message")),
        };
        check(&name, &file, way);
    }
}

#[test]
fn every_message_type_has_vectors() {
    let there: Vec<String> = load().into_iter().map(|(name, _)| name).collect();
    let asks = [
        "quote", "spawn", "hold", "release", "topup", "status", "list", "logs", "receipt", "stop",
    ];
    let mut wanted: Vec<String> = asks
        .iter()
        .flat_map(|ask| [format!("request-{ask}"), format!("reply-{ask}")])
        // It is answered as a spawn.
        .chain(["request-claim".to_owned()])
        .chain(["reply-error", "notice", "offer", "heartbeat", "receipt"].map(str::to_owned))
        .chain(paygress::NAMES.map(str::to_owned))
        .collect();
    wanted.sort();
    assert_eq!(there, wanted);
}

#[test]
fn a_file_of_requests_holds_requests_of_that_type() {
    for (name, file) in load() {
        let Some(wanted) = name.strip_prefix("request-") else {
            continue;
        };
        for case in &file.cases {
            let request: Request = serde_json::from_value(case.json.clone()).unwrap();
            assert_eq!(Ask::name(&request.ask), wanted, "{name}: {}", case.name);
        }
    }
}
