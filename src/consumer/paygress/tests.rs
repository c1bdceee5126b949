use nostr_sdk::Keys;

use super::access::{new_password, password_in};
use super::fit::{self, Fit};
use super::keys::lease_keys;
use super::terms::{amount, enough, tier_name};
use crate::consumer::money::Pay;
use crate::core::money::Msat;
use crate::core::time::Timestamp;
use crate::protocol::offer::Spec;
use crate::protocol::paygress::reply::Reply;
use crate::protocol::paygress::request::sane_password;

const ACCESS: &str = r#"{"pod_npub":"container-1007","node_port":31007,"expires_at":"2026-09-21T14:13:20+00:00","cpu_millicores":1000,"memory_mb":1024,"pod_spec_name":"Basic","pod_spec_description":"1 vCPU","instructions":["Ready"],"host_address":"203.0.113.9"}"#;
const ERROR: &str = r#"{"error_type":"not_found","message":"no","details":null}"#;

fn reply(body: &str) -> Reply {
    Reply::read(body).unwrap()
}

fn spec() -> Spec {
    Spec {
        id: "basic".to_owned(),
        name: "Basic".to_owned(),
        description: String::new(),
        cpu_millicores: 1000,
        memory_mb: 1024,
        rate_msats_per_sec: 50,
    }
}

#[test]
fn each_lease_has_a_key_that_is_there_again() {
    let (one, other) = (Keys::generate(), Keys::generate());
    let key = |keys: &Keys, n| lease_keys(keys, n).unwrap().public_key();
    assert_eq!(key(&one, 7), key(&one, 7));
    let all = [key(&one, 0), key(&one, 1), key(&other, 0), one.public_key()];
    let different: std::collections::HashSet<_> = all.into_iter().collect();
    assert_eq!(different.len(), 4);
    let known = Keys::parse("0000000000000000000000000000000000000000000000000000000000000003");
    // The number is part of the format: old leases must stay ours.
    assert_eq!(
        key(&known.unwrap(), 1).to_hex(),
        "dd513cf28d46ea4b376579a666992abd716b56afcf3ab8bc765388726f7a4275"
    );
}

#[test]
fn a_reply_to_a_spawn_is_a_running_box_of_the_tier() {
    assert_eq!(fit::spawn(&reply(ACCESS), &spec()), Fit::Answer);
    assert_eq!(fit::spawn(&reply(ERROR), &spec()), Fit::Answer);
    let other = ACCESS.replace("1024", "2048");
    assert_eq!(fit::spawn(&reply(&other), &spec()), Fit::Perhaps);
    for (from, to) in [
        ("container-1007", "standby-slot-7"),
        ("container-1007", ""),
        ("container-1007", "a b"),
        ("31007", "0"),
    ] {
        let bad = ACCESS.replace(from, to);
        assert_eq!(fit::spawn(&reply(&bad), &spec()), Fit::No, "{bad}");
    }
}

#[test]
fn a_reply_to_a_topup_is_of_our_box_and_ends_later() {
    let body = r#"{"success":true,"pod_npub":"container-7","extended_duration_seconds":60,"new_expires_at":"2026-09-21T14:13:20+00:00","message":""}"#;
    let then = fit::instant("2026-09-21T14:13:20+00:00").unwrap();
    let before = Some(then.minus(std::time::Duration::from_secs(1)));
    assert_eq!(fit::topup(&reply(body), "container-7", before), Fit::Answer);
    assert_eq!(fit::topup(&reply(body), "7", None), Fit::Answer);
    assert_eq!(fit::topup(&reply(body), "container-7", Some(then)), Fit::No);
    assert_eq!(fit::topup(&reply(body), "container-8", before), Fit::No);
    assert_eq!(fit::topup(&reply(ACCESS), "container-7", before), Fit::No);
    let never = body.replace("2026-09-21T14:13:20+00:00", "soon");
    assert_eq!(fit::topup(&reply(&never), "container-7", before), Fit::No);
}

#[test]
fn a_status_is_of_our_box() {
    let body = r#"{"pod_id":"7","status":"Running","expires_at":"2026-09-21T14:13:20+00:00","time_remaining_seconds":1,"cpu_millicores":1,"memory_mb":1,"ssh_host":"h","ssh_port":1,"ssh_username":"root"}"#;
    assert_eq!(fit::status(&reply(body), Some("container-7")), Fit::Answer);
    assert_eq!(fit::status(&reply(body), Some("container-8")), Fit::No);
    assert_eq!(fit::status(&reply(body), None), Fit::Answer);
    assert_eq!(fit::status(&reply(ACCESS), None), Fit::No);
}

#[test]
fn the_password_is_ours_unless_the_provider_made_another() {
    let said = |lines: &[&str]| {
        let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        password_in(&lines, "oursOursOurs1")
    };
    assert_eq!(said(&[]), "oursOursOurs1");
    assert_eq!(
        said(&["Password: other1", "or oursOursOurs1"]),
        "oursOursOurs1"
    );
    assert_eq!(
        said(&["Username: root", "SSH PASSWORD:  th3irs! and so on"]),
        "th3irs!"
    );
    assert_eq!(said(&["Password:", "password: \u{1b}[2J"]), "oursOursOurs1");
    let new = new_password();
    assert!(sane_password(&new));
    assert_ne!(new, new_password());
}

#[test]
fn less_than_a_minute_is_not_paid_for() {
    assert_eq!(amount(&Pay::Minimum, 50).unwrap(), Some(Msat::new(3_000)));
    assert_eq!(
        amount(&Pay::Seconds(61), 50).unwrap(),
        Some(Msat::new(3_050))
    );
    assert!(amount(&Pay::Seconds(59), 50).is_err());
    assert!(amount(&Pay::Seconds(u64::MAX), 50).is_err());
    assert!(amount(&Pay::Minimum, u64::MAX).is_err());
    assert!(enough(Msat::new(3_000), 50).is_ok());
    assert!(enough(Msat::new(2_999), 50).is_err());
}

#[test]
fn a_stranger_s_tier_gets_a_name() {
    let name = |id: &str| tier_name(id).map(|name| name.to_string());
    assert_eq!(name("Big Box!").as_deref(), Some("big-box-"));
    assert_eq!(name("..basic").as_deref(), Some("basic"));
    assert_eq!(name("€"), None);
    assert_eq!(name(&"x".repeat(300)).map(|name| name.len()), Some(64));
}

#[test]
fn dates_are_read_with_any_offset() {
    let at = Some(Timestamp::from_secs(1_790_000_000));
    assert_eq!(fit::instant("2026-09-21T14:13:20+00:00"), at);
    assert_eq!(fit::instant("2026-09-21T16:13:20+02:00"), at);
    for bad in ["", "soon", "1790000000", "1960-01-01T00:00:00+00:00"] {
        assert_eq!(fit::instant(bad), None, "{bad}");
    }
}
