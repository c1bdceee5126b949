//! A wallet's store whose writes are watched, for tests: before and after each
//! write somebody is told, who may end it all there.
//!
//! An operation of the wallet is many writes to its file with requests to the mint
//! between them. Where it is cut off is cdk's choice and ours, so each write is a
//! place to try.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use cdk::nuts::{
    CurrencyUnit, Id, KeySet, KeySetInfo, Keys, MintInfo, PublicKey, SpendingConditions, State,
};
use cdk_common::bitcoin::bip32::DerivationPath;
use cdk_common::database::{Error, WalletDatabase};
use cdk_common::mint_url::MintUrl;
use cdk_common::wallet::{
    MeltQuote, MintQuote, P2PKSigningKey, ProofInfo, Transaction, TransactionDirection,
    TransactionId, WalletSaga,
};
use uuid::Uuid;

use crate::wallet::WalletError;
use crate::wallet::account::Store;
use crate::wallet::cdk_wallet::{CdkWallet, WalletOptions};

/// Told the name of each write, before it (`false`) and after it (`true`). Where
/// it gives `false`, nothing in the store goes on from there, as in a process that
/// has died.
pub type Watch = Arc<dyn Fn(&str, bool) -> bool + Send + Sync>;

/// Opens a wallet, as [`CdkWallet::open`] does, whose writes are watched.
///
/// # Errors
/// As [`CdkWallet::open`].
pub async fn open(options: WalletOptions, watch: Watch) -> Result<CdkWallet, WalletError> {
    let watched = |inner| Arc::new(Watched { inner, watch }) as Store;
    CdkWallet::open_with(options, watched).await
}

struct Watched {
    inner: Store,
    watch: Watch,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl Watched {
    async fn write<T>(&self, name: &str, write: impl Future<Output = T>) -> T {
        if !(self.watch)(name, false) {
            std::future::pending::<()>().await;
        }
        let done = write.await;
        if !(self.watch)(name, true) {
            std::future::pending::<()>().await;
        }
        done
    }
}

/// Hands every method on; the writes are watched.
macro_rules! watched {
    (
        reads { $(fn $read:ident($($a:ident: $at:ty),*) -> $got:ty;)* }
        writes { $(fn $write:ident($($b:ident: $bt:ty),*) -> $did:ty;)* }
    ) => {
        #[async_trait]
        impl WalletDatabase<Error> for Watched {
            $(async fn $read(&self, $($a: $at),*) -> Result<$got, Error> {
                self.inner.$read($($a),*).await
            })*
            $(async fn $write(&self, $($b: $bt),*) -> Result<$did, Error> {
                self.write(stringify!($write), self.inner.$write($($b),*)).await
            })*
        }
    };
}

watched! {
    reads {
        fn get_mint(mint: MintUrl) -> Option<MintInfo>;
        fn get_mints() -> HashMap<MintUrl, Option<MintInfo>>;
        fn get_mint_keysets(mint: MintUrl) -> Option<Vec<KeySetInfo>>;
        fn get_keyset_by_id(id: &Id) -> Option<KeySetInfo>;
        fn get_mint_quote(id: &str) -> Option<MintQuote>;
        fn get_mint_quotes() -> Vec<MintQuote>;
        fn get_unissued_mint_quotes() -> Vec<MintQuote>;
        fn get_melt_quote(id: &str) -> Option<MeltQuote>;
        fn get_melt_quotes() -> Vec<MeltQuote>;
        fn get_keys(id: &Id) -> Option<Keys>;
        fn get_proofs(
            mint: Option<MintUrl>, unit: Option<CurrencyUnit>, state: Option<Vec<State>>,
            conditions: Option<Vec<SpendingConditions>>
        ) -> Vec<ProofInfo>;
        fn get_proofs_by_ys(ys: Vec<PublicKey>) -> Vec<ProofInfo>;
        fn get_balance(
            mint: Option<MintUrl>, unit: Option<CurrencyUnit>, state: Option<Vec<State>>
        ) -> u64;
        fn get_transaction(id: TransactionId) -> Option<Transaction>;
        fn list_transactions(
            mint: Option<MintUrl>, direction: Option<TransactionDirection>,
            unit: Option<CurrencyUnit>
        ) -> Vec<Transaction>;
        fn get_saga(id: &Uuid) -> Option<WalletSaga>;
        fn get_incomplete_sagas() -> Vec<WalletSaga>;
        fn get_reserved_proofs(operation: &Uuid) -> Vec<ProofInfo>;
        fn kv_read(space: &str, below: &str, key: &str) -> Option<Vec<u8>>;
        fn kv_list(space: &str, below: &str) -> Vec<String>;
        fn get_p2pk_key(key: &PublicKey) -> Option<P2PKSigningKey>;
        fn list_p2pk_keys() -> Vec<P2PKSigningKey>;
        fn latest_p2pk() -> Option<P2PKSigningKey>;
    }
    writes {
        fn update_proofs(added: Vec<ProofInfo>, removed: Vec<PublicKey>) -> ();
        fn update_proofs_state(ys: Vec<PublicKey>, state: State) -> ();
        fn add_transaction(transaction: Transaction) -> ();
        fn remove_transaction(id: TransactionId) -> ();
        fn update_mint_url(before: MintUrl, now: MintUrl) -> ();
        fn increment_keyset_counter(id: &Id, count: u32) -> u32;
        fn increment_derivation_counter(space: &str, count: u32) -> u32;
        fn add_mint(mint: MintUrl, info: Option<MintInfo>) -> ();
        fn remove_mint(mint: MintUrl) -> ();
        fn add_mint_keysets(mint: MintUrl, keysets: Vec<KeySetInfo>) -> ();
        fn add_mint_quote(quote: MintQuote) -> ();
        fn remove_mint_quote(id: &str) -> ();
        fn add_melt_quote(quote: MeltQuote) -> ();
        fn remove_melt_quote(id: &str) -> ();
        fn add_keys(keys: KeySet) -> ();
        fn remove_keys(id: &Id) -> ();
        fn add_saga(saga: WalletSaga) -> ();
        fn update_saga(saga: WalletSaga) -> bool;
        fn delete_saga(id: &Uuid) -> ();
        fn reserve_proofs(ys: Vec<PublicKey>, operation: &Uuid) -> ();
        fn release_proofs(operation: &Uuid) -> ();
        fn reserve_melt_quote(id: &str, operation: &Uuid) -> ();
        fn release_melt_quote(operation: &Uuid) -> ();
        fn reserve_mint_quote(id: &str, operation: &Uuid) -> ();
        fn release_mint_quote(operation: &Uuid) -> ();
        fn kv_write(space: &str, below: &str, key: &str, value: &[u8]) -> ();
        fn kv_remove(space: &str, below: &str, key: &str) -> ();
        fn add_p2pk_key(key: &PublicKey, path: DerivationPath, index: u32) -> ();
    }
}
