//! From an offer to what is bought, for how much, and on what terms. Pure.

use serde::Serialize;

use super::super::error::{ClientError, Kind};
use super::super::money::Pay;
use super::super::providers::Provider;
use super::not_in_dialect;
use crate::core::ids::Name;
use crate::core::money::Msat;
use crate::core::pricing::price;
use crate::protocol::offer::Spec;
use crate::protocol::paygress::DIALECT_NAME;
use crate::protocol::request::Wanted;

/// What the dialect lacks, for people.
pub const LACKS: [&str; 4] = ["no quote", "no stop", "no refund", "SSH by password"];

/// Providers sell at least so many seconds unless they are set otherwise, which
/// no offer says; for less they take the money and give nothing.
pub(super) const MIN_SECONDS: u64 = 60;

/// The image that is asked for where none is named.
const DEFAULT_IMAGE: &str = "ubuntu:22.04";

/// Templates of the network. For another name a provider takes the money and
/// gives nothing.
const TEMPLATES: [&str; 7] = [
    "nostr-relay",
    "inference-endpoint",
    "headless-browser",
    "bitcoin-node",
    "agent-sandbox",
    "openclaw",
    "ngit-runner",
];

/// What is bought, for how much, and what protects the buyer: nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Terms {
    /// The provider's name.
    pub provider: String,
    /// The tier.
    pub spec: Spec,
    /// What the provider gets, after mint fees.
    pub amount_msat: Msat,
    /// What that buys, by the offer.
    pub seconds: u64,
}

/// Asked before money is spent; an error stops, with nothing paid.
pub type Consent<'a> = &'a (dyn Fn(&Terms) -> Result<(), ClientError> + Send + Sync);

impl Terms {
    /// What has to be known before paying, one sentence a line.
    pub fn statement(&self) -> Vec<String> {
        vec![
            format!("{} speaks only {DIALECT_NAME}:", self.provider),
            "there is no refund if it fails or if you stop early;".to_owned(),
            "you log in as root with a password over a port of its host;".to_owned(),
            "the token is gone once it has redeemed it, whether or not it gives what was paid for."
                .to_owned(),
        ]
    }
}

/// The provider's first tier, or the one that is named.
pub(super) fn tier(provider: &Provider, wanted: Option<&Name>) -> Result<Spec, ClientError> {
    let specs = &provider.offer.specs;
    let found = match wanted {
        None => specs.first(),
        Some(name) => specs
            .iter()
            .find(|spec| spec.id == name.as_str())
            .or_else(|| {
                specs
                    .iter()
                    .find(|spec| tier_name(&spec.id).as_ref() == Some(name))
            }),
    };
    let spec = found.ok_or_else(|| {
        ClientError::new(
            Kind::Refused,
            "unknown_tier",
            format!("{} has no such tier", provider.offer.hostname),
            "See satlet info PROVIDER.",
        )
    })?;
    if spec.rate_msats_per_sec == 0 || tier_name(&spec.id).is_none() {
        return Err(ClientError::new(
            Kind::Refused,
            "bad_offer",
            "the tier has no price or no name",
            "Choose another tier or another provider.",
        ));
    }
    Ok(spec.clone())
}

/// The tier's id as a name of ours: what does not fit becomes `-`; `None` where
/// nothing is left.
pub(super) fn tier_name(id: &str) -> Option<Name> {
    let fit = |c: char| {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '-'
        }
    };
    let text: String = id.chars().take(64).map(fit).collect();
    let named = text.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    named.parse().ok()
}

/// The image and the template to ask for. What the dialect cannot carry is
/// refused here, before money moves.
pub(super) fn image(wanted: &Wanted) -> Result<(String, Option<String>), ClientError> {
    let carried = wanted.command.is_empty() && wanted.env.is_empty();
    if !carried {
        return Err(not_in_dialect(
            "command or environment for a workload",
            "Rent it without, then set it up with satlet exec LEASE -- CMD.",
        ));
    }
    if !wanted.ssh_keys.is_empty() {
        return Err(not_in_dialect(
            "SSH keys",
            "Leave --ssh-key out: you log in with a password (satlet ssh LEASE).",
        ));
    }
    let template = wanted.template.as_ref().map(Name::to_string);
    if let Some(name) = &template
        && !TEMPLATES.contains(&name.as_str())
    {
        return Err(ClientError::usage(
            "unknown_template",
            format!(
                "'{name}' is no template of the network; the provider would take the money and give nothing"
            ),
            format!("Known ones are {}.", TEMPLATES.join(", ")),
        ));
    }
    let image = wanted.image.clone();
    Ok((image.unwrap_or_else(|| DEFAULT_IMAGE.to_owned()), template))
}

/// What to pay for a spawn; `None` where a token decides.
pub(super) fn amount(pay: &Pay, rate: u64) -> Result<Option<Msat>, ClientError> {
    let least = price(MIN_SECONDS, rate).ok_or_else(too_much)?;
    let amount = match pay {
        Pay::Token(_) => return Ok(None),
        Pay::Lightning(_) => return Err(crate::consumer::money::no_lightning()),
        Pay::Minimum => least,
        Pay::Seconds(seconds) => price(*seconds, rate).ok_or_else(too_much)?,
        Pay::Amount(amount) => *amount,
    };
    enough(amount, rate)?;
    Ok(Some(amount))
}

/// Refuses what buys less than [`MIN_SECONDS`].
pub(super) fn enough(amount: Msat, rate: u64) -> Result<(), ClientError> {
    let least = price(MIN_SECONDS, rate).ok_or_else(too_much)?;
    if amount >= least {
        return Ok(());
    }
    Err(ClientError::usage(
        "amount_too_small",
        format!(
            "{amount} is less than the {least} for {MIN_SECONDS} s: the provider would take it and give nothing"
        ),
        format!("Pay at least {} sat.", least.sat_ceil()),
    ))
}

/// What to pay for a top-up of a lease at this rate.
pub(super) fn topup_amount(pay: &Pay, rate: u64) -> Result<Option<Msat>, ClientError> {
    match pay {
        Pay::Token(_) => Ok(None),
        Pay::Lightning(_) => Err(crate::consumer::money::no_lightning()),
        Pay::Minimum => price(MIN_SECONDS, rate).ok_or_else(too_much).map(Some),
        Pay::Seconds(seconds) => price(*seconds, rate).ok_or_else(too_much).map(Some),
        Pay::Amount(amount) => Ok(Some(*amount)),
    }
}

fn too_much() -> ClientError {
    ClientError::usage(
        "duration_too_long",
        "the duration is too long",
        "Ask for less.",
    )
}
