use std::os::unix::fs::MetadataExt;

use super::*;
use crate::protocol::reply::Refund;

struct Fixed;

fn vector<T: serde::de::DeserializeOwned>(file: &str, pointer: &str) -> T {
    let value: serde_json::Value = serde_json::from_str(file).unwrap();
    serde_json::from_value(value.pointer(pointer).unwrap().clone()).unwrap()
}

#[async_trait]
impl Queries for Fixed {
    async fn leases(&self) -> Result<Vec<LeaseView>, String> {
        let file = include_str!("../../../specs/vectors/reply-status.json");
        let mut status: LeaseStatus = vector(file, "/cases/0/json/result");
        status.refunds = vec![Refund {
            refund_id: "r".into(),
            token: "cashuBsecret".into(),
            amount_msat: Msat::new(1),
            mint: "m".into(),
            unit: "sat".into(),
            why: "w".into(),
        }];
        Ok(vec![LeaseView {
            owner: PublicKey::from_bytes([7; 32]),
            backend: "sandbox".parse().unwrap(),
            status,
        }])
    }
    async fn offer(&self) -> Result<Offer, String> {
        let file = include_str!("../../../specs/vectors/offer.json");
        Ok(vector(file, "/cases/0/json"))
    }
    async fn status(&self) -> Result<StatusView, String> {
        Err("not now".to_owned())
    }
    async fn money(&self) -> Result<MoneyView, String> {
        Ok(MoneyView::default())
    }
    async fn mints(&self) -> Result<Vec<MintView>, String> {
        Ok(Vec::new())
    }
    async fn reload(&self) -> Result<ReloadView, String> {
        Err("the file is bad".to_owned())
    }
    async fn withdraw(&self, ask: Withdrawal) -> Result<PayoutView, String> {
        Err(format!("not to {} bytes", ask.to.len()))
    }
    async fn payout(&self, hash: &str) -> Result<PayoutView, String> {
        Err(format!("no {hash}"))
    }
}

async fn with_daemon<T>(test: impl AsyncFnOnce(&Path) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let control = Control::bind(dir.path()).unwrap();
    tokio::select! {
        () = control.serve(Arc::new(Fixed)) => panic!("it stopped serving"),
        done = test(dir.path()) => done,
    }
}

#[tokio::test]
async fn questions_are_answered_and_tokens_stay_in_the_ledger() {
    with_daemon(async |dir| {
        let leases: Vec<LeaseView> = ask(dir, Ask::Leases).await.unwrap();
        assert_eq!(leases.len(), 1);
        assert!(leases[0].status.refunds.is_empty());
        let offer: Offer = ask(dir, Ask::Offer).await.unwrap();
        assert_eq!(offer.hostname, "BoldAmberHeron");
        let money: MoneyView = ask(dir, Ask::Money).await.unwrap();
        assert_eq!(money, MoneyView::default());
        // As long as invoices are.
        let long = Withdrawal {
            unexplained: false,
            to: "l".repeat(crate::wallet::MAX_INVOICE),
            amount: Some(Amount::All),
            mint: None,
            unit: None,
            max_fee_msat: None,
        };
        let paid: Result<PayoutView, _> = ask(dir, Ask::Withdraw(long)).await;
        assert!(matches!(paid, Err(ControlError::Refused(why)) if why == "not to 4096 bytes"));
        let payout = "ff".to_owned();
        let known: Result<PayoutView, _> = ask(dir, Ask::Payout { payout }).await;
        assert!(matches!(known, Err(ControlError::Refused(why)) if why == "no ff"));
        let status: Result<StatusView, _> = ask(dir, Ask::Status).await;
        assert!(matches!(status, Err(ControlError::Refused(why)) if why == "not now"));
    })
    .await;
}

#[tokio::test]
async fn the_socket_is_for_its_owner_alone_and_goes_away_with_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let control = Control::bind(dir.path()).unwrap();
    let path = dir.path().join(SOCKET);
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    drop(control);
    assert!(!path.exists());
    let asked: Result<MoneyView, _> = ask(dir.path(), Ask::Money).await;
    assert!(matches!(asked, Err(ControlError::NotRunning(_))));
}

#[tokio::test]
async fn what_a_dead_daemon_left_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    // A dead daemon's socket: there, and nobody listens.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap());
    let asked: Result<MoneyView, _> = ask(dir.path(), Ask::Money).await;
    assert!(matches!(asked, Err(ControlError::NotRunning(_))));
    let control = Control::bind(dir.path()).unwrap();
    tokio::select! {
        () = control.serve(Arc::new(Fixed)) => panic!("it stopped serving"),
        asked = ask::<MoneyView>(dir.path(), Ask::Money) => assert!(asked.is_ok()),
    }
}

#[tokio::test]
async fn nonsense_is_answered_with_an_error() {
    with_daemon(async |dir| {
        let mut stream = UnixStream::connect(dir.join(SOCKET)).await.unwrap();
        stream.write_all(b"shutdown\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("{\"error\":\"not a question"),
            "{answer}"
        );
    })
    .await;
}
