//! All that can be known before money moves; the same for a quote and a spawn.

use russh::keys::ssh_key;

use super::ctx::Ctx;
use super::refuse::Refusal;
use crate::compute::Image;
use crate::core::payment::lock::LockKey;
use crate::core::policy::images;
use crate::core::pricing::Tier;
use crate::protocol::error::{Code, WireError};
use crate::protocol::request::Wanted;
use crate::wallet::is_point;

/// Most SSH keys of one workload.
const MAX_SSH_KEYS: usize = 16;
/// Longest SSH key in bytes (an RSA key of 16,384 bits is shorter).
const MAX_SSH_KEY: usize = 4096;
/// Most arguments of a command.
const MAX_ARGS: usize = 128;
/// Most environment variables.
const MAX_ENV: usize = 64;
/// Command and environment together, in bytes.
const MAX_SPEC: usize = 16 * 1024;

/// What a request asks for, in our terms.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    /// The tier.
    pub tier: Tier,
    /// The image's name for people.
    pub image_name: String,
    /// The image.
    pub image: Image,
    /// SSH keys, type and base64.
    pub ssh_keys: Vec<String>,
    /// Command line.
    pub command: Vec<String>,
    /// Environment.
    pub env: Vec<(String, String)>,
}

/// Which price a tier is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Price {
    /// The one of this moment.
    AsOfNow,
    /// A quote's, which the caller puts in.
    AsQuoted,
}

/// Checks what is wanted against what is sold and allowed here.
pub(super) fn wanted(
    ctx: &Ctx,
    wanted: &Wanted,
    keys_needed: bool,
    price: Price,
) -> Result<Accepted, Refusal> {
    let tier = tier(ctx, wanted)?;
    let tier = match price {
        Price::AsQuoted => tier,
        Price::AsOfNow => ctx.priced(&tier).ok_or_else(no_price)?,
    };
    let mut accepted = image(ctx, wanted, tier)?;
    if keys_needed && wanted.ssh_keys.is_empty() {
        return Err(bad_key("there is no SSH key in the request"));
    }
    if wanted.ssh_keys.len() > MAX_SSH_KEYS {
        return Err(bad_key(&format!("more than {MAX_SSH_KEYS} SSH keys")));
    }
    accepted.ssh_keys = wanted
        .ssh_keys
        .iter()
        .map(|key| ssh_key(key))
        .collect::<Result<_, _>>()?;
    if !wanted.command.is_empty() {
        accepted.command.clone_from(&wanted.command);
    }
    accepted.env.extend(wanted.env.iter().cloned());
    spec(&accepted)?;
    Ok(accepted)
}

fn tier(ctx: &Ctx, wanted: &Wanted) -> Result<Tier, Refusal> {
    let found = match &wanted.tier {
        Some(id) => ctx.unpriced_tiers().find(|tier| tier.id == *id),
        None => ctx.unpriced_tiers().next(),
    };
    found.cloned().ok_or_else(|| {
        let names: Vec<_> = ctx.unpriced_tiers().map(|tier| tier.id.as_str()).collect();
        WireError::new(
            Code::UnknownTier,
            "there is no such tier here",
            format!("choose one of: {}", names.join(", ")),
        )
    })
}

fn no_price() -> Refusal {
    WireError::new(
        Code::NoPrice,
        "the price of this tier follows a rate that is not known now",
        "choose another tier, or try again later",
    )
}

fn image(ctx: &Ctx, wanted: &Wanted, tier: Tier) -> Result<Accepted, Refusal> {
    let settings = ctx.settings();
    let mut accepted = Accepted {
        tier,
        image_name: String::new(),
        image: Image::Host,
        ssh_keys: Vec::new(),
        command: Vec::new(),
        env: Vec::new(),
    };
    let name = if let Some(id) = &wanted.template {
        if wanted.image.is_some() {
            return Err(WireError::new(
                Code::BadSpec,
                "both a template and an image are named",
                "name one of them",
            ));
        }
        let template = settings
            .templates
            .iter()
            .find(|t| t.id == *id)
            .ok_or_else(|| {
                let names: Vec<_> = settings.templates.iter().map(|t| t.id.as_str()).collect();
                let choice = if names.is_empty() {
                    "none".to_owned()
                } else {
                    names.join(", ")
                };
                WireError::new(
                    Code::UnknownTemplate,
                    "there is no such template here",
                    format!("templates of this provider: {choice}"),
                )
            })?;
        accepted.command.clone_from(&template.command);
        accepted.env.clone_from(&template.env);
        template.image.clone()
    } else {
        let name = wanted
            .image
            .clone()
            .unwrap_or_else(|| settings.images.default.clone());
        allowed_image(ctx, &name)?
    };
    accepted.image = resolve(ctx, &name)?;
    accepted.image_name = name;
    Ok(accepted)
}

/// The image's normalised name, if it may be asked for here.
fn allowed_image(ctx: &Ctx, name: &str) -> Result<String, Refusal> {
    let policy = &ctx.settings().images;
    let normal = policy
        .normal(name)
        .map_err(|error| not_allowed(ctx, &format!("not an image reference: {error}")))?;
    if images::allowed(&policy.allow, &normal) {
        Ok(normal)
    } else {
        Err(not_allowed(ctx, "this image is not allowed here"))
    }
}

fn resolve(ctx: &Ctx, name: &str) -> Result<Image, Refusal> {
    let can = ctx.parts.backend.capabilities();
    if name == "host" {
        return if can.host_image {
            Ok(Image::Host)
        } else {
            Err(not_allowed(ctx, "this backend cannot run `host`"))
        };
    }
    if let Some(path) = ctx.settings().images.layouts.get(name) {
        return Ok(Image::Layout(path.clone()));
    }
    if !can.oci_images {
        return Err(not_allowed(ctx, "this backend cannot run OCI images"));
    }
    images::validate_reference(name)
        .map(Image::Reference)
        .map_err(|error| not_allowed(ctx, &format!("not an image reference: {error}")))
}

fn not_allowed(ctx: &Ctx, why: &str) -> Refusal {
    let allow = ctx.settings().images.allow.join(", ");
    WireError::new(Code::ImageNotAllowed, why, format!("allowed here: {allow}"))
}

fn ssh_key(text: &str) -> Result<String, Refusal> {
    if text.len() > MAX_SSH_KEY || text.contains(['\n', '\r']) {
        return Err(bad_key("an SSH key is too long or has more than one line"));
    }
    let mut key = ssh_key::PublicKey::from_openssh(text)
        .map_err(|error| bad_key(&format!("an SSH key cannot be read: {error}")))?;
    if matches!(
        key.algorithm(),
        ssh_key::Algorithm::Rsa { .. } | ssh_key::Algorithm::Dsa
    ) {
        return Err(bad_key("RSA and DSA keys are not accepted by the gateway"));
    }
    key.set_comment("");
    key.to_openssh()
        .map(|text| text.trim().to_owned())
        .map_err(|error| bad_key(&format!("an SSH key cannot be read: {error}")))
}

fn bad_key(why: &str) -> Refusal {
    WireError::new(
        Code::BadSshKey,
        why,
        "send 1 to 16 Ed25519 or ECDSA public keys as they stand in a .pub file; `ssh-keygen -t ed25519` makes one",
    )
}

/// The key that tokens of refunds are to be locked to, if it is one.
pub(super) fn refund_key(key: Option<&LockKey>) -> Result<Option<LockKey>, Refusal> {
    match key {
        Some(key) if !is_point(key) => Err(WireError::new(
            Code::InvalidRequest,
            "its refund_key is not a point on the curve: no token can be locked to it",
            "send a compressed secp256k1 public key, or none",
        )),
        key => Ok(key.cloned()),
    }
}

fn spec(accepted: &Accepted) -> Result<(), Refusal> {
    let bytes: usize = accepted.command.iter().map(String::len).sum::<usize>()
        + accepted
            .env
            .iter()
            .map(|(k, v)| k.len() + v.len())
            .sum::<usize>();
    let texts = accepted
        .command
        .iter()
        .chain(accepted.env.iter().flat_map(|(k, v)| [k, v]));
    let good_name = |k: &str| !k.is_empty() && !k.contains('=');
    let problem = if accepted.command.len() > MAX_ARGS {
        Some(format!("the command has more than {MAX_ARGS} words"))
    } else if accepted.env.len() > MAX_ENV {
        Some(format!(
            "there are more than {MAX_ENV} environment variables"
        ))
    } else if bytes > MAX_SPEC {
        Some(format!(
            "command and environment are longer than {MAX_SPEC} bytes"
        ))
    } else if texts.into_iter().any(|text| text.contains('\0')) {
        Some("command or environment hold a NUL character".to_owned())
    } else if !accepted.env.iter().all(|(k, _)| good_name(k)) {
        Some("the name of an environment variable is empty or holds `=`".to_owned())
    } else {
        None
    };
    problem.map_or(Ok(()), |why| {
        Err(WireError::new(
            Code::BadSpec,
            why,
            "send a shorter or corrected command or environment",
        ))
    })
}
