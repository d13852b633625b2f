//! The way to the bus: bare AMQP, or AMQP over WebSocket where a firewall leaves only port 443 open; through the proxy
//! that the environment names, or directly.

use std::{io, net::SocketAddr, path::Path, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpStream,
    time::{error::Elapsed, timeout},
};

use super::{
    BusError, BusOptions,
    address::Address,
    stream::{self, Duplex, GuardedStream, StreamGuard},
    tls::{self, TlsError},
    tunnel, websocket,
};
use crate::proxy::{Proxy, ProxySettings};

/// How AMQP reaches the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// AMQP on port 5671; where that cannot be reached, or a proxy stands before the namespace, over WebSocket.
    #[default]
    Auto,
    /// AMQP on port 5671 only (through a proxy: by a tunnel to that port).
    Amqp,
    /// AMQP over WebSocket on port 443 only.
    WebSocket,
}

/// A way that was gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Amqp,
    WebSocket,
}

/// How long the first way is tried when there is a second.
const FIRST_ROUTE_MAX: Duration = Duration::from_secs(10);

/// Connects; `last` is the way that worked before, which is tried first.
///
/// # Errors
/// [`BusError::Setup`] and [`BusError::Connect`]; with two ways the text has what hindered each.
pub(super) async fn connect(
    address: &Address,
    options: &BusOptions,
    proxies: &ProxySettings,
    last: Option<Route>,
) -> Result<(GuardedStream, StreamGuard, Route), BusError> {
    let proxy = if address.tls { proxies.before(&address.host) } else { Ok(None) };
    let proxy = proxy.map_err(|problem| Obstacle::Setup(problem).about(address))?;
    let proxy = proxy.as_ref();
    let (first, second) = match options.transport {
        Transport::Amqp => (Route::Amqp, None),
        Transport::WebSocket => (Route::WebSocket, None),
        // Most proxies allow tunnels to port 443 alone.
        Transport::Auto if proxy.is_some() => (Route::WebSocket, None),
        Transport::Auto if !address.tls => (Route::Amqp, None),
        Transport::Auto if last == Some(Route::WebSocket) => (Route::WebSocket, Some(Route::Amqp)),
        Transport::Auto => (Route::Amqp, Some(Route::WebSocket)),
    };
    let Some(second) = second else {
        return go(first, address, options, proxy).await.map_err(|obstacle| obstacle.about(address));
    };
    let limit = FIRST_ROUTE_MAX.min(options.call_timeout / 3);
    let obstacle = match timeout(limit, go(first, address, options, proxy)).await {
        Ok(Ok(connected)) => return Ok(connected),
        Ok(Err(Obstacle::Setup(problem))) => return Err(Obstacle::Setup(problem).about(address)),
        Ok(Err(Obstacle::There(problem))) => problem,
        Err(Elapsed { .. }) => format!("{} did not answer within {limit:?}", first.at(address)),
    };
    tracing::debug!(problem = obstacle, "the bus cannot be reached this way; trying another");
    match go(second, address, options, proxy).await {
        Err(Obstacle::There(problem)) => Err(Obstacle::There(format!("{obstacle}; {problem}")).about(address)),
        connected => connected.map_err(|obstacle| obstacle.about(address)),
    }
}

/// Why a way could not be gone.
enum Obstacle {
    /// Something on this side, whatever the way.
    Setup(String),
    /// Something on the way or at its end.
    There(String),
}

impl Obstacle {
    fn about(self, address: &Address) -> BusError {
        let address = address.to_string();
        match self {
            Self::Setup(problem) => BusError::Setup { address, problem },
            Self::There(problem) => BusError::Connect { address, problem },
        }
    }
}

impl From<TlsError> for Obstacle {
    fn from(error: TlsError) -> Self {
        match error {
            TlsError::Setup(problem) => Self::Setup(problem),
            TlsError::Handshake(problem) => Self::There(problem),
        }
    }
}

impl Route {
    fn port(self, address: &Address) -> u16 {
        match self {
            Self::Amqp => address.port,
            Self::WebSocket => address.web_port,
        }
    }

    /// For texts.
    fn at(self, address: &Address) -> String {
        let what = match self {
            Self::Amqp => "AMQP",
            Self::WebSocket => "WebSocket",
        };
        format!("{what} on port {}", self.port(address))
    }
}

async fn go(
    route: Route,
    address: &Address,
    options: &BusOptions,
    proxy: Option<&Proxy>,
) -> Result<(GuardedStream, StreamGuard, Route), Obstacle> {
    let along = |obstacle| match obstacle {
        Obstacle::There(problem) => Obstacle::There(format!("{}: {problem}", route.at(address))),
        setup @ Obstacle::Setup(_) => setup,
    };
    let ca_file = options.ca_file.as_deref();
    let bytes = bytes(route.port(address), address, ca_file, proxy).await.map_err(along)?;
    let bytes = match route {
        Route::Amqp => bytes,
        Route::WebSocket => {
            let host = address.url_host();
            websocket::connect(&host, address.web_port, address.tls, bytes)
                .await
                .map_err(|problem| along(Obstacle::There(problem)))?
        }
    };
    let (stream, guard) = stream::guard(bytes, options.idle_timeout);
    Ok((stream, guard, route))
}

/// A byte stream to a port of the bus, inside of TLS unless the address is a plain one.
async fn bytes(
    port: u16,
    address: &Address,
    ca_file: Option<&Path>,
    proxy: Option<&Proxy>,
) -> Result<Box<dyn Duplex>, Obstacle> {
    if !address.tls {
        return Ok(Box::new(tcp(&address.host, port, true).await?));
    }
    let stream: Box<dyn Duplex> = match proxy {
        None => Box::new(tcp(&address.host, port, false).await?),
        Some(proxy) => through(proxy, &address.url_host(), port, ca_file).await?,
    };
    Ok(Box::new(tls::connect(&address.host, stream, ca_file).await?))
}

/// A tunnel through a proxy.
async fn through(proxy: &Proxy, host: &str, port: u16, ca_file: Option<&Path>) -> Result<Box<dyn Duplex>, Obstacle> {
    let at_proxy = |obstacle| match obstacle {
        Obstacle::There(problem) => Obstacle::There(proxy.failed(problem)),
        setup @ Obstacle::Setup(_) => setup,
    };
    let tcp = tcp(&proxy.host, proxy.port, false).await.map_err(at_proxy)?;
    let to_proxy: Box<dyn Duplex> = if proxy.tls {
        let tls = tls::connect(&proxy.host, tcp, ca_file).await;
        Box::new(tls.map_err(|error| at_proxy(error.into()))?)
    } else {
        Box::new(tcp)
    };
    Ok(Box::new(tunnel::open(proxy, to_proxy, host, port).await.map_err(Obstacle::There)?))
}

/// Whether a proxy opens a tunnel, which is not used.
///
/// # Errors
/// Names the proxy, what it answered, and what helps.
pub(crate) async fn try_tunnel(proxy: &Proxy, host: &str, port: u16, ca_file: Option<&Path>) -> Result<(), String> {
    match through(proxy, host, port, ca_file).await {
        Ok(_) => Ok(()),
        Err(Obstacle::Setup(problem) | Obstacle::There(problem)) => Err(problem),
    }
}

async fn tcp(host: &str, port: u16, loopback_only: bool) -> Result<TcpStream, Obstacle> {
    let failed = |error: io::Error| Obstacle::There(error.to_string());
    let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await.map_err(failed)?.collect();
    if loopback_only {
        // `localhost` is what the resolver says it is.
        addresses.retain(|address| address.ip().is_loopback());
    }
    let tcp = TcpStream::connect(addresses.as_slice()).await.map_err(failed)?;
    // Without it a settlement waits for the peer's delayed acknowledgement: a tenth of the throughput (measured).
    tcp.set_nodelay(true).map_err(failed)?;
    Ok(tcp)
}
