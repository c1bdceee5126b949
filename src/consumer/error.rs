//! What a consumer sees when something fails: `{code, message, suggestion,
//! money}` as on the wire, and the kind that decides the exit code.

use serde::Serialize;

use crate::core::money::Msat;
use crate::protocol::error::{Code, Money, WireError};
use crate::wallet::WalletError;

/// What kind of failure it is; each has one exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A fault of this program or this machine.
    Internal,
    /// The command or the settings are wrong.
    Usage,
    /// No such provider, lease or request; or the name fits several.
    NotFound,
    /// The provider refused, money untouched.
    Refused,
    /// Something about money: not enough, or its state is not known yet.
    Payment,
    /// The provider did not answer in time.
    Timeout,
    /// No relay (or no gateway, no mint) could be reached.
    Network,
}

impl Kind {
    /// The exit code of a command that fails so; `docs/cli.md` lists them.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Refused => 4,
            Self::Payment => 5,
            Self::Timeout => 6,
            Self::Network => 7,
        }
    }
}

/// A failure, for programs and for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct ClientError {
    /// Decides the exit code.
    pub kind: Kind,
    /// What happened, for programs.
    pub code: String,
    /// What happened, for people: one sentence.
    pub message: String,
    /// What to do next, for people; may be empty.
    pub suggestion: String,
    /// What became of the money.
    pub money: Money,
    /// The request, where one was sent that may still be answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<crate::core::ids::RequestId>,
    /// A pasted token that goes back to the one who pasted it. Money.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Returned>,
    /// Money that came back with the failure.
    #[serde(skip_serializing_if = "nothing")]
    pub refunded_msat: Msat,
}

/// A token given back to the one who pasted it; not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Returned(pub Box<str>);

impl std::fmt::Debug for Returned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Returned(..)")
    }
}

impl ClientError {
    /// A failure that took no money.
    pub fn new(
        kind: Kind,
        code: &str,
        message: impl Into<String>,
        suggestion: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            code: code.to_owned(),
            message: message.into(),
            suggestion: suggestion.into(),
            money: Money::Untouched,
            request_id: None,
            token: None,
            refunded_msat: Msat::ZERO,
        }
    }

    /// A fault of this program or this machine.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, "internal", message, "")
    }

    /// The command or the settings are wrong.
    pub fn usage(code: &str, message: impl Into<String>, suggestion: impl Into<String>) -> Self {
        Self::new(Kind::Usage, code, message, suggestion)
    }

    /// The same failure with another state of the money.
    #[must_use]
    pub fn with_money(mut self, money: Money) -> Self {
        self.money = money;
        self
    }

    /// The same failure, naming the request.
    #[must_use]
    pub fn with_request(mut self, id: crate::core::ids::RequestId) -> Self {
        self.request_id = Some(id);
        self
    }

    /// What the provider said.
    pub fn from_wire(error: &WireError) -> Self {
        let kind = match (error.money, &error.code) {
            (Money::Pending | Money::Taken, _) => Kind::Payment,
            (Money::Untouched, Code::NotFound) => Kind::NotFound,
            (Money::Untouched, _) => Kind::Refused,
        };
        Self::new(
            kind,
            error.code.as_str(),
            error.message.clone(),
            error.suggestion.clone(),
        )
        .with_money(error.money)
    }
}

impl From<std::io::Error> for ClientError {
    fn from(error: std::io::Error) -> Self {
        Self::internal(format!("input or output failed: {error}"))
    }
}

impl From<WalletError> for ClientError {
    fn from(error: WalletError) -> Self {
        let (kind, code, suggestion) = match &error {
            WalletError::Malformed(_) => (
                Kind::Usage,
                "malformed_token",
                "Give a whole token, cashuA… or cashuB….",
            ),
            WalletError::MintNotAccepted(_) => (
                Kind::Payment,
                "mint_not_accepted",
                "Trust the mint first: satlet wallet mints --add URL.",
            ),
            WalletError::WrongUnit(_) => {
                (Kind::Payment, "wrong_unit", "Use a token in sat or msat.")
            }
            WalletError::Spent => (Kind::Payment, "token_spent", "Use another token."),
            WalletError::TooSmall => (Kind::Payment, "amount_too_small", "Use a larger amount."),
            WalletError::NoBalance { .. } => (
                Kind::Payment,
                "no_balance",
                "Put money in: satlet wallet receive or satlet wallet mint.",
            ),
            WalletError::MintDown(_) => (
                Kind::Network,
                "mint_down",
                "Try again later, or use another mint.",
            ),
            WalletError::Refused(_) => (
                Kind::Payment,
                "mint_refused",
                "Use another token or another mint.",
            ),
            WalletError::OutcomeUnknown(_) => (
                Kind::Payment,
                "payment_pending",
                "Run satlet wallet balance later: what is unfinished is looked at again.",
            ),
            WalletError::Store(_) => (
                Kind::Internal,
                "wallet_store",
                "Look at the disk and the rights of the wallet's directory.",
            ),
        };
        let money = match error {
            WalletError::OutcomeUnknown(_) => Money::Pending,
            _ => Money::Untouched,
        };
        Self::new(kind, code, error.to_string(), suggestion).with_money(money)
    }
}

// Serde hands over a reference.
fn nothing(amount: &Msat) -> bool {
    amount.is_zero()
}
