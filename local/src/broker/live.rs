//! The connections that are open now: how the broker wakes them, and how faults reach them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::moment::Moment;
use super::options::EntityStatus;
use crate::amqp::address::path_of;
use crate::fault::{Condition, Faults};
use crate::log::Lines;

/// Characters of what a client says of itself that are kept.
const CLIENT_MAX: usize = 200;

/// A link within its connection: channel, handle, and a number that is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LinkKey {
    pub(crate) channel: u16,
    pub(crate) handle: u32,
    pub(crate) serial: u64,
}

/// What a client does on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkRole {
    /// It sends to the entity.
    Sender,
    /// It receives from it.
    Receiver,
}

/// An attached link to an entity (`$cbs` and `$management` are not listed).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    /// Number of the connection.
    pub connection: u64,
    /// Path of the entity, in lower case.
    pub entity: String,
    /// What the client does.
    pub role: LinkRole,
}

/// A link as it stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// Path of the entity, in lower case.
    pub entity: String,
    /// What the client does.
    pub role: LinkRole,
    /// Deliveries that may still be made on it: by the client if it sends, by us if it receives.
    pub credit: u32,
    /// When it was attached.
    pub since: Moment,
}

/// An open connection, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Its number, from 1 on.
    pub number: u64,
    /// Where the client is.
    pub address: Option<SocketAddr>,
    /// The container-id that the client stated.
    pub container_id: Option<String>,
    /// The program, as the client stated it: user-agent, or product and version.
    pub client: Option<String>,
    /// When it was accepted.
    pub since: Moment,
    /// Its links to entities.
    pub links: Vec<LinkState>,
}

/// Which connections a fault befalls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    All,
    /// Those with a link that sends.
    Senders,
    /// Those with a link that receives.
    Receivers,
    /// Those with a link to this entity, in either direction.
    Entity(String),
}

/// What a connection is told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// End the TCP connection with RST, without a word.
    Reset,
    /// Swallow what comes and say nothing any more.
    Blackhole,
    /// Send `close`.
    Close(Condition),
    /// End the sessions that have a link to this entity.
    End { entity: String, condition: Condition },
    /// Detach the links of this entity.
    Detach { entity: String, cut: Cut },
    /// Go on at once where a script lets it stand still.
    Resume,
    /// State the credit of every link.
    Report,
}

/// Why links of an entity are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// A fault asks for it.
    Fault(Condition),
    /// The entity is gone.
    Deleted,
    /// The entity has this status now.
    Disabled(EntityStatus),
}

/// What is known of a client.
#[derive(Debug, Default, Clone)]
struct Client {
    address: Option<SocketAddr>,
    container_id: Option<String>,
    client: Option<String>,
}

#[derive(Debug)]
struct Attached {
    key: LinkKey,
    info: LinkInfo,
    credit: u32,
    since: Moment,
}

#[derive(Debug, Default)]
struct Mail {
    woken: Vec<LinkKey>,
    commands: Vec<Command>,
}

/// One connection, as the broker sees it.
#[derive(Debug)]
pub(crate) struct Peer {
    id: u64,
    wake: Notify,
    mail: Mutex<Mail>,
    links: Mutex<Vec<Attached>>,
    client: Mutex<Client>,
    since: Moment,
    /// How often it has reported.
    reports: AtomicU64,
}

impl Peer {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Where the client is.
    pub(crate) fn came_from(&self, address: SocketAddr) {
        guard(&self.client).address = Some(address);
    }

    /// For log lines; empty when nobody said.
    pub(crate) fn address(&self) -> String {
        guard(&self.client).address.map_or_else(String::new, |address| address.to_string())
    }

    /// What the client says of itself when it opens.
    pub(crate) fn introduced(&self, container_id: &str, client: Option<&str>) {
        let kept = |text: &str| text.chars().take(CLIENT_MAX).collect::<String>();
        let mut known = guard(&self.client);
        known.container_id = Some(kept(container_id));
        known.client = client.map(kept);
    }

    /// Answers [`Command::Report`].
    pub(crate) fn report(&self, credits: &[(LinkKey, u32)]) {
        for attached in guard(&self.links).iter_mut() {
            if let Some((_, credit)) = credits.iter().find(|(key, _)| *key == attached.key) {
                attached.credit = *credit;
            }
        }
        self.reports.fetch_add(1, Ordering::AcqRel);
    }

    fn info(&self) -> ConnectionInfo {
        let Client { address, container_id, client } = guard(&self.client).clone();
        let links = guard(&self.links);
        let state = |attached: &Attached| LinkState {
            entity: attached.info.entity.clone(),
            role: attached.info.role,
            credit: attached.credit,
            since: attached.since,
        };
        let links = links.iter().map(state).collect();
        ConnectionInfo { number: self.id, address, container_id, client, since: self.since, links }
    }

    /// Returns once something was put into the mail. Cancel safe: a notice is kept until somebody waits.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Messages may wait for this link.
    pub(crate) fn wake_link(&self, link: LinkKey) {
        guard(&self.mail).woken.push(link);
        self.wake.notify_one();
    }

    fn tell(&self, command: Command) {
        guard(&self.mail).commands.push(command);
        self.wake.notify_one();
    }

    /// Takes what came since the last call.
    pub(crate) fn take_mail(&self, woken: &mut Vec<LinkKey>, commands: &mut Vec<Command>) {
        let mut mail = guard(&self.mail);
        woken.append(&mut mail.woken);
        commands.append(&mut mail.commands);
    }

    pub(crate) fn attached(&self, key: LinkKey, entity: String, role: LinkRole, since: Moment) {
        let info = LinkInfo { connection: self.id, entity, role };
        guard(&self.links).push(Attached { key, info, credit: 0, since });
    }

    pub(crate) fn detached(&self, key: LinkKey) {
        guard(&self.links).retain(|attached| attached.key != key);
    }

    fn matches(&self, which: &Which) -> bool {
        let links = guard(&self.links);
        match which {
            Which::All => true,
            Which::Senders => links.iter().any(|link| link.info.role == LinkRole::Sender),
            Which::Receivers => links.iter().any(|link| link.info.role == LinkRole::Receiver),
            Which::Entity(entity) => {
                let path = path_of(entity);
                links.iter().any(|link| link.info.entity == path)
            }
        }
    }
}

/// All open connections.
#[derive(Debug, Default)]
pub(crate) struct Live {
    peers: Mutex<Register>,
    /// Who is told what happens on the connections. Weak, because it holds the broker.
    faults: OnceLock<Weak<Faults>>,
    /// Bytes that clients make the process hold.
    held: Arc<AtomicUsize>,
    lines: Lines,
}

#[derive(Debug, Default)]
struct Register {
    last: u64,
    /// New connections are swallowed until then.
    blackhole: Option<Instant>,
    peers: BTreeMap<u64, Arc<Peer>>,
}

impl Live {
    pub(crate) fn register(&self, since: Moment) -> Arc<Peer> {
        let mut register = guard(&self.peers);
        register.last += 1;
        let id = register.last;
        let peer = Arc::new(Peer {
            id,
            wake: Notify::new(),
            mail: Mutex::default(),
            links: Mutex::default(),
            client: Mutex::default(),
            since,
            reports: AtomicU64::new(0),
        });
        register.peers.insert(id, Arc::clone(&peer));
        if register.blackhole.is_some_and(|until| Instant::now() < until) {
            peer.tell(Command::Blackhole);
        }
        peer
    }

    /// Tells the scripts from now on what happens on new connections.
    pub(crate) fn tell_faults(&self, faults: Weak<Faults>) {
        // A second process around one broker would be a mistake of ours; the first keeps it.
        drop(self.faults.set(faults));
    }

    pub(crate) fn faults(&self) -> Option<Arc<Faults>> {
        self.faults.get().and_then(Weak::upgrade)
    }

    /// Where the connections count the bytes that clients make them hold.
    pub(crate) fn held(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.held)
    }

    /// How much was said in the log about what clients did.
    pub(crate) fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Connections that come within this time are swallowed.
    pub(crate) fn blackhole(&self, lasts: Duration) {
        guard(&self.peers).blackhole = Some(Instant::now() + lasts);
    }

    pub(crate) fn end_blackhole(&self) {
        guard(&self.peers).blackhole = None;
    }

    pub(crate) fn unregister(&self, id: u64) {
        guard(&self.peers).peers.remove(&id);
    }

    pub(crate) fn count(&self) -> usize {
        guard(&self.peers).peers.len()
    }

    pub(crate) fn links(&self) -> Vec<LinkInfo> {
        let register = guard(&self.peers);
        register
            .peers
            .values()
            .flat_map(|peer| guard(&peer.links).iter().map(|attached| attached.info.clone()).collect::<Vec<_>>())
            .collect()
    }

    /// Asks every connection for the credit of its links. What is returned says whether all have answered or are gone.
    pub(crate) fn ask_reports(&self) -> impl Fn() -> bool + use<> {
        let peers: Vec<Arc<Peer>> = guard(&self.peers).peers.values().map(Arc::clone).collect();
        let asked: Vec<(std::sync::Weak<Peer>, u64)> =
            peers.iter().map(|peer| (Arc::downgrade(peer), peer.reports.load(Ordering::Acquire))).collect();
        peers.iter().for_each(|peer| peer.tell(Command::Report));
        move || {
            let answered = |(peer, before): &(std::sync::Weak<Peer>, u64)| {
                peer.upgrade().is_none_or(|peer| peer.reports.load(Ordering::Acquire) > *before)
            };
            asked.iter().all(answered)
        }
    }

    pub(crate) fn connections(&self) -> Vec<ConnectionInfo> {
        guard(&self.peers).peers.values().map(|peer| peer.info()).collect()
    }

    /// Tells the connections that match, and returns how many they are.
    pub(crate) fn tell(&self, which: &Which, command: &Command) -> usize {
        let peers: Vec<Arc<Peer>> = guard(&self.peers).peers.values().map(Arc::clone).collect();
        let told = peers.iter().filter(|peer| peer.matches(which));
        told.inspect(|peer| peer.tell(command.clone())).count()
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
