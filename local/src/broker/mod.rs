//! Queues, topics and subscriptions in memory, as Service Bus behaves: the rules are pure (`queue`, `order`, `schedule`, `seen`
//! and the `store` of them all, `filter` and `rule`); `mailbox` and `topic` put locks around them; the [`Broker`] finds entities
//! by name, wakes receivers and carries the faults that scripts and tests ask for.

pub(crate) mod filter;
mod live;
mod mailbox;
#[cfg(test)]
mod model;
mod moment;
mod name;
mod node;
mod options;
mod order;
pub(crate) mod queue;
pub(crate) mod rule;
mod schedule;
mod seen;
mod store;
#[cfg(test)]
mod tests;
mod topic;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

pub use filter::{CorrelationFilter, Filter, FilterError, SqlError, SqlFilter};
pub(crate) use live::{Command, Cut, LinkKey, Live, Peer};
pub use live::{ConnectionInfo, LinkInfo, LinkRole, LinkState, Which};
pub use mailbox::Counts;
use mailbox::Shared;
pub(crate) use mailbox::{Mailbox, SendRefusal, SettleRefusal, Waiter, Wanted};
pub use moment::Moment;
pub(crate) use name::{PATH_MAX, names_entity, names_subscription};
pub(crate) use node::{Destination, Node};
pub use options::{EntityStatus, QueueOptions, TopicOptions};
use queue::Handed;
pub use queue::{State, Totals};
pub(crate) use rule::Rules;
pub use rule::{DEFAULT_RULE, Rule, RuleError};
pub(crate) use store::Part;
pub(crate) use topic::Topic;

pub use crate::amqp::Value;
pub(crate) use crate::amqp::address::path_of;
pub use crate::amqp::message::Contents;
use crate::fault::{Condition, NewOrder};

/// The time now.
pub type Now = Arc<dyn Fn() -> OffsetDateTime + Send + Sync>;

/// How long connections have to state the credit of their links.
const REPORT_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(250);

/// Why an entity could not be made or was not found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// No entity of this path.
    #[error("there is no entity '{0}'; make it first, or correct the path")]
    NotFound(String),
    /// The path is in use.
    #[error("there is an entity '{0}' already; give the new one another name")]
    Exists(String),
    /// A subscription can be made on a topic only.
    #[error("'{0}' is not a topic; make the topic before its subscriptions")]
    NotATopic(String),
    /// Only a subscription has rules.
    #[error("'{0}' is not a subscription; name one as TOPIC/subscriptions/NAME")]
    NotASubscription(String),
    /// The rules of a subscription cannot be as asked.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// The name cannot be one.
    #[error(
        "{0:?} cannot name a queue or topic; use 1 to 260 letters, digits and . - _ ~, with / between segments, a letter or \
         digit first and last, and no segment 'subscriptions'"
    )]
    BadName(String),
    /// The name cannot be a subscription's.
    #[error(
        "{0:?} cannot name a subscription; use 1 to 50 letters, digits and . - _ ~, a letter or digit first and last"
    )]
    BadSubscription(String),
}

fn check_name(name: &str) -> Result<(), BrokerError> {
    if names_entity(name) { Ok(()) } else { Err(BrokerError::BadName(name.to_owned())) }
}

/// A message as [`Broker::peek`] shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Peeked {
    /// Its number on this queue.
    pub sequence_number: i64,
    /// When the broker took it.
    pub enqueued_at: Moment,
    /// Deliveries that failed so far.
    pub delivery_count: u32,
    /// Where it stands.
    pub state: State,
    /// When its lock ends, if it is locked.
    pub locked_until: Option<Moment>,
    /// Its properties and body.
    pub contents: Contents,
}

/// What an entity is, and how it behaves.
#[derive(Debug, Clone, PartialEq)]
pub enum Properties {
    /// A queue.
    Queue(QueueOptions),
    /// A topic.
    Topic(TopicOptions),
    /// A subscription with its rules, in the order of their names.
    Subscription(QueueOptions, Vec<Rule>),
}

impl Properties {
    /// What may be done on it.
    #[must_use]
    pub fn status(&self) -> EntityStatus {
        match self {
            Self::Queue(options) | Self::Subscription(options, _) => options.status,
            Self::Topic(options) => options.status,
        }
    }

    /// The same with another status.
    #[must_use]
    pub fn with_status(mut self, status: EntityStatus) -> Self {
        match &mut self {
            Self::Queue(options) | Self::Subscription(options, _) => options.status = status,
            Self::Topic(options) => options.status = status,
        }
        self
    }
}

#[derive(Debug, Clone)]
enum Entity {
    Queue(Arc<Mailbox>),
    Subscription(Arc<Mailbox>, Arc<Rules>),
    Topic(Arc<Topic>),
}

/// All entities of one namespace, and the connections to them. Nothing outlives the process.
///
/// Paths are compared without case: `exports`, `exports/Subscriptions/acme`, `jobs/$DeadLetterQueue`.
pub struct Broker {
    entities: RwLock<BTreeMap<String, Entity>>,
    live: Live,
    shared: Arc<Shared>,
    now: Now,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("entities", &self.entities).finish_non_exhaustive()
    }
}

impl Default for Broker {
    fn default() -> Self {
        Self::new(Arc::new(OffsetDateTime::now_utc))
    }
}

impl Broker {
    /// A broker without entities, on a clock of the caller's. A clock that jumps needs a [`Self::tick`] after the jump.
    #[must_use]
    pub fn new(now: Now) -> Self {
        Self { entities: RwLock::default(), live: Live::default(), shared: Arc::default(), now }
    }

    /// The broker's time.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment::from((self.now)())
    }

    /// Makes a queue.
    ///
    /// # Errors
    /// When the name is taken or cannot be one.
    pub fn add_queue(&self, name: &str, options: QueueOptions) -> Result<(), BrokerError> {
        check_name(name)?;
        self.add(name, Entity::Queue(Arc::new(Mailbox::new(name.to_owned(), options, Arc::clone(&self.shared)))))
    }

    /// Makes a topic without subscriptions. What is sent to it before it has one is gone, as in Azure.
    ///
    /// # Errors
    /// When the name is taken or cannot be one.
    pub fn add_topic(&self, name: &str, options: TopicOptions) -> Result<(), BrokerError> {
        check_name(name)?;
        self.add(name, Entity::Topic(Arc::new(Topic::new(name.to_owned(), options, Arc::clone(&self.shared)))))
    }

    /// Makes a subscription, which gets all that is sent to the topic from now on: its only rule is `$Default`.
    ///
    /// # Errors
    /// When the topic does not exist, or the name is taken or cannot be one.
    pub fn add_subscription(&self, topic: &str, name: &str, options: QueueOptions) -> Result<(), BrokerError> {
        self.add_subscription_with_rules(topic, name, options, Vec::new())
    }

    /// Makes a subscription, which gets those messages that any of its rules matches; without rules it has `$Default`.
    ///
    /// # Errors
    /// As [`Self::add_subscription`], and when two rules have one name or one of them cannot be.
    pub fn add_subscription_with_rules(
        &self,
        topic: &str,
        name: &str,
        mut options: QueueOptions,
        rules: Vec<Rule>,
    ) -> Result<(), BrokerError> {
        let found = self.read().get(&path_of(topic)).cloned();
        let Some(Entity::Topic(owner)) = found else {
            return Err(BrokerError::NotATopic(topic.to_owned()));
        };
        if !names_subscription(name) {
            return Err(BrokerError::BadSubscription(name.to_owned()));
        }
        options.default_ttl = [owner.options.default_ttl, options.default_ttl].into_iter().flatten().min();
        options.duplicate_detection_window = None;
        let path = format!("{}/subscriptions/{name}", topic.trim_matches('/'));
        let rules = Arc::new(Rules::new(topic.trim_matches('/'), name, rules, self.now())?);
        let mailbox = Arc::new(Mailbox::new(path.clone(), options, Arc::clone(&self.shared)));
        self.add(&path, Entity::Subscription(Arc::clone(&mailbox), Arc::clone(&rules)))?;
        owner.subscribe(mailbox, rules);
        Ok(())
    }

    fn add(&self, name: &str, entity: Entity) -> Result<(), BrokerError> {
        let path = path_of(name);
        // Of a subscription the name of its topic counts too.
        if path.len() > PATH_MAX {
            return Err(BrokerError::BadName(name.to_owned()));
        }
        let mut entities = self.entities.write().unwrap_or_else(PoisonError::into_inner);
        if entities.contains_key(&path) {
            return Err(BrokerError::Exists(name.to_owned()));
        }
        entities.insert(path, entity);
        Ok(())
    }

    /// Takes an entity away with all its messages, and a topic with its subscriptions. Links to it are detached with
    /// `amqp:not-found`, as links to it would be refused from now on.
    ///
    /// # Errors
    /// When there is no such queue, topic or subscription. A dead-letter queue goes with its queue only.
    pub fn remove(&self, path: &str) -> Result<(), BrokerError> {
        let path_lower = path_of(path);
        let mut gone = Vec::new();
        {
            let mut entities = self.entities.write().unwrap_or_else(PoisonError::into_inner);
            let not_found = || BrokerError::NotFound(path.to_owned());
            match entities.remove(&path_lower).ok_or_else(not_found)? {
                Entity::Queue(_) => {}
                Entity::Subscription(mailbox, _) => {
                    let topic = path_lower.rsplit_once("/subscriptions/").and_then(|(topic, _)| entities.get(topic));
                    if let Some(Entity::Topic(topic)) = topic {
                        topic.unsubscribe(&mailbox);
                    }
                }
                Entity::Topic(_) => {
                    let below = format!("{path_lower}/subscriptions/");
                    gone.extend(entities.extract_if(.., |known, _| known.starts_with(&below)).map(|(known, _)| known));
                }
            }
            gone.push(path_lower);
        }
        for entity in gone {
            // Everybody is told: a link that attached just now is not listed yet.
            self.live.tell(&Which::All, &Command::Detach { entity, cut: Cut::Deleted });
        }
        self.changed();
        Ok(())
    }

    /// Says what may be done on a queue, topic or subscription from now on. Links that may not go on are detached with
    /// `com.microsoft:entity-disabled`.
    ///
    /// # Errors
    /// When there is no such entity.
    pub fn set_status(&self, path: &str, status: EntityStatus) -> Result<(), BrokerError> {
        let entity = path_of(path);
        match self.read().get(&entity) {
            Some(Entity::Queue(mailbox) | Entity::Subscription(mailbox, _)) => mailbox.set_status(status),
            Some(Entity::Topic(topic)) => topic.set_status(status),
            None => return Err(BrokerError::NotFound(path.to_owned())),
        }
        self.live.tell(&Which::All, &Command::Detach { entity, cut: Cut::Disabled(status) });
        Ok(())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Entity>> {
        self.entities.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Paths of all entities, in lower case and in order.
    #[must_use]
    pub fn entities(&self) -> Vec<String> {
        self.read().keys().cloned().collect()
    }

    /// Whether there is an entity of this path.
    #[must_use]
    pub fn has(&self, entity: &str) -> bool {
        self.read().contains_key(&path_of(entity))
    }

    /// What an entity is and how it behaves; `None` when there is none of this path.
    #[must_use]
    pub fn properties(&self, entity: &str) -> Option<Properties> {
        Some(match self.read().get(&path_of(entity))? {
            Entity::Queue(mailbox) => Properties::Queue(mailbox.options_now()),
            Entity::Subscription(mailbox, rules) => {
                let rules = rules.page(0, usize::MAX).into_iter().map(|(rule, _)| rule).collect();
                Properties::Subscription(mailbox.options_now(), rules)
            }
            Entity::Topic(topic) => Properties::Topic(topic.options_now()),
        })
    }

    /// Finds what a normalised path names.
    pub(crate) fn node(&self, path: &str) -> Option<Node> {
        let (owner, part) = match path.strip_suffix("/$deadletterqueue") {
            Some(owner) => (owner, Part::DeadLetter),
            None => (path, Part::Main),
        };
        match self.read().get(owner)? {
            Entity::Queue(mailbox) => Some(Node::Queue(Arc::clone(mailbox), part)),
            Entity::Subscription(mailbox, _) => Some(Node::Subscription(Arc::clone(mailbox), part)),
            Entity::Topic(topic) if part == Part::Main => Some(Node::Topic(Arc::clone(topic))),
            Entity::Topic(_) => None,
        }
    }

    fn mailbox(&self, entity: &str) -> Result<(Arc<Mailbox>, Part), BrokerError> {
        match self.node(&path_of(entity)) {
            Some(Node::Queue(mailbox, part) | Node::Subscription(mailbox, part)) => Ok((mailbox, part)),
            Some(Node::Topic(_)) | None => Err(BrokerError::NotFound(entity.to_owned())),
        }
    }

    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    /// Something happened that a test may wait for.
    pub(crate) fn changed(&self) {
        self.shared.changed.notify_waiters();
    }

    /// Ends locks and lives that are over, enqueues what is due, everywhere, and returns when that is to be done next.
    pub fn tick(&self) -> Moment {
        let now = self.now();
        self.shared.clock.clear();
        let entities: Vec<Entity> = self.read().values().cloned().collect();
        for entity in entities {
            match entity {
                Entity::Queue(mailbox) | Entity::Subscription(mailbox, _) => mailbox.tick(now),
                Entity::Topic(topic) => topic.tick(now),
            }
        }
        self.shared.clock.next()
    }

    /// Does what [`Self::tick`] does in time until `stop`. [`crate::amqp::serve`] runs it.
    pub(crate) async fn keep_time(&self, stop: &CancellationToken) {
        loop {
            let next = self.shared.clock.next();
            let wait = next.since(self.now());
            tokio::select! {
                () = tokio::time::sleep(wait), if next != Moment::NEVER => {
                    self.tick();
                }
                // The tick itself causes this too; then it costs one look at the clock.
                () = self.shared.clock.sooner.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// What a queue, subscription or dead-letter queue holds, and what happened there. Of a topic: what is scheduled, and
    /// what was published, as `totals.enqueued`.
    ///
    /// # Errors
    /// When there is no such entity.
    pub fn counts(&self, entity: &str) -> Result<Counts, BrokerError> {
        match self.node(&path_of(entity)) {
            Some(Node::Queue(mailbox, part) | Node::Subscription(mailbox, part)) => Ok(mailbox.counts(part)),
            Some(Node::Topic(topic)) => Ok(topic.counts()),
            None => Err(BrokerError::NotFound(entity.to_owned())),
        }
    }

    /// Up to `most` messages from a sequence number on, whatever their state. Nothing changes.
    ///
    /// # Errors
    /// When there is no such queue, subscription or dead-letter queue.
    pub fn peek(&self, entity: &str, from: i64, most: usize) -> Result<Vec<Peeked>, BrokerError> {
        let mut left = most;
        let more = |_: &Handed| {
            let more = left > 0;
            left = left.saturating_sub(1);
            more
        };
        let (mailbox, part) = self.mailbox(entity)?;
        let handed = mailbox.peek(part, from, self.now(), more);
        let peeked = handed.into_iter().map(|handed| Peeked {
            sequence_number: handed.sequence,
            enqueued_at: handed.enqueued_at,
            delivery_count: handed.delivery_count,
            state: handed.state,
            locked_until: handed.lock.map(|(_, until)| until),
            contents: handed.message.contents(),
        });
        Ok(peeked.collect())
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.live.count()
    }

    /// Links to entities that are attached now.
    #[must_use]
    pub fn links(&self) -> Vec<LinkInfo> {
        self.live.links()
    }

    /// The open connections, with the credit that their links have now. One that does not answer within a quarter of a
    /// second, because a fault holds it up, is shown with the credit that it stated last.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn describe_connections(&self) -> Vec<ConnectionInfo> {
        let answered = self.live.ask_reports();
        let late = tokio::time::timeout(REPORT_TIMEOUT, self.wait_until(|_| answered()));
        if late.await.is_err() {
            tracing::debug!("a connection did not state its credit in time");
        }
        self.live.connections()
    }

    /// Waits until `holds` says so, asking again after every change of the broker. Has no deadline of its own.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn wait_until(&self, mut holds: impl FnMut(&Self) -> bool) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if holds(self) {
                return;
            }
            changed.await;
        }
    }

    /// Fault: ends TCP connections with RST. Returns how many.
    pub fn reset_connections(&self, which: &Which) -> usize {
        self.live.tell(which, &Command::Reset)
    }

    /// Fault: closes connections with `amqp:connection:forced`. Returns how many.
    pub fn close_connections(&self, which: &Which) -> usize {
        self.live.tell(which, &Command::Close(Condition::CONNECTION_FORCED))
    }

    /// Fault: detaches every link of an entity with `amqp:link:detach-forced`. Returns how many.
    ///
    /// # Errors
    /// When there is no such entity.
    pub fn detach_links(&self, entity: &str) -> Result<usize, BrokerError> {
        let path = path_of(entity);
        if self.node(&path).is_none() {
            return Err(BrokerError::NotFound(entity.to_owned()));
        }
        let links = self.links().iter().filter(|link| link.entity == path).count();
        let cut = Cut::Fault(Condition::DETACH_FORCED);
        self.live.tell(&Which::Entity(path.clone()), &Command::Detach { entity: path, cut });
        Ok(links)
    }

    /// Fault: the next `messages` messages that are delivered lose their lock at once, so that each comes a second time with
    /// the same sequence number, and the first delivery cannot be settled any more. It costs them one delivery.
    ///
    /// # Errors
    /// When there is no such queue, subscription or dead-letter queue.
    pub fn deliver_twice(&self, entity: &str, messages: u32) -> Result<(), BrokerError> {
        let (mailbox, part) = self.mailbox(entity)?;
        mailbox.double_next(part, messages);
        Ok(())
    }

    /// Fault: every lock of an entity ends now, as if its time were over. Returns how many.
    ///
    /// # Errors
    /// When there is no such queue, subscription or dead-letter queue.
    pub fn expire_locks(&self, entity: &str) -> Result<usize, BrokerError> {
        let (mailbox, part) = self.mailbox(entity)?;
        Ok(mailbox.end_locks(part, self.now()))
    }

    /// Fault: the entity delivers nothing for a while, or until so many more messages came.
    ///
    /// # Errors
    /// When there is no such queue, subscription or dead-letter queue.
    pub fn hold_back(&self, entity: &str, lasts: Duration, messages: Option<u32>) -> Result<(), BrokerError> {
        let (mailbox, part) = self.mailbox(entity)?;
        mailbox.hold_back(part, self.now(), lasts, messages);
        Ok(())
    }

    /// Fault: the entity delivers its next `messages` messages in another order, once so many wait; after `patience` those
    /// that are there.
    ///
    /// # Errors
    /// When there is no such queue, subscription or dead-letter queue.
    pub fn reorder(&self, entity: &str, messages: u32, order: NewOrder, patience: Duration) -> Result<(), BrokerError> {
        let (mailbox, part) = self.mailbox(entity)?;
        mailbox.reorder(part, self.now(), messages, order, patience);
        Ok(())
    }

    /// Ends what faults did to deliveries, everywhere: their order, and messages that were to come twice.
    pub(crate) fn keep_order(&self) {
        let entities: Vec<Entity> = self.read().values().cloned().collect();
        for entity in entities {
            if let Entity::Queue(mailbox) | Entity::Subscription(mailbox, _) = entity {
                mailbox.keep_order(self.now());
            }
        }
    }
}
