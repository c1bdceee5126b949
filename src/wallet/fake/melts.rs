//! Invoices that say themselves what becomes of them, and the Lightning node of
//! the fake mint.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cdk::lightning_invoice::{Bolt11Invoice, Currency, InvoiceBuilder, PaymentSecret};
use cdk::secp256k1::{Secp256k1, SecretKey};
use serde_json::json;

use super::{FakeMint, FakeWallet, Hold, in_msat};
use crate::core::money::Msat;
use crate::core::time::Timestamp;
use crate::wallet::locks::input_fee;
use crate::wallet::outgoing::{Melt, MeltQuote, read_invoice};
use crate::wallet::token::whole_units;
use crate::wallet::{MintUrl, Unit, WalletError};

/// What becomes of a payment of an invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It succeeds at once.
    Pays,
    /// It fails at once.
    Fails,
    /// It is under way, and found to have succeeded when somebody asks.
    PendsAndPays,
    /// It is under way, and found to have failed when somebody asks.
    PendsAndFails,
    /// It is under way for ever.
    Pends,
}

impl Fate {
    /// What the node says when it pays, and when it is asked later.
    fn states(self) -> (&'static str, &'static str) {
        match self {
            Self::Pays => ("PAID", "PAID"),
            Self::Fails => ("FAILED", "FAILED"),
            Self::PendsAndPays => ("PENDING", "PAID"),
            Self::PendsAndFails => ("PENDING", "FAILED"),
            Self::Pends => ("PENDING", "PENDING"),
        }
    }

    fn of(invoice: &str) -> Self {
        let read: Option<Bolt11Invoice> = invoice.parse().ok();
        let told = read.map(|read| read.description().to_string());
        let all = [
            Self::Fails,
            Self::PendsAndPays,
            Self::PendsAndFails,
            Self::Pends,
        ];
        let is = |fate: &Self| told.as_deref() == Some(&description(*fate));
        all.into_iter().find(is).unwrap_or(Self::Pays)
    }
}

/// In the form that cdk's fake Lightning understands.
fn description(fate: Fate) -> String {
    let (pay, check) = fate.states();
    json!({
        "pay_invoice_state": pay,
        "check_payment_state": check,
        "pay_err": false,
        "check_err": false,
    })
    .to_string()
}

/// A new invoice over `amount`, good for ten years, with this fate at fake mints:
/// this module's and cdk's. Others take it for any invoice.
pub fn invoice(amount: Msat, fate: Fate) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    made_at(amount, fate, now.unwrap_or_default())
}

/// One that has expired.
pub fn stale_invoice(amount: Msat) -> String {
    made_at(amount, Fate::Pays, Duration::from_secs(1))
}

#[expect(clippy::unwrap_used, reason = "its parts are good")]
fn made_at(amount: Msat, fate: Fate, since: Duration) -> String {
    const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    let key = SecretKey::from_slice(&[7; 32]).unwrap();
    let hash = hex::encode(rand::random::<[u8; 32]>());
    let built = InvoiceBuilder::new(Currency::Bitcoin)
        .description(description(fate))
        .payment_hash(hash.parse().unwrap())
        .payment_secret(PaymentSecret([42; 32]))
        .amount_milli_satoshis(amount.get())
        .duration_since_epoch(since)
        .expiry_time(YEARS)
        .min_final_cltv_expiry_delta(144)
        .build_signed(|hash| Secp256k1::new().sign_ecdsa_recoverable(hash, &key));
    built.unwrap().to_string()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Now {
    Unpaid,
    Pending,
    Paid,
    Failed,
}

#[derive(Clone, Debug)]
struct Quote {
    /// The wallet's, that asked for it.
    seed: u64,
    hash: String,
    fate: Fate,
    amount: Msat,
    reserve: Msat,
    mint_fee: Msat,
    now: Now,
}

/// The node: its quotes, and how often it paid each invoice.
#[derive(Debug, Default)]
pub(super) struct Lightning {
    quotes: BTreeMap<String, Quote>,
    payments: BTreeMap<String, u32>,
    lose: bool,
    drop: bool,
}

impl FakeMint {
    /// The next melt is made, and its answer is lost.
    pub fn lose_next_melt(&self) {
        self.lock().lightning.lose = true;
    }

    /// The next melt never reaches the mint, and nobody knows.
    pub fn drop_next_melt(&self) {
        self.lock().lightning.drop = true;
    }

    /// The next melt is made and never answers.
    pub fn hold_next_melt(&self) {
        self.lock().hold = Some(Hold::Melt);
    }

    /// All payments that are under way succeed, or fail, when asked about next.
    pub fn settle(&self, paid: bool) {
        let fate = if paid {
            Fate::PendsAndPays
        } else {
            Fate::PendsAndFails
        };
        let quotes = &mut self.lock().lightning.quotes;
        quotes.values_mut().for_each(|quote| quote.fate = fate);
    }

    /// How often this invoice was paid.
    pub fn paid(&self, bolt11: &str) -> u32 {
        let hash = read_invoice(bolt11).map(|read| read.hash);
        let state = self.lock();
        let times = hash.ok().and_then(|hash| {
            let payments = &state.lightning.payments;
            payments.get(&hash).copied()
        });
        times.unwrap_or(0)
    }
}

impl FakeWallet {
    /// Payments of this wallet that are under way.
    pub(super) fn under_way(&self) -> usize {
        let of = |mint: &FakeMint| {
            let state = mint.lock();
            let quotes = state.lightning.quotes.values();
            let ours = |quote: &&Quote| quote.now == Now::Pending && quote.seed == self.seed;
            quotes.filter(ours).count()
        };
        self.mints.values().map(of).sum()
    }

    pub(super) async fn quote(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        bolt11: &str,
    ) -> Result<MeltQuote, WalletError> {
        let fake = self.mint(mint)?;
        let invoice = read_invoice(bolt11)?;
        fake.ask().await?;
        whole_units(unit, invoice.amount).ok_or(WalletError::TooSmall)?;
        let mut state = fake.lock();
        state.next += 1;
        let id = format!("melt-{}", state.next);
        let quote = Quote {
            seed: self.seed,
            fate: Fate::of(&invoice.bolt11),
            hash: invoice.hash,
            amount: invoice.amount,
            reserve: in_msat(unit, 2)?,
            mint_fee: in_msat(unit, input_fee(state.fee_ppk, 1))?,
            now: Now::Unpaid,
        };
        let told = MeltQuote {
            id: id.clone(),
            amount: quote.amount,
            reserve: quote.reserve,
            fees: quote.mint_fee,
            expires_at: Timestamp::from_secs(u64::MAX),
        };
        state.lightning.quotes.insert(id, quote);
        Ok(told)
    }

    pub(super) async fn pay(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        id: &str,
        most: Msat,
    ) -> Result<Melt, WalletError> {
        let fake = self.mint(mint)?;
        fake.ask().await?;
        let unknown = || WalletError::OutcomeUnknown("the connection was closed".to_owned());
        let quote = fake.lock().lightning.quotes.get(id).cloned();
        let quote = quote.ok_or_else(|| WalletError::Refused("no such quote".to_owned()))?;
        if quote.now != Now::Unpaid {
            return Err(unknown());
        }
        let need = Msat::checked_sum([quote.amount, quote.reserve, quote.mint_fee]);
        let need = need.ok_or(WalletError::TooSmall)?;
        if need > most {
            return Err(WalletError::NoBalance { have: most, need });
        }
        {
            let mut books = self.lock();
            let purse = (mint.clone(), unit.clone());
            let have = books.sum(&purse)?;
            if have < need {
                return Err(WalletError::NoBalance { have, need });
            }
            if std::mem::take(&mut fake.lock().lightning.drop) {
                return Err(unknown());
            }
            // Its fee is in the quote.
            books.take(&purse, need.get().div_ceil(unit.piece().get()), 0)?;
        }
        let lost = {
            let mut state = fake.lock();
            let again = state.lightning.payments.contains_key(&quote.hash);
            let now = match quote.fate.states() {
                _ if again => Now::Failed,
                ("PAID", _) => Now::Paid,
                ("FAILED", _) => Now::Failed,
                _ => Now::Pending,
            };
            if let Some(quote) = state.lightning.quotes.get_mut(id) {
                quote.now = Now::Pending;
            }
            self.end(&mut state.lightning, mint, unit, id, now)?;
            std::mem::take(&mut state.lightning.lose)
        };
        fake.held(Hold::Melt).await;
        if lost {
            return Err(unknown());
        }
        self.told(fake, id)
    }

    pub(super) async fn state_of(
        &self,
        mint: &MintUrl,
        unit: &Unit,
        id: &str,
    ) -> Result<Melt, WalletError> {
        let fake = self.mint(mint)?;
        fake.ask().await?;
        {
            let mut state = fake.lock();
            let quote = state.lightning.quotes.get(id).cloned();
            let pending = quote.filter(|quote| quote.now == Now::Pending);
            if let Some(quote) = pending {
                let now = match quote.fate.states() {
                    (_, "PAID") => Now::Paid,
                    (_, "FAILED") => Now::Failed,
                    _ => Now::Pending,
                };
                self.end(&mut state.lightning, mint, unit, id, now)?;
            }
        }
        self.told(fake, id)
    }

    /// A payment under way comes to this; what was not used comes back.
    fn end(
        &self,
        lightning: &mut Lightning,
        mint: &MintUrl,
        unit: &Unit,
        id: &str,
        now: Now,
    ) -> Result<(), WalletError> {
        let Some(quote) = lightning.quotes.get_mut(id) else {
            return Ok(());
        };
        quote.now = now;
        let back = match now {
            Now::Paid => {
                let times = lightning.payments.entry(quote.hash.clone()).or_default();
                *times += 1;
                quote.reserve.saturating_sub(in_msat(unit, 1)?)
            }
            Now::Failed => {
                let all = Msat::checked_sum([quote.amount, quote.reserve, quote.mint_fee]);
                all.unwrap_or_default()
            }
            Now::Pending | Now::Unpaid => Msat::ZERO,
        };
        self.credit(mint, unit, back);
        Ok(())
    }

    fn told(&self, fake: &FakeMint, id: &str) -> Result<Melt, WalletError> {
        let quote = fake.lock().lightning.quotes.get(id).cloned();
        let quote = quote.ok_or_else(|| WalletError::Refused("no such quote".to_owned()))?;
        Ok(match quote.now {
            Now::Unpaid => Melt::NotPaid("it was not paid".to_owned()),
            Now::Failed => Melt::NotPaid("no route".to_owned()),
            Now::Pending => Melt::Pending,
            Now::Paid => {
                let one = quote.reserve.get() / 2;
                let fee = Msat::new(one).checked_add(quote.mint_fee);
                Melt::Paid {
                    amount: quote.amount,
                    fee: fee.unwrap_or_default(),
                    preimage: Some("00".repeat(32)),
                }
            }
        })
    }
}
