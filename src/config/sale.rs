//! What is sold: mints, tiers, templates, images, capacity.

use std::collections::BTreeMap;
use std::path::Path;

use url::{Host, Url};

use super::reader::{Node, Object};
use super::units::show_mib;
use crate::core::capacity::{Capacity, Resources};
use crate::core::fiat::{Belief, Currency, HourPrice, MICROS};
use crate::core::ids::Name;
use crate::core::money::{MSAT_PER_SAT, Msat};
use crate::core::pricing::Tier;
use crate::provider::settings::{
    FeedSetting, Fiat, ImagePolicy, LightningPolicy, MintSetting, RefundPolicy, SweepPolicy,
    Template,
};
use crate::telemetry::LEVELS;

/// Largest price, in msat per second: about 3.6 million sat an hour.
const MAX_RATE: u64 = 1_000_000;
/// 1024 cores.
const MAX_MILLICORES: u64 = 1_024_000;
/// 16 TiB of memory.
const MAX_MEMORY_MIB: u64 = 16 * 1024 * 1024;
/// 1 PiB of disk.
const MAX_DISK_MIB: u64 = 1024 * 1024 * 1024;
/// What Linux can count (`/proc/sys/kernel/pid_max`, proc(5)).
const MAX_PIDS: u64 = 4_194_304;
/// All the satoshi that there will ever be.
const MAX_SAT: u64 = 2_100_000_000_000_000;
/// What a mint is tried with: as much as most fees leave something of.
const PROBE_SAT: u64 = 64;
/// Ten years, in seconds.
const MAX_LEASE: u64 = 10 * 365 * 86_400;

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

pub(super) fn mints(node: &Node<'_>) -> Option<Vec<MintSetting>> {
    node.unique(1..=32, mint, |mint| mint.url.clone())
}

fn mint(node: &Node<'_>) -> Option<MintSetting> {
    let mut object = node.object();
    let url = object.required("url", mint_url);
    // A mint may be slow with one request, and still serve many side by side;
    // 120 a minute lets ten consumers pay at once and is no attack.
    let usual = MintSetting::default();
    let requests_per_minute =
        object.optional("requests_per_minute", usual.requests_per_minute, |n| {
            n.integer(1..=6000)
        });
    // A sat for each proof: what most people pay with is then still worth more.
    let max_input_fee_ppk = object.optional("max_input_fee_ppk", usual.max_input_fee_ppk, |n| {
        n.integer(0..=1_000_000)
    });
    let sat = |n: &Node<'_>| {
        let sat = n.integer(1..=MAX_SAT)?;
        Some(Msat::from_sat(sat))
    };
    let max_exposure = object.optional("max_exposure_sat", usual.max_exposure, sat);
    let probe_amount = object.optional("probe_sat", PROBE_SAT, |n| n.integer(0..=MAX_SAT));
    let probe_amount = probe_amount.map(|sat| Msat::from_sat(sat).filter(|most| !most.is_zero()));
    object.finish();
    Some(MintSetting {
        url: url?,
        requests_per_minute: requests_per_minute?,
        max_input_fee_ppk: max_input_fee_ppk?,
        max_exposure: max_exposure?,
        probe_amount: probe_amount?,
    })
}

/// Scheme and host in lower case, no slash at the end, so that one mint has one name.
fn mint_url(node: &Node<'_>) -> Option<String> {
    let text = node.text()?;
    let Ok(url) = Url::parse(text) else {
        return node.problem(
            "It is not a URL.",
            "Write the mint's URL, such as https://mint.example.org.",
        );
    };
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if url.host().is_none() || !plain {
        return node.problem(
            "A mint's URL has a host, and neither a user, a query nor a fragment.",
            "Write it as the mint tells it, such as https://mint.example.org.",
        );
    }
    match url.scheme() {
        "https" => {}
        "http" if is_private(&url) => {}
        _ => {
            return node.problem(
                "Ecash must not travel in the clear.",
                "Use https:// (http:// only for loopback and .onion).",
            );
        }
    }
    Some(url.as_str().trim_end_matches('/').to_owned())
}

/// Whether what is sent there in the clear is seen by nobody on the way.
fn is_private(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".onion"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// What is sold, and the prices of it in another money.
pub(super) fn tiers(node: &Node<'_>, feeds: Feeds) -> Option<(Vec<Tier>, Fiat)> {
    let read = node.unique(
        1..=64,
        |node| tier(node, &feeds),
        |(tier, _)| tier.id.clone(),
    )?;
    let prices = read.iter();
    let prices = prices.filter_map(|(tier, price)| Some((tier.id.clone(), (*price)?)));
    let prices = prices.collect();
    let tiers = read.into_iter().map(|(tier, _)| tier).collect();
    Some((tiers, Fiat { prices, feeds }))
}

fn name(node: &Node<'_>) -> Option<Name> {
    node.parsed(
        "a name",
        "Use 1 to 64 characters of a-z, 0-9, '.', '_' and '-', starting with a letter or digit.",
    )
}

fn tier(node: &Node<'_>, feeds: &Feeds) -> Option<(Tier, Option<HourPrice>)> {
    let mut object = node.object();
    let id = object.required("id", name);
    let shown = id.as_ref().map(Name::to_string).unwrap_or_default();
    let title = object.optional("name", shown, |n| n.printable(64));
    let description = object.optional("description", String::new(), |n| n.printable(200));
    let cpu_millicores = object.required("cpu_millicores", |n| n.integer(1..=MAX_MILLICORES));
    let memory_mib = object.required("memory", |n| n.mib(16..=MAX_MEMORY_MIB));
    let disk_mib = object.optional("disk", 0, |n| n.mib(0..=MAX_DISK_MIB));
    let pids = object.optional("pids", 256, |n| n.integer(16..=MAX_PIDS));
    let rate = rate(&mut object, feeds);
    let seconds = |n: &Node<'_>| {
        n.duration(SECOND..=SECOND * MAX_LEASE as u32)
            .map(|d| d.as_secs())
    };
    let min_seconds = object.optional("min", 60, seconds);
    let max_seconds = object.optional("max", 30 * 86_400, seconds);
    if let (Some(min), Some(max)) = (min_seconds, max_seconds)
        && max < min
    {
        let _: Option<()> = object.problem(
            "max",
            "The longest time is shorter than the shortest.",
            "Make \"max\" at least \"min\".",
        );
    }
    object.finish();
    let (rate_msat_per_s, price) = rate?;
    let tier = Tier {
        id: id?,
        name: title?,
        description: description?,
        resources: Resources {
            cpu_millicores: cpu_millicores?,
            memory_mib: memory_mib?,
            disk_mib: disk_mib?,
            pids: pids?,
        },
        rate_msat_per_s,
        min_seconds: min_seconds?,
        max_seconds: max_seconds?,
    };
    Some((tier, price))
}

/// Exactly one of the ways to write a price; satoshi an hour are rounded up to
/// whole msat a second. In another money it is what the fallback makes of it, or
/// the most that it can become, until the feed is asked.
fn rate(object: &mut Object<'_>, feeds: &Feeds) -> Option<(u64, Option<HourPrice>)> {
    let per_second = object.optional("msat_per_second", None, |n| {
        n.integer(1..=MAX_RATE).map(Some)
    });
    let most = MAX_RATE * 3600 / MSAT_PER_SAT;
    let per_hour = object.optional("sat_per_hour", None, |n| {
        n.integer::<u64>(1..=most).map(Some)
    });
    let fiat = object.optional("price_per_hour", None, |n| {
        n.parsed(
            "a price",
            "Write an amount and a currency of \"rates\", such as \"0.02 EUR\".",
        )
        .map(Some)
    });
    match (per_second?, per_hour?, fiat?) {
        (Some(rate), None, None) => Some((rate, None)),
        (None, Some(sat), None) => Some(((sat * MSAT_PER_SAT).div_ceil(3600), None)),
        (None, None, Some(price)) => fiat_rate(object, feeds, price),
        (None, None, None) => object.problem(
            "",
            "The tier has no price.",
            "Add \"msat_per_second\", \"sat_per_hour\" or \"price_per_hour\".",
        ),
        _ => object.problem(
            "",
            "The tier has two prices.",
            "Keep one of \"msat_per_second\", \"sat_per_hour\" and \"price_per_hour\".",
        ),
    }
}

fn fiat_rate(
    object: &mut Object<'_>,
    feeds: &Feeds,
    price: HourPrice,
) -> Option<(u64, Option<HourPrice>)> {
    let Some(feed) = feeds.get(&price.currency) else {
        return object.problem(
            "price_per_hour",
            format!("It is not said what a bitcoin is in {}.", price.currency),
            format!("Add \"{}\" to \"rates\".", price.currency),
        );
    };
    let usual = feed.belief.fallback.or(feed.belief.least).unwrap_or(MICROS);
    match price.msat_per_s(usual) {
        Some(rate) if rate <= MAX_RATE || feed.belief.fallback.is_none() => {
            Some((rate.min(MAX_RATE), Some(price)))
        }
        _ => object.problem(
            "price_per_hour",
            "At the fallback rate this is more than can be asked for.",
            format!("Ask for less; the most is {MAX_RATE} msat per second."),
        ),
    }
}

/// Where rates come from, by currency.
pub(super) type Feeds = BTreeMap<Currency, FeedSetting>;

pub(super) fn rates(node: &Node<'_>) -> Option<Feeds> {
    let is_currency = ("three capital letters, such as EUR", |text: &str| {
        text.parse::<Currency>().is_ok()
    });
    let read = node.map(is_currency, feed)?;
    let read = read.into_iter();
    read.map(|(name, feed)| Some((name.parse().ok()?, feed)))
        .collect()
}

fn feed_url(node: &Node<'_>) -> Option<String> {
    let url = Url::parse(node.text()?).ok();
    let safe =
        url.filter(|url| url.scheme() == "https" || url.scheme() == "http" && is_private(url));
    match safe {
        Some(url) if url.host().is_some() && url.password().is_none() => Some(url.into()),
        _ => node.problem(
            "It is not the URL of a feed that can be trusted.",
            "Use https:// (http:// only for loopback and .onion).",
        ),
    }
}

fn feed(node: &Node<'_>) -> Option<FeedSetting> {
    let mut object = node.object();
    let url = object.optional("url", None, |n| feed_url(n).map(Some));
    let pointer = object.optional("pointer", String::new(), |n| n.printable(255));
    // Feeds fail for minutes, and within ten a price moves little.
    let max_age = object.optional("max_age", SECOND * 600, |n| {
        n.duration(SECOND * 60..=SECOND * 86_400)
    });
    let whole = |n: &Node<'_>| {
        let whole: u64 = n.integer(1..=1_000_000_000_000)?;
        Some(Some(whole * MICROS))
    };
    let least = object.optional("least", None, whole);
    let most = object.optional("most", None, whole);
    let fallback = object.optional("fallback", None, whole);
    let belief = Belief {
        max_age: max_age?.as_secs(),
        least: least?,
        most: most?,
        fallback: fallback?,
    };
    let url = url?;
    if url.is_none() && belief.fallback.is_none() {
        return object.problem(
            "",
            "There is neither a feed nor a fallback.",
            "Add \"url\" with \"pointer\", or \"fallback\".",
        );
    }
    if belief.least.unwrap_or(0) > belief.most.unwrap_or(u64::MAX) {
        return object.problem(
            "most",
            "The most is less than the least.",
            "Make \"most\" at least \"least\".",
        );
    }
    object.finish();
    Some(FeedSetting {
        url,
        pointer: pointer?,
        belief,
    })
}

pub(super) fn images(mut object: Object<'_>, base: &Path) -> Option<ImagePolicy> {
    let default = object.optional("default", "host".to_owned(), |n| n.printable(255));
    let allow = object.optional("allow", vec!["host".to_owned()], |n| {
        n.list(1..=256, |item| item.printable(255))
    });
    let is_name = ("a name of a-z, 0-9, '.', '_' and '-'", |text: &str| {
        text.parse::<Name>().is_ok() && text != "host"
    });
    let layouts = object.optional("layouts", Default::default(), |n| {
        n.map(is_name, |n| n.path(base))
    });
    // 4 GiB: most images of whole distributions with a toolchain are below it.
    let max_mib = object.optional("max_size", 4096, |n| n.mib(1..=MAX_DISK_MIB));
    let policy = match (default, allow, layouts, max_mib) {
        (Some(default), Some(allow), Some(layouts), Some(max_mib)) => Some(ImagePolicy {
            default,
            allow,
            layouts,
            max_mib,
        }),
        _ => None,
    };
    if let Some(policy) = &policy
        && !policy.allows(&policy.default)
    {
        let _: Option<()> = object.problem(
            "default",
            format!("The default image {:?} is not allowed.", policy.default),
            "Add it to images.allow, or take another.",
        );
    }
    object.finish();
    policy
}

pub(super) fn templates(node: &Node<'_>, images: Option<&ImagePolicy>) -> Option<Vec<Template>> {
    node.unique(
        0..=64,
        |n| template(n, images),
        |template| template.id.clone(),
    )
}

fn template(node: &Node<'_>, images: Option<&ImagePolicy>) -> Option<Template> {
    let mut object = node.object();
    let id = object.required("id", name);
    let description = object.optional("description", String::new(), |n| n.printable(200));
    let image = object.required("image", |n| n.printable(255));
    let argument = |n: &Node<'_>| {
        let text = n.text()?;
        if text.contains('\0') || text.len() > 4096 {
            return n.problem(
                "It holds a zero byte, or is too long.",
                "Write at most 4096 bytes.",
            );
        }
        Some(text.to_owned())
    };
    let command = object.optional("command", Vec::new(), |n| n.list(0..=64, argument));
    let is_variable = (
        "letters, digits and '_', not starting with a digit",
        is_variable,
    );
    let env = object.optional("env", Default::default(), |n| n.map(is_variable, argument));
    if let (Some(policy), Some(image)) = (images, &image)
        && !policy.allows(image)
    {
        let _: Option<()> = object.problem(
            "image",
            format!("The image {image:?} is not allowed."),
            "Add it to images.allow, or take another.",
        );
    }
    object.finish();
    Some(Template {
        id: id?,
        description: description?,
        image: image?,
        command: command?,
        env: env?.into_iter().collect(),
    })
}

/// A name of an environment variable, as POSIX has it (XBD 8.1).
fn is_variable(text: &str) -> bool {
    let first = text.bytes().next();
    first.is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

pub(super) fn capacity(mut object: Object<'_>) -> Option<Capacity> {
    let cpu_millicores = object.required("cpu_millicores", |n| n.integer(1..=MAX_MILLICORES));
    let memory_mib = object.required("memory", |n| n.mib(16..=MAX_MEMORY_MIB));
    let disk_mib = object.optional("disk", 0, |n| n.mib(0..=MAX_DISK_MIB));
    let pids = object.optional("pids", 0, |n| n.integer(0..=MAX_PIDS));
    let max_leases = object.optional("max_leases", 64, |n| n.integer(1..=10_000));
    object.finish();
    Some(Capacity {
        total: Resources {
            cpu_millicores: cpu_millicores?,
            memory_mib: memory_mib?,
            disk_mib: disk_mib?,
            pids: pids?,
        },
        max_leases: max_leases?,
    })
}

pub(super) fn refunds(mut object: Object<'_>) -> Option<RefundPolicy> {
    let day = SECOND * 86_400;
    // A consumer who is away for a day loses nothing.
    let keep = object.optional("keep", RefundPolicy::default().keep, |n| {
        n.duration(day..=SECOND * MAX_LEASE as u32)
    });
    object.finish();
    Some(RefundPolicy { keep: keep? })
}

pub(super) fn sweep(mut object: Object<'_>) -> Option<SweepPolicy> {
    let usual = SweepPolicy::default();
    let to = object.optional("to", None, |n| {
        n.parsed(
            "a Lightning address",
            "Write a name in small letters, @ and a host, such as \"me@pay.example.org\".",
        )
        .map(Some)
    });
    let sat = |n: &Node<'_>| n.integer(0..=MAX_SAT).and_then(Msat::from_sat);
    let above = object.optional("above_sat", usual.above, sat);
    let keep = object.optional("keep_sat", usual.keep, sat);
    // Each look may ask the address's server and the mints.
    let every = object.optional("every", usual.every, |n| {
        n.duration(SECOND * 60..=SECOND * 31 * 86_400)
    });
    let percent = object.optional("max_fee_percent", usual.max_fee_percent, |n| {
        n.integer(0..=100)
    });
    object.finish();
    Some(SweepPolicy {
        to: to?,
        above: above?,
        keep: keep?,
        every: every?,
        max_fee_percent: percent?,
    })
}

/// Which mint makes invoices, and for how long; `None` inside: Lightning is not
/// taken.
pub(super) fn lightning(
    mut object: Object<'_>,
    mints: Option<&[MintSetting]>,
) -> Option<Option<LightningPolicy>> {
    let usual = LightningPolicy::default();
    let minute = SECOND * 60;
    let enabled = object.optional("enabled", true, Node::flag);
    let mint = object.optional("mint", None, |n| mint_url(n).map(Some));
    if let (Some(Some(url)), Some(mints)) = (&mint, mints)
        && !mints.iter().any(|mint| mint.url == *url)
    {
        let _: Option<()> = object.problem(
            "mint",
            "This mint is not accepted.",
            "Add it to \"mints\", or take one of those.",
        );
    }
    // A person has to find a wallet; longer is room that nobody pays for.
    let pay_within = object.optional("pay_within", usual.pay_within, |n| {
        n.duration(minute..=minute * 60)
    });
    // Wallets try again for hours.
    let late = object.optional("late", usual.late, |n| {
        n.duration(minute * 10..=SECOND * 86_400 * 30)
    });
    let unpaid = object.optional("unpaid", usual.unpaid, |n| n.integer(1..=256));
    object.finish();
    let policy = LightningPolicy {
        mint: mint?,
        pay_within: pay_within?,
        late: late?,
        unpaid: unpaid?,
    };
    Some(enabled?.then_some(policy))
}

/// A tier that does not fit into the whole capacity could never be sold, and
/// one whose longest time costs more than 64 bits hold could not be booked.
pub(super) fn fits(node: &Node<'_>, tiers: Option<&[Tier]>, capacity: Option<&Capacity>) {
    for (at, tier) in tiers.unwrap_or_default().iter().enumerate() {
        if tier.max_price().is_none() {
            node.problem_at(
                &format!("/tiers/{at}"),
                "Its longest time costs more than can be counted.",
                "Lower \"max\" or the price.",
            );
        }
        let Some(capacity) = capacity else { continue };
        for (key, asks, has) in too_much(tier, capacity) {
            node.problem_at(
                &format!("/tiers/{at}/{key}"),
                format!(
                    "The tier asks for {asks}, and the capacity has {has}: it could never be sold."
                ),
                format!("Raise capacity.{key}, or make the tier smaller."),
            );
        }
    }
}

fn too_much(tier: &Tier, capacity: &Capacity) -> Vec<(&'static str, String, String)> {
    let (ask, has) = (tier.resources, capacity.total);
    let mut wrong = Vec::new();
    if ask.cpu_millicores > has.cpu_millicores {
        let shown = |n: u32| format!("{n} millicores");
        wrong.push((
            "cpu_millicores",
            shown(ask.cpu_millicores),
            shown(has.cpu_millicores),
        ));
    }
    if ask.memory_mib > has.memory_mib {
        wrong.push((
            "memory",
            show_mib(ask.memory_mib.into()),
            show_mib(has.memory_mib.into()),
        ));
    }
    if ask.disk_mib > has.disk_mib {
        wrong.push((
            "disk",
            show_mib(ask.disk_mib.into()),
            show_mib(has.disk_mib.into()),
        ));
    }
    if has.pids != 0 && ask.pids > has.pids {
        wrong.push(("pids", ask.pids.to_string(), has.pids.to_string()));
    }
    wrong
}

/// For the `log` section: a level by name.
pub(super) fn level(node: &Node<'_>) -> Option<String> {
    let text = node.text()?;
    if LEVELS.contains(&text) {
        return Some(text.to_owned());
    }
    node.problem(
        "There is no such level.",
        format!("Write one of {}.", LEVELS.join(", ")),
    )
}
