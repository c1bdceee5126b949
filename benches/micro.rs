//! Small parts on their own: `cargo bench --bench micro`. Figures of the whole
//! are in the report (`benches/report`).
#![expect(
    clippy::unwrap_used,
    reason = "a measurement that meets something else than it wants ends there"
)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use futures::future::join_all;
use nostr_sdk::Keys;
use satlet::core::ids::PublicKey;
use satlet::core::time::Timestamp;
use satlet::ledger::{Ledger, OUTBOX, OutboxRow, RELAYS};
use satlet::relay::Channel;
use satlet::relay::convert::{key_from, now};
use satlet::relay::wrap::{unwrap, wrap};

fn wraps(c: &mut Criterion) {
    let (us, them) = (Keys::generate(), Keys::generate());
    let body = "x".repeat(700);
    let made = |from: &Keys, to: &Keys| {
        let to = key_from(&to.public_key());
        wrap(from, &to, &body, now(), now().plus_secs(60))
            .unwrap()
            .0
    };
    let event = made(&them, &us);
    c.bench_function("verify a gift wrap", |b| b.iter(|| event.verify().unwrap()));
    c.bench_function("unwrap", |b| b.iter(|| unwrap(&us, &event).unwrap()));
    c.bench_function("wrap", |b| b.iter(|| made(&us, &them)));
}

fn ledger(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut group = c.benchmark_group("ledger");
    for at_once in [1u64, 16, 256] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        group.throughput(Throughput::Elements(at_once));
        group.bench_function(format!("{at_once} changes at once"), |b| {
            b.iter(|| {
                runtime.block_on(join_all((0..at_once).map(|n| {
                    let at = Timestamp::from_secs(n);
                    ledger.write(move |tx| tx.put(&RELAYS, &n.to_string(), &at))
                })))
            });
        });
    }
    group.finish();
}

fn due(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    let row = OutboxRow {
        to: PublicKey::from_bytes([1; 32]),
        channel: Channel::GiftWrap,
        body: "x".repeat(700),
        relays: vec!["wss://relay.test".to_owned()],
        written_at: now(),
        expires_at: now().plus_secs(60),
        attempts: 0,
        next_attempt: now().plus_secs(30),
    };
    let write =
        ledger.write(move |tx| (0..10_000).try_for_each(|n| tx.put(&OUTBOX, &n.to_string(), &row)));
    runtime.block_on(write).unwrap();
    c.bench_function("what is due, of 10,000 messages that are not", |b| {
        b.iter_batched(
            now,
            |now| (ledger.due(now, 32, |_, _| false), ledger.next_due()),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(all, wraps, ledger, due);
criterion_main!(all);
