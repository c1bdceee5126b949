//! What the fuzz targets share.

pub mod alloc;
pub mod cell;
pub mod tar;

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads `text` as `T`; what is read must be the same after a way through JSON.
pub fn there_and_back<T: DeserializeOwned + Serialize + PartialEq + Debug>(text: &str) {
    let Ok(read) = serde_json::from_str::<T>(text) else {
        return;
    };
    let written = serde_json::to_string(&read).expect("what was read can be written");
    let again: T = serde_json::from_str(&written)
        .unwrap_or_else(|error| panic!("cannot be read again: {error}: {written}"));
    assert_eq!(read, again, "{written}");
    let _ = format!("{read:?}");
}
