//! The real `satletd` dies at every point of a withdrawal where it has an effect,
//! and each request to the mint for it goes wrong in each way. Asked again with
//! the same invoice, it pays once, and every satoshi is accounted for.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use satlet::core::money::Msat;
use satlet::core::payout::Payout;
use satlet::demo::crash;
use satlet::ledger::{Ledger, payouts};
use satlet::wallet::conformance::sat;
use satlet::wallet::fake::{Fate, invoice};
use serde_json::{Value, json};

use crate::support::proxy::{Fault, Proxy};
use crate::support::servers::Nutshell;
use crate::support::world::{Daemon, LONG, World, no_sandbox, provider_wallet};

/// Stories that are told at once.
const AT_ONCE: usize = 3;
/// What the wallet holds at first, and what is withdrawn.
const HAS: u64 = 1000;
const TAKES: u64 = 300;

/// What goes wrong in a story.
#[derive(Clone, Debug, Default)]
struct Plot {
    /// The point at which the daemon dies.
    dies_at: Option<String>,
    /// The request to the mint that something happens to: path, number, what.
    fault: Option<(String, u32, Fault)>,
}

/// What happened in a story.
struct Told {
    points: Vec<String>,
    requests: BTreeMap<String, u32>,
    /// Whether what was to go wrong did.
    happened: bool,
}

fn lines(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

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

async fn story(plot: Plot, mint: Option<String>) -> Told {
    let world = World::start(1).await;
    let mint = mint.unwrap_or_else(|| world.mint.url().0);
    let target = mint.trim_start_matches("http://").parse().unwrap();
    let proxy = Proxy::start(target).await;
    let mut daemon = Daemon::build(&world, |config| {
        config["mints"][0]["url"] = json!(proxy.url());
        config["timing"]["mint"] = json!("3s");
        config["gateway"]["listen"] = json!("127.0.0.1:0");
    });
    daemon.fill(HAS).await;
    let log = world.dir.path().join("points");
    let mut env = vec![(crash::LOG, log.to_str().unwrap().to_owned())];
    env.extend(plot.dies_at.clone().map(|at| (crash::AT, at)));
    proxy.arm(plot.fault.clone());
    daemon.launch(&env);

    let bolt11 = invoice(sat(TAKES), Fate::Pays);
    let paid = withdraw(&mut daemon, &bolt11).await;
    let points = lines(&log);
    let (requests, waits) = proxy.disarm();
    if daemon.has_ended() {
        daemon.start().await;
    }
    let again = withdraw(&mut daemon, &bolt11).await;
    assert_eq!(again, paid, "asked again, it is the same payout");
    daemon.kill();

    let ledger = Ledger::open(&daemon.dir().join("data")).unwrap();
    let all: Vec<Payout> = ledger.read(payouts).unwrap();
    drop(ledger);
    assert_eq!(all.len(), 1, "{all:?}");
    let (amount, fee) = all[0].spent();
    assert_eq!(amount, sat(TAKES));
    let known = Default::default();
    let (has, orphans) = provider_wallet(&daemon, &known).await;
    assert_eq!(orphans, Msat::ZERO);
    let gone = sat(HAS).checked_sub(has).unwrap();
    let spent = amount.checked_add(fee).unwrap();
    // A swap before each try, which is on no payout's books.
    let most = spent.checked_add(sat(u64::from(all[0].tries) + 2)).unwrap();
    assert!(
        gone >= spent && gone <= most,
        "{plot:?}: {gone} is gone, and the books say {spent}"
    );
    let died = plot.dies_at.is_some() && points.last() == plot.dies_at.as_ref();
    Told {
        happened: died || plot.fault.is_some() && !waits,
        points,
        requests,
    }
}

/// Tells a story for each plot; all have to end well. Those in which nothing went
/// wrong after all.
#[expect(clippy::print_stderr, reason = "how much of the matrix was walked")]
async fn tell_all(plots: Vec<Plot>, mint: Option<String>) -> Vec<Plot> {
    let all = plots.len();
    let told = futures::stream::iter(plots).map(|plot| {
        // A task of its own: one that fails does not end the others.
        let told = tokio::spawn(story(plot.clone(), mint.clone()));
        async move { (plot, told.await.map(|told| told.happened)) }
    });
    let told: Vec<_> = told.buffer_unordered(AT_ONCE).collect().await;
    let failed: Vec<_> = told.iter().filter(|(_, told)| told.is_err()).collect();
    assert!(failed.is_empty(), "see above; it went wrong in {failed:?}");
    let missed = told
        .into_iter()
        .filter(|(_, told)| matches!(told, Ok(false)));
    let missed: Vec<Plot> = missed.map(|(plot, _)| plot).collect();
    eprintln!("{all} stories; nothing happened after all in {missed:?}");
    missed
}

async fn matrix(mint: Option<String>) {
    let whole = story(Plot::default(), mint.clone()).await;
    // The first of each: a poll comes again and again.
    let points = whole.points.into_iter();
    let points: Vec<String> = points.filter(|point| point.ends_with("#1")).collect();
    for needed in ["melt_quote", "melt", "commit of payouts"] {
        for when in ["before", "after"] {
            let point = format!("{when} {needed}#1");
            assert!(points.contains(&point), "{point} is not in {points:?}");
        }
    }
    // Written down, and booked.
    let ours = points
        .into_iter()
        .filter(|p| p.contains("melt") || p.contains("payouts"));
    let twice = ["before commit of payouts#2", "after commit of payouts#2"];
    let deaths = ours.chain(twice.map(str::to_owned)).map(|point| Plot {
        dies_at: Some(point),
        fault: None,
    });
    let moves = |path: &str| path.contains("/melt/") || path == "/v1/swap";
    let requests = whole.requests.into_iter().filter(|(path, _)| moves(path));
    let each =
        requests.flat_map(|(path, times)| (1..=times.min(2)).map(move |n| (path.clone(), n)));
    let faults = each.flat_map(|(path, n)| {
        Fault::ALL.map(|fault| Plot {
            dies_at: None,
            fault: Some((path.clone(), n, fault)),
        })
    });
    let missed = tell_all(deaths.chain(faults).collect(), mint).await;
    let vital = |plot: &&Plot| {
        let first = |(path, n, _): &(String, u32, Fault)| path == "/v1/melt/bolt11" && *n == 1;
        plot.dies_at.is_some() || plot.fault.as_ref().is_some_and(first)
    };
    assert_eq!(missed.iter().filter(vital).count(), 0, "{missed:?}");
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
    daemon.fill(HAS).await;
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
