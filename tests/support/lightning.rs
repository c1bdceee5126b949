//! A server of Lightning addresses (LUD-16) whose invoices the fake Lightning of
//! test mints knows.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use satlet::core::money::Msat;
use satlet::wallet::fake::{Fate, invoice};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// It, on loopback.
pub(crate) struct Server {
    pub(crate) address: String,
    asked: Arc<AtomicU32>,
    made: Arc<Mutex<Vec<String>>>,
    /// What it adds to the amount that was asked for, in msat.
    pub(crate) lie: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Starts one for the address `me`, whose invoices have this fate.
    pub(crate) async fn start(fate: Fate) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicU32::new(0));
        let made: Arc<Mutex<Vec<String>>> = Arc::default();
        let lie = Arc::new(AtomicU64::new(0));
        let (count, invoices, lies) = (Arc::clone(&asked), Arc::clone(&made), Arc::clone(&lie));
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut text = [0; 4096];
                let n = stream.read(&mut text).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&text[..n]).into_owned();
                let path = text.split_whitespace().nth(1).unwrap_or("").to_owned();
                let body = if path == "/.well-known/lnurlp/me" {
                    serde_json::json!({
                        "tag": "payRequest", "callback": format!("http://{host}/pay?x=1"),
                        "minSendable": 1000, "maxSendable": 1_000_000_000u64,
                        "metadata": "[[\"text/plain\",\"me\"]]",
                    })
                } else if let Some(amount) = path.strip_prefix("/pay?x=1&amount=") {
                    count.fetch_add(1, Ordering::SeqCst);
                    let amount = amount.parse::<u64>().unwrap() + lies.load(Ordering::SeqCst);
                    let pr = invoice(Msat::new(amount), fate);
                    invoices.lock().unwrap().push(pr.clone());
                    serde_json::json!({ "pr": pr, "routes": [] })
                } else {
                    serde_json::json!({ "status": "ERROR", "reason": "nobody of that name" })
                };
                let body = body.to_string();
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all((head + &body).as_bytes()).await;
            }
        });
        Self {
            address: format!("me@{host}"),
            asked,
            made,
            lie,
            task,
        }
    }

    /// How many invoices were asked for.
    pub(crate) fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }

    /// Those that it made.
    pub(crate) fn invoices(&self) -> Vec<String> {
        self.made.lock().unwrap().clone()
    }
}
