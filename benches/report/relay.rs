//! The smallest relay that the daemon works with: it has what it is given, says
//! yes to everything, and passes answers on. It costs next to nothing, so that
//! what is measured is the daemon.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use futures::{SinkExt, StreamExt};
use nostr_sdk::{Event, JsonUtil};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc};
use tokio_tungstenite::tungstenite::Message;

/// Kind of gift wraps.
const WRAP: u64 = 1059;

/// An answer of the daemon: to whom, when it came, and all of it.
pub(crate) struct Answer {
    pub(crate) to: String,
    pub(crate) at: Instant,
    pub(crate) event: Value,
}

/// The relay.
pub(crate) struct Relay {
    pub(crate) url: String,
    stored: Arc<Mutex<Vec<(u64, String)>>>,
    live: broadcast::Sender<Arc<str>>,
    pub(crate) answers: mpsc::UnboundedReceiver<Answer>,
}

impl Relay {
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("ws://{}", listener.local_addr()?);
        let stored = Arc::new(Mutex::new(Vec::new()));
        let (live, _) = broadcast::channel(1 << 16);
        let (tell, answers) = mpsc::unbounded_channel();
        let (shared, sender) = (stored.clone(), live.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serve(stream, shared.clone(), sender.subscribe(), tell.clone());
                tokio::spawn(async move {
                    // The daemon was ended: that is no failure.
                    drop(serving.await);
                });
            }
        });
        Ok(Self {
            url,
            stored,
            live,
            answers,
        })
    }

    /// Keeps an event for whoever asks.
    pub(crate) fn store(&self, event: &Event) {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        stored.push((event.created_at.as_secs(), event.as_json()));
    }

    /// Forgets all events.
    pub(crate) fn forget(&self) {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        stored.clear();
    }

    /// Sends an event to whoever listens.
    pub(crate) fn send(&self, event: &str) {
        // Nobody listens yet, or any more.
        drop(self.live.send(event.into()));
    }

    /// The next answer.
    pub(crate) async fn answer(&mut self) -> Result<Answer> {
        self.answers.recv().await.context("the relay has ended")
    }
}

async fn serve(
    stream: TcpStream,
    stored: Arc<Mutex<Vec<(u64, String)>>>,
    mut live: broadcast::Receiver<Arc<str>>,
    tell: mpsc::UnboundedSender<Answer>,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut socket = tokio_tungstenite::accept_async(stream).await?;
    let mut listening: Option<String> = None;
    loop {
        tokio::select! {
            event = live.recv() => {
                if let (Ok(event), Some(id)) = (event, &listening) {
                    socket.send(Message::text(format!("[\"EVENT\",\"{id}\",{event}]"))).await?;
                }
            }
            message = socket.next() => {
                let Message::Text(text) = message.context("closed")?? else { continue };
                let message: Value = serde_json::from_str(&text)?;
                for said in answer(&message, &stored, &mut listening, &tell) {
                    socket.send(Message::text(said)).await?;
                }
            }
        }
    }
}

fn answer(
    message: &Value,
    stored: &Mutex<Vec<(u64, String)>>,
    listening: &mut Option<String>,
    tell: &mpsc::UnboundedSender<Answer>,
) -> Vec<String> {
    match message[0].as_str() {
        Some("EVENT") => {
            let event = &message[1];
            if event["kind"] == WRAP {
                let to = event["tags"][0][1].as_str().unwrap_or_default().to_owned();
                let (at, event) = (Instant::now(), event.clone());
                drop(tell.send(Answer { to, at, event }));
            }
            vec![json!(["OK", message[1]["id"], true, ""]).to_string()]
        }
        Some("REQ") => {
            let (id, filter) = (message[1].as_str().unwrap_or_default(), &message[2]);
            let kinds = filter["kinds"].as_array();
            let wraps = kinds.is_some_and(|kinds| kinds.iter().any(|kind| *kind == WRAP));
            let mut said = Vec::new();
            if wraps && filter["limit"] == 1 {
                *listening = Some(id.to_owned());
            } else if wraps {
                let since = filter["since"].as_u64().unwrap_or(0);
                let until = filter["until"].as_u64().unwrap_or(u64::MAX);
                let stored = stored.lock().unwrap_or_else(PoisonError::into_inner);
                let asked = stored.iter().filter(|(at, _)| (since..=until).contains(at));
                said.extend(asked.map(|(_, event)| format!("[\"EVENT\",\"{id}\",{event}]")));
            }
            said.push(json!(["EOSE", id]).to_string());
            said
        }
        _ => Vec::new(),
    }
}
