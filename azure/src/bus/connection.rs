//! One AMQP connection: opened over our own stream, kept authorised, and watched by a task of its own.
//!
//! The task owns the engine's handle. It attaches links on request, puts each new token while links stay attached, and
//! tells every link why the connection ended: the engine itself never resolves a send that was pending then (measured
//! with fe2o3-amqp 0.18.4), so whoever waits on a link also waits on [`Status`].

use std::{collections::BTreeMap, fmt, future::Future, io, sync::Arc, time::Duration};

use fe2o3_amqp::{
    Session,
    connection::{self, ConnectionHandle, OpenError},
    link::receiver::CreditMode,
    sasl_profile::SaslProfile,
    session::SessionHandle,
    transport,
};
use fe2o3_amqp_types::{
    definitions::{Fields, ReceiverSettleMode, SenderSettleMode},
    primitives::{Symbol, Value},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, error::Elapsed, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    BusError, BusOptions,
    address::Address,
    cbs::{self, PutError},
    error::Cause,
    link::{self, Ended, Link, Status},
    route::{self, Route},
    stream::{Contact, StreamGuard},
    token::Tokens,
};
use crate::{Generation, Grant, GrantError, proxy::ProxySettings};

/// Attach requests that wait: a bus has a handful of links, and each request waits for its answer.
const REQUESTS_MAX: usize = 8;

/// When a new token could not be put: how long until the next try, if nobody says otherwise.
const PUT_AGAIN: Duration = Duration::from_secs(5);

/// The same, when the broker refused two tokens in a row.
const PUT_AGAIN_SLOWLY: Duration = Duration::from_secs(60);

/// The handle of an open connection.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    requests: mpsc::Sender<Request>,
    pub(super) status: Arc<Status>,
}

/// An attached link, and the end by which its keeper gives it up.
#[derive(Debug)]
pub(super) struct Attached<T> {
    pub(super) end: T,
    pub(super) link: Link,
    /// Dropped with a sender; takes a receiver that must be wound down.
    pub(super) retire: oneshot::Sender<fe2o3_amqp::Receiver>,
}

type Answer<T> = oneshot::Sender<Result<Attached<T>, BusError>>;

#[derive(Debug)]
enum Request {
    Sender(Answer<fe2o3_amqp::Sender>),
    Receiver { dead_letter_queue: bool, answer: Answer<fe2o3_amqp::Receiver> },
}

impl Connection {
    /// Opens a connection to where the current grant points, and says which way it went; `last` is tried first. Its task
    /// goes into `tasks` and ends with `stop`.
    pub(super) async fn open(
        tokens: &Arc<Tokens>,
        options: &BusOptions,
        proxies: &ProxySettings,
        last: Option<Route>,
        contact: &Contact,
        stop: CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> Result<(Self, Route), BusError> {
        let limit = options.call_timeout;
        let grant = tokens.current(limit).await?;
        let address = Address::of(&grant.endpoint)?;
        let opening = open_engine(&address, options, proxies, last, contact);
        let (handle, guard, route) = timeout(limit, opening)
            .await
            .map_err(|Elapsed { .. }| BusError::Timeout { what: "opening the connection", limit })??;
        let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
        let status = Arc::new(Status::default());
        let keeper = Keeper {
            tokens: Arc::clone(tokens),
            options: options.clone(),
            handle,
            guard,
            endpoint: grant.endpoint,
            entity: grant.entity,
            host: address.host,
            audiences: BTreeMap::new(),
            links: JoinSet::new(),
            status: Arc::clone(&status),
        };
        tasks.spawn(keeper.run(inbox, stop));
        Ok((Self { requests, status }, route))
    }

    pub(super) async fn attach_sender(&self) -> Result<Attached<fe2o3_amqp::Sender>, BusError> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Sender(answer), answered).await
    }

    pub(super) async fn attach_receiver(
        &self,
        dead_letter_queue: bool,
    ) -> Result<Attached<fe2o3_amqp::Receiver>, BusError> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Receiver { dead_letter_queue, answer }, answered).await
    }

    async fn ask<T>(
        &self,
        request: Request,
        answered: oneshot::Receiver<Result<Attached<T>, BusError>>,
    ) -> Result<Attached<T>, BusError> {
        if self.requests.send(request).await.is_err() {
            return Err(self.status.ended().await);
        }
        match answered.await {
            Ok(answer) => answer,
            Err(_dropped) => Err(self.status.ended().await),
        }
    }
}

async fn open_engine(
    address: &Address,
    options: &BusOptions,
    proxies: &ProxySettings,
    last: Option<Route>,
    contact: &Contact,
) -> Result<(ConnectionHandle<()>, StreamGuard, Route), BusError> {
    let (stream, guard, route) = route::connect(address, options, proxies, last).await?;
    let idle_ms = u32::try_from(options.idle_timeout.as_millis()).unwrap_or(u32::MAX);
    let opened = fe2o3_amqp::Connection::builder()
        .container_id(uuid::Uuid::new_v4().to_string())
        .hostname(address.host.as_str())
        // The stream brings TLS already, so the engine shall not negotiate it.
        .scheme("amqp")
        .sasl_profile(SaslProfile::Anonymous)
        .idle_time_out(idle_ms)
        .properties(about_us())
        .open_with_stream(stream.noting(contact.clone()))
        .await;
    match opened {
        Ok(handle) => Ok((handle, guard, route)),
        Err(error) => {
            let problem = match &error {
                OpenError::Io(error) | OpenError::TransportError(transport::Error::Io(error)) => error.to_string(),
                OpenError::RemoteClosedWithError(error) => Cause::from(error).to_string(),
                error => error.to_string(),
            };
            Err(BusError::Connect { address: address.to_string(), problem })
        }
    }
}

/// What a broker may show of this program to those who run it.
fn about_us() -> Fields {
    let said = [("product", env!("CARGO_PKG_NAME")), ("version", env!("CARGO_PKG_VERSION"))];
    said.into_iter().map(|(key, text)| (Symbol::from(key), Value::String(text.to_owned()))).collect()
}

/// What went wrong while the keeper worked.
#[derive(Debug)]
enum Failure {
    /// Only what was asked for.
    Call(BusError),
    /// The connection cannot be used any more.
    Broken(BusError),
    /// The connection ended; its handle knows why.
    Gone,
}

impl From<BusError> for Failure {
    fn from(error: BusError) -> Self {
        Self::Call(error)
    }
}

/// The task of a connection.
struct Keeper {
    tokens: Arc<Tokens>,
    options: BusOptions,
    handle: ConnectionHandle<()>,
    guard: StreamGuard,
    endpoint: Url,
    entity: String,
    host: String,
    /// For which audiences a token was put, and of which generation.
    audiences: BTreeMap<String, Generation>,
    /// The tasks that tend the links.
    links: JoinSet<()>,
    status: Arc<Status>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Reached without a reason only when the task is aborted, with the last handle of the bus.
        self.status.end(BusError::Disconnected { problem: "the bus was dropped".to_owned() });
    }
}

impl Keeper {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>, stop: CancellationToken) {
        let why = self.keep(&mut requests, &stop).await;
        tracing::debug!(host = self.host, %why, "bus connection ended");
        self.status.end(why);
    }

    /// Serves until the connection is over.
    async fn keep(&mut self, requests: &mut mpsc::Receiver<Request>, stop: &CancellationToken) -> BusError {
        let mut changes = self.tokens.changes();
        let mut source_lives = true;
        let mut put_at: Option<Instant> = None;
        loop {
            let due = put_at.unwrap_or_else(Instant::now);
            let served = tokio::select! {
                biased;
                () = stop.cancelled() => return self.close().await,
                closed = self.handle.on_close() => return self.closed(closed),
                request = requests.recv() => match request {
                    Some(request) => self.serve(request).await,
                    None => return self.close().await,
                },
                changed = changes.changed(), if source_lives => {
                    source_lives = changed.is_ok();
                    put_at = Some(Instant::now());
                    Ok(())
                }
                () = sleep_until(due), if put_at.is_some() => match self.put_all().await {
                    Ok(()) => {
                        put_at = None;
                        Ok(())
                    }
                    // Whoever opened the bus for this place closes it, when what was received is settled.
                    Err(Failure::Call(BusError::Grant(error @ GrantError::Elsewhere { .. }))) => {
                        tracing::debug!(host = self.host, %error, "no newer token is put here");
                        put_at = None;
                        Ok(())
                    }
                    Err(Failure::Call(error)) => {
                        let usual = if error.needs_person() { PUT_AGAIN_SLOWLY } else { PUT_AGAIN };
                        let after = error.retry_after().unwrap_or(usual);
                        tracing::warn!(host = self.host, %error, ?after, "a new token could not be put; links go on with the old one");
                        put_at = Some(Instant::now() + after);
                        Ok(())
                    }
                    Err(failure) => Err(failure),
                },
                Some(_) = self.links.join_next() => Ok(()),
            };
            match served {
                Ok(()) => {}
                Err(Failure::Broken(why) | Failure::Call(why)) => return why,
                Err(Failure::Gone) => {
                    return match timeout(self.options.call_timeout, self.handle.on_close()).await {
                        Ok(closed) => self.closed(closed),
                        Err(Elapsed { .. }) => {
                            BusError::Disconnected { problem: "it ended without a reason".to_owned() }
                        }
                    };
                }
            }
        }
    }

    /// Answers a request; an error is the connection's.
    async fn serve(&mut self, request: Request) -> Result<(), Failure> {
        match request {
            Request::Sender(answer) => {
                let attached = self.attach(self.entity.clone()).await;
                deliver(attached, answer)
            }
            Request::Receiver { dead_letter_queue, answer } => {
                let suffix = if dead_letter_queue { "/$DeadLetterQueue" } else { "" };
                let attached = self.attach(format!("{}{suffix}", self.entity)).await;
                deliver(attached, answer)
            }
        }
    }

    /// Puts a token if needed and attaches a link; renews a refused token once.
    async fn attach<T: Attach>(&mut self, address: String) -> Result<Attached<T>, Failure> {
        let mut renewed = false;
        loop {
            let grant = self.authorize(&cbs::audience(&self.host, &address), &mut renewed).await?;
            let limit = self.options.call_timeout;
            let beginning = Session::begin(&mut self.handle);
            let begun = bounded(&self.guard, limit, "beginning a session", beginning).await?;
            let mut session = match begun {
                Ok(session) => session,
                Err(error) => return Err(refused(&Ended::from(&error), &address)),
            };
            let attaching = T::attach(&mut session, &address);
            match bounded(&self.guard, limit, "attaching a link", attaching).await? {
                Ok(end) => {
                    let link = Link::new(address, &self.status, limit);
                    let (retire, retired) = oneshot::channel();
                    self.links.spawn(link::tend(link.clone(), session, retired));
                    return Ok(Attached { end, link, retire });
                }
                Err(Ended::By(cause)) if cause.is_token() => {
                    self.tokens.refuse(grant.generation);
                    if renewed {
                        return Err(Failure::Call(cause.at_attach(&address).advised(&grant.token)));
                    }
                }
                Err(ended) => return Err(refused(&ended, &address)),
            }
        }
    }

    /// Makes sure that a usable token is put for an audience, and gives its grant.
    async fn authorize(&mut self, audience: &str, renewed: &mut bool) -> Result<Grant, Failure> {
        let limit = self.options.call_timeout;
        loop {
            let tokens = Arc::clone(&self.tokens);
            let grant = tokio::select! {
                grant = tokens.usable(renewed, limit) => grant?,
                () = self.guard.gone.cancelled() => return Err(Failure::Gone),
            };
            self.same_place(&grant)?;
            if self.audiences.get(audience) == Some(&grant.generation) {
                return Ok(grant);
            }
            let putting = cbs::put_token(&mut self.handle, audience, &grant);
            match bounded(&self.guard, limit, "putting a token", putting).await? {
                Ok(()) => {
                    tracing::debug!(audience, generation = grant.generation.0, "token put");
                    self.audiences.insert(audience.to_owned(), grant.generation);
                    return Ok(grant);
                }
                Err(PutError::Refused(problem)) => {
                    self.tokens.refuse(grant.generation);
                    if *renewed {
                        let refused = BusError::Unauthorized { entity: self.entity.clone(), problem };
                        return Err(Failure::Call(refused.advised(&grant.token)));
                    }
                }
                Err(PutError::Failed(error)) => return Err(Failure::Call(error)),
            }
        }
    }

    /// Puts the current token for every audience that has an older one.
    async fn put_all(&mut self) -> Result<(), Failure> {
        let mut renewed = false;
        let audiences: Vec<String> = self.audiences.keys().cloned().collect();
        for audience in audiences {
            self.authorize(&audience, &mut renewed).await?;
        }
        Ok(())
    }

    /// A token goes only to the endpoint of its own grant: when the grant moves, so does the connection.
    fn same_place(&self, grant: &Grant) -> Result<(), Failure> {
        if grant.endpoint == self.endpoint && grant.entity == self.entity {
            return Ok(());
        }
        Err(Failure::Broken(BusError::Disconnected {
            problem: "the grant names another endpoint or entity now".to_owned(),
        }))
    }

    async fn close(&mut self) -> BusError {
        if timeout(self.options.call_timeout, self.handle.close()).await.is_err() {
            tracing::debug!(host = self.host, "the peer did not answer the close");
        }
        BusError::Disconnected { problem: "the bus was closed".to_owned() }
    }

    fn closed(&self, closed: Result<(), connection::Error>) -> BusError {
        let problem = match closed {
            Ok(()) | Err(connection::Error::RemoteClosed) => "the peer closed it without a reason".to_owned(),
            Err(connection::Error::RemoteClosedWithError(error)) => Cause::from(&error).to_string(),
            Err(connection::Error::TransportError(transport::Error::IdleTimeoutElapsed)) => {
                format!("nothing came from the peer for {:?}", self.options.idle_timeout)
            }
            Err(connection::Error::TransportError(transport::Error::Io(error)))
                if error.kind() == io::ErrorKind::UnexpectedEof =>
            {
                "the peer ended it without closing it".to_owned()
            }
            Err(connection::Error::TransportError(transport::Error::Io(error))) => error.to_string(),
            Err(error) => error.to_string(),
        };
        BusError::Disconnected { problem }
    }
}

/// Hands an answer over, and keeps what ends the connection.
fn deliver<T>(attached: Result<Attached<T>, Failure>, answer: Answer<T>) -> Result<(), Failure> {
    let (answered, failure) = match attached {
        Ok(attached) => (Ok(attached), Ok(())),
        Err(Failure::Call(error)) => (Err(error), Ok(())),
        // The asker's end of the channel goes with `answer`: it waits for the connection's reason.
        Err(Failure::Gone) => return Err(Failure::Gone),
        Err(Failure::Broken(error)) => (Err(error.clone()), Err(Failure::Broken(error))),
    };
    // An asker that went away drops the link, whose keeper then closes it.
    drop(answer.send(answered));
    failure
}

fn refused(ended: &Ended, address: &str) -> Failure {
    match ended {
        Ended::By(cause) => Failure::Call(cause.at_attach(address)),
        Ended::Quietly(problem) => {
            Failure::Call(BusError::Detached { entity: address.to_owned(), problem: problem.clone() })
        }
        Ended::WithConnection => Failure::Gone,
    }
}

/// Bounds a call to the engine by the deadline and by the life of the connection. A call that the engine left half done
/// leaves its state unknown, so the connection is given up.
async fn bounded<T>(
    guard: &StreamGuard,
    limit: Duration,
    what: &'static str,
    call: impl Future<Output = T>,
) -> Result<T, Failure> {
    tokio::select! {
        done = timeout(limit, call) => done.map_err(|Elapsed { .. }| Failure::Broken(BusError::Timeout { what, limit })),
        () = guard.gone.cancelled() => Err(Failure::Gone),
    }
}

/// One end of a link, as the engine attaches it.
trait Attach: Sized {
    fn attach(session: &mut SessionHandle<()>, address: &str) -> impl Future<Output = Result<Self, Ended>> + Send;
}

impl Attach for fe2o3_amqp::Sender {
    async fn attach(session: &mut SessionHandle<()>, address: &str) -> Result<Self, Ended> {
        let builder = Self::builder().name(link_name()).target(address);
        builder.attach(session).await.map_err(|error| Ended::from(&error))
    }
}

impl Attach for fe2o3_amqp::Receiver {
    async fn attach(session: &mut SessionHandle<()>, address: &str) -> Result<Self, Ended> {
        let builder = Self::builder()
            .name(link_name())
            .source(address)
            // Peek-lock as Microsoft's SDKs ask for it: unsettled, and settled by the broker's own disposition.
            .sender_settle_mode(SenderSettleMode::Unsettled)
            .receiver_settle_mode(ReceiverSettleMode::Second)
            .credit_mode(CreditMode::Manual);
        builder.attach(session).await.map_err(|error| Ended::from(&error))
    }
}

/// Links are always new: Service Bus does not recover them by name.
fn link_name() -> String {
    format!("waybill-{}", uuid::Uuid::new_v4())
}
