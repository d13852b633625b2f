//! AMQP over WebSocket: what clients use where only port 443 is open. They speak it on the same ports as bare AMQP, and
//! the first byte, that of a method of HTTP, tells the two apart.
//!
//! The messages are a byte stream: a frame may span several of them, and one of them several frames.
//!
//! # Sources
//! "AMQP 1.0 in Azure Service Bus and Event Hubs protocol guide" (path and subprotocol `AMQPWSB10`); RFC 6455, sections 4.2
//! (the server's side of the handshake), 5.5.2 (a ping is answered with a pong) and 7.4.1 (why a side closes).

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Buf as _, Bytes};
use futures::{Sink as _, Stream as _};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::connection::FRAME_MAX;
use super::wire::{self, Socket};
use crate::door::Stream;
use crate::listen::{Body, empty, full, is_loopback_host};
use crate::log::{Lines, printable, say};

/// What a request for something else is told.
const NOT_HERE: &str = "this port speaks AMQP 1.0, bare or over WebSocket at /$servicebus/websocket: the other services have \
                        ports of their own, which the ready file names";
/// Where Azure listens.
const PATH: &str = "/$servicebus/websocket";
/// The subprotocol of Microsoft's clients.
const SUBPROTOCOL: &str = "AMQPWSB10";
/// The registered name of AMQP over WebSocket, which other clients offer.
const SUBPROTOCOL_AMQP: &str = "amqp";

/// Largest message of a client, held until it is whole, of whoever has connected. Microsoft's clients send a frame in each.
const MESSAGE_MAX: usize = 512 * 1024;
/// Largest message of a client that has no token: one of the largest frames.
const STRANGERS_MESSAGE_MAX: usize = FRAME_MAX as usize + 2 * READ_BUFFER;
/// Bytes that are read at once, allocated with each connection.
const READ_BUFFER: usize = 16 * 1024;
/// Largest message that we send.
const PIECE_MAX: usize = 64 * 1024;

/// Whether a connection that begins with this byte speaks HTTP: so begins the name of a method.
pub(super) fn is_http(first: u8) -> bool {
    b"GPHDOCT".contains(&first)
}

/// Answers the client's request and goes over to WebSocket; `None` when the answer was a refusal, after which the
/// connection has ended.
pub(super) async fn accept<S>(
    stream: S,
    peer: SocketAddr,
    trusted: Arc<AtomicBool>,
    lines: &Lines,
) -> Option<WebSocket<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let upgraded = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&upgraded);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let answer = match answer(request.method(), request.uri().path(), request.headers()) {
            Ok(answer) => {
                seen.store(true, Ordering::Relaxed);
                answer
            }
            Err((status, text)) => {
                let path = printable(request.uri().path());
                say!(lines, warn, "bus: HTTP refused", from = %peer, %path, why = text);
                refusal(status, text)
            }
        };
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let mut connection =
        http1::Builder::new().max_buf_size(READ_BUFFER).serve_connection(TokioIo::new(stream), service);
    let ended = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    match ended {
        Err(error) if error.is_parse() || error.is_parse_too_large() => {
            let why =
                format!("it began like HTTP, but is none ({error}); this port speaks AMQP 1.0, bare or over WebSocket");
            say!(lines, warn, "bus: connection refused", from = %peer, why);
        }
        Err(error) => tracing::debug!(%peer, %error, "a client of WebSocket went away"),
        Ok(()) => {}
    }
    if !upgraded.load(Ordering::Relaxed) {
        wire::linger(&mut stream).await;
        return None;
    }
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(PIECE_MAX)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    let stream = Counted { stream, unfinished: 0, trusted };
    let inner = WebSocketStream::from_partially_read(stream, parts.read_buf.to_vec(), Role::Server, Some(config)).await;
    Some(WebSocket { inner, unread: Bytes::new(), owes_pong: false, ends: None })
}

/// What a request is answered: the switch to WebSocket, or why not.
fn answer(method: &Method, path: &str, headers: &HeaderMap) -> Result<Response<Body>, (StatusCode, &'static str)> {
    let path = percent_decode_str(path).decode_utf8_lossy();
    if path.trim_end_matches('/') != PATH {
        return Err((StatusCode::NOT_FOUND, NOT_HERE));
    }
    let upgrades = lists(headers, header::CONNECTION, "upgrade") && lists(headers, header::UPGRADE, "websocket");
    if method != Method::GET || !upgrades {
        return Err((StatusCode::UPGRADE_REQUIRED, "this is AMQP over WebSocket: send GET with 'Upgrade: websocket'"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err((StatusCode::UPGRADE_REQUIRED, "the WebSocket version must be 13"));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or((StatusCode::BAD_REQUEST, "the header Sec-WebSocket-Key is missing"))?;
    if !STANDARD.decode(key).is_ok_and(|key| key.len() == 16) {
        return Err((StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64"));
    }
    // A web page of anywhere may open a WebSocket to this machine; browsers say where it came from.
    if let Some(origin) = headers.get(header::ORIGIN)
        && !origin.to_str().is_ok_and(|origin| is_loopback_host(origin.split_once("://").map_or("", |(_, host)| host)))
    {
        return Err((
            StatusCode::FORBIDDEN,
            "only web pages of this machine may connect; others are refused by Origin",
        ));
    }
    let subprotocol = [SUBPROTOCOL, SUBPROTOCOL_AMQP]
        .into_iter()
        .find(|known| lists(headers, header::SEC_WEBSOCKET_PROTOCOL, known))
        .ok_or((StatusCode::BAD_REQUEST, "offer the subprotocol AMQPWSB10 in Sec-WebSocket-Protocol"))?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).expect("base64 is visible ASCII");
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    Ok(response)
}

/// Whether one of a header's values, parted by commas, is this one.
fn lists(headers: &HeaderMap, name: header::HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(wanted))
}

fn refusal(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    if status == StatusCode::UPGRADE_REQUIRED {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    response
}

/// The bytes within the messages of a WebSocket, as one stream.
#[derive(Debug)]
pub(super) struct WebSocket<S> {
    inner: WebSocketStream<Counted<S>>,
    /// What is left of the last message.
    unread: Bytes,
    /// A ping came, and its pong is not out. Nothing is read meanwhile, else the pongs of a client that reads none of them
    /// would fill the memory.
    owes_pong: bool,
    /// The client broke the protocol: how the close frame says it, and whether that frame is on its way. What still comes
    /// is bytes that mean nothing.
    ends: Option<(CloseCode, bool)>,
}

/// The stream below the messages. What comes of one that is not whole is kept up there, where nobody counts it; so it is
/// counted here.
#[derive(Debug)]
struct Counted<S> {
    stream: S,
    /// Bytes since the last whole message.
    unfinished: usize,
    /// Whether the client has a token.
    trusted: Arc<AtomicBool>,
}

impl<S> Counted<S> {
    /// A control frame came in between: its payload, its mask and two bytes more are of no message.
    fn control(&mut self, payload: usize) {
        self.unfinished = self.unfinished.saturating_sub(payload + 6);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unfinished > STRANGERS_MESSAGE_MAX && !self.trusted.load(Ordering::Relaxed) {
            let text = "a WebSocket message of a client without a token is larger than the largest frame";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.unfinished += buffer.filled().len() - before;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: Socket> Socket for WebSocket<S> {
    fn below(&self) -> Option<&Stream> {
        self.inner.get_ref().stream.below()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Nothing is read as messages any more; [`AsyncWrite::poll_shutdown`] tells the client why.
    fn give_up(&mut self, code: CloseCode, error: io::Error) -> Poll<io::Result<()>> {
        self.ends = Some((code, false));
        Poll::Ready(Err(error))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ends.is_some() {
            return Pin::new(&mut self.inner.get_mut().stream).poll_read(cx, buffer);
        }
        while self.unread.is_empty() {
            if self.owes_pong {
                ready!(Pin::new(&mut self.inner).poll_flush(cx)).map_err(broken)?;
                self.owes_pong = false;
            }
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => {
                    self.inner.get_mut().unfinished = 0;
                    self.unread = bytes;
                }
                Some(Ok(Message::Text(_))) => {
                    let text = "a text message came over WebSocket, and AMQP goes in binary ones";
                    return self.give_up(CloseCode::Unsupported, io::Error::new(io::ErrorKind::InvalidData, text));
                }
                // Its pong is made below us.
                Some(Ok(Message::Ping(payload))) => {
                    self.inner.get_mut().control(payload.len());
                    self.owes_pong = true;
                }
                Some(Ok(Message::Pong(payload))) => self.inner.get_mut().control(payload.len()),
                // After a close comes the end.
                Some(Ok(Message::Close(_) | Message::Frame(_))) => {}
                Some(Err(error)) => {
                    let code = match &error {
                        Error::Capacity(_) => CloseCode::Size,
                        Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => CloseCode::Size,
                        Error::Protocol(_) | Error::Utf8(_) => CloseCode::Protocol,
                        _ => return Poll::Ready(Err(broken(error))),
                    };
                    return self.give_up(code, broken(error));
                }
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = self.unread.len().min(buffer.remaining());
        buffer.put_slice(self.unread.get(..taken).unwrap_or_default());
        self.unread.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.inner).poll_ready(cx)).map_err(broken)?;
        let piece = bytes.get(..PIECE_MAX).unwrap_or(bytes);
        Pin::new(&mut self.inner).start_send(Message::Binary(Bytes::copy_from_slice(piece))).map_err(broken)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some((code, is_sent)) = self.ends else {
            return Pin::new(&mut self.inner).poll_close(cx).map_err(broken);
        };
        if !is_sent {
            ready!(Pin::new(&mut self.inner).poll_ready(cx)).map_err(broken)?;
            let frame = CloseFrame { code, reason: "".into() };
            Pin::new(&mut self.inner).start_send(Message::Close(Some(frame))).map_err(broken)?;
            self.ends = Some((code, true));
        }
        ready!(Pin::new(&mut self.inner).poll_flush(cx)).map_err(broken)?;
        Pin::new(self.inner.get_mut()).poll_shutdown(cx)
    }
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::NotConnected.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}
