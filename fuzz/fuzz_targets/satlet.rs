//! Bodies of the dialect satlet/1: what is read is written and read again the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use satlet::protocol::heartbeat::Heartbeat;
use satlet::protocol::offer::Offer;
use satlet::protocol::reply::Message;
use satlet::protocol::request::Request;
use satlet_fuzz::there_and_back;

fuzz_target!(|text: &str| {
    there_and_back::<Request>(text);
    there_and_back::<Message>(text);
    there_and_back::<Offer>(text);
    there_and_back::<Heartbeat>(text);
});
