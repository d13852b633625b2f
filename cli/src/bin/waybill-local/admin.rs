//! The admin endpoint of a running `waybill-local`, as its commands ask it.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, anyhow, bail};
use reqwest::{Method, Url, redirect};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use waybill_cli::args::Format;
use waybill_contracts::ReadyFile;

/// Where a `waybill-local run` without configuration has it.
const DEFAULT_URL: &str = "http://127.0.0.1:8081";

/// Far more than any answer takes.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Which running `waybill-local`, and how to print what it says.
#[derive(Debug, clap::Args)]
pub(crate) struct Running {
    /// The ready file of the one that is meant
    #[arg(long, value_name = "READY_FILE", conflicts_with = "admin")]
    local: Option<PathBuf>,
    /// Its admin endpoint [default: http://127.0.0.1:8081]
    #[arg(long, value_name = "URL", value_parser = admin_url)]
    admin: Option<Url>,
    /// How results are printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

fn admin_url(text: &str) -> Result<Url, String> {
    let url = text.parse::<Url>().map_err(|error| format!("{error}; write it as {DEFAULT_URL}"))?;
    if url.scheme() != "http" || url.host().is_none() {
        return Err(format!("it is no http address; write it as {DEFAULT_URL}"));
    }
    Ok(url)
}

/// The endpoint.
pub(crate) struct Admin {
    client: reqwest::Client,
    url: Url,
    /// Said when nothing answers.
    if_silent: String,
}

#[derive(Deserialize)]
struct Refused {
    error: Problem,
}

#[derive(Deserialize)]
struct Problem {
    message: String,
}

impl Running {
    pub(crate) fn admin(&self) -> anyhow::Result<Admin> {
        let (url, if_silent) = match (&self.local, &self.admin) {
            (Some(path), _) => {
                let shown = path.display();
                let text = match std::fs::read_to_string(path) {
                    Ok(text) => text,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                        "there is no ready file {shown}; start `waybill-local run --ready-file {shown}`, or name the \
                         endpoint with --admin URL"
                    ),
                    Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
                };
                let ready: ReadyFile = serde_json::from_str(&text)
                    .with_context(|| format!("{shown} is no ready file of waybill-local"))?;
                let url = admin_url(&ready.admin_url)
                    .map_err(|problem| anyhow!("{shown} names the admin endpoint {}: {problem}", ready.admin_url))?;
                (url, format!("the waybill-local that wrote {shown} has ended; start it again"))
            }
            (None, Some(url)) => (url.clone(), "is waybill-local running, with this admin port?".to_owned()),
            (None, None) => {
                let advice =
                    "start `waybill-local run`, or name the one that is meant with --local READY_FILE or --admin URL";
                (admin_url(DEFAULT_URL).map_err(anyhow::Error::msg)?, advice.to_owned())
            }
        };
        // It is on this machine: no proxy, and nothing to be redirected to.
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()
            .context("cannot make an HTTP client")?;
        Ok(Admin { client, url, if_silent })
    }
}

impl Admin {
    pub(crate) async fn get(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Value> {
        self.call(Method::GET, path, query, String::new()).await
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: String,
    ) -> anyhow::Result<Value> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/'));
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let sent = self.client.request(method, url).body(body).send().await;
        let answer = sent.map_err(|error| {
            let why = if error.is_timeout() { "does not answer in time" } else { "cannot be reached" };
            anyhow!("{} {why}; {}", self.shown(), self.if_silent)
        })?;
        let status = answer.status();
        let bytes = answer.bytes().await.with_context(|| format!("{} broke off its answer", self.shown()))?;
        if status.is_success() {
            return self.read(&bytes);
        }
        match serde_json::from_slice::<Refused>(&bytes) {
            Ok(refused) => bail!("{}", refused.error.message),
            Err(_) => bail!("{} answers {status}, and is no admin endpoint of waybill-local", self.shown()),
        }
    }

    fn read<T: DeserializeOwned>(&self, bytes: &[u8]) -> anyhow::Result<T> {
        serde_json::from_slice(bytes)
            .with_context(|| format!("{} answers something else than waybill-local does", self.shown()))
    }

    fn shown(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }
}
