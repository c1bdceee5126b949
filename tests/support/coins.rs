//! Tokens of one proof each: the smallest change that a person can have.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cdk::amount::SplitTarget;
use cdk::nuts::{CurrencyUnit, PaymentMethod, Token};
use cdk_redb::WalletRedbDatabase;
use satlet::wallet::MintUrl;

/// So many tokens of `sat` satoshi, one proof each, of the mint at `url`.
pub async fn coins(url: &MintUrl, count: u64, sat: u64) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(WalletRedbDatabase::new(&dir.path().join("coins")).unwrap());
    let seed: [u8; 64] = rand::random();
    let wallet = cdk::Wallet::new(&url.0, CurrencyUnit::Sat, store, seed, None).unwrap();
    let mut coins = Vec::new();
    while (coins.len() as u64) < count {
        // Mints take so many outputs at once, and not many more.
        let part = (count - coins.len() as u64).min(250);
        let quote = wallet.mint_quote(PaymentMethod::BOLT11, Some((part * sat).into()), None, None);
        let quote = quote.await.unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let state = wallet.check_mint_quote_status(&quote.id).await.unwrap();
            if u64::from(state.amount_mintable()) > 0 {
                break;
            }
            assert!(Instant::now() < end, "the invoice is never paid");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let proofs = wallet.mint(&quote.id, SplitTarget::Value(sat.into()), None);
        let url = wallet.mint_url.clone();
        coins.extend(proofs.await.unwrap().into_iter().map(|proof| {
            Token::new(url.clone(), vec![proof], None, CurrencyUnit::Sat).to_string()
        }));
    }
    coins
}
