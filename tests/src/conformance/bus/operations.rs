//! The one list of what a client of Service Bus does. Every client has a case of each name, or the list says why not.

use std::time::Duration;

use waybill_local::broker::{CorrelationFilter, EntityStatus, Filter, QueueOptions, Rule};

/// A client that judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    /// `azure-servicebus`, synchronous.
    Python,
    /// `azure-servicebus`, asynchronous.
    PythonAsync,
    /// `@azure/service-bus`.
    JavaScript,
    /// Qpid Proton, which knows AMQP and nothing of Azure.
    Proton,
}

impl Client {
    pub(super) const ALL: [Self; 4] = [Self::Python, Self::PythonAsync, Self::JavaScript, Self::Proton];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Python => "Python",
            Self::PythonAsync => "Python async",
            Self::JavaScript => "JavaScript",
            Self::Proton => "Proton",
        }
    }
}

/// What the case of an operation works on.
#[derive(Debug, Clone)]
pub(super) enum Entity {
    /// A queue with the operation's name.
    Queue(QueueOptions),
    /// A topic with the operation's name, and subscriptions `s1` and `s2` with these rules.
    Topic([Vec<Rule>; 2], QueueOptions),
}

/// Something that a client does, on an entity of its own.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) area: &'static str,
    pub(super) name: &'static str,
    pub(super) entity: Entity,
    /// Clients without such a thing, and why.
    missing: Vec<(Client, &'static str)>,
}

impl Operation {
    /// Why a client has no case for it.
    pub(super) fn why_not(&self, client: Client) -> Option<&'static str> {
        self.missing.iter().find(|(missing, _)| *missing == client).map(|(_, reason)| *reason)
    }

    /// With other options of the queue, or of each subscription.
    fn with(mut self, change: impl FnOnce(&mut QueueOptions)) -> Self {
        let (Entity::Queue(options) | Entity::Topic(_, options)) = &mut self.entity;
        change(options);
        self
    }

    /// On a topic whose subscriptions get everything.
    fn topic(self) -> Self {
        self.filtered([Vec::new(), Vec::new()])
    }

    /// On a topic whose subscriptions have these rules.
    fn filtered(mut self, rules: [Vec<Rule>; 2]) -> Self {
        let (Entity::Queue(options) | Entity::Topic(_, options)) = self.entity;
        self.entity = Entity::Topic(rules, options);
        self
    }

    fn not_in(mut self, clients: &[Client], reason: &'static str) -> Self {
        self.missing.extend(clients.iter().map(|client| (*client, reason)));
        self
    }

    fn not_in_python(self, reason: &'static str) -> Self {
        self.not_in(&[Client::Python, Client::PythonAsync], reason)
    }

    fn not_in_javascript(self, reason: &'static str) -> Self {
        self.not_in(&[Client::JavaScript], reason)
    }

    fn not_in_proton(self, reason: &'static str) -> Self {
        self.not_in(&[Client::Proton], reason)
    }
}

/// Reasons that several operations share.
const CLIENT_SIDE: &str = "AMQP has no such thing: it is the SDK's own";
const TOKEN_FIRST: &str = "it always puts a token first";
const NO_BATCH_DELETE: &str = "this version does not delete in batches";
const ENTRA: &str = "it knows nothing of Entra";
const RECONNECTS: &str = "it leaves reconnecting links to its caller";
const NO_TRANSACTIONS: &str = "it has no transactions";
const NO_RULES: &str = "it manages rules over HTTP only, which is not served here";

/// Every operation, area by area.
pub(super) fn operations() -> Vec<Operation> {
    [send(), properties(), receive(), settle(), dead_letters(), locks(), topics(), security(), errors(), recovery()]
        .concat()
}

fn of(area: &'static str) -> impl Fn(&'static str) -> Operation {
    // A lock that a busy machine does not lose by accident.
    let options = QueueOptions { lock_duration: Duration::from_secs(30), ..QueueOptions::default() };
    move |name| Operation { area, name, entity: Entity::Queue(options.clone()), missing: Vec::new() }
}

fn send() -> Vec<Operation> {
    let op = of("send");
    vec![
        op("send-one"),
        op("send-list").not_in_proton(CLIENT_SIDE),
        op("send-batch").not_in_proton("it cannot set a message format, which is what a batch is"),
        op("batch-overflow").not_in_proton(CLIENT_SIDE),
        op("send-empty-body"),
        op("send-large"),
        op("schedule"),
        op("schedule-many"),
        op("schedule-cancel"),
        op("schedule-by-property"),
        op("peek-scheduled"),
        op("duplicate-detection").with(|queue| queue.duplicate_detection_window = Some(Duration::from_secs(600))),
        op("message-too-large"),
        op("message-too-large-for-entity").with(|queue| queue.max_message_bytes = 64 * 1024),
    ]
}

fn properties() -> Vec<Operation> {
    let op = of("properties");
    vec![
        op("message-properties"),
        op("application-properties"),
        op("body-data"),
        op("body-sequence"),
        op("body-value"),
        op("annotated-message"),
        op("broker-properties"),
    ]
}

fn receive() -> Vec<Operation> {
    let op = of("receive");
    vec![
        op("receive-peek-lock"),
        op("receive-and-delete"),
        op("receive-wait"),
        op("receive-what-is-there"),
        op("receive-late"),
        op("batch-delete").not_in_python(NO_BATCH_DELETE).not_in_javascript(NO_BATCH_DELETE),
        op("prefetch")
            .not_in_javascript("prefetching was removed from this SDK; subscribe keeps credit for what it may work on"),
        op("iterate"),
        op("subscribe")
            .not_in_python("no push receiver: iterate instead")
            .not_in_proton("its reactive API is another; iterate stands for it"),
        op("in-order"),
        op("competing-receivers"),
        op("many-receivers"),
        op("close-while-receiving"),
    ]
}

fn settle() -> Vec<Operation> {
    let op = of("settle");
    vec![
        op("complete"),
        op("abandon"),
        op("abandon-with-properties").not_in_python("abandon_message takes no properties"),
        op("release").not_in_javascript("it asks for no more than it hands out, so it has nothing to release"),
        op("defer"),
        op("defer-with-properties").not_in_python("defer_message takes no properties"),
        op("receive-deferred"),
        op("settle-deferred"),
        op("receive-deferred-and-delete"),
        op("deferred-not-found"),
        op("dead-letter"),
        op("dead-letter-with-properties").not_in_python("dead_letter_message takes a reason and a description only"),
    ]
}

fn dead_letters() -> Vec<Operation> {
    let op = of("dead letters");
    vec![
        op("dead-letter-queue"),
        op("dead-letter-queue-abandon").with(|queue| queue.max_delivery_count = 2),
        op("dead-letter-resubmit"),
        op("max-delivery-count").with(|queue| queue.max_delivery_count = 3),
        op("time-to-live"),
        op("time-to-live-dead-letter").with(|queue| queue.dead_letter_expired = true),
        op("time-to-live-of-entity").with(|queue| {
            queue.default_ttl = Some(Duration::from_secs(8));
            queue.dead_letter_expired = true;
        }),
    ]
}

fn locks() -> Vec<Operation> {
    let op = of("locks, peek");
    vec![
        op("lock-renew").with(|queue| queue.lock_duration = Duration::from_secs(3)),
        op("lock-renew-automatically")
            .with(|queue| queue.lock_duration = Duration::from_secs(3))
            .not_in_proton(CLIENT_SIDE),
        op("lock-expires").with(|queue| queue.lock_duration = Duration::from_secs(1)),
        op("lock-lost-settling"),
        op("lock-lost-renewing"),
        op("peek"),
        op("peek-from"),
        op("peek-nothing"),
        op("peek-locked"),
    ]
}

fn topics() -> Vec<Operation> {
    let op = of("topics");
    let sql = Filter::sql("color = 'red' AND size > 10").expect("a filter");
    let prices = CorrelationFilter { subject: Some("price".to_owned()), ..CorrelationFilter::default() };
    let rules = [vec![Rule::new("red", sql)], vec![Rule::new("prices", Filter::Correlation(prices))]];
    let mut operations = vec![
        op("fan-out").topic(),
        op("subscription-dead-letter-queue").topic(),
        op("topic-schedule").topic(),
        op("filters").filtered(rules),
    ];
    let managing = ["rule-list", "rule-sql", "rule-correlation", "rule-delete", "rule-refused"];
    operations.extend(managing.map(|name| op(name).topic().not_in_python(NO_RULES)));
    operations
}

fn security() -> Vec<Operation> {
    let op = of("security");
    vec![
        op("sas-of-namespace"),
        op("sas-of-entity"),
        op("no-token").not_in_python(TOKEN_FIRST).not_in_javascript(TOKEN_FIRST),
        op("sas-credential").not_in_proton(CLIENT_SIDE),
        op("key-credential").not_in_proton(CLIENT_SIDE),
        op("wrong-key"),
        op("wrong-key-name"),
        op("wrong-audience"),
        op("expired-token"),
        op("token-renewed"),
        op("token-expires"),
        op("missing-right"),
        op("tls"),
        op("tls-untrusted").not_in_javascript("whom it trusts is said once for the whole process"),
        op("websocket").not_in_proton("it speaks AMQP over TCP only"),
        op("client-certificate").not_in_proton(ENTRA),
        op("client-secret").not_in_proton(ENTRA),
        op("wrong-client-secret").not_in_proton(ENTRA),
        op("tenant-service").not_in_proton(ENTRA),
    ]
}

fn errors() -> Vec<Operation> {
    let op = of("errors");
    vec![
        op("entity-not-found"),
        op("entity-disabled").with(|queue| queue.status = EntityStatus::Disabled),
        op("quota-exceeded").with(|queue| queue.max_size_bytes = 64 * 1024),
        op("server-busy"),
        op("session-refused"),
        op("transaction-refused").not_in_python(NO_TRANSACTIONS).not_in_javascript(NO_TRANSACTIONS),
    ]
}

fn recovery() -> Vec<Operation> {
    let op = of("recovery");
    let operations = [
        op("link-detached"),
        op("session-ended").not_in_python("it waits for ever when the broker ends a session: its links are not told"),
        op("connection-closed"),
        op("connection-reset"),
        op("busy-for-a-moment"),
        op("lost-answer").with(|queue| queue.duplicate_detection_window = Some(Duration::from_secs(600))),
    ];
    operations.map(|operation| operation.not_in_proton(RECONNECTS)).into()
}

#[test]
fn every_operation_is_named_once() {
    let mut names: Vec<&str> = operations().iter().map(|operation| operation.name).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "a name stands twice in the list");
}
