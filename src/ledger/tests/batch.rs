//! Changes that are committed together.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use futures::FutureExt;
use futures::future::join_all;
use proptest::prelude::*;

use super::*;

fn number(n: u64) -> Timestamp {
    Timestamp::from_secs(n)
}

/// Begins all of these, one after the other, and then waits for them.
async fn begun_in_order<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut begun: Vec<_> = all.map(|future| Box::pin(future.fuse())).collect();
    let mut out: Vec<Option<T>> = Vec::new();
    for future in &mut begun {
        out.push(match futures::poll!(future.as_mut()) {
            std::task::Poll::Ready(done) => Some(done),
            std::task::Poll::Pending => None,
        });
    }
    for (future, out) in begun.into_iter().zip(&mut out) {
        if out.is_none() {
            *out = Some(future.await);
        }
    }
    out.into_iter().flatten().collect()
}

/// All numbers under their names.
fn numbers(ledger: &Ledger) -> BTreeMap<String, u64> {
    let rows = ledger.read(|reader| reader.all(&RELAYS)).unwrap();
    rows.into_iter().map(|(k, n)| (k, n.as_secs())).collect()
}

#[tokio::test]
async fn a_change_that_fails_or_dies_takes_nobody_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir);
    let changes = (0..60).map(|n| {
        ledger.write(move |tx| {
            tx.put(&RELAYS, &format!("{n:02}"), &number(n))?;
            tx.put(&RELAYS, "last", &number(n))?;
            match n % 3 {
                0 => Ok(n),
                1 => Err(LedgerError::Rule(n.to_string())),
                _ => panic!("planted {n}"),
            }
        })
    });
    for (n, out) in (0..).zip(begun_in_order(changes).await) {
        match (n % 3, out) {
            (0, Ok(out)) => assert_eq!(out, n),
            (1, Err(LedgerError::Rule(why))) => assert_eq!(why, n.to_string()),
            (2, Err(LedgerError::Died(why))) => assert_eq!(why, format!("planted {n}")),
            (_, other) => panic!("{n}: {other:?}"),
        }
    }
    let mut wanted: BTreeMap<_, _> = (0..60).step_by(3).map(|n| (format!("{n:02}"), n)).collect();
    wanted.insert("last".to_owned(), 57);
    assert_eq!(numbers(&ledger), wanted);
    drop(ledger);
    assert_eq!(numbers(&open(&dir)), wanted, "on disk");
}

#[tokio::test]
async fn changes_come_in_order_and_each_sees_those_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir);
    let changes = (0..500u64).map(|n| {
        ledger.write(move |tx| {
            let before = tx.get(&RELAYS, "n")?.map_or(0, Timestamp::as_secs);
            tx.put(&RELAYS, "n", &number(before + 1))?;
            assert_eq!(tx.get(&RELAYS, "n")?, Some(number(before + 1)), "its own");
            Ok((n, before))
        })
    });
    for out in begun_in_order(changes).await {
        let (n, before) = out.unwrap();
        assert_eq!(n, before);
    }
}

#[tokio::test]
async fn a_change_that_nobody_waits_for_is_made_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir);
    let put = |key: &'static str| ledger.write(move |tx| tx.put(&RELAYS, key, &number(1)));
    {
        let mut change = Box::pin(put("left"));
        // Queued at the first look, and dropped before its answer.
        let _ = futures::poll!(change.as_mut());
    }
    put("right").await.unwrap();
    assert_eq!(numbers(&ledger).len(), 2);
}

/// One thing that a change does.
#[derive(Clone, Debug)]
enum Do {
    Put(u8, u64),
    Delete(u8),
    /// Puts under one key what it finds under another.
    Copy(u8, u8),
    /// Puts how many rows it sees.
    Count(u8),
}

fn doing() -> impl Strategy<Value = Do> {
    let key = || 0..6u8;
    prop_oneof![
        (key(), any::<u32>()).prop_map(|(k, n)| Do::Put(k, n.into())),
        key().prop_map(Do::Delete),
        (key(), key()).prop_map(|(to, from)| Do::Copy(to, from)),
        key().prop_map(Do::Count),
    ]
}

fn apply(tx: &Tx<'_>, what: &Do) -> Result<(), LedgerError> {
    let key = |k: &u8| format!("k{k}");
    match what {
        Do::Put(k, n) => tx.put(&RELAYS, &key(k), &number(*n)),
        Do::Delete(k) => tx.delete(&RELAYS, &key(k)),
        Do::Copy(to, from) => match tx.get(&RELAYS, &key(from))? {
            Some(n) => tx.put(&RELAYS, &key(to), &n),
            None => tx.delete(&RELAYS, &key(to)),
        },
        Do::Count(k) => {
            let count = tx.all(&RELAYS)?.len() as u64;
            tx.put(&RELAYS, &key(k), &number(count))
        }
    }
}

fn model(rows: &mut BTreeMap<String, u64>, what: &Do) {
    let key = |k: &u8| format!("k{k}");
    match what {
        Do::Put(k, n) => drop(rows.insert(key(k), *n)),
        Do::Delete(k) => drop(rows.remove(&key(k))),
        Do::Copy(to, from) => match rows.get(&key(from)).copied() {
            Some(n) => drop(rows.insert(key(to), n)),
            None => drop(rows.remove(&key(to))),
        },
        Do::Count(k) => {
            let count = rows.len() as u64;
            rows.insert(key(k), count);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Any changes at once, some of which fail in the end, leave what the good
    /// ones would leave one after the other, each in a transaction of its own.
    #[test]
    fn a_batch_is_as_good_as_one_after_the_other(
        changes in prop::collection::vec((prop::collection::vec(doing(), 0..5), any::<bool>()), 1..25)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let ledger = open(&dir);
        let mut wanted = BTreeMap::new();
        for (change, good) in &changes {
            let mut after = wanted.clone();
            change.iter().for_each(|what| model(&mut after, what));
            if *good {
                wanted = after;
            }
        }
        runtime.block_on(async {
            let running = changes.into_iter().map(|(change, good)| {
                ledger.write(move |tx| {
                    change.iter().try_for_each(|what| apply(tx, what))?;
                    good.then_some(()).ok_or(LedgerError::Rule("no".to_owned()))
                })
            });
            begun_in_order(running).await;
        });
        prop_assert_eq!(numbers(&ledger), wanted.clone());
        drop(ledger);
        prop_assert_eq!(numbers(&open(&dir)), wanted);
    }
}

/// Names the directory of the program that is killed.
const DIR: &str = "SATLET_TEST_LEDGER";

/// Writes until it is killed; says each number that is on disk.
#[tokio::test]
#[ignore = "started by another test"]
async fn the_program_that_is_killed() {
    let ledger = Ledger::open(std::env::var_os(DIR).unwrap().as_ref()).unwrap();
    for round in 0u64.. {
        let changes = (0..16).map(|n| {
            let n = round * 16 + n;
            let write = ledger.write(move |tx| tx.put(&RELAYS, &format!("{n}"), &number(n)));
            async move {
                write.await.unwrap();
                println!("\nwritten {n}");
            }
        });
        join_all(changes).await;
    }
}

#[test]
fn what_was_answered_outlives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("ledger::tests::batch::the_program_that_is_killed")
        .env(DIR, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines.map_while(Result::ok);
    let mut written = said.filter_map(|line| line.strip_prefix("written ").map(str::to_owned));
    let mut answered: Vec<String> = written.by_ref().take(100).collect();
    child.kill().unwrap();
    answered.extend(written);
    child.wait().unwrap();
    assert!(answered.len() >= 100);
    let there = numbers(&open(&dir));
    for n in answered {
        assert!(there.contains_key(&n), "{n} is gone");
    }
}
