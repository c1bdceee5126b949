//! Fake mints, and the provider's wallet at them. Both outlive its process, and
//! so do requests that are on their way.

use satlet::core::ids::{LeaseId, PaymentId, RequestId};

use super::disk::Token;

/// How many mints there are.
pub(super) const MINTS: usize = 2;

/// Where ecash lives: a mint and one of its units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Purse {
    pub(super) mint: usize,
    /// Millisatoshi in one piece of the unit: 1000 for `sat`, 1 for `msat`.
    pub(super) piece: u64,
}

impl Purse {
    pub(super) fn unit(self) -> &'static str {
        if self.piece == 1 { "msat" } else { "sat" }
    }

    pub(super) fn url(self) -> String {
        format!("https://mint{}.test", self.mint)
    }

    pub(super) fn read(url: &str, unit: &str) -> Self {
        Self {
            mint: usize::from(url != "https://mint0.test"),
            piece: if unit == "msat" { 1 } else { 1000 },
        }
    }

    fn slot(self) -> usize {
        self.mint * 2 + usize::from(self.piece == 1)
    }
}

/// Who spent a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spender {
    /// The provider, for the payment that this request brought.
    Provider(PaymentId, RequestId),
    /// The provider, which took back a token of its own.
    TakenBack,
    /// The consumer, or whoever the consumer gave it to.
    Consumer,
}

/// A proof, by its number.
pub(super) struct Proof {
    pub(super) purse: Purse,
    pub(super) msat: u64,
    pub(super) spent: Option<Spender>,
}

/// What a mint says of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WalletError {
    Spent,
    TooSmall,
    MintDown,
    Refused,
    OutcomeUnknown,
    NoBalance { have: u64 },
}

/// What became of a redemption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redemption {
    Done { net: u64, fee: u64 },
    NotDone,
    SpentElsewhere,
    Unknown,
}

/// A token that the wallet made.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) token: Token,
    pub(super) purse: Purse,
    pub(super) face: u64,
    pub(super) fee: u64,
    /// A lease's books have it.
    pub(super) booked: bool,
    /// A lease's books have it that it was taken back.
    pub(super) noted: bool,
    /// What taking it back cost, once it was.
    pub(super) back: Option<u64>,
}

/// A redemption that was done, whether anybody knows or not.
pub(super) struct Done {
    pub(super) payment: PaymentId,
    pub(super) purse: Purse,
    pub(super) net: u64,
    pub(super) fee: u64,
}

/// The mints, and the wallet's file.
#[derive(Default)]
pub(super) struct Money {
    pub(super) down: [bool; MINTS],
    /// Input fee in parts per thousand per proof (NUT-02).
    pub(super) ppk: [u64; MINTS],
    /// Whether it was another one before.
    pub(super) raised: [bool; MINTS],
    pub(super) proofs: Vec<Proof>,
    balance: [u64; MINTS * 2],
    /// What the operator put in.
    funded: [u64; MINTS * 2],
    pub(super) done: Vec<Done>,
    pub(super) sent: Vec<Sent>,
    /// Calls of `redeem`, by payment and the request that brought it.
    pub(super) redeems: Vec<(PaymentId, RequestId)>,
}

impl Money {
    pub(super) fn issue(&mut self, purse: Purse, msat: u64) -> u64 {
        self.proofs.push(Proof {
            purse,
            msat,
            spent: None,
        });
        self.proofs.len() as u64
    }

    pub(super) fn proof(&mut self, id: u64) -> &mut Proof {
        let at = usize::try_from(id).unwrap_or(0) - 1;
        &mut self.proofs[at]
    }

    pub(super) fn fund(&mut self, purse: Purse, msat: u64) {
        self.funded[purse.slot()] += msat;
        self.balance[purse.slot()] += msat;
    }

    pub(super) fn balance(&self, purse: Purse) -> u64 {
        self.balance[purse.slot()]
    }

    pub(super) fn funded(&self, purse: Purse) -> u64 {
        self.funded[purse.slot()]
    }

    pub(super) fn purse_of(&mut self, token: &Token) -> Purse {
        self.proof(token.0[0]).purse
    }

    pub(super) fn face(&mut self, token: &Token) -> u64 {
        token.0.iter().map(|id| self.proof(*id).msat).sum()
    }

    pub(super) fn is_spent(&mut self, token: &Token) -> bool {
        token.0.iter().any(|id| self.proof(*id).spent.is_some())
    }

    /// The fee for so many proofs, in msat.
    pub(super) fn input_fee(&self, purse: Purse, proofs: u64) -> u64 {
        (self.ppk[purse.mint] * proofs).div_ceil(1000) * purse.piece
    }

    /// What redeeming gives, and costs.
    pub(super) fn net(&mut self, token: &Token) -> Result<(u64, u64), WalletError> {
        let purse = self.purse_of(token);
        let (face, fee) = (
            self.face(token),
            self.input_fee(purse, token.0.len() as u64),
        );
        if face <= fee {
            return Err(WalletError::TooSmall);
        }
        Ok((face - fee, fee))
    }

    pub(super) fn spend(&mut self, token: &Token, by: Spender) -> bool {
        if self.is_spent(token) {
            return false;
        }
        for id in &token.0 {
            self.proof(*id).spent = Some(by);
        }
        true
    }

    /// Swaps a token's proofs for our own.
    pub(super) fn redeem(
        &mut self,
        request: RequestId,
        token: &Token,
    ) -> Result<(u64, u64), WalletError> {
        let purse = self.purse_of(token);
        if self.down[purse.mint] {
            return Err(WalletError::MintDown);
        }
        let (net, fee) = self.net(token)?;
        let payment = token.payment();
        if !self.spend(token, Spender::Provider(payment, request)) {
            return Err(WalletError::Spent);
        }
        self.balance[purse.slot()] += net;
        self.done.push(Done {
            payment,
            purse,
            net,
            fee,
        });
        Ok((net, fee))
    }

    /// Finds out about a redemption of which none is on its way.
    pub(super) fn redemption(&mut self, token: &Token) -> Result<Redemption, WalletError> {
        let purse = self.purse_of(token);
        if self.down[purse.mint] {
            return Err(WalletError::MintDown);
        }
        let id = token.payment();
        if let Some(done) = self.done.iter().find(|done| done.payment == id) {
            return Ok(Redemption::Done {
                net: done.net,
                fee: done.fee,
            });
        }
        Ok(if self.is_spent(token) {
            Redemption::SpentElsewhere
        } else {
            Redemption::NotDone
        })
    }

    /// Makes a token of `msat`, from so many proofs of ours.
    pub(super) fn send(
        &mut self,
        purse: Purse,
        msat: u64,
        inputs: u64,
    ) -> Result<Sent, WalletError> {
        if self.down[purse.mint] {
            return Err(WalletError::MintDown);
        }
        let face = msat / purse.piece * purse.piece;
        if face == 0 {
            return Err(WalletError::TooSmall);
        }
        let fee = self.input_fee(purse, inputs);
        let have = self.balance(purse);
        if have < face + fee {
            return Err(WalletError::NoBalance { have });
        }
        self.balance[purse.slot()] -= face + fee;
        let token = Token(vec![self.issue(purse, face)]);
        let sent = Sent {
            token,
            purse,
            face,
            fee,
            booked: false,
            noted: false,
            back: None,
        };
        self.sent.push(sent.clone());
        Ok(sent)
    }

    /// Redeems a token of our own.
    pub(super) fn take_back_token(&mut self, token: &Token) -> Result<(u64, u64), WalletError> {
        let purse = self.purse_of(token);
        if self.down[purse.mint] {
            return Err(WalletError::MintDown);
        }
        let (net, fee) = self.net(token)?;
        if !self.spend(token, Spender::TakenBack) {
            return Err(WalletError::Spent);
        }
        self.balance[purse.slot()] += net;
        let sent = self.sent.iter_mut().find(|sent| sent.token == *token);
        sent.into_iter().for_each(|sent| sent.back = Some(fee));
        Ok((net, fee))
    }

    /// Finds out about taking a token back.
    pub(super) fn taking(&mut self, token: &Token) -> Result<Redemption, WalletError> {
        let purse = self.purse_of(token);
        if self.down[purse.mint] {
            return Err(WalletError::MintDown);
        }
        let sent = self.sent.iter().find(|sent| sent.token == *token);
        if let Some((face, Some(fee))) = sent.map(|sent| (sent.face, sent.back)) {
            return Ok(Redemption::Done {
                net: face - fee,
                fee,
            });
        }
        Ok(if self.is_spent(token) {
            Redemption::SpentElsewhere
        } else {
            Redemption::NotDone
        })
    }

    /// Takes back the token that was sent as the `n`th.
    pub(super) fn take_back(&mut self, n: usize) {
        let Sent {
            token, purse, face, ..
        } = self.sent[n].clone();
        if self.down[purse.mint] || !self.spend(&token, Spender::TakenBack) {
            return;
        }
        let cost = self.input_fee(purse, 1).min(face);
        self.balance[purse.slot()] += face - cost;
        self.sent[n].back = Some(cost);
    }
}

/// Something on its way to a mint or the backend; it acts later, or never.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Redeem {
        request: RequestId,
        token: Token,
    },
    Send {
        purse: Purse,
        msat: u64,
        inputs: u64,
    },
    TakeBack {
        token: Token,
    },
    Host {
        order: super::backend::Order,
        lease: LeaseId,
    },
}
