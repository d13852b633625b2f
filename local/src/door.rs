//! What a port speaks: plain bytes, or TLS. A client that speaks the other is turned away, and the log says so.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::log::{Lines, printable, say};

/// How long a client may take to agree on TLS.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// How soon the end of a client is noticed whose bytes are not read.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What was said of late about clients that were turned away.
static SAID: Lines = Lines::new();

/// The first byte of a TLS connection: a record of the handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// What a port speaks.
#[derive(Clone)]
pub(crate) enum Door {
    Plain,
    Tls(TlsAcceptor),
}

/// Why a client was turned away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(
        "the client speaks TLS to a plain port; use the plain address (amqp://, http://, UseDevelopmentEmulator=true), \
         or the TLS port of a waybill-local that was started with --tls"
    )]
    TlsOnPlain,
    #[error(
        "the client speaks plain text to a TLS port; use sb:// without UseDevelopmentEmulator, amqps:// or https://"
    )]
    PlainOnTls,
    #[error(
        "the client and we did not agree on TLS; if it does not trust the certificate, give it the file that the ready \
         file names as caFile: {0}"
    )]
    Handshake(io::Error),
    #[error("the client began TLS and did not finish within {} s", HANDSHAKE.as_secs())]
    Slow,
    #[error(
        "the client said nothing, or did not finish what it began, within {0} s; let it connect when it has something to say"
    )]
    Silent(u64),
    /// It ended before it had begun, which is nothing to speak of.
    #[error("the client went before it said anything: {0}")]
    Gone(io::Error),
}

impl Refused {
    /// Tells whoever runs us.
    pub(crate) fn log(&self, peer: SocketAddr) {
        match self {
            Self::Gone(_) => tracing::debug!(%peer, why = %self, "connection refused"),
            _ => say!(SAID, warn, "connection refused", %peer, why = %printable(&self.to_string())),
        }
    }
}

impl Door {
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Waits for the first byte, which tells TLS from everything else.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is taken from the stream.
    pub(crate) async fn knock(&self, tcp: &TcpStream) -> Result<(), Refused> {
        let mut first = [0];
        let is_tls = match tcp.peek(&mut first).await {
            Ok(0) => return Err(Refused::Gone(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => first == [TLS_HANDSHAKE],
            Err(error) => return Err(Refused::Gone(error)),
        };
        match (self, is_tls) {
            (Self::Plain, true) => Err(Refused::TlsOnPlain),
            (Self::Tls(_), false) => Err(Refused::PlainOnTls),
            (Self::Plain, false) | (Self::Tls(_), true) => Ok(()),
        }
    }

    /// Agrees on TLS where that is spoken.
    pub(crate) async fn open(&self, tcp: TcpStream) -> Result<Stream, Refused> {
        match self {
            Self::Plain => Ok(Stream::Plain(tcp)),
            Self::Tls(acceptor) => match timeout(HANDSHAKE, acceptor.accept(tcp)).await {
                Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
                Ok(Err(error)) => Err(Refused::Handshake(error)),
                Err(_) => Err(Refused::Slow),
            },
        }
    }
}

/// A connection that was let in.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The next byte, which stays to be read; `None` at the end.
    pub(crate) async fn first(&mut self) -> io::Result<Option<u8>> {
        match self {
            Self::Plain(tcp) => {
                let mut first = [0];
                Ok((tcp.peek(&mut first).await? > 0).then_some(first[0]))
            }
            Self::Tls(tls) => Ok(tls.fill_buf().await?.first().copied()),
        }
    }

    /// Lets the connection end with RST when it is dropped.
    pub(crate) fn reset(&self) -> io::Result<()> {
        self.tcp().set_zero_linger()
    }

    /// Returns once the client has ended its side, however much of what it sent is unread. What is unread is an event at any
    /// time, so this looks now and then.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub(crate) async fn ended(&self) {
        while self.tcp().ready(Interest::READABLE).await.is_ok_and(|ready| !ready.is_read_closed()) {
            sleep(LOOK_AGAIN).await;
        }
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Plain($inner) => $call,
            Stream::Tls($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => Pin::new(inner).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, inner => Pin::new(inner).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, inner => Pin::new(inner).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(inner) => inner.is_write_vectored(),
            Self::Tls(inner) => inner.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => Pin::new(inner).poll_shutdown(cx))
    }
}
