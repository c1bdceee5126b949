//! Tokens, read before any mint is asked. The first byte says whether the rest
//! is a token, or what stands in one as JSON (`cashuA`) or CBOR (`cashuB`).
#![no_main]

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use satlet::wallet::{MAX_PROOFS, WalletError, normalise, read_info};

fuzz_target!(|data: &[u8]| {
    let Some((how, data)) = data.split_first() else {
        return;
    };
    let text = match how % 3 {
        0 => String::from_utf8_lossy(data),
        1 => Cow::Owned(format!("cashuA{}", URL_SAFE_NO_PAD.encode(data))),
        _ => Cow::Owned(format!("cashuB{}", URL_SAFE_NO_PAD.encode(data))),
    };
    let info = match read_info(&text) {
        Ok(info) => info,
        Err(error) => {
            assert!(error.to_string().len() < 200, "a long message: {error}");
            assert!(matches!(
                error,
                WalletError::Malformed(_) | WalletError::WrongUnit(_)
            ));
            return;
        }
    };
    assert!((1..=MAX_PROOFS).contains(&info.ys.len()));
    assert!(
        info.ys.is_sorted_by(|a, b| a < b),
        "Ys are sorted and differ"
    );
    assert!(info.ys.iter().all(|y| y.len() == 66));
    assert!(!info.face.is_zero());
    assert_eq!(normalise(&info.mint.0).as_ref(), Ok(&info.mint));
    assert_eq!(read_info(&format!(" {text}\n")).as_ref(), Ok(&info));
});
