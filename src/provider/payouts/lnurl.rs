//! Lightning addresses: an invoice for `name@host` (LUD-16, LUD-06). The server is
//! the operator's own or one that they trust; what it says is bounded and the
//! invoice is checked for its amount.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use url::{Host, Url};

use crate::core::money::Msat;
use crate::wallet::{Invoice, read_invoice};

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// Longest part of a server's own words in a message.
const MAX_WORDS: usize = 160;

/// A Lightning address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    name: String,
    host: String,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a Lightning address, such as name@host");
        let (name, host) = text.split_once('@').ok_or_else(bad)?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.+".contains(c);
        let known = (1..=64).contains(&name.len()) && name.chars().all(plain);
        let is_host = host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c));
        let address = Self {
            name: name.to_owned(),
            host: host.to_ascii_lowercase(),
        };
        if !known || host.is_empty() || host.len() > 255 || !is_host {
            return Err(bad());
        }
        address.url().map_err(|_| bad())?;
        Ok(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.host)
    }
}

impl Address {
    /// Where its server tells how it is paid.
    fn url(&self) -> Result<Url, String> {
        let path = format!("//{}/.well-known/lnurlp/{}", self.host, self.name);
        let https = Url::parse(&format!("https:{path}")).map_err(|error| error.to_string())?;
        if !is_private(&https) {
            return Ok(https);
        }
        Url::parse(&format!("http:{path}")).map_err(|error| error.to_string())
    }

    /// Asks its server for an invoice over `amount`.
    ///
    /// # Errors
    /// A sentence: no answer, not a service for paying, an amount that it does not
    /// take, or another invoice than was asked for.
    pub async fn invoice(&self, amount: Msat) -> Result<Invoice, String> {
        let terms: Terms = fetch(self.url()?).await?;
        if terms.tag != "payRequest" {
            return Err("the server takes no payments there".to_owned());
        }
        let range = terms.least..=terms.most;
        if !range.contains(&amount.get()) {
            let (least, most) = (Msat::new(terms.least), Msat::new(terms.most));
            return Err(format!("it takes {least} to {most}, not {amount}"));
        }
        let mut callback = Url::parse(&terms.callback).map_err(|error| error.to_string())?;
        if callback.scheme() != "https" && !(callback.scheme() == "http" && is_private(&callback)) {
            return Err("its server wants to be asked in the clear".to_owned());
        }
        callback
            .query_pairs_mut()
            .append_pair("amount", &amount.get().to_string());
        let given: Given = fetch(callback).await?;
        let invoice = read_invoice(&given.pr).map_err(|error| error.to_string())?;
        if invoice.amount != amount {
            let got = invoice.amount;
            return Err(format!(
                "its server made an invoice over {got}, not {amount}"
            ));
        }
        Ok(invoice)
    }
}

/// Whether what is sent there in the clear is seen by nobody on the way.
fn is_private(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".onion"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[derive(Deserialize)]
struct Terms {
    tag: String,
    callback: String,
    #[serde(rename = "minSendable")]
    least: u64,
    #[serde(rename = "maxSendable")]
    most: u64,
}

#[derive(Deserialize)]
struct Given {
    pr: String,
}

#[derive(Deserialize)]
struct Trouble {
    status: String,
    #[serde(default)]
    reason: String,
}

async fn fetch<T: serde::de::DeserializeOwned>(url: Url) -> Result<T, String> {
    let asked = tokio::time::timeout(PATIENCE, body(url)).await;
    let text = asked.map_err(|_| "its server does not answer in time".to_owned())??;
    if let Ok(trouble) = serde_json::from_slice::<Trouble>(&text)
        && trouble.status.eq_ignore_ascii_case("error")
    {
        let said = trouble.reason.chars().filter(|c| !c.is_control());
        let said: String = said.take(MAX_WORDS).collect();
        return Err(format!("its server says: {said}"));
    }
    serde_json::from_slice(&text).map_err(|_| "its server's answer cannot be read".to_owned())
}

async fn body(url: Url) -> Result<Vec<u8>, String> {
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| error.to_string())?;
    let answer = client.get(url).send().await;
    let mut answer = answer.map_err(|error| error.without_url().to_string())?;
    let mut text = Vec::new();
    while let Some(part) = answer
        .chunk()
        .await
        .map_err(|error| error.without_url().to_string())?
    {
        text.extend_from_slice(&part);
        if text.len() > MAX_ANSWER {
            return Err(format!("its server says more than {MAX_ANSWER} bytes"));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_name_at_a_host_and_nothing_else() {
        let url = |text: &str| text.parse::<Address>().unwrap().url().unwrap().to_string();
        assert_eq!(
            url("me@pay.example"),
            "https://pay.example/.well-known/lnurlp/me"
        );
        assert_eq!(
            url("a.b-c_d+e@127.0.0.1:8080"),
            "http://127.0.0.1:8080/.well-known/lnurlp/a.b-c_d+e"
        );
        for bad in [
            "me",
            "@pay.example",
            "me@",
            "ME@pay.example",
            "me@pay.example/x",
            "me@evil@pay.example",
            "me@user:pw@pay.example",
            "../x@pay.example",
            "me@pay.example?x",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        assert_eq!(
            "me@Pay.Example".parse::<Address>().unwrap().to_string(),
            "me@pay.example"
        );
    }
}
