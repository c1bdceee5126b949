//! Invoices that are paid over a proxy that loses, repeats and delays.

use satlet::wallet::fake::{Fate, invoice};
use satlet::wallet::{Melt, MeltQuote};

use super::*;

const MELT: &str = "/v1/melt/bolt11";

async fn quote(wallet: &CdkWallet, url: &MintUrl, amount: u64) -> MeltQuote {
    let bolt11 = invoice(sat(amount), Fate::Pays);
    let quote = wallet.melt_quote(url, &Unit::Sat, &bolt11).await;
    quote.unwrap()
}

async fn melt(wallet: &CdkWallet, url: &MintUrl, quote: &MeltQuote) -> Result<Melt, WalletError> {
    let most = quote.most().unwrap();
    wallet.melt(url, &Unit::Sat, &quote.id, most).await
}

/// What became of it, once `known` of that.
async fn ends(wallet: &CdkWallet, url: &MintUrl, id: &str, known: fn(&Melt) -> bool) -> Melt {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let state = wallet.melt_state(url, &Unit::Sat, id).await;
        if let Ok(state) = &state
            && known(state)
        {
            return state.clone();
        }
        assert!(Instant::now() < end, "{state:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn is_paid(melt: &Melt) -> bool {
    matches!(melt, Melt::Paid { .. })
}

/// What is gone since `before` is what the melt says, and a swap at most.
async fn is_accounted(wallet: &CdkWallet, before: Msat, melt: &Melt) {
    let known = match melt {
        Melt::Paid { amount, fee, .. } => amount.checked_add(*fee).unwrap(),
        _ => Msat::ZERO,
    };
    let gone = before.checked_sub(total(wallet).await).unwrap();
    let most = known.checked_add(sat(2)).unwrap();
    assert!(known <= gone && gone <= most, "{gone} is gone: {melt:?}");
}

/// All that is there can be spent.
async fn is_real(stage: &Behind, wallet: &CdkWallet, seed: u8) {
    let all = total(wallet).await.checked_sub(sat(10)).unwrap();
    let sent = wallet.send(&stage.url, &Unit::Sat, all, true).await;
    let token = sent.unwrap().token;
    stage.wallet(seed).await.receive(&token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_a_melt_it_is_known_in_the_end() {
    let stage = behind().await;
    let (wallet, url) = (&stage.payer, &stage.url);
    for fault in Fault::ALL {
        let before = total(wallet).await;
        let asked = quote(wallet, url, 300).await;
        stage.proxy.strike(MELT, fault);
        let said = melt(wallet, url, &asked).await;
        let unclear = matches!(said, Err(WalletError::OutcomeUnknown(_)));
        assert!(said.is_ok() || unclear, "{fault:?}: {said:?}");
        let arrives = fault != Fault::DropRequest;
        let known = |melt: &Melt| *melt != Melt::Pending;
        let state = ends(wallet, url, &asked.id, known).await;
        assert_eq!(is_paid(&state), arrives, "{fault:?}: {state:?}");
        is_accounted(wallet, before, &state).await;
        let found = wallet.recover().await.unwrap();
        assert_eq!(found.unfinished, 0, "{fault:?}: {found:?}");
    }
    is_real(&stage, wallet, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_melt_that_arrives_late_is_found_and_what_was_left_comes_back() {
    let stage = behind().await;
    let (wallet, url) = (&stage.payer, &stage.url);
    let before = total(wallet).await;
    let asked = quote(wallet, url, 1000).await;
    stage.proxy.strike(MELT, Fault::LateRequest);
    let said = melt(wallet, url, &asked).await;
    assert!(
        matches!(said, Err(WalletError::OutcomeUnknown(_))),
        "{said:?}"
    );
    let early = wallet.melt_state(url, &Unit::Sat, &asked.id).await;
    assert!(matches!(early, Ok(Melt::NotPaid(_))), "{early:?}");
    stage.proxy.let_go();
    stage.proxy.struck().await;
    let state = ends(wallet, url, &asked.id, is_paid).await;
    is_accounted(wallet, before, &state).await;
    assert_eq!(ends(wallet, url, &asked.id, is_paid).await, state);
    is_real(&stage, wallet, 1).await;
}
