//! A tunnel through an HTTP proxy: CONNECT (RFC 9110, section 9.3.6).

use std::{fmt, pin::pin};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Empty;
use hyper::{client::conn::http1, upgrade::Upgraded};
use hyper_util::{client::proxy::matcher::Intercept, rt::TokioIo};

use super::stream::Duplex;

/// A proxy.
pub(super) struct Proxy<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    /// Whether the proxy itself is spoken to over TLS.
    pub(super) tls: bool,
    settings: &'a Intercept,
}

/// Without its user and password.
impl fmt::Display for Proxy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_owned() };
        write!(f, "{host}:{}", self.port)
    }
}

impl<'a> Proxy<'a> {
    /// Where it is.
    ///
    /// # Errors
    /// It has no host.
    pub(super) fn of(settings: &'a Intercept) -> Result<Self, String> {
        let uri = settings.uri();
        let host = uri.host().ok_or_else(|| "the proxy's address names no host".to_owned())?;
        let tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { host: host.trim_start_matches('[').trim_end_matches(']'), port, tls, settings })
    }

    /// Asks for a tunnel to `host`.
    ///
    /// # Errors
    /// What the proxy answered instead, and what helps.
    pub(super) async fn tunnel(
        &self,
        stream: Box<dyn Duplex>,
        host: &str,
        port: u16,
    ) -> Result<TokioIo<Upgraded>, String> {
        let failed = |error: hyper::Error| format!("the proxy {self}: {error}");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let there = format!("{host}:{port}");
        let mut request = Request::builder().method(Method::CONNECT).uri(&there).header(header::HOST, &there);
        if let Some(authorization) = self.settings.basic_auth() {
            request = request.header(header::PROXY_AUTHORIZATION, authorization);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| format!("{there}: {error}"))?;
        let asking = async move {
            let answer = sender.send_request(request).await.map_err(failed)?;
            let status = answer.status();
            if !status.is_success() {
                let helps = match status {
                    StatusCode::PROXY_AUTHENTICATION_REQUIRED => "give user and password in the proxy's URL",
                    _ => "ask those who run it to allow this address",
                };
                return Err(format!("the proxy {self} answered {status} to CONNECT {there}; {helps}"));
            }
            Ok(TokioIo::new(hyper::upgrade::on(answer).await.map_err(failed)?))
        };
        let mut asking = pin!(asking);
        tokio::select! {
            asked = &mut asking => asked,
            // It lets go of the stream; if it failed, the request knows why.
            _ended = connection.with_upgrades() => asking.await,
        }
    }
}
