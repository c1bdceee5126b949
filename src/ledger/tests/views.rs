//! What is kept in memory says the same as the tables.

use proptest::prelude::*;

use super::*;
use crate::core::lease::{Lease, Phase};

fn out(next: u64, written: u64, relays: usize) -> OutboxRow {
    OutboxRow {
        channel: Default::default(),
        to: crate::core::ids::PublicKey::from_bytes([1; 32]),
        body: "hello".to_owned(),
        relays: vec!["ws://a".to_owned(); relays],
        written_at: Timestamp::from_secs(written),
        expires_at: Timestamp::from_secs(1000),
        attempts: 0,
        next_attempt: Timestamp::from_secs(next),
    }
}

/// What is due, by the table alone.
fn scanned(ledger: &Ledger, now: Timestamp) -> Vec<String> {
    let rows = ledger.read(|reader| reader.all(&OUTBOX)).unwrap();
    let mut due: Vec<_> = rows
        .into_iter()
        .filter(|(_, row)| row.next_attempt <= now)
        .map(|(key, row)| (row.next_attempt, row.written_at, key))
        .collect();
    due.sort();
    due.into_iter().map(|(.., key)| key).collect()
}

fn lease(n: u8, phase: Phase) -> Lease {
    let rows = rows();
    let row = rows["leases"].as_object().unwrap().values().next().unwrap();
    let mut lease: Lease = serde_json::from_value(row.clone()).unwrap();
    lease.owner = crate::core::ids::PublicKey::from_bytes([n; 32]);
    lease.phase = phase;
    lease
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn what_is_due_is_what_a_scan_finds(
        changes in prop::collection::vec(
            (0..8u8, prop::option::of((0..6u64, 0..4u64, 0..3usize))), 1..40),
        now in 0..7u64,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let ledger = open(&dir);
        runtime.block_on(async {
            for chunk in changes.chunks(3) {
                let writes = chunk.iter().cloned().map(|(key, row)| ledger.write(move |tx| {
                    let key = format!("k{key}");
                    match row {
                        Some((next, written, relays)) => {
                            tx.put(&OUTBOX, &key, &out(next, written, relays))
                        }
                        None => tx.delete(&OUTBOX, &key),
                    }
                }));
                futures::future::join_all(writes).await;
            }
        });
        let now = Timestamp::from_secs(now);
        let wanted = scanned(&ledger, now);
        let all = ledger.read(|reader| reader.all(&OUTBOX)).unwrap();
        let next = all.iter().map(|(_, row)| row.next_attempt).min();
        let skipped = |ledger: &Ledger| ledger.due(now, 2, |key, _| wanted.first().is_some_and(|k| k == key));
        prop_assert_eq!(ledger.due(now, 100, |_, _| false), wanted.clone());
        prop_assert_eq!(skipped(&ledger), wanted.iter().skip(1).take(2).cloned().collect::<Vec<_>>());
        prop_assert_eq!(ledger.next_due(), next);
        drop(ledger);
        let ledger = open(&dir);
        prop_assert_eq!(ledger.due(now, 100, |_, _| false), wanted.clone(), "after opening again");
        prop_assert_eq!(ledger.next_due(), next);
    }
}

#[tokio::test]
async fn a_change_sees_what_leases_hold_with_those_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir);
    let put = |key: &'static str, n, phase| {
        let shared = ledger.clone();
        ledger.write(move |tx| {
            tx.put(&LEASES, key, &lease(n, phase))?;
            let mut owners: Vec<u8> = shared
                .held_in(tx)?
                .iter()
                .map(|held| held.owner.as_bytes()[0])
                .collect();
            owners.sort();
            Ok(owners)
        })
    };
    let seen = tokio::join!(
        put("a", 1, Phase::Active),
        put("b", 2, Phase::Active),
        put("a", 3, Phase::Ending),
    );
    assert_eq!(seen.0.unwrap(), [1]);
    assert_eq!(seen.1.unwrap(), [1, 2]);
    assert_eq!(seen.2.unwrap(), [2, 3], "a lease that changed counts once");
    let refused = ledger.write(|tx| {
        tx.put(&LEASES, "c", &lease(4, Phase::Active))?;
        Err::<(), _>(LedgerError::Rule("no".to_owned()))
    });
    refused.await.unwrap_err();
    let held = ledger.held();
    assert_eq!(held.len(), 2, "a refused one holds nothing");
    assert!(held.iter().any(|held| held.phase == Phase::Ending));
    drop(ledger);
    let again = open(&dir);
    assert_eq!(again.held(), held);
    again.write(|tx| tx.delete(&LEASES, "a")).await.unwrap();
    assert_eq!(again.held().len(), 1);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_does_not_keep_the_rest_from_working() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir);
    let damaged = Table::<String>::new("outbox");
    ledger
        .write(move |tx| {
            tx.put(&damaged, "bad", &"x".to_owned())?;
            tx.put(&OUTBOX, "good", &out(1, 1, 1))
        })
        .await
        .unwrap();
    drop(ledger);
    let ledger = open(&dir);
    assert_eq!(
        ledger.due(Timestamp::from_secs(9), 9, |_, _| false),
        ["good"]
    );
}

#[tokio::test]
async fn an_owner_gets_the_open_leases_and_the_newest_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir);
    let made = |n: u8, at, phase| Lease {
        created_at: Timestamp::from_secs(at),
        sold_seconds: 60,
        ..lease(n, phase)
    };
    let over = Phase::Ended {
        at: Timestamp::from_secs(9),
    };
    let put = ledger.write(move |tx| {
        tx.put(&LEASES, "open", &made(1, 1, Phase::Active))?;
        tx.put(&LEASES, "other", &made(2, 1, Phase::Active))?;
        tx.put(&LEASES, "moved", &made(1, 2, over))?;
        for n in 3..9 {
            tx.put(&ENDED, &format!("over{n}"), &made(1, n, over))?;
        }
        let unpaid = Lease {
            sold_seconds: 0,
            ..made(1, 10, over)
        };
        tx.put(&ENDED, "unpaid", &unpaid)?;
        tx.put(&ENDED, "overother", &made(2, 10, over))
    });
    put.await.unwrap();
    let archive = ledger.write(move |tx| {
        tx.put(&ENDED, "moved", &made(1, 2, over))?;
        tx.delete(&LEASES, "moved")
    });
    archive.await.unwrap();
    let owner = crate::core::ids::PublicKey::from_bytes([1; 32]);
    let seen = |ledger: &Ledger, ended| {
        let leases = ledger.leases_of(&owner, ended).unwrap();
        let mut at: Vec<u64> = leases.iter().map(|l| l.created_at.as_secs()).collect();
        at.sort_unstable();
        at
    };
    assert_eq!(seen(&ledger, 3), [1, 6, 7, 8]);
    assert_eq!(seen(&ledger, 99), [1, 2, 3, 4, 5, 6, 7, 8]);
    drop(ledger);
    assert_eq!(seen(&open(&dir), 3), [1, 6, 7, 8], "after opening again");
}

#[tokio::test]
async fn refunds_that_are_out_and_credit_are_known_without_a_scan() {
    use crate::core::lease::RefundState;
    use crate::core::money::Msat;

    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir);
    let mut row = lease(1, Phase::Active);
    row.money.credit = Msat::new(7);
    let ended = rows()["ended"]
        .as_object()
        .unwrap()
        .values()
        .next()
        .cloned();
    let ended: Lease = serde_json::from_value(ended.unwrap()).unwrap();
    let mut refund = ended.refunds.first().unwrap().clone();
    let (token, face) = ("t".to_owned(), Msat::new(5));
    refund.state = RefundState::Made {
        token,
        face,
        at: None,
        lock: None,
    };
    row.refunds = vec![refund];
    row.purse = Some(("https://mint.test".to_owned(), "sat".to_owned()));
    let open_row = row.clone();
    ledger
        .write(move |tx| tx.put(&LEASES, "a", &open_row))
        .await
        .unwrap();
    assert_eq!(ledger.with_refunds_out(), ["a"]);
    assert_eq!(
        ledger.credits(),
        Some(BTreeMap::new()),
        "it may be used up yet"
    );
    let over = row.clone();
    ledger
        .write(move |tx| {
            tx.put(&ENDED, "a", &over)?;
            tx.delete(&LEASES, "a")
        })
        .await
        .unwrap();
    drop(ledger);
    let ledger = open(&dir);
    assert_eq!(ledger.with_refunds_out(), ["a"]);
    let purse = row.purse.clone().unwrap();
    let sums = BTreeMap::from([(purse.clone(), Msat::new(7))]);
    assert_eq!(ledger.credits(), Some(sums));
    assert_eq!(ledger.credits_of(&row.owner, &purse), ["a"]);
    let other = crate::core::ids::PublicKey::from_bytes([2; 32]);
    assert_eq!(ledger.credits_of(&other, &purse), Vec::<String>::new());
    let elsewhere = (purse.0, "msat".to_owned());
    assert_eq!(
        ledger.credits_of(&row.owner, &elsewhere),
        Vec::<String>::new()
    );
    let id = row.refunds.first().unwrap().id.clone();
    row.refund_claimed(&id, Timestamp::from_secs(9)).unwrap();
    row.money.credit = Msat::ZERO;
    ledger
        .write(move |tx| tx.put(&ENDED, "a", &row))
        .await
        .unwrap();
    assert_eq!(ledger.with_refunds_out(), Vec::<String>::new());
    assert_eq!(ledger.credits(), Some(BTreeMap::new()));
}
