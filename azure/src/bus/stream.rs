//! The byte stream under a connection: TCP without Nagle's delay, TLS, and two guards that the AMQP engine lacks.
//!
//! The engine writes and reads in one task, so a peer that stops reading would also stop the engine's idle timer: a write
//! that makes no progress fails here after the idle timeout. And the stream can be cut from outside, which ends the
//! engine's tasks at once, whatever they wait for.

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    ClientConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use url::Url;

use super::BusError;
use crate::endpoint::is_loopback;

/// Where the bus is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    port: u16,
    tls: bool,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Address {
    /// Reads a grant's endpoint.
    ///
    /// # Errors
    /// [`BusError::Setup`] when the scheme is none of the bus, or plain AMQP would leave this machine.
    pub(super) fn of(endpoint: &Url) -> Result<Self, BusError> {
        // The text of a URL could hold credentials, so only scheme, host and port are shown.
        let refuse = |problem: &str| {
            let host = endpoint.host_str().unwrap_or_default();
            let port = endpoint.port().map(|port| format!(":{port}")).unwrap_or_default();
            Err(BusError::Setup {
                address: format!("{}://{host}{port}", endpoint.scheme()),
                problem: problem.to_owned(),
            })
        };
        let (tls, default_port) = match endpoint.scheme() {
            "sb" | "amqps" => (true, 5671),
            "amqp" => (false, 5672),
            _ => return refuse("the scheme must be sb or amqps, or amqp on loopback"),
        };
        let Some(host) = endpoint.host_str().filter(|host| !host.is_empty()) else {
            return refuse("the host is missing");
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if !tls && !is_loopback(endpoint) {
            return refuse(
                "plain AMQP would show the token to the network; use sb:// or amqps://, or a loopback address",
            );
        }
        Ok(Self { host, port: endpoint.port().unwrap_or(default_port), tls })
    }
}

/// A duplex byte stream.
trait Duplex: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Duplex for T {}

/// A stream that can be cut from outside, whose writes cannot stall for ever, and that tells when it is dropped.
pub(super) struct GuardedStream {
    inner: Box<dyn Duplex>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    stall_max: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
    _gone: DropGuard,
}

impl fmt::Debug for GuardedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// The two ends of the guard that the connection keeps.
#[derive(Debug)]
pub(super) struct StreamGuard {
    /// Cuts the stream when dropped.
    pub(super) _cut: DropGuard,
    /// Fires once the stream is dropped, which is when the engine has ended.
    pub(super) gone: CancellationToken,
}

/// Connects, with TLS unless the address is a plain one.
pub(super) async fn connect(
    address: &Address,
    ca_file: Option<&Path>,
    stall_max: Duration,
) -> Result<(GuardedStream, StreamGuard), BusError> {
    let failed = |error: io::Error| BusError::Connect { address: address.to_string(), problem: error.to_string() };
    let mut addresses: Vec<SocketAddr> =
        tokio::net::lookup_host((address.host.as_str(), address.port)).await.map_err(failed)?.collect();
    if !address.tls {
        // `localhost` is what the resolver says it is.
        addresses.retain(|address| address.ip().is_loopback());
    }
    let tcp = TcpStream::connect(addresses.as_slice()).await.map_err(failed)?;
    // Without it a settlement waits for the peer's delayed acknowledgement: a tenth of the throughput (measured).
    tcp.set_nodelay(true).map_err(failed)?;
    let inner: Box<dyn Duplex> = if address.tls {
        let setup = |problem| BusError::Setup { address: address.to_string(), problem };
        let config = tls_config(ca_file.map(Path::to_owned)).await.map_err(setup)?;
        let name = ServerName::try_from(address.host.clone())
            .map_err(|_| setup("the host is neither a DNS name nor an IP address".to_owned()))?;
        Box::new(tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.map_err(failed)?)
    } else {
        Box::new(tcp)
    };
    Ok(guard(inner, stall_max))
}

fn guard(inner: Box<dyn Duplex>, stall_max: Duration) -> (GuardedStream, StreamGuard) {
    let (cut, gone) = (CancellationToken::new(), CancellationToken::new());
    let stream = GuardedStream {
        inner,
        cut: Box::pin(cut.clone().cancelled_owned()),
        stall_max,
        stalled: None,
        _gone: gone.clone().drop_guard(),
    };
    (stream, StreamGuard { _cut: cut.drop_guard(), gone })
}

/// The system's trust store and the extra authorities of `ca_file`; read at each connect, so a changed file counts.
async fn tls_config(ca_file: Option<PathBuf>) -> Result<Arc<ClientConfig>, String> {
    let load = move || {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let extra = match &ca_file {
            Some(file) => authorities(file)?,
            None => Vec::new(),
        };
        let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, Arc::clone(&provider))
            .map_err(|error| format!("cannot load certificate authorities: {error}"))?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("cannot set up TLS: {error}"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Arc::new(config))
    };
    tokio::task::spawn_blocking(load).await.unwrap_or_else(|error| Err(format!("cannot set up TLS: {error}")))
}

fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let fault =
        |error: &dyn fmt::Display| format!("cannot read certificate authorities from {}: {error}", file.display());
    let authorities: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).map_err(|error| fault(&error))?.collect();
    let authorities = authorities.map_err(|error| fault(&error))?;
    if authorities.is_empty() { Err(fault(&"it holds no PEM certificate")) } else { Ok(authorities) }
}

impl GuardedStream {
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was cut on this side"))
            }
            Poll::Pending => Ok(()),
        }
    }

    /// Passes on what a write gave, and fails once it has waited for too long.
    fn watch_stall<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stall_max = self.stall_max;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall_max)));
        stalled
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, format!("the peer took no bytes for {stall_max:?}"))))
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_cut(cx)?;
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.watch_stall(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch_stall(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watch_stall(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    fn address(url: &str) -> Result<Address, BusError> {
        Address::of(&url.parse().unwrap())
    }

    #[test]
    fn tls_is_the_rule_and_ports_have_their_defaults() {
        let full = address("sb://ns.servicebus.windows.net/").unwrap();
        assert_eq!(full, Address { host: "ns.servicebus.windows.net".to_owned(), port: 5671, tls: true });
        assert_eq!(address("amqps://ns:6000").unwrap().to_string(), "ns:6000");
        assert_eq!(address("amqp://127.0.0.1").unwrap().to_string(), "127.0.0.1:5672");
        assert_eq!(address("amqp://[::1]:7").unwrap().to_string(), "[::1]:7");
        assert_eq!(address("amqp://LocalHost:7").unwrap().to_string(), "LocalHost:7");
    }

    #[test]
    fn plain_amqp_never_leaves_this_machine() {
        for url in [
            "amqp://ns.servicebus.windows.net",
            "amqp://10.0.0.1:5672",
            "amqp://localhost.evil.example",
            "amqp://[fe80::1]",
        ] {
            let error = address(url).unwrap_err();
            assert!(matches!(&error, BusError::Setup { .. }), "{url}: {error}");
            assert!(error.needs_person());
        }
    }

    #[test]
    fn a_foreign_scheme_is_refused_without_showing_credentials() {
        let error = address("https://user:hunter2@ns.example/path?sig=abc").unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot use the bus at https://ns.example: the scheme must be sb or amqps, or amqp on loopback"
        );
    }

    fn pair(capacity: usize) -> (GuardedStream, StreamGuard, DuplexStream) {
        let (near, far) = tokio::io::duplex(capacity);
        let (stream, guard) = guard(Box::new(near), Duration::from_secs(60));
        (stream, guard, far)
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_the_peer_does_not_take_fails_after_the_idle_timeout() {
        let (mut stream, _guard, mut far) = pair(4);
        stream.write_all(b"1234").await.unwrap();
        let started = tokio::time::Instant::now();
        let error = stream.write_all(b"5").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 60);

        // Progress in between starts the clock anew.
        let mut four = [0; 4];
        far.read_exact(&mut four).await.unwrap();
        stream.write_all(b"5678").await.unwrap();
    }

    #[tokio::test]
    async fn a_cut_ends_a_read_that_waits() {
        let (mut stream, guard, _far) = pair(4);
        let mut byte = [0; 1];
        let (read, ()) = tokio::join!(stream.read(&mut byte), async { drop(guard) });
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert!(stream.write(b"x").await.is_err());
    }

    #[tokio::test]
    async fn the_end_of_the_stream_is_told() {
        let (stream, guard, _far) = pair(4);
        assert!(!guard.gone.is_cancelled());
        drop(stream);
        guard.gone.cancelled().await;
    }

    #[tokio::test]
    async fn a_bad_authority_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        let error = tls_config(Some(file.clone())).await.unwrap_err();
        assert!(error.contains("ca.pem"), "{error}");
        std::fs::write(&file, "not a certificate").unwrap();
        let error = tls_config(Some(file)).await.unwrap_err();
        assert!(error.contains("holds no PEM certificate"), "{error}");
    }
}
