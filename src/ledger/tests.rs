use super::*;
use crate::core::time::Timestamp;

fn open(dir: &tempfile::TempDir) -> Ledger {
    Ledger::open(dir.path()).unwrap()
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
