//! Tokens of your own making: here from a file that something else keeps fresh, as the agent of a secret store does.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use url::Url;
use waybill_azure::{BoxFuture, Generation, Grant, GrantError, Secret, Service, Token, TokenSource};
use waybill_examples::playground::{Playground, subscriber_tokens};
use waybill_subscriber::{
    Subscriber,
    inbox::{SqliteInbox, Wanted},
    sink::StdoutSink,
};

/// What the file holds of a service.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Stored {
    endpoint: String,
    entity: String,
    sas: String,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Both {
    bus: Stored,
    blob: Stored,
}

#[derive(Debug)]
struct TokenFile {
    path: PathBuf,
    /// The newest content, and which it is. One caller reads, the others wait for what it finds.
    newest: Mutex<Option<(Generation, String)>>,
    changes: watch::Sender<Generation>,
}

impl TokenFile {
    fn new(path: PathBuf) -> Self {
        Self { path, newest: Mutex::new(None), changes: watch::Sender::new(Generation::default()) }
    }

    async fn grant_of(&self, service: Service, refused: Option<Generation>) -> Result<Grant, GrantError> {
        let unavailable = |problem: String| {
            let retry_after = Some(Duration::from_secs(1));
            GrantError::Unavailable { service, problem, retry_after }
        };
        let mut newest = self.newest.lock().await;
        let known = newest.clone().filter(|(generation, _)| refused != Some(*generation));
        let (generation, text) = match known {
            Some(known) => known,
            None => {
                let failed = |error: std::io::Error| unavailable(format!("{}: {error}", self.path.display()));
                let text = tokio::fs::read_to_string(&self.path).await.map_err(failed)?;
                if newest.as_ref().is_some_and(|(_, refused)| *refused == text) {
                    return Err(unavailable("the file still holds the token that was refused".to_owned()));
                }
                let generation = Generation(newest.as_ref().map_or(0, |(generation, _)| generation.0) + 1);
                *newest = Some((generation, text.clone()));
                self.changes.send_replace(generation);
                (generation, text)
            }
        };
        // The parser's words may quote the file, and with it a token.
        let both: Both =
            serde_json::from_str(&text).map_err(|_| unavailable("the file is no JSON of tokens".to_owned()))?;
        let Stored { endpoint, entity, sas, expires_at } = match service {
            Service::Bus => both.bus,
            Service::Blob => both.blob,
        };
        let endpoint =
            Url::parse(&endpoint).map_err(|error| unavailable(format!("the endpoint is no address: {error}")))?;
        let token = Token::Sas(Secret::new(sas));
        Ok(Grant { endpoint, entity, token, expires_at, generation })
    }
}

impl TokenSource for TokenFile {
    fn grant(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Grant, GrantError>> {
        Box::pin(self.grant_of(service, refused))
    }

    fn changes(&self) -> watch::Receiver<Generation> {
        self.changes.subscribe()
    }
}

/// What the agent does; yours knows where the tokens come from.
async fn keep_fresh(azure: &Playground, path: &Path) -> anyhow::Result<()> {
    let tokens = subscriber_tokens(azure.ready_file())?;
    let stored = async |service| {
        let Grant { endpoint, entity, token, expires_at, .. } = tokens.grant(service, None).await?;
        anyhow::Ok(Stored { endpoint: endpoint.into(), entity, sas: token.expose().to_owned(), expires_at })
    };
    let both = Both { bus: stored(Service::Bus).await?, blob: stored(Service::Blob).await? };
    // Under another name first, so that nobody reads half of it.
    let new = path.with_extension("new");
    tokio::fs::write(&new, serde_json::to_vec(&both)?).await?;
    Ok(tokio::fs::rename(&new, path).await?)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let azure = Playground::start(folder.path()).await?;
    let path = folder.path().join("tokens.json");
    keep_fresh(&azure, &path).await?;

    let inbox = SqliteInbox::open(&folder.path().join("inbox.sqlite"), Default::default()).await?;
    let subscriber = Subscriber::builder().with_tokens(inbox, Arc::new(TokenFile::new(path)))?;
    let sink = StdoutSink::open(&folder.path().join("progress.sqlite")).await?;

    let stop = CancellationToken::new();
    let quiet = async {
        let idle = subscriber.until_idle(&Wanted::default(), Duration::from_secs(1), true, &stop).await;
        stop.cancel();
        idle
    };
    let (ran, idle) = tokio::join!(subscriber.run(sink, stop.clone()), quiet);
    ran?;
    idle?;
    azure.stop().await;
    Ok(())
}
