//! Reading a token offline: form, limits, Ys and the payment's id.

use std::collections::BTreeSet;
use std::str::FromStr;

use cdk::dhke::hash_to_curve;
use cdk::nuts::{CurrencyUnit, Token};
use sha2::{Digest, Sha256};

use super::{MintUrl, TokenInfo, Unit, WalletError};
use crate::core::ids::PaymentId;
use crate::core::money::{MSAT_PER_SAT, Msat};
use crate::core::payment::lock::Conditions;
use crate::protocol::MAX_TOKEN;

/// Most proofs in a token that is read: fees, pacing and message size bound it.
pub const MAX_PROOFS: usize = 64;

/// Longest mint URL that is read, in bytes.
const MAX_URL: usize = 256;

/// A token that was read, with cdk's view of it.
pub(super) struct Read {
    pub(super) token: Token,
    pub(super) info: TokenInfo,
}

/// Reads a token (`cashuA…` or `cashuB…`, NUT-00) and checks its form. Whether
/// the mint is accepted is for the caller.
///
/// # Errors
/// `Malformed`, `WrongUnit`.
pub(super) fn read(text: &str) -> Result<Read, WalletError> {
    let text = text.trim();
    if text.len() > MAX_TOKEN {
        return Err(malformed("it is too long"));
    }
    let token = Token::from_str(text).map_err(|_| malformed("not a Cashu token"))?;
    if let Token::TokenV3(v3) = &token
        && v3.mint_urls().len() != 1
    {
        return Err(malformed("it is of several mints"));
    }
    let mint = token
        .mint_url()
        .map_err(|_| malformed("it names no single mint"))?;
    let mint = normalise(&mint.to_string())?;
    let unit = accepted_unit(token.unit())?;
    let (ys, locks) = check_proofs(&token)?;
    let face = token.value().map_err(|_| malformed("its proofs repeat"))?;
    let face = to_msat(&unit, face.into()).ok_or_else(|| malformed("its amount is too large"))?;
    if face.is_zero() {
        return Err(malformed("it is worth nothing"));
    }
    let info = TokenInfo {
        payment: payment_id(&mint, &unit, &ys),
        mint,
        unit,
        face,
        ys,
        locks,
    };
    Ok(Read { token, info })
}

/// Reads a token of any mint, without asking anybody: what somebody pasted.
///
/// # Errors
/// `Malformed`, `WrongUnit`.
pub fn read_info(text: &str) -> Result<TokenInfo, WalletError> {
    read(text).map(|read| read.info)
}

/// Sorted Ys, and the spending conditions of each proof in the token's order.
type Checked = (Vec<String>, Vec<Option<Conditions>>);

/// Counts the proofs and refuses repeated ones.
fn check_proofs(token: &Token) -> Result<Checked, WalletError> {
    let secrets = token.token_secrets();
    if secrets.is_empty() {
        return Err(malformed("it holds no proofs"));
    }
    if secrets.len() > MAX_PROOFS {
        return Err(malformed("it holds more than 64 proofs"));
    }
    let mut ys = BTreeSet::new();
    let mut locks = Vec::new();
    for secret in secrets.iter().copied() {
        locks.push(super::locks::conditions(secret)?);
        let y = hash_to_curve(secret.as_bytes()).map_err(|_| malformed("a secret has no point"))?;
        ys.insert(y.to_hex());
    }
    if ys.len() != secrets.len() {
        return Err(malformed("its proofs repeat"));
    }
    Ok((ys.into_iter().collect(), locks))
}

/// SHA-256 over a version, mint, unit and sorted Ys (payments.md section 9).
/// Every part is followed by a line feed, which none of them can contain.
pub(super) fn payment_id(mint: &MintUrl, unit: &Unit, ys: &[String]) -> PaymentId {
    let mut hash = Sha256::new();
    let parts = ["pay-v1", mint.0.as_str(), unit_name(unit)];
    for part in parts.into_iter().chain(ys.iter().map(String::as_str)) {
        hash.update(part.as_bytes());
        hash.update(b"\n");
    }
    PaymentId::from_bytes(hash.finalize().into())
}

/// A mint's URL as we compare and store it: lower-case scheme and host, no
/// trailing slash, nothing but an absolute `http` or `https` URL.
///
/// # Errors
/// `Malformed`.
pub fn normalise(url: &str) -> Result<MintUrl, WalletError> {
    let bad = || malformed("its mint is not a valid URL");
    if url.len() > MAX_URL {
        return Err(bad());
    }
    let parsed = url::Url::parse(url).map_err(|_| bad())?;
    let plain = matches!(parsed.scheme(), "http" | "https")
        && parsed.username().is_empty()
        && parsed.password().is_none()
        && parsed.query().is_none()
        && parsed.fragment().is_none()
        // cdk cuts a URL there, and would ask another one than it was told.
        && !parsed.path().contains("://")
        && parsed.host().is_some();
    if !plain {
        return Err(bad());
    }
    // `Url` also drops the scheme's own port, so that one mint has one name.
    let mint = cdk::mint_url::MintUrl::from_str(parsed.as_str()).map_err(|_| bad())?;
    let mint = mint.to_string();
    // Escapes may have made it longer: what comes out is good to come in.
    if mint.len() > MAX_URL {
        return Err(bad());
    }
    Ok(MintUrl(mint))
}

fn accepted_unit(unit: Option<CurrencyUnit>) -> Result<Unit, WalletError> {
    match unit {
        // A token of version 3 may leave its unit out; NUT-00 reads that as sat.
        Some(CurrencyUnit::Sat) | None => Ok(Unit::Sat),
        Some(CurrencyUnit::Msat) => Ok(Unit::Msat),
        Some(other) => Err(WalletError::WrongUnit(short(&other.to_string()))),
    }
}

/// A stranger's word, short enough for a message.
fn short(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_ascii_graphic())
        .take(16)
        .collect()
}

/// The unit's name on tokens.
pub(super) fn unit_name(unit: &Unit) -> &'static str {
    match unit {
        Unit::Sat => "sat",
        Unit::Msat => "msat",
    }
}

/// `amount` pieces of `unit`; `None` where that does not fit.
pub(super) fn to_msat(unit: &Unit, amount: u64) -> Option<Msat> {
    match unit {
        Unit::Sat => Msat::from_sat(amount),
        Unit::Msat => Some(Msat::new(amount)),
    }
}

/// Whole pieces of `unit` in `amount`; `None` for nothing or a part of a piece.
pub(super) fn whole_units(unit: &Unit, amount: Msat) -> Option<u64> {
    let units = match unit {
        Unit::Sat if amount.get().is_multiple_of(MSAT_PER_SAT) => amount.whole_sat(),
        Unit::Sat => return None,
        Unit::Msat => amount.get(),
    };
    (units > 0).then_some(units)
}

fn malformed(why: &str) -> WalletError {
    WalletError::Malformed(why.to_owned())
}
