//! The connections that are open now: how the broker wakes them, and how faults reach them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::options::EntityStatus;
use crate::amqp::address::path_of;
use crate::fault::{Condition, Faults};

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
    links: Mutex<Vec<(LinkKey, LinkInfo)>>,
}

impl Peer {
    pub(crate) fn id(&self) -> u64 {
        self.id
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

    pub(crate) fn attached(&self, key: LinkKey, entity: String, role: LinkRole) {
        guard(&self.links).push((key, LinkInfo { connection: self.id, entity, role }));
    }

    pub(crate) fn detached(&self, key: LinkKey) {
        guard(&self.links).retain(|(known, _)| *known != key);
    }

    fn matches(&self, which: &Which) -> bool {
        let links = guard(&self.links);
        match which {
            Which::All => true,
            Which::Senders => links.iter().any(|(_, link)| link.role == LinkRole::Sender),
            Which::Receivers => links.iter().any(|(_, link)| link.role == LinkRole::Receiver),
            Which::Entity(entity) => {
                let path = path_of(entity);
                links.iter().any(|(_, link)| link.entity == path)
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
}

#[derive(Debug, Default)]
struct Register {
    last: u64,
    /// New connections are swallowed until then.
    blackhole: Option<Instant>,
    peers: BTreeMap<u64, Arc<Peer>>,
}

impl Live {
    pub(crate) fn register(&self) -> Arc<Peer> {
        let mut register = guard(&self.peers);
        register.last += 1;
        let id = register.last;
        let peer = Arc::new(Peer { id, wake: Notify::new(), mail: Mutex::default(), links: Mutex::default() });
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
            .flat_map(|peer| guard(&peer.links).iter().map(|(_, link)| link.clone()).collect::<Vec<_>>())
            .collect()
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
