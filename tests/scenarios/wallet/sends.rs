//! Tokens that the wallet made: what it asks about them, and taking them back.

use super::*;

const CHECK: &str = "/v1/checkstate";

/// cdk alone asks about each in a request of its own, each minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_tokens_that_are_out_are_asked_about_in_one_request() {
    let stage = behind().await;
    let mut tokens = Vec::new();
    for _ in 0..8 {
        tokens.push(stage.token(21).await);
    }
    let seen = stage.proxy.seen(CHECK);
    assert_eq!(stage.payer.recover().await.unwrap(), Recovery::default());
    assert_eq!(stage.proxy.seen(CHECK) - seen, 1);
    assert_eq!(stage.payer.pending_sends().await.unwrap().len(), 8);
    let before = total(&stage.payer).await;
    let other = stage.wallet(1).await;
    for token in &tokens[..3] {
        other.receive(token).await.unwrap();
    }
    stage.payer.recover().await.unwrap();
    let left = stage.payer.pending_sends().await.unwrap();
    assert_eq!(left.len(), 5, "those that are spent are known to be");
    assert_eq!(total(&stage.payer).await, before);
    for send in left {
        stage.payer.reclaim(&send.token).await.unwrap();
    }
    assert_eq!(stage.payer.pending_sends().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_tokens_than_one_request_takes_are_asked_about_in_turn() {
    let stage = behind().await;
    let mut tokens = Vec::new();
    for _ in 0..30 {
        // Six proofs and more each.
        tokens.push(stage.token(63).await);
        tokens.push(stage.token(63).await);
    }
    let other = stage.wallet(1).await;
    for token in &tokens {
        other.receive(token).await.unwrap();
    }
    let mut rounds = 0;
    while !stage.payer.pending_sends().await.unwrap().is_empty() {
        let seen = stage.proxy.seen(CHECK);
        stage.payer.recover().await.unwrap();
        assert!(stage.proxy.seen(CHECK) - seen <= 1);
        rounds += 1;
        assert!(rounds < 10, "each has its turn");
    }
    assert!(rounds > 1, "{rounds}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_taking_back_loses_nothing() {
    for fault in [Fault::DropResponse, Fault::DropRequest] {
        let stage = behind().await;
        let token = stage.token(100).await;
        let before = total(&stage.payer).await;
        stage.proxy.strike(SWAP, fault);
        unknown(stage.payer.reclaim(&token).await);
        assert_eq!(stage.payer.recover().await.unwrap().unfinished, 0);
        // It is back, or it is still out and can be taken back: never both, never
        // neither.
        for send in stage.payer.pending_sends().await.unwrap() {
            assert_eq!(total(&stage.payer).await, before, "{fault:?}");
            stage.payer.reclaim(&send.token).await.unwrap();
        }
        let back = total(&stage.payer).await.checked_sub(before);
        assert_eq!(back, Some(sat(99)), "{fault:?}");
        assert_eq!(stage.payer.recover().await.unwrap(), Recovery::default());
        // What is counted is real.
        let all = total(&stage.payer).await.checked_sub(sat(20)).unwrap();
        let sent = stage.payer.send(&stage.url, &Unit::Sat, all, true).await;
        let sent = sent.unwrap().token;
        assert_eq!(stage.wallet(1).await.receive(&sent).await.unwrap().net, all);
    }
}
