//! Large blobs up and down, and small ones a second, by one HTTP client on loopback: against `local` in this process and,
//! when `WAYBILL_TEST_NODE` names the folder that `cargo xtask setup` makes, against Azurite in the same run.
//! `cargo bench -p waybill-local --bench blob`

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::stream;
use reqwest::{Body, Client, Method, Response};
use time::OffsetDateTime;
use waybill_local::{Local, keys::Keys};

/// Of the large blob: more than all that is kept in memory, less than any page cache.
const LARGE: usize = 512 << 20;
/// Of its blocks, when it goes up in blocks.
const BLOCK: usize = 8 << 20;
/// Of what a client hands over at a time.
const PIECE: usize = 256 << 10;
const LONG: Duration = Duration::from_secs(3);

/// An account that is measured.
struct Place {
    client: Client,
    endpoint: String,
    sas: String,
}

#[tokio::main]
async fn main() {
    let local = Local::builder().start().await.expect("local starts");
    let endpoint = format!("http://127.0.0.1:{}/devstoreaccount1", local.ports().blob);
    println!("waybill-local, in this process with the client");
    Place::new(endpoint).measure().await;
    println!("  memory of this process at most: {} MB", peak_memory().unwrap_or_default() >> 20);
    local.stop().await;
    match std::env::var_os("WAYBILL_TEST_NODE") {
        Some(node) => {
            let folder = tempfile::tempdir().expect("a folder");
            let (_azurite, endpoint) = Azurite::start(&PathBuf::from(node), folder.path());
            println!("Azurite, in a process of its own");
            Place::new(endpoint).measure().await;
        }
        None => println!("Azurite is not measured: WAYBILL_TEST_NODE is not set"),
    }
}

impl Place {
    fn new(endpoint: String) -> Self {
        let sas = Keys::emulator().account_sas("rwdlc", OffsetDateTime::now_utc().unix_timestamp() + 3600);
        Self { client: Client::builder().no_proxy().build().expect("a client"), endpoint, sas }
    }

    async fn measure(&self) {
        self.ask(Method::PUT, "bench?restype=container", Body::from(""), 0).await;
        let began = Instant::now();
        self.ask(Method::PUT, "bench/large", pieces(LARGE), LARGE).await;
        report("Put Blob", LARGE, began);

        let began = Instant::now();
        let mut list = String::from("<BlockList>");
        for block in 0..LARGE / BLOCK {
            let path = format!("bench/blocks?comp=block&blockid=MDAw{block:04}");
            self.ask(Method::PUT, &path, pieces(BLOCK), BLOCK).await;
            list.push_str(&format!("<Latest>MDAw{block:04}</Latest>"));
        }
        list.push_str("</BlockList>");
        let length = list.len();
        self.ask(Method::PUT, "bench/blocks?comp=blocklist", Body::from(list), length).await;
        report("Put Block, 8 MiB each, and Put Block List", LARGE, began);

        for name in ["large", "blocks"] {
            let (mut bytes, began) = (0, Instant::now());
            while began.elapsed() < LONG {
                let length = self.get(name).await;
                assert_eq!(length, LARGE, "all of it comes");
                bytes += length;
            }
            report(&format!("Get Blob of {name}"), bytes, began);
        }

        self.ask(Method::PUT, "bench/small", pieces(1024), 1024).await;
        for waiting in [1, 16] {
            let (mut count, began) = (0u64, Instant::now());
            while began.elapsed() < LONG {
                count += futures::future::join_all((0..waiting).map(|_| self.get("small"))).await.len() as u64;
            }
            let rate = count as f64 / began.elapsed().as_secs_f64();
            println!("  Get Blob of 1 KiB, {waiting} at a time: {rate:.0} /s");
        }
    }

    async fn get(&self, name: &str) -> usize {
        let mut answer = self.ask(Method::GET, &format!("bench/{name}"), Body::from(""), 0).await;
        let mut bytes = 0;
        while let Some(piece) = answer.chunk().await.expect("the body comes") {
            bytes += piece.len();
        }
        bytes
    }

    async fn ask(&self, method: Method, path: &str, body: Body, length: usize) -> Response {
        let joint = if path.contains('?') { '&' } else { '?' };
        let url = format!("{}/{path}{joint}{}", self.endpoint, self.sas);
        let ask = self.client.request(method.clone(), url).header("x-ms-version", "2021-12-02");
        let ask = match method {
            Method::PUT => {
                // Azurite takes a block list that has this header for the blob itself.
                let ask = if path.contains("comp=") { ask } else { ask.header("x-ms-blob-type", "BlockBlob") };
                ask.header("content-type", "application/xml").header("content-length", length).body(body)
            }
            _ => ask,
        };
        let answer = ask.send().await.expect("an answer");
        assert!(answer.status().is_success(), "{method} {path}: {}", answer.status());
        answer
    }
}

/// A body of `length` bytes.
fn pieces(length: usize) -> Body {
    let piece = Bytes::from(vec![b'x'; PIECE]);
    Body::wrap_stream(stream::unfold(length, move |left| {
        let next = piece.slice(..left.min(PIECE));
        let left = left - next.len();
        async move { (!next.is_empty()).then_some((Ok::<_, std::io::Error>(next), left)) }
    }))
}

fn report(what: &str, bytes: usize, began: Instant) {
    println!("  {what}: {:.2} GB/s", bytes as f64 / 1e9 / began.elapsed().as_secs_f64());
}

/// The largest resident set so far, in bytes, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib << 10)
}

/// Ends with the bench, however that ends.
struct Azurite(Child);

impl Azurite {
    fn start(node: &std::path::Path, folder: &std::path::Path) -> (Self, String) {
        let mut command = Command::new("node");
        command.arg(node.join("node_modules/azurite/dist/src/blob/main.js"));
        command.args(["--blobPort", "0", "--silent", "--skipApiVersionCheck", "--disableTelemetry", "--location"]);
        let mut azurite = Self(command.arg(folder).stdout(Stdio::piped()).spawn().expect("node is installed"));
        let output = BufReader::new(azurite.0.stdout.take().expect("its output is ours"));
        for line in output.lines() {
            let line = line.expect("its output is text");
            if let Some((_, address)) = line.split_once("successfully listens on ") {
                return (azurite, format!("{}/devstoreaccount1", address.trim()));
            }
        }
        let ended = azurite.0.wait();
        panic!("Azurite ended before it listened: {ended:?}");
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}
