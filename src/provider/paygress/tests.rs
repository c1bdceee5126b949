use super::*;
use crate::core::time::Timestamp;
use crate::protocol::error::Money;

#[test]
fn every_refusal_has_a_word_that_existing_clients_know() {
    let said = |code: &Code, money| errors::kind(code, money).name();
    for (code, word) in [
        (Code::MalformedToken, "invalid_token"),
        (Code::MintNotAccepted, "non_whitelisted_mint"),
        (Code::TokenSpent, "token_already_spent"),
        (Code::TokenInUse, "token_pending"),
        (Code::MintDown, "mint_network_error"),
        (Code::MintRefused, "mint_error"),
        (Code::WrongUnit, "unsupported_unit"),
        (Code::AmountTooSmall, "insufficient_payment"),
        (Code::DurationTooLong, "invalid_request"),
        (Code::UnknownTier, "spec_unavailable"),
        (Code::UnknownTemplate, "unknown_template"),
        (Code::NoCapacity, "provisioning_error"),
        (Code::NoPrice, "provisioning_error"),
        (Code::ProvisioningFailed, "backend_error"),
        (Code::NotFound, "not_found"),
        (Code::LeaseEnded, "lease_expired"),
    ] {
        assert_eq!(said(&code, Money::Untouched), word, "{code}");
    }
    assert_eq!(said(&Code::LeaseEnded, Money::Taken), "race_lost");
    // At these alone a client gives its workload up; no passing trouble is one.
    let gone = ["not_found", "lease_expired", "race_lost", "not_owner"];
    for code in Code::ALL {
        let ends = matches!(code, Code::NotFound | Code::LeaseEnded);
        assert_eq!(gone.contains(&said(code, Money::Untouched)), ends, "{code}");
    }
}

#[test]
fn a_request_is_named_after_its_event() {
    let id = EventId::from_bytes([0xab; 32]);
    let name = request_id(&id).to_string();
    assert_eq!(name.replace('-', ""), "ab".repeat(16));
}

#[test]
fn dates_have_a_numeric_offset() {
    let at = Timestamp::from_secs(1_790_000_000);
    assert_eq!(render::date(at), "2026-09-21T14:13:20+00:00");
    assert!(render::date(Timestamp::from_secs(u64::MAX)).ends_with("+00:00"));
}
