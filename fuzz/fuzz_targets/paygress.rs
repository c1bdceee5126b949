//! Bodies of the dialect paygress/1, both directions: what is read is written
//! and read again the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use satlet::protocol::MAX_REQUEST;
use satlet::protocol::paygress::events::{Promotion, Revocation};
use satlet::protocol::paygress::reply::{MAX_REPLY, Reply};
use satlet::protocol::paygress::request::{Request, Unreadable};
use satlet::protocol::paygress::{container_name, container_number};
use satlet_fuzz::there_and_back;

fuzz_target!(|text: &str| {
    match Request::read(text) {
        Ok(request) => {
            let written = serde_json::to_string(&request).expect("it can be written");
            // Escapes may make it longer than what is read.
            let again = Request::read(&written);
            assert!(
                again == Ok(request) || written.len() > MAX_REQUEST,
                "{written}"
            );
        }
        Err(Unreadable::TooLong(length)) => assert!(length == text.len() && length > MAX_REQUEST),
        Err(Unreadable::Shape(why)) => assert!(why.len() < 300, "{why}"),
    }
    if let Some(reply) = Reply::read(text) {
        let written = serde_json::to_string(&reply).expect("it can be written");
        assert!(
            Reply::read(&written) == Some(reply) || written.len() > MAX_REPLY,
            "{written}"
        );
    }
    there_and_back::<Revocation>(text);
    there_and_back::<Promotion>(text);
    if let Some(number) = container_number(text) {
        assert_eq!(container_number(&container_name(number)), Some(number));
    }
});
