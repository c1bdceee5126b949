//! The real `satletd` dies at every point of a payout where it has an effect, and
//! each request to the mint for a withdrawal goes wrong in each way. Asked again
//! with the same invoice, or left alone where it sweeps, it pays once, and every
//! satoshi is accounted for.

use std::time::Duration;

use satlet::core::money::Msat;
use satlet::core::payout::{Payout, PayoutState};
use satlet::demo::mint::MintOptions;
use satlet::ledger::{ENDED, Ledger, payouts};
use satlet::relay::convert::now;
use satlet::wallet::MintUrl;
use satlet::wallet::conformance::sat;
use satlet::wallet::fake::{Fate, invoice};
use serde_json::{Value, json};

use crate::support::crash::{Stage, Told, Wrong, at_most, faults, tell_all};
use crate::support::lightning;
use crate::support::servers::Nutshell;
use crate::support::shop::{served, settings};
use crate::support::world::{Daemon, LONG, World, no_sandbox, provider_wallet};

/// What the wallet holds at first, and what is withdrawn.
const HAS: u64 = 1000;
const TAKES: u64 = 300;

/// Withdraws until it is paid, as an operator does who knows one command.
async fn withdraw(daemon: &mut Daemon, bolt11: &str) -> Value {
    let deadline = tokio::time::Instant::now() + LONG * 2;
    loop {
        assert!(tokio::time::Instant::now() < deadline, "{}", daemon.log());
        if daemon.has_ended() {
            daemon.start().await;
        }
        let args = [
            "withdraw",
            bolt11,
            "--json",
            "--wait",
            "10",
            "--unexplained",
        ];
        let output = tokio::task::block_in_place(|| daemon.ask(&args));
        if let Ok(payout) = serde_json::from_slice::<Value>(&output.stdout)
            && payout["state"] == "paid"
        {
            return payout;
        }
        // It died, does not listen yet, or nothing was taken, for certain.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// An operator withdraws, and asks for the same once more.
async fn withdrawal(mint: Option<String>, wrong: Option<Wrong>) -> Told {
    let mut stage = Stage::set(MintOptions::default(), mint, wrong).await;
    stage.daemon.fill(HAS, 0).await;
    stage.launch();
    let bolt11 = invoice(sat(TAKES), Fate::Pays);
    let paid = withdraw(&mut stage.daemon, &bolt11).await;
    let told = stage.told();
    if stage.daemon.has_ended() {
        stage.daemon.start().await;
    }
    let again = withdraw(&mut stage.daemon, &bolt11).await;
    assert_eq!(again, paid, "asked again, it is the same payout");
    let paid = paid_once(&mut stage).await;
    assert_eq!(paid.spent().0, sat(TAKES));
    told
}

/// What is left of a lease that was served is swept to an address.
async fn sweep(mint: Option<String>, wrong: Option<Wrong>) -> Told {
    let mut stage = Stage::set(MintOptions::default(), mint, wrong).await;
    let server = lightning::Server::start(Fate::Pays).await;
    stage.daemon.configure(|config| {
        config["sweep"] = json!({ "to": server.address, "above_sat": 500, "keep_sat": 100 });
    });
    stage.daemon.fill(HAS, 0).await;
    let data = stage.daemon.dir().join("data");
    let mint = MintUrl(stage.proxy.url());
    let tier = settings(&data, &mint.0).tiers.remove(0);
    let lease = served(tier, &mint, sat(HAS), now());
    let ledger = Ledger::open(&data).unwrap();
    let put = ledger.write(move |tx| tx.put(&ENDED, lease.id.as_str(), &lease));
    put.await.unwrap();
    drop(ledger);
    stage.launch();
    let deadline = tokio::time::Instant::now() + LONG * 2;
    loop {
        if stage.daemon.has_ended() {
            stage.daemon.start().await;
        }
        let output = tokio::task::block_in_place(|| stage.daemon.ask(&["money", "--json"]));
        let money: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let payouts = money["payouts"].as_array().into_iter().flatten();
        let states: Vec<&Value> = payouts.map(|payout| &payout["state"]).collect();
        if states.iter().any(|state| *state == "paid") {
            break;
        }
        if !states.is_empty() && states.iter().all(|state| *state == "failed") {
            // Nothing was taken, for certain. It sweeps again in a minute, or
            // when it starts.
            stage.daemon.kill();
        }
        let log = stage.daemon.log();
        assert!(tokio::time::Instant::now() < deadline, "{money}\n{log}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let told = stage.told();
    let paid = paid_once(&mut stage).await;
    assert!(paid.spent().0 >= sat(800), "{paid:?}");
    told
}

/// The one payout that was made; what it says that it took is what is gone.
async fn paid_once(stage: &mut Stage) -> Payout {
    stage.daemon.kill();
    let ledger = Ledger::open(&stage.daemon.dir().join("data")).unwrap();
    let all: Vec<Payout> = ledger.read(payouts).unwrap();
    drop(ledger);
    let is_paid = |payout: &&Payout| matches!(payout.state, PayoutState::Paid { .. });
    let (paid, rest): (Vec<_>, Vec<_>) = all.iter().partition(is_paid);
    let [paid] = paid[..] else { panic!("{all:?}") };
    assert!(rest.iter().all(|payout| !payout.is_open()), "{all:?}");
    let (has, orphans) = provider_wallet(&stage.daemon, &Default::default()).await;
    assert_eq!(orphans, Msat::ZERO);
    let gone = sat(HAS).checked_sub(has).unwrap();
    let (amount, fee) = paid.spent();
    let spent = amount.checked_add(fee).unwrap();
    // A swap before each try, which is on no payout's books.
    let tries: u32 = all.iter().map(|payout| payout.tries).sum();
    let most = spent.checked_add(sat(u64::from(tries) + 2)).unwrap();
    assert!(
        gone >= spent && gone <= most,
        "{gone} is gone, and the books say {spent}"
    );
    paid.clone()
}

/// The points that are a payout's. Those that come by the clock come again and
/// again: they are died at twice.
fn of_payouts(points: Vec<String>) -> Vec<String> {
    let mut points = at_most(2, points);
    points.retain(|point| point.contains("melt") || point.contains("payouts"));
    for needed in [
        "melt_quote#1",
        "melt#1",
        "commit of payouts#1",
        "commit of payouts#2",
    ] {
        for when in ["before", "after"] {
            let point = format!("{when} {needed}");
            assert!(points.contains(&point), "{point} is not in {points:?}");
        }
    }
    points
}

/// Whether a story tells nothing without this: that something is asked for the
/// second time is as it happens, but for what is booked.
fn vital(wrong: &&Wrong) -> bool {
    match wrong {
        Wrong::Death(point) => {
            point.ends_with("#1") && !point.contains("melt_state")
                || point.ends_with("commit of payouts#2")
        }
        Wrong::Faults(strikes) => strikes[0].path == "/v1/melt/bolt11" && strikes[0].n == 1,
    }
}

async fn matrix(mint: Option<String>) {
    let whole = withdrawal(mint.clone(), None).await;
    let deaths = of_payouts(whole.points).into_iter().map(Wrong::Death);
    let moves = |path: &str| path.contains("/melt/") || path == "/v1/swap";
    let requests = whole.requests.into_iter().filter(|(path, _)| moves(path));
    let requests = requests.map(|(path, times)| (path, times.min(2)));
    let all = deaths.chain(faults(requests)).collect();
    let missed = tell_all(all, |wrong| withdrawal(mint.clone(), wrong)).await;
    assert_eq!(missed.iter().find(vital), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_it_dies_at_what_was_earned_is_swept_once() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    let whole = sweep(None, None).await;
    let deaths = of_payouts(whole.points).into_iter().map(Wrong::Death);
    let missed = tell_all(deaths.collect(), |wrong| sweep(None, wrong)).await;
    assert_eq!(missed.iter().find(vital), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_a_withdrawal_it_is_paid_once() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    matrix(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_a_withdrawal_at_nutshell_it_is_paid_once() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    let nutshell = match Nutshell::program() {
        Ok(program) => Nutshell::start(program).await,
        Err(why) => skip!("{why}"),
    };
    matrix(Some(nutshell.url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_withdraws_and_sees_what_left() {
    if let Some(why) = no_sandbox().await {
        skip!("{why}");
    }
    let world = World::start(1).await;
    let mut daemon = Daemon::build(&world, |_| {});
    daemon.fill(HAS, 0).await;
    daemon.start().await;
    let ask = |daemon: &Daemon, args: &[&str]| {
        let output = tokio::task::block_in_place(|| daemon.ask(args));
        let (out, err) = (&output.stdout, &output.stderr);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(out) + &text(err))
    };
    let bolt11 = invoice(sat(TAKES), Fate::Pays);
    // The operator has put it in, and no lease explains it.
    let (code, said) = ask(&daemon, &["withdraw", &bolt11]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("explains it"), "{said}");
    let (code, said) = ask(&daemon, &["withdraw", &bolt11, "--unexplained"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("Paid 300 sat from http://"), "{said}");
    let too_much = invoice(sat(800), Fate::Pays);
    let (code, said) = ask(&daemon, &["withdraw", &too_much, "--unexplained"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("may leave at most"), "{said}");
    let stuck = invoice(sat(100), Fate::Pends);
    let (code, said) = ask(
        &daemon,
        &["withdraw", &stuck, "--wait", "1", "--unexplained"],
    );
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("Not over yet"), "{said}");
    let (_, said) = ask(&daemon, &["money"]);
    let line = |name: &str| {
        let found = said.lines().find(|line| line.trim().starts_with(name));
        found
            .unwrap_or_else(|| panic!("no {name}: {said}"))
            .to_owned()
    };
    assert!(line("withdrawn").contains("300 sat"), "{said}");
    assert!(line("its fees").contains("sat"), "{said}");
    assert!(line("leaving").contains("10"), "{said}");
    assert!(line("solvent").contains("yes"), "{said}");
    daemon.kill();
    let (code, said) = ask(&daemon, &["withdraw", &bolt11]);
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("satletd run"), "{said}");
}
