//! The bus against `waybill-local`: real sockets, real tokens, and the bad days that the broker can be told to have.

mod faults;
mod receiving;
mod routes;
mod sending;
mod tls;
mod tokens;

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use waybill_local::{
    Local,
    broker::{Broker, Counts},
};

use super::*;
use crate::{BoxFuture, Generation, Grant, GrantError, Secret, Service, Token};

const TOPIC: &str = "exports";
const ACME: &str = "exports/subscriptions/acme";
const HOUR: Duration = Duration::from_hours(1);

/// No test waits longer than this for what must happen.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), what).await.expect("it did not happen in time")
}

/// Whose tokens a [`TestTokens`] gives out.
#[derive(Debug, Clone)]
enum Holder {
    /// The root key, for one entity.
    Root(String),
    /// A tenant, for its own subscription.
    Tenant(String),
}

/// A token source whose tokens a test makes, ends and counts.
struct TestTokens {
    local: Arc<Local>,
    holder: Holder,
    state: Mutex<TokenState>,
    changes: watch::Sender<Generation>,
}

struct TokenState {
    life: Duration,
    endpoint: url::Url,
    entity: String,
    generation: u64,
    sas: Secret,
    expires_at: OffsetDateTime,
    /// Generations that the bus called refused.
    refusals: Vec<u64>,
    /// What an unreachable issuer answers.
    down: Option<GrantError>,
    /// Spoils every signature.
    wrong_key: bool,
}

impl fmt::Debug for TestTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TestTokens")
    }
}

impl TestTokens {
    fn new(local: &Arc<Local>, holder: Holder, life: Duration) -> Arc<Self> {
        let entity = match &holder {
            Holder::Root(entity) => entity.clone(),
            Holder::Tenant(tenant) => format!("{TOPIC}/subscriptions/{tenant}"),
        };
        let state = TokenState {
            life,
            endpoint: endpoint(local.ports().amqp),
            entity,
            generation: 0,
            sas: Secret::new(""),
            expires_at: OffsetDateTime::UNIX_EPOCH,
            refusals: Vec::new(),
            down: None,
            wrong_key: false,
        };
        let tokens = Self {
            local: Arc::clone(local),
            holder,
            state: Mutex::new(state),
            changes: watch::Sender::new(Generation(0)),
        };
        tokens.renew();
        Arc::new(tokens)
    }

    /// Issues a new token and tells it.
    fn renew(&self) {
        let generation = {
            let mut state = self.state.lock().unwrap();
            state.generation += 1;
            // A SAS is made of its expiry in whole seconds: no two shall be the same.
            state.expires_at = OffsetDateTime::now_utc() + state.life + Duration::from_secs(state.generation);
            let expiry = state.expires_at.unix_timestamp();
            let keys = self.local.keys();
            let sas = match &self.holder {
                Holder::Root(entity) => keys.root_bus_token("127.0.0.1", entity, expiry),
                Holder::Tenant(tenant) => keys.bus_token(tenant, "127.0.0.1", expiry).unwrap(),
            };
            state.sas = Secret::new(if state.wrong_key { sas.replace("&sig=", "&sig=x") } else { sas });
            state.generation
        };
        self.changes.send_replace(Generation(generation));
    }

    fn with<T>(&self, change: impl FnOnce(&mut TokenState) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    fn refusals(&self) -> Vec<u64> {
        self.with(|state| state.refusals.clone())
    }
}

impl TokenSource for TestTokens {
    fn grant(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Grant, GrantError>> {
        assert_eq!(service, Service::Bus);
        if let Some(down) = self.with(|state| state.down.clone()) {
            return Box::pin(async move { Err(down) });
        }
        if let Some(Generation(refused)) = refused {
            self.with(|state| state.refusals.push(refused));
            if refused == self.with(|state| state.generation) {
                self.renew();
            }
        }
        let grant = self.with(|state| Grant {
            endpoint: state.endpoint.clone(),
            entity: state.entity.clone(),
            token: Token::Sas(state.sas.clone()),
            expires_at: state.expires_at,
            generation: Generation(state.generation),
        });
        Box::pin(async move { Ok(grant) })
    }

    fn changes(&self) -> watch::Receiver<Generation> {
        self.changes.subscribe()
    }
}

fn endpoint(port: u16) -> url::Url {
    format!("amqp://127.0.0.1:{port}").parse().unwrap()
}

fn options() -> BusOptions {
    BusOptions { call_timeout: Duration::from_secs(10), ..BusOptions::default() }
}

/// A client of the services: a bus with its tokens.
struct Client {
    bus: Bus,
    tokens: Arc<TestTokens>,
}

impl Client {
    fn new(local: &Arc<Local>, holder: Holder) -> Self {
        let tokens = TestTokens::new(local, holder, HOUR);
        Self { bus: Bus::new(Arc::clone(&tokens) as Arc<dyn TokenSource>, options()), tokens }
    }

    /// Sends to the topic.
    fn publisher(local: &Arc<Local>) -> Self {
        Self::new(local, Holder::Root(TOPIC.to_owned()))
    }

    /// Receives from acme's subscription.
    fn acme(local: &Arc<Local>) -> Self {
        Self::new(local, Holder::Tenant("acme".to_owned()))
    }

    async fn sender(&self) -> Sender {
        soon(self.bus.sender()).await.unwrap()
    }

    async fn receiver(&self, credit: u32) -> Receiver {
        let mut receiver = soon(self.bus.receiver(ReceiverOptions::default())).await.unwrap();
        receiver.add_credit(credit).await.unwrap();
        receiver
    }
}

async fn local() -> Arc<Local> {
    Arc::new(Local::builder().start().await.unwrap())
}

fn message(id: &str) -> Message {
    Message { body: Bytes::from(format!("body of {id}")), message_id: id.to_owned(), ..Message::default() }
}

fn messages(count: usize) -> Vec<Message> {
    (0..count).map(|number| message(&format!("m{number}"))).collect()
}

/// Puts messages on acme's subscription.
async fn publish(local: &Arc<Local>, messages: &[Message]) {
    let publisher = Client::publisher(local);
    soon(publisher.sender().await.send(messages)).await.unwrap();
    publisher.bus.close().await;
}

fn counts(broker: &Broker, entity: &str) -> Counts {
    broker.counts(entity).unwrap()
}

/// Takes `count` deliveries, in order.
async fn take(receiver: &mut Receiver, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::with_capacity(count);
    for _ in 0..count {
        deliveries.push(soon(receiver.next()).await.unwrap());
    }
    deliveries
}

fn ids(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|delivery| delivery.message_id.as_deref().unwrap()).collect()
}

fn tags(deliveries: &[Delivery]) -> Vec<DeliveryTag> {
    deliveries.iter().map(|delivery| delivery.tag.clone()).collect()
}

/// What a [`Proxy`] does with the bytes that pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passage {
    Open,
    /// The client hears nothing more, but is heard.
    ClientDeaf,
    /// Nothing passes, and nobody is told.
    Blackhole,
    /// Both sides are reset.
    Reset,
}

/// A TCP proxy in front of a port.
struct Proxy {
    port: u16,
    passage: watch::Sender<Passage>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let passage = watch::Sender::new(Passage::Open);
        let mut tasks = JoinSet::new();
        let watched = passage.clone();
        tasks.spawn(async move {
            let mut lines = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                lines.spawn(carry(client, server, watched.subscribe()));
            }
        });
        Self { port, passage, _tasks: tasks }
    }

    fn set(&self, passage: Passage) {
        self.passage.send_replace(passage);
    }
}

async fn carry(client: TcpStream, server: TcpStream, mut passage: watch::Receiver<Passage>) {
    let (client_end, server_end) = (client.into_std().unwrap(), server.into_std().unwrap());
    let both = [&client_end, &server_end].map(|end| TcpStream::from_std(end.try_clone().unwrap()).unwrap());
    let [client, server] = both;
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let up = pump(client_in, server_out, passage.clone(), &[Passage::Open, Passage::ClientDeaf]);
    let down = pump(server_in, client_out, passage.clone(), &[Passage::Open]);
    tokio::select! {
        ((), ()) = async { tokio::join!(up, down) } => {}
        _ = passage.wait_for(|passage| *passage == Passage::Reset) => {
            // With bytes unread, or a lingering time of zero, the end of a socket is a reset.
            for end in [client_end, server_end] {
                TcpStream::from_std(end).unwrap().set_zero_linger().unwrap();
            }
        }
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut passage: watch::Receiver<Passage>,
    passes: &[Passage],
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if passage.wait_for(|passage| passes.contains(passage)).await.is_err() {
            return;
        }
        match from.read(&mut buffer).await {
            Ok(read) if read > 0 => {
                if passage.wait_for(|passage| passes.contains(passage)).await.is_err()
                    || to.write_all(&buffer[..read]).await.is_err()
                {
                    return;
                }
            }
            _ => return,
        }
    }
}

#[test]
fn the_defaults_are_those_of_the_docs() {
    let options = BusOptions::default();
    assert_eq!((options.call_timeout.as_secs(), options.idle_timeout.as_secs()), (30, 60));
    assert!(options.ca_file.is_none());
    assert!(!ReceiverOptions::default().dead_letter_queue);
}
