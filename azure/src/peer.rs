//! An HTTP server that answers by script and remembers what it was asked.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufStream},
    net::{TcpListener, TcpStream},
    sync::Barrier,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    /// First and last byte of `Range`.
    pub(crate) fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().unwrap(), last.parse().unwrap()))
    }
}

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Whole,
    /// The connection is closed after so many bytes of the body.
    Cut(usize),
    /// Nothing more comes after so many bytes of the body.
    Stall(usize),
    /// The connection is reset before any answer.
    Reset,
}

#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Else with `Content-Length`.
    pub(crate) chunked: bool,
    pub(crate) end: End,
    /// It waits here first.
    pub(crate) gate: Option<Arc<Barrier>>,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), chunked: false, end: End::Whole, gate: None }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn behind(self, gate: &Arc<Barrier>) -> Self {
        Self { gate: Some(Arc::clone(gate)), ..self }
    }

    pub(crate) fn ending(self, end: End) -> Self {
        Self { end, ..self }
    }
}

type Script = dyn Fn(usize, &Seen) -> Reply + Send + Sync;

/// The server. It ends when dropped.
pub(crate) struct Peer {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    _tasks: JoinSet<()>,
}

impl Peer {
    /// Answers each request, counted from 0, by `script`.
    pub(crate) async fn start(script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(script, None).await
    }

    /// The same over TLS.
    pub(crate) async fn start_tls(
        tls: TlsAcceptor,
        script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(script, Some(tls)).await
    }

    async fn listen(script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let (script, log): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&seen));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (script, log, tls) = (Arc::clone(&script), Arc::clone(&log), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, &script, &log, reset).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &script, &log, |stream| reset(stream.get_ref().0)).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, seen, _tasks: tasks }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// Makes the end of a connection a reset.
fn reset(stream: &TcpStream) {
    #[allow(deprecated, reason = "nothing else makes a socket answer with RST")]
    stream.set_linger(Some(Duration::ZERO)).unwrap();
}

async fn serve<S>(stream: S, script: &Arc<Script>, log: &Arc<Mutex<Vec<Seen>>>, reset: impl Fn(&S))
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufStream::new(stream);
    while let Some(request) = read(&mut stream).await {
        let number = {
            let mut log = log.lock().unwrap();
            log.push(request.clone());
            log.len() - 1
        };
        let reply = script(number, &request);
        if let Some(gate) = &reply.gate {
            gate.wait().await;
        }
        if reply.end == End::Reset {
            reset(stream.get_ref());
            return;
        }
        if write(&mut stream, &request, reply).await.is_none() {
            return;
        }
    }
}

async fn read(stream: &mut BufStream<impl AsyncRead + AsyncWrite + Unpin>) -> Option<Seen> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|length| *length > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Seen { method, path: path.to_owned(), query: query.to_owned(), headers, body })
}

/// `None` when the connection is over.
async fn write(
    stream: &mut BufStream<impl AsyncRead + AsyncWrite + Unpin>,
    request: &Seen,
    reply: Reply,
) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match reply.chunked {
        true => head.push_str("Transfer-Encoding: chunked\r\n\r\n"),
        false if reply.headers.iter().any(|(name, _)| *name == "Content-Length") => head.push_str("\r\n"),
        false => head.push_str(&format!("Content-Length: {}\r\n\r\n", reply.body.len())),
    }
    stream.write_all(head.as_bytes()).await.ok()?;
    if request.method != "HEAD" {
        let sent = match reply.end {
            End::Cut(sent) | End::Stall(sent) => &reply.body[..sent],
            End::Whole | End::Reset => &reply.body[..],
        };
        if reply.chunked {
            stream.write_all(format!("{:x}\r\n", sent.len()).as_bytes()).await.ok()?;
            stream.write_all(sent).await.ok()?;
            stream.write_all(b"\r\n0\r\n\r\n").await.ok()?;
        } else {
            stream.write_all(sent).await.ok()?;
        }
    }
    stream.flush().await.ok()?;
    match reply.end {
        End::Whole => Some(()),
        End::Stall(_) => std::future::pending().await,
        End::Cut(_) | End::Reset => None,
    }
}
