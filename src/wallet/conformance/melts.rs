//! What every wallet does with Lightning invoices.
#![expect(
    clippy::unwrap_used,
    reason = "a test that meets something else than it wants ends there"
)]

use super::{Bench, balance, sat};
use crate::core::money::Msat;
use crate::wallet::fake::{Fate, invoice};
use crate::wallet::{Melt, MintUrl, Unit, Wallet, WalletError, read_invoice};

/// Amount and fee of a payment; nothing where it is not paid.
fn spent(melt: &Melt) -> (Msat, Msat) {
    match melt {
        Melt::Paid { amount, fee, .. } => (*amount, *fee),
        _ => (Msat::ZERO, Msat::ZERO),
    }
}

/// Asks what became of a melt until it is not under way any more.
async fn end_of(wallet: &dyn Wallet, bench: &dyn Bench, quote: &str) -> Melt {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        match wallet.melt_state(&bench.mint(), &Unit::Sat, quote).await {
            Ok(Melt::Pending) => {}
            other => return other.unwrap(),
        }
        assert!(std::time::Instant::now() < end, "it is pending for ever");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// An invoice is paid for what the quote said at most; what Lightning did not
/// cost comes back. Asked again, it is paid once.
pub async fn pays_an_invoice(bench: &dyn Bench) {
    bench.fund(500).await;
    let (wallet, mint) = (bench.wallet(), bench.mint());
    let before = balance(wallet, bench).await;
    let bolt11 = invoice(sat(100), Fate::Pays);
    let quote = wallet.melt_quote(&mint, &Unit::Sat, &bolt11).await.unwrap();
    assert_eq!(quote.amount, sat(100));
    assert_eq!(
        balance(wallet, bench).await,
        before,
        "a quote costs nothing"
    );
    let not_yet = wallet.melt_state(&mint, &Unit::Sat, &quote.id).await;
    assert!(matches!(not_yet, Ok(Melt::NotPaid(_))), "{not_yet:?}");
    let most = quote.most().unwrap();
    let paid = wallet.melt(&mint, &Unit::Sat, &quote.id, most).await;
    assert!(!matches!(paid, Ok(Melt::NotPaid(_)) | Err(_)), "{paid:?}");
    let state = end_of(wallet, bench, &quote.id).await;
    assert_eq!(spent(&state).0, sat(100));
    let known = spent(&state).0.checked_add(spent(&state).1).unwrap();
    let after = balance(wallet, bench).await;
    let cost = before.checked_sub(after).unwrap();
    assert!(cost <= most, "{cost} of {most}");
    // The swap before it may have cost something more.
    assert!(known <= cost && cost <= known.checked_add(sat(2)).unwrap());
    let again = wallet.melt(&mint, &Unit::Sat, &quote.id, most).await;
    assert!(matches!(again, Err(WalletError::OutcomeUnknown(_))));
    assert_eq!(end_of(wallet, bench, &quote.id).await, state);
    assert_eq!(wallet.recover().await.unwrap().unfinished, 0);
    assert_eq!(balance(wallet, bench).await, after);
    // What is left is real.
    let all = after.checked_sub(sat(5)).unwrap();
    let sent = wallet.send(&mint, &Unit::Sat, all, true).await.unwrap();
    let payment = wallet.inspect(&sent.token).unwrap().payment;
    bench.other().redeem(payment, &sent.token).await.unwrap();
}

/// A payment that fails costs the invoice's amount nothing, at once or later.
pub async fn a_payment_that_fails_gives_the_money_back(bench: &dyn Bench) {
    bench.fund(500).await;
    let (wallet, mint) = (bench.wallet(), bench.mint());
    for fate in [Fate::Fails, Fate::PendsAndFails] {
        let before = balance(wallet, bench).await;
        let bolt11 = invoice(sat(100), fate);
        let quote = wallet.melt_quote(&mint, &Unit::Sat, &bolt11).await.unwrap();
        let most = quote.most().unwrap();
        // Where its answer is "failed", it may also have been lost.
        let said = wallet.melt(&mint, &Unit::Sat, &quote.id, most).await;
        let unclear = matches!(said, Err(WalletError::OutcomeUnknown(_)));
        let known = matches!(said, Ok(Melt::Pending | Melt::NotPaid(_)));
        assert!(unclear || known, "{fate:?}: {said:?}");
        let state = end_of(wallet, bench, &quote.id).await;
        assert!(matches!(state, Melt::NotPaid(_)), "{fate:?}: {state:?}");
        let lost = before.checked_sub(balance(wallet, bench).await);
        assert!(lost.unwrap() <= sat(2), "a swap at most, not {lost:?}");
        assert_eq!(wallet.recover().await.unwrap().unfinished, 0);
    }
    let all = balance(wallet, bench).await.checked_sub(sat(5)).unwrap();
    let sent = wallet.send(&mint, &Unit::Sat, all, true).await.unwrap();
    let payment = wallet.inspect(&sent.token).unwrap().payment;
    bench.other().redeem(payment, &sent.token).await.unwrap();
}

/// While a payment is under way, no more than the quote said is missing, the
/// rest can be used, and asking changes nothing until there is an answer.
pub async fn a_payment_under_way_holds_no_more_than_it_needs(bench: &dyn Bench) {
    bench.fund(500).await;
    let (wallet, mint) = (bench.wallet(), bench.mint());
    let before = balance(wallet, bench).await;
    let stuck = invoice(sat(100), Fate::Pends);
    let stuck = wallet.melt_quote(&mint, &Unit::Sat, &stuck).await.unwrap();
    let most = stuck.most().unwrap();
    let melted = wallet.melt(&mint, &Unit::Sat, &stuck.id, most).await;
    assert_eq!(melted, Ok(Melt::Pending));
    for _ in 0..2 {
        let state = wallet.melt_state(&mint, &Unit::Sat, &stuck.id).await;
        assert_eq!(state, Ok(Melt::Pending));
        assert_eq!(wallet.recover().await.unwrap().unfinished, 1);
        let gone = before.checked_sub(balance(wallet, bench).await).unwrap();
        assert!(gone <= most && gone >= sat(100), "{gone}");
    }
    let sent = wallet.send(&mint, &Unit::Sat, sat(300), true).await;
    let sent = sent.unwrap();
    let payment = wallet.inspect(&sent.token).unwrap().payment;
    bench.other().redeem(payment, &sent.token).await.unwrap();
    let late = invoice(sat(20), Fate::PendsAndPays);
    let late = wallet.melt_quote(&mint, &Unit::Sat, &late).await.unwrap();
    let most = late.most().unwrap();
    let melted = wallet.melt(&mint, &Unit::Sat, &late.id, most).await;
    melted.unwrap();
    let state = end_of(wallet, bench, &late.id).await;
    assert!(matches!(state, Melt::Paid { amount, .. } if amount == sat(20)));
}

/// More than there is, more than is allowed, and a mint that is down: nothing
/// is paid, then or later.
pub async fn pays_no_more_than_it_may(bench: &dyn Bench) {
    bench.fund(100).await;
    let (wallet, mint) = (bench.wallet(), bench.mint());
    let before = balance(wallet, bench).await;
    let large = invoice(sat(100), Fate::Pays);
    let large = wallet.melt_quote(&mint, &Unit::Sat, &large).await.unwrap();
    let small = invoice(sat(50), Fate::Pays);
    let small = wallet.melt_quote(&mint, &Unit::Sat, &small).await.unwrap();
    for (quote, most) in [(&large, large.most().unwrap()), (&small, sat(50))] {
        let tried = wallet.melt(&mint, &Unit::Sat, &quote.id, most).await;
        assert!(
            matches!(tried, Err(WalletError::NoBalance { .. })),
            "{tried:?}"
        );
    }
    bench.set_down(true).await;
    let most = small.most().unwrap();
    let tried = wallet.melt(&mint, &Unit::Sat, &small.id, most).await;
    assert!(matches!(tried, Err(WalletError::MintDown(_))), "{tried:?}");
    let asked = wallet.melt_state(&mint, &Unit::Sat, &small.id).await;
    assert!(matches!(asked, Err(WalletError::MintDown(_))), "{asked:?}");
    bench.set_down(false).await;
    assert_eq!(wallet.recover().await.unwrap().unfinished, 0);
    for quote in [&large, &small] {
        let state = end_of(wallet, bench, &quote.id).await;
        assert!(matches!(state, Melt::NotPaid(_)), "{state:?}");
    }
    assert_eq!(balance(wallet, bench).await, before);
    let rubbish = wallet.melt_quote(&mint, &Unit::Sat, "lnbc1rubbish").await;
    assert!(rubbish.is_err());
    let elsewhere = MintUrl("https://elsewhere.example".to_owned());
    let bolt11 = invoice(sat(1), Fate::Pays);
    assert_eq!(read_invoice(&bolt11).unwrap().amount, sat(1));
    let error = wallet.melt_quote(&elsewhere, &Unit::Sat, &bolt11).await;
    assert!(matches!(error, Err(WalletError::MintNotAccepted(_))));
}
