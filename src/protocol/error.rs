//! What a person sees when something is refused: `{code, message, suggestion, money}`.
//! The codes are stable; `specs/errors.md` lists them all, and a test compares.

use serde::{Deserialize, Serialize};

use super::receipt::{self, SignedReceipt};
use super::reply::{Invoice, Refund};

/// What became of the money that came with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Money {
    /// Still the consumer's: the token can be used again.
    Untouched,
    /// Not known yet. Do not use the token elsewhere; ask again with the same request id.
    Pending,
    /// Redeemed by the provider; what is owed is in `refund`.
    Taken,
}

/// An error on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireError {
    /// What happened, for programs.
    pub code: Code,
    /// What happened, for people: one sentence.
    pub message: String,
    /// What to do next, for people: one sentence.
    pub suggestion: String,
    /// What became of the money.
    pub money: Money,
    /// Money that comes back with this answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund: Option<Refund>,
    /// The account of a lease that ended before it was of use, signed.
    #[serde(
        default,
        deserialize_with = "receipt::if_readable",
        skip_serializing_if = "Option::is_none"
    )]
    pub receipt: Option<Box<SignedReceipt>>,
    /// With [`Code::PaymentDue`]: what is to be paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invoice: Option<Box<Invoice>>,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What happened, for programs. Unknown codes of later versions are read
        /// as [`Code::Other`].
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
            /// A code of a later version.
            Other(String),
        }

        impl Code {
            /// All codes of this version.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as it stands on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other(text) => text,
                }
            }

            fn from_text(text: String) -> Self {
                match text.as_str() {
                    $($text => Self::$name,)*
                    _ => Self::Other(text),
                }
            }
        }
    };
}

codes! {
    /// The body is not a request of this dialect.
    InvalidRequest = "invalid_request",
    /// A dialect version that this provider does not speak.
    UnsupportedVersion = "unsupported_version",
    /// The body is larger than the limit.
    MessageTooLarge = "message_too_large",
    /// This key asks too often.
    TooManyRequests = "too_many_requests",
    /// This key may not rent here.
    NotAllowed = "not_allowed",
    /// The same request id came before with another body.
    RequestIdReused = "request_id_reused",
    /// Not a Cashu token, or a form that is not accepted.
    MalformedToken = "malformed_token",
    /// The token is locked in a way that the provider cannot rely on.
    BadLock = "bad_lock",
    /// The hold is over.
    HoldOver = "hold_over",
    /// Not the preimage of the token's hash.
    BadPreimage = "bad_preimage",
    /// The token's mint is not on the list.
    MintNotAccepted = "mint_not_accepted",
    /// No new lease is paid at the token's mint now.
    MintPaused = "mint_paused",
    /// The token's unit is not accepted.
    WrongUnit = "wrong_unit",
    /// The token is spent.
    TokenSpent = "token_spent",
    /// The token is in use by another request.
    TokenInUse = "token_in_use",
    /// Less than the tier's minimum.
    AmountTooSmall = "amount_too_small",
    /// More than the tier's maximum duration.
    DurationTooLong = "duration_too_long",
    /// No such tier.
    UnknownTier = "unknown_tier",
    /// No such template.
    UnknownTemplate = "unknown_template",
    /// The image is not allowed here, or not a valid reference.
    ImageNotAllowed = "image_not_allowed",
    /// The image cannot be had.
    ImageUnavailable = "image_unavailable",
    /// Not an SSH public key, or none where one is needed.
    BadSshKey = "bad_ssh_key",
    /// Command or environment are too large or malformed.
    BadSpec = "bad_spec",
    /// No room for this tier now.
    NoCapacity = "no_capacity",
    /// The tier's price follows a rate that is not known now.
    NoPrice = "no_price",
    /// The pool gives this key nothing now.
    NoGift = "no_gift",
    /// The quote is unknown or has expired.
    QuoteExpired = "quote_expired",
    /// The mint does not answer.
    MintDown = "mint_down",
    /// The mint refused the token.
    MintRefused = "mint_refused",
    /// The mint's answer was lost; it is being found out.
    PaymentPending = "payment_pending",
    /// The invoice in this answer is to be paid; the answer follows.
    PaymentDue = "payment_due",
    /// The invoice was not paid in time.
    InvoiceExpired = "invoice_expired",
    /// The workload could not be started.
    ProvisioningFailed = "provisioning_failed",
    /// No such lease of yours.
    NotFound = "not_found",
    /// The lease has ended.
    LeaseEnded = "lease_ended",
    /// The request's own deadline has passed.
    RequestExpired = "request_expired",
    /// The provider is going away and takes no new work.
    Draining = "draining",
    /// The backend cannot do this.
    Unsupported = "unsupported",
    /// The provider is at fault; it has written it down.
    Internal = "internal",
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self::from_text)
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl WireError {
    /// An error with the money untouched.
    pub fn new(code: Code, message: impl Into<String>, suggestion: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            suggestion: suggestion.into(),
            money: Money::Untouched,
            refund: None,
            receipt: None,
            invoice: None,
        }
    }

    /// The same error with another state of the money.
    pub fn with_money(mut self, money: Money) -> Self {
        self.money = money;
        self
    }

    /// The same error, money taken, with what comes back.
    pub fn with_refund(mut self, refund: Option<Refund>) -> Self {
        self.money = Money::Taken;
        self.refund = refund;
        self
    }
}
