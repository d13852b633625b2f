//! HTTP/1.1 connections of the Blob, tenant, authority and admin endpoints, with TLS or without: accepted, served, cut in
//! the middle, reset, and ended in stages. Over a ready-made server because a fault script must end a connection after an
//! exact number of bytes.

mod body;
mod line;
mod socket;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::{body::Body as _, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::door::{Door, Stream};
use crate::house::{report, room_for_one};
use crate::log::say;
use body::Answer;
pub(crate) use body::{Body, Upload, empty, full};
pub(crate) use line::{Line, Lines};
use socket::Socket;

/// How long requests that run may go on after a stop.
const DRAIN: Duration = Duration::from_secs(1);
/// Connections served at once; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 1_000;
/// How much of a body that nobody wants is read before the answer, and how long that may take: the connection then serves
/// the next request. Beyond, or when the client asked first whether to send it, the answer comes at once and the connection
/// ends.
const DRAIN_MAX: u64 = 1 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(1);
/// Pause after an accept that failed, because the reason (no file descriptors left) does not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    fn handle(&self, request: Request<&mut Upload>, line: &Line) -> impl Future<Output = Response<Body>> + Send;
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
    let log = crate::log::Lines::of_connection();
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    say!(log, warn, "a connection could not be accepted", %error);
                    lines.dismiss_one();
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        // A full house takes the place of the connection whose client has sent nothing for longest.
        let (dismiss, one_waits) = (|| lines.dismiss_one(), || lines.one_waits());
        if !room_for_one(&mut connections, CONNECTIONS_MAX, dismiss, one_waits, &stop).await {
            break;
        }
        connections.spawn(serve_line(
            stream,
            peer,
            door.clone(),
            Arc::clone(&handler),
            Arc::clone(&lines),
            stop.clone(),
        ));
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
    let line = lines.add(peer, door.is_tls());
    let served = async {
        if let Some(stream) = let_in(tcp, peer, &door, &line, &stop).await {
            line.let_in();
            serve_requests(Socket::new(stream, line.clone()), &line, handler, &stop).await;
        }
    };
    tokio::select! {
        // First: it knows better why it ends.
        biased;
        () = served => {}
        why = line.outstays() => tracing::debug!(%peer, "a connection is closed: {why}"),
    }
    lines.remove(&line);
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
        () = line.reset_wanted() => {
            drop(Socket::new(Stream::Plain(tcp), line.clone()));
            return None;
        }
    };
    if line.swallows() {
        // Not even TLS is answered.
        return Some(Stream::Plain(tcp));
    }
    line.let_in();
    let opened = async {
        knocked?;
        door.open(tcp).await
    };
    let opened = tokio::select! {
        opened = opened => opened,
        () = stop.cancelled() => return None,
        () = line.reset_wanted() => return None,
    };
    opened.inspect_err(|refused| refused.log(peer)).ok()
}

async fn serve_requests<H: Handler>(socket: Socket, line: &Line, handler: Arc<H>, stop: &CancellationToken) {
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let (handler, line) = (Arc::clone(&handler), line.clone());
        line.request_began();
        async move {
            let (head, body) = request.into_parts();
            let asks = head.headers.contains_key(header::EXPECT);
            let mut body = Upload::new(body, line.clone());
            let mut response = handler.handle(Request::from_parts(head, &mut body), &line).await;
            // What is refused, or has a body that nobody asked for, leaves it unread.
            if !body.is_end_stream() {
                let is_read = !asks && timeout(DRAIN_TIME, body.read_away(DRAIN_MAX)).await.unwrap_or(false);
                if !is_read {
                    line.linger();
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
            }
            Ok::<_, std::convert::Infallible>(response.map(|body| Answer::new(body, line.clone())))
        }
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
            () = line.reset_wanted() => break,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Whether a host as `Host` and `Origin` have it, with or without a port, is this machine by a name that nobody else can
/// have given it.
pub(crate) fn is_loopback_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "127.0.0.1" | "[::1]") || name.eq_ignore_ascii_case("localhost")
}

/// Binds a port of the loopback address; 0 takes a free one.
///
/// # Errors
/// What the system says.
pub(crate) async fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
}

#[cfg(test)]
mod tests;
