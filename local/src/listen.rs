//! HTTP/1.1 connections of the Blob, tenant, authority and admin endpoints, with TLS or without: accepted, served, cut in
//! the middle, reset, and ended in stages. Over a ready-made server because a fault script must end a connection after an
//! exact number of bytes.

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    door::{Door, Stream},
    fault::Fate,
};

/// How long requests that run may go on after a stop.
const DRAIN: Duration = Duration::from_secs(1);
/// Connections served at once; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 1_000;
/// Pause after an accept that failed, because the reason (no file descriptors left) does not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A response's body.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body that is known whole.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A JSON answer that nobody keeps.
pub(crate) fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    let body = serde_json::to_vec(value).expect("values made here have text keys and serialise");
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Answers requests. One value serves all connections.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers one request; whatever goes wrong is an answer too.
    fn handle(&self, request: Request<Incoming>, line: &Line) -> impl Future<Output = Response<Body>> + Send;
}

/// One connection, as its requests and fault scripts see it. Clones are the same connection.
#[derive(Clone)]
pub(crate) struct Line(Arc<LineState>);

struct LineState {
    id: u64,
    peer: IpAddr,
    tls: bool,
    /// End the connection once everything that was written has been flushed.
    cut: AtomicBool,
    /// End it at once, with a reset on the wire.
    reset: CancellationToken,
    /// What comes is swallowed, and nothing is sent any more.
    blackhole: AtomicBool,
}

impl Line {
    /// Its number among those of its endpoint.
    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> IpAddr {
        self.0.peer
    }

    /// Whether it goes over TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.0.tls
    }

    /// Ends the connection after the bytes that the response's body has given so far. The caller then gives no more
    /// bytes, and no end either: it stays pending.
    pub(crate) fn cut(&self) {
        self.0.cut.store(true, Ordering::Release);
    }

    /// Ends the connection at once; what is in its buffers is lost.
    pub(crate) fn reset(&self) {
        self.0.reset.cancel();
    }

    /// Meets what a script wants of the connection. Never returns: nothing more is answered on it.
    pub(crate) async fn meet(&self, fate: Fate) {
        match fate {
            Fate::Blackhole => self.0.blackhole.store(true, Ordering::Release),
            // HTTP has no other end; a script that wants one is refused.
            Fate::Reset | Fate::Close(_) | Fate::End(_) | Fate::Detach(_) => self.reset(),
        }
        std::future::pending().await
    }

    /// Keeps the answer to a request that was done. Never returns.
    pub(crate) async fn drop_answer(&self, reset: bool) {
        if reset {
            self.reset();
        }
        std::future::pending().await
    }
}

/// The connections of one endpoint that are open.
#[derive(Default)]
pub(crate) struct Lines {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Weak<LineState>>>,
    /// New connections are swallowed until then.
    blackhole: Mutex<Option<Instant>>,
}

impl Lines {
    /// Resets every open connection; says how many there were.
    pub(crate) fn reset_all(&self) -> usize {
        let open: Vec<Arc<LineState>> = self.open().values().filter_map(Weak::upgrade).collect();
        for line in &open {
            line.reset.cancel();
        }
        open.len()
    }

    /// Swallows every open connection, and those that come within this time; says how many were open.
    pub(crate) fn blackhole_all(&self, lasts: Duration) -> usize {
        *self.blackhole() = Some(Instant::now() + lasts);
        let open: Vec<Arc<LineState>> = self.open().values().filter_map(Weak::upgrade).collect();
        for line in &open {
            line.blackhole.store(true, Ordering::Release);
        }
        open.len()
    }

    /// New connections are served again; those that were swallowed stay so.
    pub(crate) fn end_blackhole(&self) {
        *self.blackhole() = None;
    }

    fn blackhole(&self) -> MutexGuard<'_, Option<Instant>> {
        self.blackhole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Weak<LineState>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, peer: SocketAddr, tls: bool) -> (u64, Line) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let swallowed = self.blackhole().is_some_and(|until| Instant::now() < until);
        let line = Line(Arc::new(LineState {
            id,
            peer: peer.ip(),
            tls,
            cut: AtomicBool::new(false),
            reset: CancellationToken::new(),
            blackhole: AtomicBool::new(swallowed),
        }));
        self.open().insert(id, Arc::downgrade(&line.0));
        (id, line)
    }
}

/// Serves until `stop`; then lets running requests end for a second, and cuts the rest.
pub(crate) async fn serve<H: Handler>(
    listener: TcpListener,
    door: Door,
    handler: Arc<H>,
    lines: Arc<Lines>,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(serve_line(
                        stream,
                        peer,
                        door.clone(),
                        Arc::clone(&handler),
                        Arc::clone(&lines),
                        stop.clone(),
                    ));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => report(ended),
        }
    }
    drop(listener);
    let drained = timeout(DRAIN, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        connections.shutdown().await;
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked; this is a defect of waybill-local");
    }
}

async fn serve_line<H: Handler>(
    tcp: TcpStream,
    peer: SocketAddr,
    door: Door,
    handler: Arc<H>,
    lines: Arc<Lines>,
    stop: CancellationToken,
) {
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
    let (id, line) = lines.add(peer, door.is_tls());
    if let Some(stream) = let_in(tcp, peer, &door, &line, &stop).await {
        serve_requests(Socket { stream, line: line.clone() }, &line, handler, &stop).await;
    }
    lines.open().remove(&id);
}

/// Waits for the client's first byte and agrees on TLS with it; `None` when it is turned away or the time is over.
async fn let_in(
    tcp: TcpStream,
    peer: SocketAddr,
    door: &Door,
    line: &Line,
    stop: &CancellationToken,
) -> Option<Stream> {
    let knocked = tokio::select! {
        knocked = door.knock(&tcp) => knocked,
        () = stop.cancelled() => return None,
        () = line.0.reset.cancelled() => {
            drop(Socket { stream: Stream::Plain(tcp), line: line.clone() });
            return None;
        }
    };
    if line.0.blackhole.load(Ordering::Acquire) {
        // Not even TLS is answered.
        return Some(Stream::Plain(tcp));
    }
    let opened = async {
        knocked?;
        door.open(tcp).await
    };
    let opened = tokio::select! {
        opened = opened => opened,
        () = stop.cancelled() => return None,
        () = line.0.reset.cancelled() => return None,
    };
    opened.inspect_err(|refused| refused.log(peer)).ok()
}

async fn serve_requests<H: Handler>(socket: Socket, line: &Line, handler: Arc<H>, stop: &CancellationToken) {
    let service = service_fn(|request| {
        let (handler, line) = (Arc::clone(&handler), line.clone());
        async move { Ok::<_, std::convert::Infallible>(handler.handle(request, &line).await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
    tokio::pin!(connection);
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                }
                break;
            }
            () = line.0.reset.cancelled() => break,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The stream below hyper: hyper flushes it only when its own buffers are empty, which is the moment to cut.
struct Socket {
    stream: Stream,
    line: Line,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.line.0.reset.is_cancelled()
            && let Err(error) = self.stream.reset()
        {
            tracing::debug!(%error, "a connection will be closed rather than reset");
        }
    }
}

impl Socket {
    fn swallows(&self) -> bool {
        self.line.0.blackhole.load(Ordering::Acquire)
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.swallows() {
            let mut swallowed = [0; 4096];
            let mut swallowed = ReadBuf::new(&mut swallowed);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut swallowed))?;
            if swallowed.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.swallows() {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.swallows() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if self.line.0.cut.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::Error::other("cut by a fault script")));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Whether a host as `Host` and `Origin` have it, with or without a port, is this machine by a name that nobody else can
/// have given it.
pub(crate) fn is_loopback_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "127.0.0.1" | "localhost" | "[::1]")
}

/// Binds a port of the loopback address; 0 takes a free one.
///
/// # Errors
/// What the system says.
pub(crate) async fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
}
