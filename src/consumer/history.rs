//! What became of every token that went out of the wallet or came in, and of every
//! invoice that a provider asked us to pay, by what is written down here. What
//! nobody has told is left out, not guessed.

use serde::{Deserialize, Serialize};

use super::client::{Client, now};
use super::error::ClientError;
use super::records::{
    Given, RefundStanding, SavedRefund, SavedRequest, Standing, Taken, TakenStanding,
};
use crate::core::ids::{LeaseId, PublicKey, RequestId};
use crate::core::money::Msat;
use crate::core::time::Timestamp;
use crate::protocol::request::{Ask, Request};
use crate::wallet::{MintUrl, Redeemed, RedemptionState, Unit, WalletError};

/// What became of the money of a request, once that is certain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fate", rename_all = "kebab-case")]
pub enum Fate {
    /// The provider redeemed it for time on a lease.
    Spent {
        /// Which lease.
        lease: LeaseId,
        /// What the mint kept, as the provider says; `None`: it does not say.
        mint_fee: Option<Msat>,
    },
    /// The provider redeemed it and gave no time for it; what comes back is a
    /// refund of its own.
    Refused,
    /// It is back in the wallet.
    TakenBack {
        /// What the wallet has more.
        net: Msat,
    },
    /// It is back with the user who pasted it.
    GivenBack,
}

/// Out of the wallet (or of the user's hand), or in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// To somebody else.
    Out,
    /// To us.
    In,
}

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Spent by the provider, for a lease.
    Spent,
    /// Spent by the provider, for nothing: see the refunds.
    Refused,
    /// Back in the wallet.
    TakenBack,
    /// Back with the user who pasted it.
    GivenBack,
    /// Still out: no answer yet.
    Out,
    /// Still out, or on its way in: not decided yet.
    Pending,
    /// The provider left it untouched, and it is to come back.
    ComingBack,
    /// The provider says untouched, the mint says spent.
    Disputed,
    /// Spent, and nothing came of it.
    Lost,
    /// Over, in the time of a version that did not write down how.
    Closed,
    /// Given away by hand: who has it, and whether it is spent, is not known.
    Given,
    /// In the wallet.
    Received,
    /// Written down, not redeemed yet.
    Owed,
    /// From a mint that is not on our list.
    ForeignMint,
    /// Spent by somebody else, or no money.
    Bad,
}

/// One token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// When it was written down; absent: by a version that kept no time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Out or in.
    pub way: Way,
    /// What for: `spawn`, `topup`, `send`, `receive`, `refund`.
    pub purpose: String,
    /// What became of it.
    pub state: State,
    /// Its face; of a refund that is not redeemed yet, what its sender says.
    pub amount_msat: Msat,
    /// What a mint kept when it was redeemed, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee_msat: Option<Msat>,
    /// What the wallet got for it, where it is in the wallet (again).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_msat: Option<Msat>,
    /// Its mint.
    pub mint: String,
    /// Its unit.
    pub unit: String,
    /// Whom it went to or came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<PublicKey>,
    /// The lease that it was for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
    /// The request that it went out with, or came back for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// Its name among refunds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refund_id: Option<String>,
    /// Whether it is no token: an invoice, which somebody paid by Lightning.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lightning: bool,
    /// More about it, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl Client {
    /// Every token that went out or came in, and every invoice that was paid or may
    /// be, oldest first; asks nobody.
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn history(&self) -> Result<Vec<Entry>, ClientError> {
        let requests = self.records.requests()?;
        let mut all: Vec<Entry> = requests.iter().filter_map(paid_out).collect();
        all.extend(requests.iter().filter_map(ordered));
        let by_hand = self.records.given()?;
        all.extend(by_hand.iter().map(|one| given(one, &requests)));
        all.extend(self.records.taken()?.iter().map(taken));
        let refunds = self.records.refunds()?;
        all.extend(refunds.iter().map(|(_, saved)| refund(saved)));
        all.sort_by(|a, b| (a.at, &a.refund_id).cmp(&(b.at, &b.refund_id)));
        Ok(all)
    }

    /// Puts a token of the user's into the wallet; it is written down before.
    ///
    /// # Errors
    /// As the wallet says. Unless the outcome is unknown, nothing was taken.
    pub async fn receive(&self, token: &str) -> Result<(MintUrl, Redeemed), ClientError> {
        let session = self.wallet().await?;
        let info = session.wallet().inspect(token)?;
        let taken = info.clone();
        let mut record = Taken {
            at: now(),
            mint: info.mint.clone(),
            unit: info.unit,
            face: info.face,
            net: Msat::ZERO,
            standing: TakenStanding::Pending,
            token: token.to_owned(),
        };
        // The same token again is another try, or a mistake: what is known stays.
        let known = self.records.taken_of(&info.payment)?;
        let wallet = session.wallet();
        let mut got = None;
        match &known {
            None => self.records.save_taken(&info.payment, &record)?,
            Some(before) if before.standing == TakenStanding::Pending => {
                if let RedemptionState::Done(done) = wallet.redemption(info.payment, token).await? {
                    got = Some(done);
                }
            }
            Some(_) => {}
        }
        let got = match got {
            Some(got) => Ok(got),
            None => self.redeem(&session, &taken, token).await,
        };
        match got {
            Ok(got) => {
                record.net = got.net;
                record.standing = TakenStanding::Received;
                record.token.clear();
                self.records.save_taken(&info.payment, &record)?;
                Ok((info.mint, got))
            }
            Err(error) => {
                if known.is_none() && !matches!(error, WalletError::OutcomeUnknown(_)) {
                    self.records.forget_taken(&info.payment)?;
                }
                Err(error.into())
            }
        }
    }
}

fn unit(unit: &Unit) -> String {
    super::purse::unit_name(unit).to_owned()
}

fn paid_out(saved: &SavedRequest) -> Option<Entry> {
    let paid = saved.paid.as_ref()?;
    let (state, net, fee, lease) = match (&saved.fate, saved.standing) {
        (Some(Fate::Spent { lease, mint_fee }), _) => {
            (State::Spent, None, *mint_fee, Some(lease.clone()))
        }
        (Some(Fate::TakenBack { net }), _) => {
            let fee = paid.face.checked_sub(*net);
            (State::TakenBack, Some(*net), fee, None)
        }
        (Some(Fate::GivenBack), _) => (State::GivenBack, None, None, None),
        (Some(Fate::Refused), _) => (State::Refused, None, None, None),
        (None, Standing::Open) => (State::Out, None, None, None),
        (None, Standing::Pending) => (State::Pending, None, None, None),
        (None, Standing::TakeBack) => (State::ComingBack, None, None, None),
        (None, Standing::Disputed) => (State::Disputed, None, None, None),
        (None, Standing::Lost) => (State::Lost, None, None, None),
        (None, Standing::Done) => (State::Closed, None, None, None),
    };
    Some(Entry {
        at: Some(saved.written_at),
        way: Way::Out,
        purpose: saved.kind.clone(),
        state,
        amount_msat: paid.face,
        fee_msat: fee,
        net_msat: net,
        mint: paid.mint.0.clone(),
        unit: unit(&paid.unit),
        provider: Some(saved.provider),
        lease: lease.or_else(|| asked_for(saved)),
        request_id: Some(saved.request_id),
        refund_id: None,
        lightning: false,
        note: match state {
            State::Spent => String::new(),
            _ => saved.note.clone(),
        },
    })
}

/// An order whose invoice was paid, or still may be; not one that is over unpaid.
fn ordered(saved: &SavedRequest) -> Option<Entry> {
    let invoice = saved.order.as_ref()?.invoice.as_ref()?;
    let (state, fee, lease) = match (&saved.fate, saved.standing) {
        (Some(Fate::Spent { lease, mint_fee }), _) => {
            (State::Spent, *mint_fee, Some(lease.clone()))
        }
        (Some(_), _) => (State::Refused, None, None),
        (None, Standing::Open | Standing::Pending) => (State::Pending, None, None),
        (None, _) => return None,
    };
    Some(Entry {
        at: Some(saved.written_at),
        way: Way::Out,
        purpose: saved.kind.clone(),
        state,
        amount_msat: invoice.amount_msat,
        fee_msat: fee,
        net_msat: None,
        mint: invoice.mint.clone(),
        unit: invoice.unit.clone(),
        provider: Some(saved.provider),
        lease: lease.or_else(|| asked_for(saved)),
        request_id: Some(saved.request_id),
        refund_id: None,
        lightning: true,
        note: match state {
            State::Spent => String::new(),
            _ => saved.note.clone(),
        },
    })
}

/// The lease that the request itself names.
fn asked_for(saved: &SavedRequest) -> Option<LeaseId> {
    match serde_json::from_str::<Request>(&saved.body).ok()?.ask {
        Ask::Topup(ask) => Some(ask.lease),
        Ask::Stop(ask) => Some(ask.lease),
        _ => None,
    }
}

/// What was given away is not followed, unless it came back as a pasted token
/// that paid a request of ours.
fn given(given: &Given, requests: &[SavedRequest]) -> Entry {
    let token = |saved: &&SavedRequest| {
        let paid = saved.paid.as_ref();
        paid.is_some_and(|paid| paid.token == given.paid.token)
    };
    let used = requests.iter().filter(token).filter_map(paid_out);
    let used = used.into_iter().find(|one| one.state == State::Spent);
    Entry {
        at: Some(given.at),
        way: Way::Out,
        purpose: "send".to_owned(),
        state: used.as_ref().map_or(State::Given, |used| used.state),
        amount_msat: given.paid.face,
        fee_msat: None,
        net_msat: None,
        mint: given.paid.mint.0.clone(),
        unit: unit(&given.paid.unit),
        provider: used.as_ref().and_then(|used| used.provider),
        request_id: used.as_ref().and_then(|used| used.request_id),
        lease: used.and_then(|used| used.lease),
        refund_id: None,
        lightning: false,
        note: String::new(),
    }
}

fn taken(taken: &Taken) -> Entry {
    let (state, net) = match taken.standing {
        TakenStanding::Pending => (State::Pending, None),
        TakenStanding::Received => (State::Received, Some(taken.net)),
    };
    Entry {
        at: Some(taken.at),
        way: Way::In,
        purpose: "receive".to_owned(),
        state,
        amount_msat: taken.face,
        fee_msat: net.and_then(|net| taken.face.checked_sub(net)),
        net_msat: net,
        mint: taken.mint.0.clone(),
        unit: unit(&taken.unit),
        provider: None,
        lease: None,
        request_id: None,
        refund_id: None,
        lightning: false,
        note: String::new(),
    }
}

fn refund(saved: &SavedRefund) -> Entry {
    let (state, net) = match saved.standing {
        RefundStanding::Owed => (State::Owed, None),
        RefundStanding::Received => (State::Received, Some(saved.net)),
        RefundStanding::ForeignMint => (State::ForeignMint, None),
        RefundStanding::Bad => (State::Bad, None),
    };
    let refund = &saved.refund;
    Entry {
        at: saved.at,
        way: Way::In,
        purpose: "refund".to_owned(),
        state,
        amount_msat: refund.amount_msat,
        fee_msat: net.and_then(|net| refund.amount_msat.checked_sub(net)),
        net_msat: net,
        mint: refund.mint.clone(),
        unit: refund.unit.clone(),
        provider: Some(saved.provider),
        lease: saved.whence.lease.clone(),
        request_id: saved.whence.request,
        refund_id: Some(refund.refund_id.clone()),
        lightning: false,
        note: if saved.note.is_empty() {
            refund.why.clone()
        } else {
            saved.note.clone()
        },
    }
}
