//! Which mint pays: data in, data out.

use std::collections::BTreeMap;

use super::error::{ClientError, Kind};
use super::purse::{same_mint, unit_name};
use crate::core::money::Msat;
use crate::protocol::reply::MintTerms;
use crate::wallet::{MintUrl, Unit};

/// One way to pay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) mint: MintUrl,
    pub(super) unit: Unit,
    pub(super) amount: Msat,
    fee_ppk: u64,
    balance: Msat,
}

/// The mints and units that both sides have, with enough in the wallet: the
/// cheapest first, of equals the one with most in it.
pub(super) fn ways(
    terms: &[MintTerms],
    balances: &BTreeMap<(MintUrl, Unit), Msat>,
    amount: Msat,
    at_most: Option<Msat>,
) -> Vec<Way> {
    let mut ways = Vec::new();
    for ((mint, unit), balance) in balances {
        let Some(terms) = terms.iter().find(|terms| {
            same_mint(&terms.url, mint) && terms.units.iter().any(|u| u == unit_name(unit))
        }) else {
            continue;
        };
        let Some(whole) = whole_units(amount, unit) else {
            continue;
        };
        if whole <= *balance && at_most.is_none_or(|most| whole <= most) {
            ways.push(Way {
                mint: mint.clone(),
                unit: unit.clone(),
                amount: whole,
                fee_ppk: terms.input_fee_ppk.unwrap_or(u64::MAX),
                balance: *balance,
            });
        }
    }
    ways.sort_by_key(|way| (way.fee_ppk, std::cmp::Reverse(way.balance)));
    ways
}

/// The amount, rounded up to what the unit can carry.
fn whole_units(amount: Msat, unit: &Unit) -> Option<Msat> {
    match unit {
        Unit::Sat => Msat::from_sat(amount.sat_ceil()),
        Unit::Msat => Some(amount),
    }
}

pub(super) fn no_balance(
    terms: &[MintTerms],
    balances: &BTreeMap<(MintUrl, Unit), Msat>,
    amount: Msat,
) -> ClientError {
    let have: Vec<String> = balances
        .iter()
        .filter(|(_, balance)| !balance.is_zero())
        .map(|((mint, _), balance)| format!("{balance} at {}", mint.0))
        .collect();
    let have = if have.is_empty() {
        "is empty".to_owned()
    } else {
        format!("has {}", have.join(", "))
    };
    let first = terms.first().map_or("URL", |mint| mint.url.as_str());
    ClientError::new(
        Kind::Payment,
        "no_balance",
        format!(
            "{amount} and the mint's fee are needed at one of: {}; the wallet {have}",
            mint_names(terms)
        ),
        format!(
            "Trust a mint and put money in: satlet wallet mints --add {first}, then satlet wallet mint {} --mint {first}; or paste a token with --token -.",
            amount.sat_ceil().saturating_add(2)
        ),
    )
}

/// The mints whose tokens buy a new lease now.
///
/// # Errors
/// There are none.
pub(super) fn selling(terms: &[MintTerms], locked: bool) -> Result<Vec<MintTerms>, ClientError> {
    let sells = |mint: &&MintTerms| mint.sells(locked);
    let selling: Vec<MintTerms> = terms.iter().filter(sells).cloned().collect();
    if selling.is_empty() && !terms.is_empty() {
        return Err(ClientError::new(
            Kind::Payment,
            "mint_paused",
            format!(
                "the provider sells nothing now for tokens of: {}",
                mint_names(terms)
            ),
            "Try again later, lock the token, or choose another provider.",
        ));
    }
    Ok(selling)
}

pub(super) fn mint_names(terms: &[MintTerms]) -> String {
    let names: Vec<&str> = terms.iter().map(|mint| mint.url.as_str()).collect();
    names.join(", ")
}
