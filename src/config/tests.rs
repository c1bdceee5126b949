use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::*;
use crate::core::money::Msat;
use crate::provider::settings::{BackendSetting, PaygressSetting};

const EXAMPLE: &str = include_str!("../../provider.example.json");
const DOCS: &str = include_str!("../../docs/configuration.md");

/// The least that is a configuration.
fn least() -> Value {
    json!({
        "hostname": "Heron", "data_dir": "data",
        "identity": {"nsec_file": "nsec"}, "wallet": {"mnemonic_file": "words"},
        "relays": ["wss://relay.example.org"],
        "mints": [{"url": "https://mint.example.org"}],
        "tiers": [{"id": "small", "cpu_millicores": 100, "memory": "64MiB", "msat_per_second": 5}],
        "capacity": {"cpu_millicores": 1000, "memory": "1GiB"},
        "gateway": {"public_host": "box.example.org"}
    })
}

fn parsed(value: &Value) -> Result<Config, Vec<ConfigProblem>> {
    parse(&value.to_string(), Path::new("/base"))
}

/// `least` with the value at `pointer` (made where it is missing) replaced.
fn with(pointer: &str, new: Value) -> Value {
    let mut config = least();
    set(&mut config, pointer, new);
    config
}

fn set(config: &mut Value, pointer: &str, new: Value) {
    let mut at = config;
    for step in pointer.trim_start_matches('/').split('/') {
        at = match at {
            Value::Array(items) => {
                let place: usize = step.parse().unwrap();
                if items.len() == place {
                    items.push(Value::Null);
                }
                &mut items[place]
            }
            other => {
                if other.is_null() {
                    *other = if step == "0" { json!([]) } else { json!({}) };
                }
                match other {
                    Value::Array(items) => {
                        items.push(Value::Null);
                        &mut items[0]
                    }
                    object => &mut object[step],
                }
            }
        };
    }
    *at = new;
}

/// Keys without those that only lead to other keys.
fn leaves(keys: &[String]) -> BTreeSet<String> {
    let leads = |key: &String| {
        keys.iter()
            .any(|other| other.starts_with(&format!("{key}/")))
    };
    keys.iter().filter(|key| !leads(key)).cloned().collect()
}

fn known_keys() -> BTreeSet<String> {
    let (config, keys) = parse_with_keys(EXAMPLE, Path::new("/"));
    config.unwrap();
    leaves(&keys)
}

/// Pointers of a value with `*` for places in lists, down to what the parser knows.
fn pointers(value: &Value, at: &str, known: &BTreeSet<String>, found: &mut BTreeSet<String>) {
    if known.contains(at) {
        found.insert(at.to_owned());
        return;
    }
    match value {
        Value::Object(map) => {
            // Names that the operator chose.
            let any = format!("{at}/*/");
            let named = known.iter().any(|key| key.starts_with(&any));
            for (key, value) in map {
                let key = if named { "*" } else { key };
                pointers(value, &format!("{at}/{key}"), known, found);
            }
        }
        Value::Array(items) => {
            for item in items {
                pointers(item, &format!("{at}/*"), known, found);
            }
        }
        _ => panic!("{at} is in no list of keys"),
    }
}

/// `tiers[].id` -> `/tiers/*/id`.
fn documented_keys() -> Vec<(String, Option<Value>)> {
    DOCS.lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|line| {
            let (key, rest) = line.split_once('`').unwrap();
            let key = format!("/{}", key.replace("[]", ".*").replace('.', "/"));
            let last = rest
                .trim_end_matches('|')
                .rsplit('|')
                .next()
                .unwrap()
                .trim();
            let default = last.strip_prefix('`').and_then(|d| d.strip_suffix('`'));
            (key, default.map(|d| serde_json::from_str(d).unwrap()))
        })
        .collect()
}

#[test]
fn the_example_has_every_key() {
    let known = known_keys();
    let mut there = BTreeSet::new();
    let example = serde_json::from_str(EXAMPLE).unwrap();
    pointers(&example, "", &known, &mut there);
    assert_eq!(there, known);
}

#[test]
fn the_documentation_has_every_key_and_no_other() {
    let documented: Vec<String> = documented_keys().into_iter().map(|(key, _)| key).collect();
    let set: BTreeSet<String> = documented.iter().cloned().collect();
    assert_eq!(set.len(), documented.len(), "a key is there twice");
    assert_eq!(set, known_keys());
}

#[test]
fn the_defaults_in_the_documentation_are_those_of_the_program() {
    let wanted = format!("{:?}", parsed(&least()).unwrap());
    let mut checked = 0;
    for (key, default) in documented_keys() {
        let Some(default) = default else { continue };
        if key.starts_with("/templates") || key.starts_with("/rates") {
            continue;
        }
        let pointer = key.replace('*', "0");
        let config = parsed(&with(&pointer, default));
        let config = config.unwrap_or_else(|problems| panic!("{key}: {problems:?}"));
        assert_eq!(format!("{config:?}"), wanted, "{key}");
        checked += 1;
    }
    assert!(checked > 35, "only {checked} defaults were found");
}

#[test]
fn a_mint_is_tried_unless_the_operator_says_no() {
    let tried = |value: &Value| parsed(value).unwrap().settings.mints[0].probe_amount;
    assert_eq!(tried(&least()), Msat::from_sat(64));
    assert_eq!(
        tried(&with("/mints/0/probe_sat", json!(8))),
        Msat::from_sat(8)
    );
    assert_eq!(tried(&with("/mints/0/probe_sat", json!(0))), None);
}

#[test]
fn a_price_in_another_money_follows_a_rate_that_is_said() {
    let mut value = least();
    let tier = value["tiers"][0].as_object_mut().unwrap();
    tier.remove("msat_per_second");
    tier.insert("price_per_hour".to_owned(), json!("0.36 EUR"));
    let problem = |value: &Value| {
        let problems = parsed(value).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        (problems[0].pointer.clone(), problems[0].message.clone())
    };
    let (pointer, message) = problem(&value);
    assert_eq!(pointer, "/tiers/0/price_per_hour");
    assert!(message.contains("in EUR"), "{message}");
    set(&mut value, "/rates", json!({"EUR": {"fallback": 100_000}}));
    let settings = parsed(&value).unwrap().settings;
    assert_eq!(settings.tiers[0].rate_msat_per_s, 100);
    let id = &settings.tiers[0].id;
    assert_eq!(settings.fiat.prices[id].to_string(), "0.36 EUR");
    let belief = settings.fiat.feeds.values().next().unwrap().belief;
    assert_eq!(belief.max_age, 600);
    for (rates, at) in [
        (json!({"EUR": {}}), "/rates/EUR"),
        (json!({"euro": {"fallback": 1}}), "/rates/euro"),
        (
            json!({"EUR": {"url": "http://rates.example.org/x", "fallback": 1}}),
            "/rates/EUR/url",
        ),
        (
            json!({"EUR": {"fallback": 100_000, "least": 5, "most": 4}}),
            "/rates/EUR/most",
        ),
    ] {
        set(&mut value, "/rates", rates);
        let problems = parsed(&value).unwrap_err();
        assert!(problems.iter().any(|p| p.pointer == at), "{problems:?}");
    }
    set(&mut value, "/rates", json!({"EUR": {"fallback": 100_000}}));
    for bad in ["0.36", "0.36 euro", "0 EUR"] {
        set(&mut value, "/tiers/0/price_per_hour", json!(bad));
        assert_eq!(problem(&value).0, "/tiers/0/price_per_hour");
    }
}

#[test]
fn invoices_are_of_an_accepted_mint_and_can_be_switched_off() {
    let usual = parsed(&least()).unwrap().settings;
    let (policy, mint) = usual.lightning().unwrap();
    assert_eq!(mint, "https://mint.example.org", "the first");
    assert_eq!(policy.pay_within.as_secs(), 600);
    let mut config = least();
    let mints = json!([{"url": "https://mint.example.org"}, {"url": "https://b.example.org"}]);
    set(&mut config, "/mints", mints);
    set(
        &mut config,
        "/lightning",
        json!({"mint": "https://B.example.org/", "unpaid": 1}),
    );
    let other = parsed(&config).unwrap().settings;
    assert_eq!(other.lightning().unwrap().1, "https://b.example.org");
    let foreign = with("/lightning/mint", json!("https://c.example.org"));
    let problems = parsed(&foreign).unwrap_err();
    assert_eq!(problems[0].pointer, "/lightning/mint");
    let off = with("/lightning/enabled", json!(false));
    assert_eq!(parsed(&off).unwrap().settings.lightning(), None);
}

#[test]
fn the_backend_can_be_an_engine() {
    let mut value = with("/backend/kind", json!("docker"));
    set(
        &mut value,
        "/backend/socket",
        json!("/run/podman/podman.sock"),
    );
    set(&mut value, "/backend/subnets", json!("10.9.0.0/16"));
    let BackendSetting::Docker(docker) = parsed(&value).unwrap().settings.backend else {
        panic!("another backend");
    };
    assert_eq!(docker.socket, Path::new("/run/podman/podman.sock"));
    assert_eq!(docker.subnets.to_string(), "10.9.0.0/16");
    assert_eq!(docker.subnets.count(), 4096);
    assert!(docker.network);
}

#[test]
fn the_least_is_enough_and_paths_start_at_the_file() {
    let config = parsed(&least()).unwrap();
    assert_eq!(config.settings.data_dir, Path::new("/base/data"));
    assert_eq!(config.nsec_file, Path::new("/base/nsec"));
    assert_eq!(config.settings.tiers[0].name, "small");
    assert!(matches!(
        config.settings.backend,
        BackendSetting::Sandbox(_)
    ));
}

#[test]
fn units_and_prices_are_read_as_people_write_them() {
    let mut config = least();
    set(&mut config, "/tiers/0/memory", json!("1 GiB"));
    set(&mut config, "/tiers/0/min", json!("2h"));
    set(&mut config, "/tiers/0/max", json!(7200));
    config["tiers"][0]
        .as_object_mut()
        .unwrap()
        .remove("msat_per_second");
    set(&mut config, "/tiers/0/sat_per_hour", json!(100));
    set(
        &mut config,
        "/mints/0/url",
        json!("HTTPS://Mint.Example.org/cashu/"),
    );
    set(&mut config, "/timing/warnings", json!(["60s", "2h", 600]));
    let settings = parsed(&config).unwrap().settings;
    let tier = &settings.tiers[0];
    assert_eq!(tier.resources.memory_mib, 1024);
    assert_eq!((tier.min_seconds, tier.max_seconds), (7200, 7200));
    // 100000 msat / 3600 s = 27.7, rounded up.
    assert_eq!(tier.rate_msat_per_s, 28);
    assert_eq!(settings.mints[0].url, "https://mint.example.org/cashu");
    let warnings: Vec<u64> = settings
        .timing
        .warnings
        .iter()
        .map(|d| d.as_secs())
        .collect();
    assert_eq!(warnings, [7200, 600, 60]);
}

#[test]
fn keys_are_read_as_npub_and_hex() {
    let hex = "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e";
    let npub = "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg";
    let settings = |key: &str| {
        parsed(&with("/requests/allow", json!([key])))
            .unwrap()
            .settings
    };
    assert_eq!(settings(hex).requests.allow, settings(npub).requests.allow);
    assert_eq!(settings(hex).requests.allow[0].to_hex(), hex);
}

#[test]
fn clients_of_the_existing_network_are_served_where_the_file_says_so() {
    let paygress = |value: Value| {
        let config = parsed(&with("/paygress", value)).unwrap();
        config.settings.paygress
    };
    assert_eq!(paygress(json!({})), None);
    assert_eq!(paygress(json!({"ports": "4000-4999"})), None);
    let default = PaygressSetting::default();
    assert_eq!(paygress(json!({"enabled": true})), Some(default));
    let set = json!({"enabled": true, "ports": "4000-4063", "images": {"ubuntu:22.04": "host"}});
    let set = paygress(set).unwrap();
    assert_eq!(set.ports, 4000..=4063);
    assert_eq!(set.images["ubuntu:22.04"], "host");
    for (value, place, said) in [
        (json!({"ports": "4000"}), "/paygress/ports", "range"),
        (json!({"ports": "5000-4000"}), "/paygress/ports", "range"),
        (json!({"ports": "0-999"}), "/paygress/ports", "range"),
        (json!({"ports": "65000-70000"}), "/paygress/ports", "range"),
        (
            json!({"ports": "4000-4010"}),
            "/paygress/ports",
            "at least 64",
        ),
        (
            json!({"ports": "2000-2999"}),
            "/paygress/ports",
            "gateway.listen",
        ),
        (
            json!({"images": {"ubuntu:22.04": "ubuntu"}}),
            "/paygress/images/ubuntu:22.04",
            "images.allow",
        ),
    ] {
        let mut value = value;
        value["enabled"] = true.into();
        let problems = parsed(&with("/paygress", value)).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].pointer, place);
        assert!(problems[0].to_string().contains(said), "{problems:?}");
    }
}

/// Each wrong value: where it is, what it is, where the problem is said to be.
#[test]
fn each_wrong_value_is_found_at_its_place() {
    let tier = |extra: Value| {
        let mut tier = least()["tiers"][0].clone();
        for (key, value) in extra.as_object().unwrap() {
            tier[key] = value.clone();
        }
        tier
    };
    for (at, value, place, said) in [
        ("/hostname", json!(""), "/hostname", "printable"),
        ("/hostname", json!(7), "/hostname", "quotes"),
        ("/hostname", json!("a\u{1b}[2J"), "/hostname", "printable"),
        ("/hostname", Value::Null, "/hostname", "missing"),
        ("/identity", json!("nsec"), "/identity", "not an object"),
        (
            "/identity",
            json!({"nsec": "nsec1x"}),
            "/identity/nsec",
            "nsec_file",
        ),
        ("/relays", json!([]), "/relays", "at least 1"),
        (
            "/relays",
            json!(["https://relay.example.org"]),
            "/relays/0",
            "wss://",
        ),
        (
            "/relays",
            json!(["wss://a.org", "wss://a.org/"]),
            "/relays/1",
            "twice",
        ),
        (
            "/mints/0/url",
            json!("http://mint.example.org"),
            "/mints/0/url",
            "https",
        ),
        (
            "/mints/0/url",
            json!("mint.example.org"),
            "/mints/0/url",
            "URL",
        ),
        (
            "/mints/0/url",
            json!("https://me:pw@mint.example.org"),
            "/mints/0/url",
            "user",
        ),
        (
            "/mints/0/requests_per_minute",
            json!(0),
            "/mints/0/requests_per_minute",
            "from 1",
        ),
        ("/tiers", json!([]), "/tiers", "empty"),
        ("/tiers", json!({}), "/tiers", "not a list"),
        ("/tiers/1", tier(json!({})), "/tiers/1", "twice"),
        ("/tiers/0/id", json!("Small Box"), "/tiers/0/id", "a-z"),
        ("/tiers/0/memory", json!(512), "/tiers/0/memory", "MiB"),
        ("/tiers/0/memory", json!("512MB"), "/tiers/0/memory", "MiB"),
        ("/tiers/0/memory", json!("1MiB"), "/tiers/0/memory", "16MiB"),
        (
            "/tiers/0/memory",
            json!("2GiB"),
            "/tiers/0/memory",
            "never be sold",
        ),
        (
            "/tiers/0/disk",
            json!("1MiB"),
            "/tiers/0/disk",
            "never be sold",
        ),
        (
            "/tiers/0/cpu_millicores",
            json!(1001),
            "/tiers/0/cpu_millicores",
            "never be sold",
        ),
        (
            "/tiers/0/cpu_millicores",
            json!(0.5),
            "/tiers/0/cpu_millicores",
            "whole number",
        ),
        (
            "/tiers/0/cpu_millicores",
            json!(-5),
            "/tiers/0/cpu_millicores",
            "whole number",
        ),
        ("/tiers/0/sat_per_hour", json!(5), "/tiers/0", "two prices"),
        (
            "/tiers/0/msat_per_second",
            Value::Null,
            "/tiers/0",
            "no price",
        ),
        (
            "/tiers/0/msat_per_second",
            json!(0),
            "/tiers/0/msat_per_second",
            "from 1",
        ),
        ("/tiers/0/max", json!("30s"), "/tiers/0/max", "shorter"),
        ("/tiers/0/min", json!("1w"), "/tiers/0/min", "duration"),
        ("/tiers/0/min", json!("m"), "/tiers/0/min", "duration"),
        (
            "/tiers/0/min",
            json!("99999999999999999999d"),
            "/tiers/0/min",
            "duration",
        ),
        (
            "/templates",
            json!([{"id": "a", "image": "debian"}]),
            "/templates/0/image",
            "allow",
        ),
        (
            "/templates",
            json!([{"id": "a", "image": "host", "env": {"A=B": "1"}}]),
            "/templates/0/env/A=B",
            "letters",
        ),
        (
            "/templates",
            json!([{"id": "a", "image": "host", "command": ["\u{0}"]}]),
            "/templates/0/command/0",
            "zero byte",
        ),
        (
            "/images/default",
            json!("debian"),
            "/images/default",
            "not allowed",
        ),
        (
            "/images/layouts",
            json!({"a/b": "x"}),
            "/images/layouts/a~1b",
            "a-z",
        ),
        ("/capacity", Value::Null, "/capacity/memory", "missing"),
        (
            "/gateway/listen",
            json!("2222"),
            "/gateway/listen",
            "0.0.0.0:2222",
        ),
        (
            "/gateway/public_host",
            json!("box.example.org:22"),
            "/gateway/public_host",
            "no port",
        ),
        (
            "/gateway/public_port",
            json!(70_000),
            "/gateway/public_port",
            "65535",
        ),
        (
            "/gateway/limits/max_chanels",
            json!(1),
            "/gateway/limits/max_chanels",
            "max_channels",
        ),
        (
            "/requests/allow",
            json!(["npub1x"]),
            "/requests/allow/0",
            "npub",
        ),
        ("/timing/heartbeat", json!("2m"), "/timing/heartbeat", "1m"),
        (
            "/timing/warnings",
            json!(["60s", "1m"]),
            "/timing/warnings/1",
            "twice",
        ),
        ("/sell_unenforced", json!("yes"), "/sell_unenforced", "true"),
        ("/backend/kind", json!("dokcer"), "/backend/kind", "docker"),
        (
            "/backend/subnets",
            json!("11.0.0.0/8"),
            "/backend/subnets",
            "10.123.0.0/16",
        ),
        (
            "/backend/resolvers",
            json!(["127.0.0.53"]),
            "/backend/resolvers/0",
            "loopback",
        ),
        ("/log/level", json!("loud"), "/log/level", "warn"),
        ("/log/format", json!("xml"), "/log/format", "json"),
        ("/hostnme", json!("x"), "/hostnme", "\"hostname\""),
        ("/$schema", json!("x"), "/$schema", "no such key"),
    ] {
        let problems = parsed(&with(at, value.clone())).expect_err(&format!("{at} {value}"));
        let found = problems
            .iter()
            .any(|p| p.pointer == place && p.to_string().contains(said));
        assert!(
            found,
            "{at} {value}: wanted {place} {said:?}, got {problems:?}"
        );
    }
}

#[test]
fn all_problems_are_found_at_once() {
    let mut config = least();
    for (at, value) in [
        ("/hostname", json!(1)),
        ("/relays/0", json!("x")),
        ("/tiers/0/memory", json!("x")),
        ("/tiers/0/min", json!("x")),
        ("/gateway/listen", json!("x")),
        ("/timing/mint", json!("x")),
        ("/colour", json!("blue")),
    ] {
        set(&mut config, at, value);
    }
    let problems = parsed(&config).unwrap_err();
    let places: BTreeSet<&str> = problems.iter().map(|p| p.pointer.as_str()).collect();
    let wanted = [
        "/hostname",
        "/relays/0",
        "/tiers/0/memory",
        "/tiers/0/min",
        "/gateway/listen",
        "/timing/mint",
        "/colour",
    ];
    assert_eq!(places, wanted.into_iter().collect());
    assert_eq!(problems.len(), wanted.len(), "{problems:?}");
}

#[test]
fn what_is_no_json_is_said_with_its_line() {
    let problems = parse("{\n  \"hostname\": \"x\",\n}", Path::new("/")).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].message.contains("line 3"), "{problems:?}");
    assert!(problems[0].to_string().starts_with("the file: "));
}

#[test]
fn the_key_that_was_meant_is_named() {
    for (word, wanted) in [
        ("hostnme", Some("hostname")),
        ("Hostname", Some("hostname")),
        ("relay", Some("relays")),
        ("bananas", None),
    ] {
        assert_eq!(
            units::nearest(word, &["hostname", "relays"]),
            wanted,
            "{word}"
        );
    }
}

#[test]
fn durations_and_sizes_are_shown_as_they_are_read() {
    for text in ["1s", "90s", "10m", "2h", "7d", "0s"] {
        let read = units::parse_duration(text).unwrap();
        assert_eq!(units::show_duration(read), text);
    }
    for text in ["1MiB", "1025MiB", "3GiB", "2TiB", "0MiB"] {
        assert_eq!(units::show_mib(units::parse_mib(text).unwrap()), text);
    }
    for text in ["", "s", "1.5h", "-1s", "1 day", "+1s", "１s"] {
        assert_eq!(units::parse_duration(text), None, "{text}");
    }
}

const NSEC: &str = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5";
const WORDS: &str = "legal winner thank year wave sausage worth useful legal winner thank yellow";

fn write(path: &Path, text: &str, mode: u32) {
    // An ordinary user cannot write to a file of mode 0400.
    let _ = std::fs::remove_file(path);
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(
        &dir.path().join("provider.json"),
        &least().to_string(),
        0o600,
    );
    write(&dir.path().join("nsec"), &format!("{NSEC}\n"), 0o600);
    write(&dir.path().join("words"), WORDS, 0o400);
    dir
}

#[test]
fn secrets_are_read_from_their_own_files_and_never_printed() {
    let dir = folder();
    let config = load(&dir.path().join("provider.json")).unwrap();
    let secrets = secrets::read(&config).unwrap();
    assert_eq!(secrets.mnemonic.to_string(), WORDS);
    let printed = format!("{secrets:?} {config:?}");
    assert!(
        !printed.contains("nsec1") && !printed.contains("sausage"),
        "{printed}"
    );
}

#[test]
fn secrets_that_others_can_read_or_that_are_none_are_refused_both_at_once() {
    let dir = folder();
    write(&dir.path().join("nsec"), NSEC, 0o640);
    write(&dir.path().join("words"), "legal winner", 0o600);
    let problems = load(&dir.path().join("provider.json")).unwrap_err();
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 2);
    assert!(said[0].starts_with("/identity/nsec_file") && said[0].contains("chmod 600"));
    assert!(said[1].starts_with("/wallet/mnemonic_file") && said[1].contains("12 to 24"));
    assert!(!said.concat().contains("legal"), "a secret is in {said:?}");
}

#[test]
fn a_secret_that_is_not_there_is_said_with_the_way_to_get_one() {
    let dir = folder();
    std::fs::remove_file(dir.path().join("nsec")).unwrap();
    let problems = load(&dir.path().join("provider.json")).unwrap_err();
    assert!(problems[0].fix.contains("satletd init"), "{problems:?}");
    let problems = load(&dir.path().join("nothing.json")).unwrap_err();
    assert!(problems[0].message.contains("nothing.json"), "{problems:?}");
}
