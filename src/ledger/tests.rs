mod batch;
mod views;

use super::*;
use crate::core::time::Timestamp;

/// Opens it, also where a program that another test is just starting has a copy
/// of the lock: it inherits all files until it is there.
fn open(dir: &tempfile::TempDir) -> Ledger {
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        match Ledger::open(dir.path()) {
            Err(LedgerError::Locked(_)) if std::time::Instant::now() < patience => {
                std::thread::yield_now();
            }
            opened => return opened.unwrap(),
        }
    }
}

#[tokio::test]
async fn what_is_committed_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir);
    let at = Timestamp::from_secs(7);
    ledger
        .write(move |tx| tx.put(&RELAYS, "ws://a", &at))
        .await
        .unwrap();
    drop(ledger);
    let ledger = open(&dir);
    assert_eq!(ledger.read(|r| r.get(&RELAYS, "ws://a")).unwrap(), Some(at));
}

#[tokio::test]
async fn a_change_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir);
    let failed: Result<(), LedgerError> = ledger
        .write(|tx| {
            tx.put(&RELAYS, "ws://a", &Timestamp::from_secs(1))?;
            Err(LedgerError::Rule("no".into()))
        })
        .await;
    assert!(failed.is_err());
    assert_eq!(ledger.read(|r| r.get(&RELAYS, "ws://a")).unwrap(), None);
}

#[test]
fn a_second_process_is_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(&dir);
    let second = Ledger::open(dir.path()).map(|_| ()).unwrap_err();
    assert!(matches!(second, LedgerError::Locked(_)), "{second}");
    assert!(second.to_string().contains("in use"));
}

#[tokio::test]
async fn a_ledger_of_a_later_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir);
    ledger
        .write(|tx| tx.put(&META, "format", &99))
        .await
        .unwrap();
    drop(ledger);
    let refused = Ledger::open(dir.path()).map(|_| ()).unwrap_err();
    assert!(
        matches!(refused, LedgerError::TooNew { found: 99, .. }),
        "{refused}"
    );
}

#[test]
fn the_file_is_readable_by_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let _ledger = open(&dir);
    let mode = std::fs::metadata(dir.path().join(FILE))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}

/// One row of each table, as version 1 writes them.
const ROWS: &str = include_str!("fixtures/v1.json");

/// The file of version 1, compressed: it is mostly zeros.
const FILE_V1: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/src/ledger/fixtures/v1.redb.zst"
);

fn rows() -> serde_json::Map<String, serde_json::Value> {
    serde_json::from_str(ROWS).unwrap()
}

fn put<V: serde::Serialize + serde::de::DeserializeOwned>(tx: &Tx, table: &Table<V>, name: &str) {
    for (key, row) in rows()[name].as_object().unwrap() {
        let row: V = serde_json::from_value(row.clone()).unwrap();
        tx.put(table, key, &row).unwrap();
    }
}

fn same<V: serde::Serialize + serde::de::DeserializeOwned>(
    reader: &Reader,
    table: &Table<V>,
    name: &str,
) {
    let wanted = &rows()[name];
    let found: serde_json::Map<_, _> = reader
        .all(table)
        .unwrap()
        .into_iter()
        .map(|(key, row)| (key, serde_json::to_value(row).unwrap()))
        .collect();
    assert!(!found.is_empty(), "{name}");
    assert_eq!(&serde_json::Value::Object(found), wanted, "{name}");
}

/// Makes the fixture anew, when version 1 still is the version of today.
#[tokio::test]
#[ignore = "writes the fixture"]
async fn write_the_fixture_of_version_1() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir);
    ledger
        .write(|tx| {
            put(tx, &WRAPS, "wraps");
            put(tx, &INBOX, "inbox");
            put(tx, &REQUESTS, "requests");
            put(tx, &PAYMENTS, "payments");
            put(tx, &PROOFS, "proofs");
            put(tx, &LEASES, "leases");
            put(tx, &ENDED, "ended");
            put(tx, &WORKLOADS, "workloads");
            put(tx, &OUTBOX, "outbox");
            put(tx, &RELAYS, "relays");
            Ok(())
        })
        .await
        .unwrap();
    drop(ledger);
    let file = std::fs::read(dir.path().join(FILE)).unwrap();
    let packed = zstd::encode_all(file.as_slice(), 19).unwrap();
    eprintln!("{} bytes, packed {}", file.len(), packed.len());
    std::fs::write(FILE_V1, packed).unwrap();
}

#[test]
fn a_file_of_version_1_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = zstd::decode_all(std::fs::File::open(FILE_V1).unwrap()).unwrap();
    std::fs::write(dir.path().join(FILE), file).unwrap();
    let ledger = open(&dir);
    ledger
        .read(|reader| {
            assert_eq!(reader.get(&META, "format")?, Some(1));
            same(reader, &WRAPS, "wraps");
            same(reader, &INBOX, "inbox");
            same(reader, &REQUESTS, "requests");
            same(reader, &PAYMENTS, "payments");
            same(reader, &PROOFS, "proofs");
            same(reader, &LEASES, "leases");
            same(reader, &ENDED, "ended");
            same(reader, &WORKLOADS, "workloads");
            same(reader, &OUTBOX, "outbox");
            same(reader, &RELAYS, "relays");
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named_without_its_text() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir);
    let damaged = Table::<String>::new("relays");
    ledger
        .write(move |tx| tx.put(&damaged, "ws://a", &"cashuBsecret".to_owned()))
        .await
        .unwrap();
    let error = ledger.read(|r| r.all(&RELAYS)).unwrap_err().to_string();
    assert!(
        error.contains("relays") && !error.contains("secret"),
        "{error}"
    );
}

#[test]
fn rows_that_hold_tokens_do_not_show_them() {
    let rows = rows();
    let first = |name: &str| {
        rows[name]
            .as_object()
            .unwrap()
            .values()
            .next()
            .unwrap()
            .clone()
    };
    let shown = [
        format!(
            "{:?}",
            serde_json::from_value::<InboxRow>(first("inbox")).unwrap()
        ),
        format!(
            "{:?}",
            serde_json::from_value::<RequestRow>(first("requests")).unwrap()
        ),
        format!(
            "{:?}",
            serde_json::from_value::<OutboxRow>(first("outbox")).unwrap()
        ),
        format!(
            "{:?}",
            serde_json::from_value::<WorkloadRow>(first("workloads")).unwrap()
        ),
        format!(
            "{:?}",
            serde_json::from_value::<crate::core::payment::Payment>(first("payments")).unwrap()
        ),
        format!(
            "{:?}",
            serde_json::from_value::<crate::core::lease::Lease>(first("ended")).unwrap()
        ),
    ];
    for shown in shown {
        assert!(!shown.contains("secret"), "{shown}");
    }
}
