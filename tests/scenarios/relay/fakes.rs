//! Relays that misbehave.

use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use nostr_sdk::{ClientMessage, Event, JsonUtil};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

/// A relay that speaks by a script; it goes away when dropped.
pub(crate) struct Fake {
    pub(crate) url: String,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Answer = Arc<dyn Fn(&ClientMessage<'static>) -> Vec<String> + Send + Sync>;

impl Fake {
    async fn each<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
            }
        });
        Self { url, task }
    }

    /// Takes connections and never says a word.
    pub(crate) async fn mute() -> Self {
        Self::each(|mut stream| async move {
            let mut buffer = [0; 1024];
            while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
        })
        .await
    }

    /// Closes each connection at once.
    pub(crate) async fn slam() -> Self {
        Self::each(|stream| async move { drop(stream) }).await
    }

    /// Answers each message with what `answer` makes of it.
    pub(crate) async fn scripted(
        answer: impl Fn(&ClientMessage<'static>) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        let answer: Answer = Arc::new(answer);
        Self::each(move |stream| converse(stream, answer.clone())).await
    }

    /// Sends what is no message of NIP-01, to everything.
    pub(crate) async fn garbage() -> Self {
        Self::scripted(|_| {
            let nested = "[".repeat(10_000);
            let lines = [
                "",
                "{}",
                "[\"EVENT\"]",
                "[\"OK\",1,2,3]",
                "\u{0}\u{1}",
                "[]",
            ];
            let mut all: Vec<String> = lines.iter().map(ToString::to_string).collect();
            all.push(nested);
            all.push("x".repeat(300_000));
            all
        })
        .await
    }

    /// Serves `events` to each request a thousand times over, whatever was
    /// asked for, and says nothing else.
    pub(crate) async fn liar(events: Vec<Event>) -> Self {
        Self::scripted(move |message| match message {
            ClientMessage::Req {
                subscription_id, ..
            } => events
                .iter()
                .cycle()
                .take(1000)
                .map(|e| format!("[\"EVENT\",\"{subscription_id}\",{}]", e.as_json()))
                .collect(),
            _ => Vec::new(),
        })
        .await
    }
}

async fn converse(stream: TcpStream, answer: Answer) {
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
        return;
    };
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else {
            continue;
        };
        let Ok(said) = ClientMessage::from_json(text.as_str()) else {
            continue;
        };
        for line in answer(&said) {
            if socket.send(Message::text(line)).await.is_err() {
                return;
            }
        }
    }
}
