//! `satlet` is killed at any moment of a purchase, of a top-up, of a stop. Its next
//! commands find out what became of it, and all ecash is the provider's or in the
//! wallet.

use std::time::{Duration, Instant};

use futures::StreamExt;
use satlet::consumer::records::{Records, RefundStanding, Whence};
use satlet::core::money::Msat;
use satlet::protocol::reply::Refund;
use serde_json::Value;

use crate::support::world::{House, LONG, Person, World};

/// Stories that are told at once.
const AT_ONCE: usize = 3;

/// How often each is killed.
const TIMES: u32 = 16;

/// What is killed.
#[derive(Clone, Copy, Debug)]
enum Act {
    Spawn,
    Topup,
    Stop,
}

/// A provider, and somebody who has a lease there unless it is that which is to be
/// bought.
struct Stage {
    world: World,
    house: House,
    me: Person,
    args: Vec<String>,
}

impl Stage {
    async fn set(act: Act) -> Self {
        let world = World::start(1).await;
        let mut house = House::build(&world, 1);
        house.start().await;
        let me = Person::new(&world, "me", 500).await;
        let spawn = ["spawn", "boldamber", "--tier", "small", "--for", "10m"];
        let text = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect();
        let args = match act {
            Act::Spawn => text(&spawn),
            Act::Topup | Act::Stop => {
                let sold = me.json(&spawn).await;
                let lease = sold["lease"].as_str().unwrap();
                match act {
                    Act::Topup => text(&["topup", lease, "--for", "10m"]),
                    _ => text(&["stop", lease]),
                }
            }
        };
        Self {
            world,
            house,
            me,
            args,
        }
    }

    /// Runs it, and kills it after so long; how long it took, and whether it was
    /// over by then.
    async fn run(&self, kill: Option<Duration>) -> (Duration, bool) {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let began = Instant::now();
        let mut child = self.me.launch(&args);
        let wait = kill.unwrap_or(LONG);
        let over = tokio::time::timeout(wait, child.wait()).await.is_ok();
        child.kill().await.unwrap();
        (began.elapsed(), over)
    }

    /// What somebody does who wants out: looks, and stops what runs.
    async fn settle(&self) {
        let end = Instant::now() + LONG;
        loop {
            let all = self.me.json(&["ls", "--refresh"]).await;
            let requests = all["requests"].as_array().unwrap();
            let leases = all["leases"].as_array().unwrap();
            for request in requests {
                let id = request["request"]
                    .as_str()
                    .unwrap_or_else(|| panic!("{request}"));
                self.me.run(&["status", id]).await;
            }
            let runs = |lease: &&Value| lease["state"] != "ended";
            for lease in leases.iter().filter(runs) {
                self.me
                    .run(&["stop", lease["lease"].as_str().unwrap()])
                    .await;
            }
            if requests.is_empty() && !leases.iter().any(|lease| runs(&lease)) {
                return;
            }
            assert!(Instant::now() < end, "{all}");
        }
    }

    /// What all have is what there is.
    async fn nothing_is_lost(&self, told: &str) {
        let balance = self.me.json(&["wallet", "balance"]).await;
        // What was locked to the provider and never sent comes back by itself, and
        // a mint whose caller is gone may keep proofs pending.
        let mine = ["total_msat", "locked_msat", "under_way_msat"];
        let mine = mine.map(|name| balance[name].as_u64().unwrap());
        let mine = Msat::new(mine.iter().sum());
        let theirs = self.house.balance().await;
        let out = self.world.mint.outstanding().await.unwrap();
        assert_eq!(
            mine.checked_add(theirs),
            Some(out),
            "{mine} and {theirs}: {told}"
        );
    }
}

async fn story(act: Act, kill: Option<Duration>) -> Duration {
    let mut stage = Stage::set(act).await;
    let (took, over) = stage.run(kill).await;
    stage.settle().await;
    let told = format!("{act:?} killed after {kill:?}, over: {over}");
    stage.nothing_is_lost(&told).await;
    assert!(stage.house.leases() <= 1, "{told}");
    stage.house.stop().await;
    took
}

async fn at_any_moment(act: Act) {
    let whole = story(act, None).await;
    let kills = (1..=TIMES).map(|part| whole * part / (TIMES + 1));
    let stories = kills.map(|kill| async move {
        let told = tokio::spawn(story(act, Some(kill))).await;
        (kill, told.is_ok())
    });
    let told: Vec<_> = futures::stream::iter(stories)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let failed: Vec<_> = told.iter().filter(|(_, went)| !went).collect();
    assert!(failed.is_empty(), "see above; of {whole:?}: {failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_that_is_killed_at_any_moment_loses_nothing() {
    at_any_moment(Act::Spawn).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_top_up_that_is_killed_at_any_moment_loses_nothing() {
    at_any_moment(Act::Topup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_is_killed_at_any_moment_loses_nothing() {
    at_any_moment(Act::Stop).await;
}

/// As after a command that was killed when it had written its answer down.
#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_was_only_written_down_is_taken_in_by_the_next_look() {
    let world = World::start(0).await;
    let payer = Person::new(&world, "payer", 500).await;
    let me = Person::new(&world, "me", 0).await;
    let records = Records::new(&me.home);
    let looks = [&["ls"][..], &["wallet", "balance"], &["wallet", "refunds"]];
    for (number, look) in looks.iter().enumerate() {
        let refund = Refund {
            refund_id: format!("lease-{number}"),
            token: payer.token(100).await,
            amount_msat: Msat::new(100_000),
            mint: world.mint.url().0,
            unit: "sat".to_owned(),
            why: "its owner stopped it".to_owned(),
        };
        let provider = "ab".repeat(32).parse().unwrap();
        let noted = records.note_refund(&provider, &refund, &Whence::default());
        assert_eq!(noted.unwrap().1.standing, RefundStanding::Owed);
        me.json(look).await;
        // As it stands now.
        let noted = records.note_refund(&provider, &refund, &Whence::default());
        let saved = noted.unwrap().1;
        assert_eq!(saved.standing, RefundStanding::Received, "{look:?}");
        assert!(saved.net > Msat::new(98_000), "{look:?}");
    }
    assert!(me.balance().await > 290_000);
}
