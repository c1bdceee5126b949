//! The registry.

use std::sync::Arc;

use super::fake::{FakeBackend, FakeHost};
use super::registry::{Registry, RegistryError};
use super::{Handle, SharedBackend};
use crate::core::ids::LeaseId;

type Tested = Result<(), Box<dyn std::error::Error>>;

fn fake(name: &str) -> Result<SharedBackend, Box<dyn std::error::Error>> {
    Ok(Arc::new(FakeBackend::new(
        name.parse()?,
        FakeHost::default(),
    )))
}

#[test]
fn the_first_is_the_default_and_handles_find_their_maker() -> Tested {
    let registry = Registry::new([fake("b")?, fake("a")?])?;
    assert_eq!(registry.default().name().as_str(), "b");
    let handle = Handle {
        backend: "a".parse()?,
        version: 1,
        key: LeaseId::from_random([0; 12]),
        data: serde_json::Value::Null,
    };
    assert_eq!(registry.owner(&handle)?.name().as_str(), "a");
    let gone = Handle {
        backend: "c".parse()?,
        ..handle
    };
    assert_eq!(
        registry.owner(&gone).err(),
        Some(RegistryError::Unknown("c".parse()?))
    );
    Ok(())
}

#[test]
fn none_and_two_of_a_name_are_refused() -> Tested {
    assert_eq!(Registry::new([]).err(), Some(RegistryError::Empty));
    let two = Registry::new([fake("a")?, fake("a")?]);
    assert_eq!(two.err(), Some(RegistryError::Duplicate("a".parse()?)));
    Ok(())
}
