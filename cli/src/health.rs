//! `/health/live`, `/health/ready` and `/metrics` on a port of its own, where somebody asked for it. It only tells, asks for
//! no credential, and says nothing of a token but how long it lives.

pub mod publisher;
pub mod subscriber;

use std::{convert::Infallible, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use crate::metrics::CONTENT_TYPE as METRICS;

/// Connections answered at once; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 16;
/// For one connection, which is one request and its answer.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(30);
/// Pause after an accept that failed, because the reason (no file descriptors left) does not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who is asked how it goes.
pub trait Told: Clone + Send + Sync + 'static {
    /// Whether it is alive, and what else is to be said of that.
    fn live(&self) -> (bool, serde_json::Value);

    /// Whether it can do all that it was asked to do, and why not.
    fn ready(&self) -> (bool, serde_json::Value);

    /// Its figures, as a page for Prometheus.
    fn page(&self) -> impl Future<Output = String> + Send;
}

/// Answers until it is dropped.
#[derive(Debug)]
pub struct Serving {
    _tasks: JoinSet<()>,
}

/// Begins to answer at this address, if there is one, and says where in the name of `program`.
///
/// # Errors
/// When it is no address, or none that can be listened at.
pub async fn serve(program: &str, given: Option<&str>, told: impl Told) -> anyhow::Result<Option<Serving>> {
    let Some(given) = given else { return Ok(None) };
    let address = address(given)?;
    let listener = TcpListener::bind(&address)
        .await
        .with_context(|| format!("cannot listen at {address} for health and metrics; give another address"))?;
    eprintln!("{program}: health and metrics at http://{}", listener.local_addr()?);
    let mut tasks = JoinSet::new();
    tasks.spawn(listen(listener, told));
    Ok(Some(Serving { _tasks: tasks }))
}

/// A port alone is one of this machine: whoever wants to be asked by others says so by an address.
fn address(given: &str) -> anyhow::Result<String> {
    if let Ok(port) = given.parse::<u16>() {
        return Ok(format!("127.0.0.1:{port}"));
    }
    match given.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(given.to_owned()),
        _ => bail!(
            "health: {given:?} is no address; write 9464 or 127.0.0.1:9464 for this machine alone, or an address of it, such as \
             0.0.0.0:9464, for others to ask"
        ),
    }
}

async fn listen(listener: TcpListener, told: impl Told) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes it");
        match listener.accept().await {
            Ok((stream, _)) => {
                let told = told.clone();
                connections.spawn(async move {
                    let _place = place;
                    if timeout(CONNECTION_PATIENCE, serve_connection(stream, told)).await.is_err() {
                        tracing::debug!("a connection for health was not over in time");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for health could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, told: impl Told) {
    let service = service_fn(|request| {
        let told = &told;
        async move { Ok::<_, Infallible>(answer(&request, told).await) }
    });
    // One request each: so a place is never held by somebody who says nothing.
    let served = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection for health ended early");
    }
}

async fn answer(request: &Request<Incoming>, told: &impl Told) -> Response<Full<Bytes>> {
    const JSON: &str = "application/json";
    const TEXT: &str = "text/plain; charset=utf-8";
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let status = |good| if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match request.uri().path() {
        "/health/live" => {
            let (live, body) = told.live();
            response(status(live), JSON, format!("{body}\n"))
        }
        "/health/ready" => {
            let (ready, body) = told.ready();
            response(status(ready), JSON, format!("{body}\n"))
        }
        "/metrics" => response(StatusCode::OK, METRICS, told.page().await),
        _ => response(StatusCode::NOT_FOUND, TEXT, "there are /health/live, /health/ready and /metrics\n".to_owned()),
    }
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
