//! How requests reach a mint: with a time limit each, never repeated behind our
//! back, and with a count of the swaps that may have left.
//!
//! cdk's client repeats a swap by itself where the mint caches answers (NUT-19)
//! and an error looks harmless. Here no error does: repeating is
//! [`Wallet::recover`](super::Wallet::recover)'s work, which knows the saga.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cdk::nuts::AuthToken;
use cdk::wallet::{BaseHttpClient, HttpTransport};
use cdk_common::rate_limit::RateLimitedTransport;
use cdk_common::{HttpError, RawResponse};
use cdk_http_client::Async;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use url::Url;

use super::calls::Calls;

/// A mint's client: paced, with a time limit, and counting.
pub(super) type Client = BaseHttpClient<RateLimitedTransport<Guarded>>;

/// How many swaps were sent, or may have been, and what became of the last melt.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    swaps: Arc<AtomicU64>,
    melt_answered: Arc<AtomicBool>,
}

impl Sent {
    /// The count until now.
    pub(super) fn count(&self) -> u64 {
        self.swaps.load(Ordering::SeqCst)
    }

    /// A melt is about to be sent: nobody has answered it yet.
    pub(super) fn expect_melt(&self) {
        self.melt_answered.store(false, Ordering::SeqCst);
    }

    /// Whether the last melt was answered by the mint itself.
    pub(super) fn melt_was_answered(&self) -> bool {
        self.melt_answered.load(Ordering::SeqCst)
    }

    fn note_melt<T>(&self, answer: &Result<T, HttpError>) {
        let answered = match answer {
            Ok(_) => true,
            // Others may come from a proxy on the way, which had passed it on.
            Err(HttpError::Status { status, .. }) => {
                (400..500).contains(status) && ![408, 425, 429].contains(status)
            }
            Err(_) => false,
        };
        self.melt_answered.store(answered, Ordering::SeqCst);
    }
}

/// cdk's transport with a time limit on every request.
#[derive(Clone, Debug)]
pub(super) struct Guarded {
    inner: Async,
    timeout: Duration,
    sent: Sent,
    calls: Calls,
}

impl Guarded {
    pub(super) fn new(timeout: Duration, sent: Sent, calls: Calls) -> Self {
        Self {
            inner: Async::default(),
            timeout,
            sent,
            calls,
        }
    }

    async fn limited<T>(
        &self,
        request: impl Future<Output = Result<T, HttpError>> + Send,
    ) -> Result<T, HttpError> {
        let call = self.calls.begin();
        let result = match tokio::time::timeout(self.timeout, request).await {
            Ok(Err(HttpError::Connection(why))) => Err(HttpError::Other(why)),
            Ok(Err(HttpError::Timeout)) | Err(_) => {
                Err(HttpError::Other("no answer in time".to_owned()))
            }
            Ok(result) => result,
        };
        call.end(result.as_ref().err().and_then(failed));
        result
    }

    /// Connects and hangs up. Where that fails, the request itself need not be
    /// sent, and it is known that nothing was.
    async fn knock(&self, url: &Url) -> Result<(), HttpError> {
        let call = self.calls.begin();
        let done = knock(url, self.timeout).await;
        match &done {
            // The request that follows tells.
            Ok(()) => call.forget(),
            Err(why) => call.end(Some(why.clone())),
        }
        done.map_err(HttpError::Other)
    }
}

/// Why this error is the mint's, or the way's, and no answer: one sentence.
fn failed(error: &HttpError) -> Option<String> {
    match error {
        // An error of its own is an answer; of a server, or one that has too much
        // to do, it is not.
        HttpError::Status { status, .. } if *status < 500 && *status != 429 => None,
        HttpError::Status { status, .. } => Some(format!("it answers with HTTP status {status}")),
        other => Some(other.to_string()),
    }
}

/// A melt without its wish to be answered before it is done (`prefer_async`).
///
/// Nutshell 0.20 answers such a melt as pending and sets the quote to pending only
/// later: whoever asks in between is told that it is unpaid, and it is paid then.
/// Where the mint answers when it is done, no other request sees that moment.
fn in_the_foreground<P: Serialize>(melt: &P) -> Result<serde_json::Value, HttpError> {
    let mut melt = serde_json::to_value(melt)
        .map_err(|error| HttpError::Other(format!("the melt cannot be written: {error}")))?;
    if let Some(fields) = melt.as_object_mut() {
        fields.remove("prefer_async");
    }
    Ok(melt)
}

/// Tries whether the server behind `url` takes connections.
pub(super) async fn knock(url: &Url, timeout: Duration) -> Result<(), String> {
    let host = match url.host() {
        Some(url::Host::Domain(name)) => name.to_owned(),
        Some(url::Host::Ipv4(ip)) => ip.to_string(),
        Some(url::Host::Ipv6(ip)) => ip.to_string(),
        None => return Err("the URL names no host".to_owned()),
    };
    let port = url.port_or_known_default().unwrap_or(443);
    match tokio::time::timeout(timeout, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no connection in time".to_owned()),
    }
}

#[async_trait]
impl HttpTransport for Guarded {
    fn with_proxy(
        &mut self,
        proxy: Url,
        host_matcher: Option<&str>,
        accept_invalid_certs: bool,
    ) -> Result<(), HttpError> {
        self.inner
            .with_proxy(proxy, host_matcher, accept_invalid_certs)
    }

    async fn http_get<R>(&self, url: Url, auth: Option<AuthToken>) -> Result<R, HttpError>
    where
        R: DeserializeOwned,
    {
        // By the raw request: the generic one does not promise a future that is Send.
        self.http_get_raw(url, auth).await?.json_or_status_error()
    }

    async fn http_get_raw(
        &self,
        url: Url,
        auth: Option<AuthToken>,
    ) -> Result<RawResponse, HttpError> {
        let answer = self.limited(self.inner.http_get_raw(url, auth)).await?;
        if answer.is_server_error() {
            let why = format!("it answers with HTTP status {}", answer.status());
            self.calls.begin().end(Some(why));
        }
        Ok(answer)
    }

    async fn http_post<P, R>(
        &self,
        url: Url,
        auth_token: Option<AuthToken>,
        payload: &P,
    ) -> Result<R, HttpError>
    where
        P: Serialize + Send + Sync,
        R: DeserializeOwned,
    {
        if url.path().ends_with("/v1/swap") {
            self.knock(&url).await?;
            self.sent.swaps.fetch_add(1, Ordering::SeqCst);
        }
        if !url.path().ends_with("/v1/melt/bolt11") {
            return self
                .limited(self.inner.http_post(url, auth_token, payload))
                .await;
        }
        let payload = in_the_foreground(payload)?;
        let answer = self
            .limited(self.inner.http_post(url, auth_token, &payload))
            .await;
        self.sent.note_melt(&answer);
        answer
    }

    async fn http_post_form_raw<P>(
        &self,
        url: Url,
        auth_token: Option<AuthToken>,
        payload: &P,
    ) -> Result<RawResponse, HttpError>
    where
        P: Serialize + Send + Sync,
    {
        self.limited(self.inner.http_post_form_raw(url, auth_token, payload))
            .await
    }
}

#[cfg(test)]
mod tests {
    use cdk::nuts::MeltRequest;

    use super::*;

    #[test]
    fn a_melt_does_not_ask_to_be_answered_early() {
        let melt = MeltRequest::new("a quote".to_owned(), Vec::new(), None);
        let plain = serde_json::to_value(&melt).unwrap();
        let early = melt.prefer_async(true);
        assert_eq!(serde_json::to_value(&early).unwrap()["prefer_async"], true);
        let sent = in_the_foreground(&early).unwrap();
        assert_eq!(sent["quote"], "a quote");
        assert_eq!(sent, in_the_foreground(&plain).unwrap());
        assert_eq!(sent.get("prefer_async"), None);
    }
}
