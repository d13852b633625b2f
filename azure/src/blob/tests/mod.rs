//! Blob Storage against a peer that answers by script (what a well-behaved server would never send can be sent there),
//! and against `local` in `storage.rs`.

mod ahead;
mod downloads;
mod listings;
mod storage;
mod tokens;
mod uploads;

use std::{sync::Arc, time::Duration};

use url::Url;

use self::tokens::{CountingTokens, telling};
use super::{Container, ContainerOptions};
use crate::{
    TokenSource,
    http::{HttpClient, HttpOptions},
    peer::{Peer, Reply, Seen},
};

/// Of the peer's container.
const CONTAINER: &str = "batchtoprocess";
/// What every token of the tests holds, and nothing else may.
const SECRET: &str = "TOPSECRET";

fn endpoint(peer: &Peer) -> Url {
    Url::parse(&format!("http://127.0.0.1:{}/account", peer.port())).unwrap()
}

/// The generation of the token that came with a request.
fn generation(seen: &Seen) -> u64 {
    seen.parameter("sig").unwrap().trim_start_matches(SECRET).parse().unwrap()
}

fn http() -> HttpClient {
    let options = HttpOptions { read_timeout: Duration::from_millis(300), ..Default::default() };
    HttpClient::new(&options).unwrap()
}

fn container(peer: &Peer, range_bytes: u64) -> (Container, Arc<CountingTokens>) {
    let tokens = Arc::new(CountingTokens::new(endpoint(peer), telling));
    (with_tokens(&tokens, range_bytes), tokens)
}

fn with_tokens(tokens: &Arc<CountingTokens>, range_bytes: u64) -> Container {
    let source: Arc<dyn TokenSource> = Arc::<CountingTokens>::clone(tokens);
    Container::new(http(), source, ContainerOptions { range_bytes, request_timeout: Duration::from_secs(10) })
}

/// Bytes that differ at every place, so that a lost or repeated one shows.
fn content(length: usize) -> Vec<u8> {
    (0..length as u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).take(length).collect()
}

/// What storage answers when it does not do what it is asked.
fn refusal(status: u16, code: &str) -> Reply {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>quoted</Message></Error>");
    Reply { body: body.into_bytes(), ..Reply::new(status).with("x-ms-error-code", code) }
}

/// What storage answers to a ranged get of `blob`.
fn stored(blob: &[u8], seen: &Seen) -> Reply {
    let reply = |status, body: &[u8]| Reply {
        body: body.to_vec(),
        ..Reply::new(status).with("ETag", "\"0x1\"").with("Content-Type", "application/jsonl")
    };
    match seen.range() {
        Some((first, _)) if first >= blob.len() => refusal(416, "InvalidRange"),
        Some((first, last)) => {
            let last = last.min(blob.len() - 1);
            reply(206, &blob[first..=last]).with("Content-Range", format!("bytes {first}-{last}/{}", blob.len()))
        }
        None => reply(200, blob),
    }
}
