use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds {
    slow_ms: 5000,
    too_slow_ms: 15_000,
    max_exposure: Some(Msat::new(1_000_000)),
};

fn at(n: u64) -> Timestamp {
    Timestamp::from_secs(1_790_000_000 + n)
}

fn fit() -> Mint {
    let mut mint = Mint::new(at(0));
    mint.learn(News::Asked, &BOUNDS, at(0));
    mint.learn(News::Probed(Ok(())), &BOUNDS, at(0));
    mint
}

/// How it stands after the same news, once, twice, ….
fn course(mint: &mut Mint, news: &News, times: usize) -> Vec<Standing> {
    let each = (0..times).map(|_| {
        mint.learn(news.clone(), &BOUNDS, at(1));
        mint.standing()
    });
    each.collect()
}

fn failed() -> News {
    News::Failed(10, "no connection".to_owned())
}

#[test]
fn admission_names_what_is_missing() {
    let good = Found {
        nuts: vec![4, 5, 7, 8, 9, 10, 11, 12, 14],
        has_sat: true,
        input_fee_ppk: 100,
        expires_at: None,
    };
    let admit = |found: &Found| admit(found, 1000, at(0));
    assert_eq!(admit(&good), Ok(()));
    let bad = |change: fn(&mut Found), says: &str| {
        let mut found = good.clone();
        change(&mut found);
        let why = admit(&found).unwrap_err();
        assert!(why.contains(says), "{why}");
    };
    bad(|f| f.nuts.retain(|nut| *nut != 11), "NUT-11");
    bad(|f| f.nuts.clear(), "NUT-07, NUT-09, NUT-10");
    bad(|f| f.has_sat = false, "no sat");
    bad(|f| f.input_fee_ppk = 1001, "1001 thousandths");
    bad(|f| f.expires_at = Some(at(3600)), "expires");
    let later = Found {
        expires_at: Some(at(8 * 24 * 3600)),
        input_fee_ppk: 1000,
        ..good
    };
    assert_eq!(admit(&later), Ok(()));
}

#[test]
fn a_mint_is_not_paid_at_before_it_has_said_what_it_offers() {
    let mut mint = Mint::new(at(0));
    assert_eq!(mint.standing(), Standing::Ok, "nobody has asked it");
    mint.learn(News::Asked, &BOUNDS, at(1));
    assert_eq!((mint.standing(), mint.since()), (Standing::Probing, at(1)));
    mint.learn(failed(), &BOUNDS, at(2));
    assert_eq!((mint.standing(), mint.since()), (Standing::Probing, at(1)));
    mint.learn(News::Probed(Err("it is odd".to_owned())), &BOUNDS, at(3));
    assert_eq!(
        (mint.standing(), mint.why()),
        (Standing::Refused, "it is odd")
    );
    mint.learn(News::Asked, &BOUNDS, at(4));
    assert_eq!(mint.standing(), Standing::Refused, "until it has told");
    mint.learn(News::Probed(Ok(())), &BOUNDS, at(5));
    assert_eq!((mint.standing(), mint.since()), (Standing::Ok, at(5)));
}

#[test]
fn failures_degrade_it_and_then_pause_it_and_answers_bring_it_back() {
    use Standing::{Degraded, Ok, Paused};
    let mut mint = fit();
    assert_eq!(
        course(&mut mint, &failed(), 4),
        [Ok, Degraded, Degraded, Paused]
    );
    assert!(mint.why().ends_with("no connection"), "{}", mint.why());
    assert_eq!(
        course(&mut mint, &News::Answered(10), 6),
        [Paused, Paused, Degraded, Degraded, Ok, Ok]
    );
    // A single one now and then is nothing.
    for _ in 0..100 {
        mint.learn(failed(), &BOUNDS, at(2));
        assert_eq!(mint.standing(), Ok);
        course(&mut mint, &News::Answered(10), 5);
    }
}

#[test]
fn slowness_does_the_same() {
    use Standing::{Degraded, Ok, Paused};
    let mut mint = fit();
    course(&mut mint, &News::Answered(50), 3);
    assert_eq!(
        course(&mut mint, &News::Answered(30_000), 3),
        [Degraded, Degraded, Paused]
    );
    assert!(mint.why().contains(" ms"), "{}", mint.why());
    assert_eq!(
        course(&mut mint, &News::Answered(100), 8),
        [
            Paused, Paused, Degraded, Degraded, Degraded, Degraded, Ok, Ok
        ]
    );
}

#[test]
fn too_much_at_one_mint_pauses_it_until_there_is_room_again() {
    let mut mint = fit();
    let mut holds = |sat| {
        let sat = Msat::from_sat(sat).unwrap();
        mint.learn(News::Holds(sat), &BOUNDS, at(1));
        mint.standing()
    };
    assert_eq!(holds(1000), Standing::Ok);
    assert_eq!(holds(1001), Standing::Paused);
    assert_eq!(holds(950), Standing::Paused, "just below is not enough");
    assert_eq!(holds(900), Standing::Ok);
    holds(2000);
    assert_eq!(mint.why(), "2000 sat lie there, and 1000 sat may");
    let unbounded = Bounds {
        max_exposure: None,
        ..BOUNDS
    };
    mint.learn(News::Answered(1), &unbounded, at(1));
    assert_eq!(mint.standing(), Standing::Ok);
}

fn news() -> impl Strategy<Value = News> {
    prop_oneof![
        (0u64..60_000).prop_map(News::Answered),
        (0u64..60_000).prop_map(|ms| News::Failed(ms, "x".to_owned())),
        (0u64..3_000_000).prop_map(|msat| News::Holds(Msat::new(msat))),
        any::<bool>().prop_map(|fit| News::Probed(if fit { Ok(()) } else { Err("y".into()) })),
    ]
}

proptest! {
    /// Whatever came before: a mint that answers well and holds little is well in
    /// the end, one that never answers is paused, and averages stay in range.
    #[test]
    fn it_ends_where_its_mint_is(history in prop::collection::vec(news(), 0..60)) {
        let mut mint = fit();
        for news in history {
            let (before, since) = (mint.standing(), mint.since());
            let changed = mint.learn(news, &BOUNDS, at(7));
            prop_assert_eq!(changed, before != mint.standing());
            prop_assert!(changed || since == mint.since());
            prop_assert!(mint.failing() <= 1000);
            prop_assert!(mint.latency_ms().is_none_or(|ms| ms < 60_000));
            prop_assert!(!mint.why().is_empty());
        }
        mint.learn(News::Probed(Ok(())), &BOUNDS, at(8));
        mint.learn(News::Holds(Msat::ZERO), &BOUNDS, at(8));
        let mut well = mint.clone();
        course(&mut well, &News::Answered(20), 40);
        prop_assert_eq!(well.standing(), Standing::Ok);
        course(&mut mint, &failed(), 40);
        prop_assert_eq!(mint.standing(), Standing::Paused);
    }
}
