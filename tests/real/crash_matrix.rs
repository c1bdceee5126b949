//! The real `satletd` dies at every point where it has an effect: before and
//! after each commit, each call of a mint and each call of the backend. It is
//! started again, and whoever paid ends with a lease, a refund or the token.
//!
//! The points are those that a whole life of a lease passes when nothing dies, so
//! that a new commit or call is a new row of the matrix.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use satlet::compute::Backend;
use satlet::core::ids::RequestId;
use satlet::core::lease::Lease;
use satlet::core::money::Msat;
use satlet::demo::mint::{MintOptions, TestMint};
use satlet::ledger::{ENDED, LEASES, Ledger, MERGES};
use satlet::protocol::error::{Money, WireError};
use satlet::protocol::reply::{Answer, Message, Outcome, Reply};
use satlet::protocol::request::{Ask, Claim, Funds, Order, Spawn, Topup, Wanted};
use satlet::relay::convert::now;
use satlet::wallet::MintUrl;

use crate::support::crash::{self, Stage, Told, Wrong, at_most, strike, tell_all};
use crate::support::proxy::Fault;
use crate::support::servers::Nutshell;
use crate::support::shop::{SSH_KEY, refund_to, stop};
use crate::support::world::{Asker, Daemon, LONG, Purse, no_sandbox, provider_wallet, request};

/// The final answer to a request, and all gift wraps with one so far.
fn final_answers(asker: &Asker, id: RequestId) -> Vec<(String, Reply)> {
    let got = asker.replies_now(id);
    let read = got.iter().map(|got| {
        let reply = match serde_json::from_str(&got.body).unwrap() {
            Message::Reply(reply) => reply,
            Message::Notice(notice) => panic!("{notice:?}"),
        };
        (got.rumor.to_string(), reply)
    });
    read.filter(|(_, reply)| {
        !matches!(&reply.outcome, Outcome::Error(error) if error.money == Money::Pending)
    })
    .collect()
}

/// The invoices that a request was told of so far.
fn invoices(asker: &Asker, id: RequestId) -> BTreeSet<String> {
    let got = asker.replies_now(id);
    let told = got.iter().filter_map(|got| {
        let Ok(Message::Reply(reply)) = serde_json::from_str(&got.body) else {
            return None;
        };
        match reply.outcome {
            Outcome::Error(error) => Some(error.invoice?.bolt11),
            Outcome::Result(_) => None,
        }
    });
    told.collect()
}

/// Sends a request and waits for its answer; a daemon that dies meanwhile is
/// started again. An invoice is paid as soon as it is told.
async fn ask(
    daemon: &mut Daemon,
    asker: &Asker,
    mint: &TestMint,
    ask: Ask,
) -> Result<Answer, WireError> {
    let (id, text) = request(ask);
    let mut paid = None;
    asker.send(&daemon.key(), &text).await;
    let deadline = tokio::time::Instant::now() + LONG * 2;
    let mut look = tokio::time::interval(std::time::Duration::from_millis(20));
    loop {
        if daemon.has_ended() {
            daemon.start().await;
        }
        let told = invoices(asker, id);
        assert!(told.len() <= 1, "one order, one invoice");
        if let Some(told) = told.into_iter().next().filter(|_| paid.is_none()) {
            mint.pay(&told).await.unwrap();
            paid = Some(told);
        }
        if let Some((_, reply)) = final_answers(asker, id).into_iter().next() {
            return match reply.outcome {
                Outcome::Result(answer) => Ok(*answer),
                Outcome::Error(error) => {
                    let untouched = error.money == Money::Untouched;
                    assert!(!untouched || paid.is_none(), "{error:?}");
                    Err(error)
                }
            };
        }
        assert!(tokio::time::Instant::now() < deadline, "no answer");
        look.tick().await;
    }
}

/// Where the money of a purchase is: nowhere but in one place. An invoice that was
/// paid is a lease or a refund; that `untouched` is none is looked at by [`ask`].
async fn money_is_safe<T>(purse: &Purse, funds: &Funds, answer: &Result<T, WireError>) {
    let Funds::Token(token) = funds else {
        if let Some(refund) = answer
            .as_ref()
            .err()
            .and_then(|error| error.refund.as_ref())
        {
            purse.take(&refund.token).await;
        }
        return;
    };
    let unspent = purse.is_unspent(token).await;
    match answer {
        Ok(_) => assert!(!unspent),
        Err(error) if error.money == Money::Untouched => assert!(unspent, "{error:?}"),
        Err(error) => {
            assert!(!unspent, "{error:?}");
            purse.take(&error.refund.as_ref().unwrap().token).await;
        }
    }
}

/// How a lease is bought, and at what provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Token,
    Lightning,
    /// Held first, with a token that is locked to a hash, and then claimed.
    Held,
    /// With a token, where the provider has so many small proofs that they are
    /// merged before a refund is made.
    Merging,
}

/// What the provider has of its own, in sat: for the fees that it bears, a stray's
/// and of locking a refund.
const SLACK: u64 = 20;

/// The small proofs of its own, for [`Way::Merging`].
const SMALL: u64 = 110;

/// A life of a lease: bought, paid for again, stopped.
async fn story(way: Way, mint: Option<String>, wrong: Option<Wrong>) -> Told {
    let lightning = way == Way::Lightning;
    let options = MintOptions {
        // An invoice that nobody was told of is paid by nobody.
        by_hand: lightning,
        ..MintOptions::default()
    };
    let mut stage = Stage::set(options, mint, wrong).await;
    let slack = match way {
        Way::Lightning => 0,
        Way::Token | Way::Held => SLACK,
        Way::Merging => SLACK + SMALL,
    };
    let small = if way == Way::Merging { SMALL } else { 0 };
    if slack > 0 {
        stage.daemon.fill(slack - small, small).await;
    }
    let asker = Asker::start(&stage.world).await;
    let sat = if lightning { 0 } else { 1_000 };
    let url = MintUrl(stage.proxy.url());
    let purse = Purse::at(stage.world.dir.path(), url, sat).await;
    let mut preimage = None;
    let (first, second) = if lightning {
        let order = |seconds| Funds::Invoice(Order { seconds });
        (order(299), order(199))
    } else {
        let first = match way {
            Way::Held => {
                let (token, opens) = purse.hashed(30, stage.daemon.lock_key()).await;
                preimage = Some(opens);
                token
            }
            _ => purse.token(30).await,
        };
        (Funds::Token(first), Funds::Token(purse.token(20).await))
    };
    stage.launch();
    let Stage { world, daemon, .. } = &mut stage;

    let wanted = Wanted {
        ssh_keys: vec![SSH_KEY.to_owned()],
        ..Wanted::default()
    };
    let spawn = Spawn {
        wanted,
        funds: first.clone(),
        quote_id: None,
        refund_key: None,
    };
    let sold = match preimage {
        None => ask(daemon, &asker, &world.mint, Ask::Spawn(spawn)).await,
        Some(preimage) => match ask(daemon, &asker, &world.mint, Ask::Hold(spawn)).await {
            Ok(Answer::Hold(held)) => {
                let hold = held.hold;
                let claim = Ask::Claim(Claim { hold, preimage });
                ask(daemon, &asker, &world.mint, claim).await
            }
            other => other,
        },
    };
    let mut rest = None;
    if let Ok(answer) = &sold {
        let Answer::Spawn(sold) = answer else {
            panic!("{answer:?}")
        };
        let lease = &sold.status.lease;
        let more = Ask::Topup(Topup {
            lease: lease.clone(),
            funds: second.clone(),
            refund_key: None,
        });
        let more = ask(daemon, &asker, &world.mint, more).await;
        let stop = match lightning {
            true => stop(lease),
            false => refund_to(&purse.refund_key(), stop(lease)),
        };
        let stopped = ask(daemon, &asker, &world.mint, stop).await;
        rest = Some((more, stopped));
    }
    let told = stage.told();
    money_is_safe(&purse, &first, &sold).await;
    if let Some((more, stopped)) = &rest {
        money_is_safe(&purse, &second, more).await;
        let Ok(Answer::Stop(stopped)) = stopped else {
            panic!("{stopped:?}")
        };
        if let Some(refund) = &stopped.refund {
            purse.take(&refund.token).await;
        }
    }
    everything_has_ended(&mut stage.daemon, slack).await;
    one_answer_each(&asker);
    told
}

/// No request has two different answers.
fn one_answer_each(asker: &Asker) {
    let mut rumors: BTreeMap<RequestId, HashSet<String>> = BTreeMap::new();
    for got in asker.everything() {
        if let Ok(Message::Reply(reply)) = serde_json::from_str(&got.body) {
            let answers = final_answers(asker, reply.request_id);
            let rumors = rumors.entry(reply.request_id).or_default();
            rumors.extend(answers.into_iter().map(|(_, reply)| format!("{reply:?}")));
        }
    }
    for (id, answers) in rumors {
        assert_eq!(answers.len(), 1, "{id}: {answers:?}");
    }
}

/// Every workload is gone, every lease's books balance, and the wallet has what
/// they say.
async fn everything_has_ended(daemon: &mut Daemon, slack: u64) {
    if daemon.has_ended() {
        daemon.start().await;
    }
    let sandbox = daemon.sandbox().await;
    let deadline = tokio::time::Instant::now() + LONG;
    while !sandbox.list_owned().await.unwrap().is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "a workload is left");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // What a lost answer holds up is made once the wallet has found out.
    while owes(daemon) && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    daemon.kill();
    let ledger = Ledger::open(&daemon.dir().join("data")).unwrap();
    let leases: Vec<Lease> = ledger
        .read(|reader| {
            let open = reader.all(&LEASES)?.into_iter();
            let all = open.chain(reader.all(&ENDED)?);
            Ok(all.map(|(_, lease)| lease).collect())
        })
        .unwrap();
    let merges = ledger.read(|reader| reader.all(&MERGES)).unwrap();
    let signed = |msat: Msat| i128::from(msat.get());
    let merged: i128 = merges.iter().map(|(_, row)| signed(row.cost)).sum();
    assert!(
        merges.iter().all(|(_, row)| row.open.is_none()),
        "{merges:?}"
    );
    let mut earned = 0;
    for lease in &leases {
        assert!(lease.balances(now()), "{lease:?}");
        let books = &lease.money;
        assert_eq!(books.owed, Msat::ZERO, "{lease:?}");
        let gone = [books.mint_fees, books.refunded, books.refund_fees];
        earned += signed(books.paid) - gone.into_iter().map(signed).sum::<i128>();
    }
    let known: BTreeSet<&str> = leases
        .iter()
        .flat_map(|lease| &lease.refunds)
        .filter_map(|refund| match &refund.state {
            satlet::core::lease::RefundState::Made { token, .. } => Some(token.as_str()),
            _ => None,
        })
        .collect();
    let (has, orphans) = provider_wallet(daemon, &known).await;
    // A token that was made when the daemon died, and made again: it is still
    // ours, or was taken back, and what that cost is on nobody's books. So is the
    // fee of a swap for a refund whose answer was lost.
    let told = [
        "no lease knows of was taken back",
        "a refund was not made; again",
    ];
    let stray = !orphans.is_zero() || told.iter().any(|said| daemon.log().contains(said));
    let fees = if stray { 3_000 } else { 0 };
    earned += i128::from(slack) * 1_000;
    earned -= merged;
    let all = signed(has) + signed(orphans);
    assert!(
        (earned - fees..=earned).contains(&all),
        "the books say {earned}, the wallet has {has} and {orphans} in tokens that nobody knows"
    );
}

/// Whether a refund is owed, by what the daemon says.
fn owes(daemon: &Daemon) -> bool {
    let output = tokio::task::block_in_place(|| daemon.ask(&["money", "--json"]));
    let money: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let mut purses = money["purses"].as_array().into_iter().flatten();
    money.is_null() || purses.any(|purse| purse["owed_msat"] != 0)
}

/// All stories: one in which nothing dies, and one for each point of it.
async fn matrix(mint: Option<String>, way: Way) {
    let whole = story(way, mint.clone(), None).await;
    let mut matrix = at_most(1, whole.points);
    let calls: &[&str] = match way {
        Way::Token => &[
            "check", "redeem", "send", "lock", "prepare", "create", "destroy",
        ],
        Way::Lightning => &["invoice", "collect", "send", "create", "destroy"],
        Way::Held => &[
            "check",
            "redeem_hashed",
            "send",
            "lock",
            "create",
            "destroy",
        ],
        Way::Merging => &["merge", "commit of merges"],
    };
    for call in calls {
        for when in ["before", "after"] {
            let point = format!("{when} {call}#1");
            assert!(matrix.contains(&point), "{point} is not in {matrix:?}");
        }
    }
    if way == Way::Merging {
        // The rest is that of the first way. The second commit books the cost.
        matrix.retain(|point| point.contains("merge"));
        let booked = ["before commit of merges#2", "after commit of merges#2"];
        matrix.extend(booked.map(str::to_owned));
    }
    let all = matrix.len();
    let deaths = matrix.into_iter().map(Wrong::Death).collect();
    let missed = tell_all(deaths, |wrong| story(way, mint.clone(), wrong)).await;
    // Commits are made together as it happens, so not every one comes again.
    let died = all - missed.len();
    let enough = if all < 10 { all / 2 } else { all * 3 / 4 };
    assert!(died >= enough, "{missed:?}");
    // A running workload is looked at by the clock, or not at all.
    let by_chance = |point: &str| {
        let clock = ["commit of", "observe", "note_end"];
        clock.iter().any(|name| point.contains(name))
    };
    let call = |wrong: &&Wrong| matches!(wrong, Wrong::Death(at) if !by_chance(at));
    assert_eq!(missed.iter().find(call), None);
}

/// One story for each request to the mint and each thing that may happen to it.
async fn faults(mint: Option<String>, way: Way) {
    let money = match way {
        Way::Lightning => ["/v1/mint/quote/bolt11", "/v1/mint/bolt11"],
        _ => ["/v1/swap", "/v1/checkstate"],
    };
    let whole = story(way, mint.clone(), None).await;
    let requests = whole.requests.into_iter();
    // An invoice is asked about until it is paid.
    let faults = crash::faults(requests.map(|(path, times)| match path.ends_with("/*") {
        true => (path, times.min(2)),
        false => (path, times),
    }));
    for path in money {
        let of = |wrong: &&Wrong| matches!(wrong, Wrong::Faults(all) if all[0].path == path);
        let count = faults.iter().filter(of).count();
        assert!(count >= 2 * Fault::ALL.len(), "{count} of {path}");
    }
    let all = faults.len();
    // What is asked now and then, as the mint's keysets, is not asked equally
    // often each time.
    let missed = tell_all(faults, |wrong| story(way, mint.clone(), wrong)).await;
    let moves = |wrong: &&Wrong| matches!(wrong, Wrong::Faults(all) if all[0].path == money[0]);
    assert_eq!(missed.iter().find(moves), None);
    assert!((all - missed.len()) * 3 >= all * 2);
}

/// The answer to a swap is lost, and then something happens to the question what
/// came of it.
async fn lost_twice(mint: Option<String>) {
    let whole = story(Way::Token, mint.clone(), None).await;
    let swaps = 1..=whole.requests["/v1/swap"];
    let lost = swaps.map(|n| strike("/v1/swap", n, Fault::DropResponse));
    let both = lost.flat_map(|lost| {
        Fault::ALL.map(|fault| {
            let found_out = strike("/v1/restore", 1, fault);
            Wrong::Faults(vec![lost.clone(), found_out])
        })
    });
    let both: Vec<Wrong> = both.collect();
    let all = both.len();
    let missed = tell_all(both, |wrong| story(Way::Token, mint.clone(), wrong)).await;
    assert!((all - missed.len()) * 2 >= all, "{missed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_the_question_what_came_of_a_swap_too() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    lost_twice(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_that_question_to_nutshell() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    let nutshell = match Nutshell::program() {
        Ok(program) => Nutshell::start(program).await,
        Err(why) => skip!("{why}"),
    };
    lost_twice(Some(nutshell.url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_a_request_about_an_invoice_it_is_a_lease_or_a_refund() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    faults(None, Way::Lightning).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_a_request_to_the_mint_the_money_is_in_one_place() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    faults(None, Way::Token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_a_request_to_nutshell_the_money_is_in_one_place() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    let nutshell = match Nutshell::program() {
        Ok(program) => Nutshell::start(program).await,
        Err(why) => skip!("{why}"),
    };
    faults(Some(nutshell.url()), Way::Token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_daemon_dies_at_the_money_is_in_one_place_and_each_request_has_one_answer() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    matrix(None, Way::Token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_with_nutshell() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    let nutshell = match Nutshell::program() {
        Ok(program) => Nutshell::start(program).await,
        Err(why) => skip!("{why}"),
    };
    matrix(Some(nutshell.url()), Way::Token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_it_dies_at_an_invoice_that_is_paid_is_a_lease_or_a_refund() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    matrix(None, Way::Lightning).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_it_dies_at_what_was_held_is_a_lease_a_refund_or_unspent() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    matrix(None, Way::Held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_it_dies_at_proofs_are_merged_once_and_the_refund_is_made() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    matrix(None, Way::Merging).await;
}
