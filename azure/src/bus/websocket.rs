//! AMQP over WebSocket: its binary messages are a byte stream, whose cuts mean nothing.
//!
//! # Sources
//! "AMQP 1.0 in Azure Service Bus and Event Hubs protocol guide" (path and subprotocol); RFC 6455.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{Sink, Stream};
use http::{HeaderValue, header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, Message, client::IntoClientRequest, protocol::WebSocketConfig},
};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::stream::Duplex;

/// Where Azure listens.
const PATH: &str = "/$servicebus/websocket";
/// The subprotocol of Azure.
const SUBPROTOCOL: HeaderValue = HeaderValue::from_static("AMQPWSB10");
/// Largest message that is taken. Brokers send a frame in each; frames are far smaller.
const MESSAGE_MAX: usize = 16 << 20;

/// Asks the other side of `stream` to speak WebSocket.
///
/// # Errors
/// What it answered instead.
pub(super) async fn connect(
    host: &str,
    port: u16,
    tls: bool,
    stream: Box<dyn Duplex>,
) -> Result<Box<dyn Duplex>, String> {
    let (scheme, usual_port) = if tls { ("wss", 443) } else { ("ws", 80) };
    let port = if port == usual_port { String::new() } else { format!(":{port}") };
    let mut request =
        format!("{scheme}://{host}{port}{PATH}").into_client_request().map_err(|error| error.to_string())?;
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX)).max_frame_size(Some(MESSAGE_MAX));
    let (stream, _answer) = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await.map_err(
        |error| match error {
            Error::Http(answer) => format!("{host} answered {} to WebSocket", answer.status()),
            error => format!("{host} does not speak WebSocket: {error}"),
        },
    )?;
    Ok(Box::new(SinkWriter::new(StreamReader::new(CopyToBytes::new(Pieces(stream))))))
}

/// The bytes of the messages.
struct Pieces<S>(WebSocketStream<S>);

impl<S> fmt::Debug for Pieces<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pieces")
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for Pieces<S> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(Pin::new(&mut self.0).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) if bytes.is_empty() => {}
                Some(Ok(Message::Binary(bytes))) => return Poll::Ready(Some(Ok(bytes))),
                Some(Ok(Message::Text(_))) => {
                    let problem = "a text message came over WebSocket; AMQP comes in binary ones";
                    return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::InvalidData, problem))));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(to_io(error)))),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Sink<Bytes> for Pieces<S> {
    type Error = io::Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_ready(cx).map_err(to_io)
    }

    fn start_send(mut self: Pin<&mut Self>, bytes: Bytes) -> io::Result<()> {
        Pin::new(&mut self.0).start_send(Message::Binary(bytes)).map_err(to_io)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx).map_err(to_io)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx).map_err(to_io)
    }
}

fn to_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::UnexpectedEof.into(),
        error => io::Error::other(error),
    }
}
