//! A tunnel through an HTTP proxy: CONNECT (RFC 9110, section 9.3.6).

use std::pin::pin;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::Empty;
use hyper::{client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;

use super::stream::Duplex;
use crate::proxy::Proxy;

/// Asks for a tunnel to `host`.
///
/// # Errors
/// What the proxy answered instead, and what helps.
pub(super) async fn open(
    proxy: &Proxy,
    stream: Box<dyn Duplex>,
    host: &str,
    port: u16,
) -> Result<TokioIo<Upgraded>, String> {
    let failed = |error: hyper::Error| proxy.failed(error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let there = format!("{host}:{port}");
    let mut request = Request::builder().method(Method::CONNECT).uri(&there).header(header::HOST, &there);
    if let Some(authorization) = &proxy.authorization {
        request = request.header(header::PROXY_AUTHORIZATION, authorization);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| format!("{there}: {error}"))?;
    let asking = async move {
        let answer = sender.send_request(request).await.map_err(failed)?;
        let status = answer.status();
        if !status.is_success() {
            return Err(proxy.refused(&there, status));
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
