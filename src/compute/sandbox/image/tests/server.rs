//! A registry in memory, on loopback.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::super::testing::{MANIFEST, TestImage, sha256};

/// What the registry does besides answering.
#[derive(Clone, Default)]
struct Mood {
    /// Blobs wait while this is true.
    hold_blobs: bool,
    /// Ask for a token from `/token`.
    token: bool,
    /// Answer everything with this status.
    status: Option<u16>,
}

#[derive(Default)]
struct Content {
    manifests: HashMap<String, Vec<u8>>,
    blobs: HashMap<String, Vec<u8>>,
    asked: Vec<String>,
}

#[derive(Clone)]
struct Shared {
    address: String,
    content: Arc<Mutex<Content>>,
    mood: watch::Sender<Mood>,
}

pub(super) struct Registry {
    shared: Shared,
    _server: AbortOnDropHandle<()>,
}

impl Registry {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Shared {
            address: listener.local_addr().unwrap().to_string(),
            content: Arc::default(),
            mood: watch::Sender::new(Mood::default()),
        };
        let app = Router::new()
            .route("/token", get(token))
            .route("/v2/", get(version))
            .route("/v2/me/app/manifests/{name}", get(manifest))
            .route("/v2/me/app/blobs/{digest}", get(blob))
            .with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            shared,
            _server: AbortOnDropHandle::new(server),
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.shared.address
    }

    /// Serves an image under a tag.
    pub(super) fn push(&self, tag: &str, image: &TestImage) {
        self.push_manifest(tag, &image.manifest);
        self.push_blobs(image);
    }

    pub(super) fn push_manifest(&self, name: &str, manifest: &[u8]) {
        let mut content = self.shared.content.lock().unwrap();
        content.manifests.insert(name.to_owned(), manifest.to_vec());
        content
            .manifests
            .insert(sha256(manifest), manifest.to_vec());
    }

    pub(super) fn push_blobs(&self, image: &TestImage) {
        for blob in &image.blobs {
            self.push_blob(&sha256(blob), blob);
        }
    }

    pub(super) fn push_blob(&self, digest: &str, blob: &[u8]) {
        let mut content = self.shared.content.lock().unwrap();
        content.blobs.insert(digest.to_owned(), blob.to_vec());
    }

    /// Paths that were asked for since the last call, in order.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.content.lock().unwrap().asked)
    }

    pub(super) fn hold_blobs(&self, hold: bool) {
        self.shared.mood.send_modify(|mood| mood.hold_blobs = hold);
    }

    pub(super) fn want_token(&self) {
        self.shared.mood.send_modify(|mood| mood.token = true);
    }

    pub(super) fn answer_only(&self, status: Option<u16>) {
        self.shared.mood.send_modify(|mood| mood.status = status);
    }

    /// Returns when a blob is asked for.
    pub(super) async fn wait_for_blob(&self) {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let asked = self.shared.content.lock().unwrap().asked.clone();
            if asked.iter().any(|path| path.starts_with("blob ")) {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "nobody asks for a blob"
            );
            tokio::task::yield_now().await;
        }
    }
}

impl Shared {
    fn note(&self, what: String) {
        self.content.lock().unwrap().asked.push(what);
    }

    fn refusal(&self, headers: &HeaderMap) -> Option<Response> {
        let mood = self.mood.borrow();
        if let Some(status) = mood.status {
            return Some(StatusCode::from_u16(status).unwrap().into_response());
        }
        let given = headers.get(header::AUTHORIZATION);
        if !mood.token || given.is_some_and(|token| token == "Bearer sesame") {
            return None;
        }
        let challenge = format!(
            "Bearer realm=\"http://{}/token\",service=\"test\"",
            self.address
        );
        let headers = [(header::WWW_AUTHENTICATE, challenge)];
        Some((StatusCode::UNAUTHORIZED, headers).into_response())
    }
}

async fn token(State(shared): State<Shared>) -> &'static str {
    shared.note("token".to_owned());
    r#"{"token":"sesame"}"#
}

async fn version(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    shared
        .refusal(&headers)
        .unwrap_or_else(|| StatusCode::OK.into_response())
}

async fn manifest(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    if let Some(refusal) = shared.refusal(&headers) {
        return refusal;
    }
    shared.note(format!("manifest {name}"));
    match shared.content.lock().unwrap().manifests.get(&name) {
        Some(body) => ([(header::CONTENT_TYPE, MANIFEST)], body.clone()).into_response(),
        None => {
            let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"<b>no</b>"}]}"#;
            (StatusCode::NOT_FOUND, body).into_response()
        }
    }
}

async fn blob(
    State(shared): State<Shared>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Response {
    if let Some(refusal) = shared.refusal(&headers) {
        return refusal;
    }
    shared.note(format!("blob {digest}"));
    let mut mood = shared.mood.subscribe();
    let _ = mood.wait_for(|mood| !mood.hold_blobs).await;
    match shared.content.lock().unwrap().blobs.get(&digest) {
        Some(body) => Body::from(body.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
