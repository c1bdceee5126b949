//! The dialect in use on the network, "paygress/1": bodies of direct messages
//! and of the two events of warm standby. Offers and heartbeats are shared
//! ([`super::offer`], [`super::heartbeat`]). Requests bear no type and no id:
//! the fields that are there decide. Unknown fields are ignored everywhere.

pub mod events;
pub mod reply;
pub mod request;

/// The dialect's name in offers.
pub const DIALECT_NAME: &str = "paygress/1";

/// The first workload number that is given out.
pub const FIRST_CONTAINER: u32 = 1000;

/// The number in a workload's name, `container-<n>` or `<n>`; `None` for
/// anything else.
pub fn container_number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("container-").unwrap_or(name);
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// The name of workload `n` in replies.
pub fn container_name(n: u32) -> String {
    format!("container-{n}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_named_with_and_without_its_prefix() {
        assert_eq!(container_number("container-1007"), Some(1007));
        assert_eq!(container_number("1007"), Some(1007));
        assert_eq!(container_name(1007), "container-1007");
        for bad in [
            "",
            "container-",
            "container-+7",
            "-7",
            "container-99999999999",
            "standby-slot-x",
            "container-container-7",
        ] {
            assert_eq!(container_number(bad), None, "{bad}");
        }
    }
}
