//! Sends messages in batches, several calls at a time, and tells what became of them.

use fe2o3_amqp::link::{SendError, delivery::DeliveryFut};
use fe2o3_amqp_types::{messaging::Outcome, primitives::Value};
use tokio::{
    sync::{Mutex, oneshot},
    time::{Instant, error::Elapsed, timeout_at},
};

use super::{
    Bus, BusError, Message,
    connection::Attached,
    error::Cause,
    link::{Ended, Link},
    message::{self, Limits, Transfer},
};

/// Link property of the attach: largest batch that the entity takes.
const MAX_BATCH_SIZE: &str = "com.microsoft:max-message-batch-size";

/// Sends to the grant's entity.
///
/// After any error but those of single messages ([`BusError::TooLarge`], [`BusError::Rejected`]) and of a busy or full
/// entity, open a new one.
#[derive(Debug)]
pub struct Sender {
    link: Link,
    limits: Limits,
    end: Mutex<End>,
    _retire: oneshot::Sender<fe2o3_amqp::Receiver>,
    bus: Bus,
}

#[derive(Debug)]
struct End {
    sender: fe2o3_amqp::Sender,
    /// A call was given up while it handed a transfer over: half of it may be on the wire, so nothing may follow.
    interrupted: bool,
}

/// What is known of a transfer that was handed over.
type Pending = DeliveryFut<Result<Outcome, SendError>>;

impl Sender {
    pub(super) fn new(attached: Attached<fe2o3_amqp::Sender>, bus: Bus) -> Self {
        let Attached { end: sender, link, retire } = attached;
        let batch_max =
            sender.properties(|properties| properties.as_ref().and_then(|map| size(map.get(MAX_BATCH_SIZE)?)));
        let limits = Limits::new(sender.max_message_size(), batch_max);
        Self { link, limits, end: Mutex::new(End { sender, interrupted: false }), _retire: retire, bus }
    }

    /// Sends the messages as batches no larger than the link allows, and waits until the broker has accepted them all,
    /// at most for [`BusOptions::call_timeout`](super::BusOptions). They go in order. `&self`: several calls may be under
    /// way; each hands its messages over without a gap, then all wait for their outcomes together.
    ///
    /// # Errors
    /// The first [`BusError`]; [`BusError::had_no_effect`] says whether some may have been accepted. A batch is accepted
    /// or rejected as a whole; one that is rejected does not hold back those behind it.
    ///
    /// # Cancel safety
    /// Not cancel-safe: what was handed over may still be accepted, and the sender may have to be replaced.
    pub async fn send(&self, messages: &[Message]) -> Result<(), BusError> {
        let deadline = Instant::now() + self.link.limit;
        let now = (self.bus.options().now)();
        let transfers = message::pack(messages, self.limits, &self.link.entity, now)?;
        let mut pending = Vec::with_capacity(transfers.len());
        let handed_over = self.hand_over(transfers, &mut pending, deadline).await;

        let mut some_accepted = false;
        let mut failed: Option<BusError> = None;
        for (outcome, message_id) in pending {
            match self.outcome(outcome, &message_id, deadline).await {
                Ok(()) => some_accepted = true,
                Err(error) => {
                    some_accepted |= !error.had_no_effect();
                    failed.get_or_insert(error);
                }
            }
        }
        match failed.or(handed_over.err()) {
            None => Ok(()),
            Some(error) if some_accepted && error.had_no_effect() => Err(BusError::Partly { source: Box::new(error) }),
            Some(error) => Err(error),
        }
    }

    /// Puts the transfers on the link, waiting for credit.
    async fn hand_over(
        &self,
        transfers: Vec<Transfer>,
        pending: &mut Vec<(Pending, String)>,
        deadline: Instant,
    ) -> Result<(), BusError> {
        let handing_over = async {
            let mut end = self.end.lock().await;
            for Transfer { sendable, message_id } in transfers {
                if std::mem::replace(&mut end.interrupted, true) {
                    let problem = "an earlier send was given up half way".to_owned();
                    return Err(BusError::Detached { entity: self.link.entity.clone(), problem });
                }
                let handed_over = end.sender.send_batchable(sendable).await;
                end.interrupted = false;
                match handed_over {
                    Ok(outcome) => pending.push((outcome, message_id)),
                    Err(error) => return Err(self.send_failed(error, &message_id).await),
                }
            }
            Ok(())
        };
        self.until(deadline, "waiting for credit to send", handing_over).await?
    }

    async fn outcome(&self, pending: Pending, message_id: &str, deadline: Instant) -> Result<(), BusError> {
        let entity = || self.link.entity.clone();
        match self.until(deadline, "waiting for the outcome of a send", pending).await? {
            Ok(Outcome::Accepted(_)) => Ok(()),
            Ok(Outcome::Rejected(rejected)) => Err(match &rejected.error {
                Some(error) => Cause::from(error).at_outcome(&self.link.entity, message_id),
                None => BusError::Rejected { entity: entity(), problem: "the broker gave no reason".to_owned() },
            }),
            Ok(Outcome::Released(_)) => {
                Err(BusError::Busy { entity: entity(), problem: "the message was released unprocessed".to_owned() })
            }
            Ok(Outcome::Modified(_)) => Err(BusError::Failed {
                entity: entity(),
                problem: "the message was neither accepted nor rejected".to_owned(),
            }),
            Err(error) => Err(self.send_failed(error, message_id).await),
        }
    }

    async fn send_failed(&self, error: SendError, message_id: &str) -> BusError {
        let entity = self.link.entity.clone();
        match error {
            SendError::MessageSizeExceeded(size) => {
                BusError::TooLarge { entity, message_id: message_id.to_owned(), problem: size.to_string() }
            }
            SendError::MessageEncodeError => BusError::Rejected { entity, problem: error.to_string() },
            SendError::NonTerminalDeliveryState | SendError::IllegalDeliveryState => {
                BusError::Failed { entity, problem: error.to_string() }
            }
            SendError::LinkStateError(_) | SendError::Detached(_) => self.link.lost(Ended::from(&error)).await,
        }
    }

    /// Bounds a wait by the call's deadline and by the life of the link: the engine may never end it.
    async fn until<T>(
        &self,
        deadline: Instant,
        what: &'static str,
        wait: impl Future<Output = T>,
    ) -> Result<T, BusError> {
        tokio::select! {
            biased;
            done = timeout_at(deadline, wait) => {
                done.map_err(|Elapsed { .. }| BusError::Timeout { what, limit: self.link.limit })
            }
            why = self.link.status.ended() => Err(why),
        }
    }
}

fn size(value: &Value) -> Option<u64> {
    match value {
        Value::Ulong(size) => Some(*size),
        Value::Uint(size) => Some(u64::from(*size)),
        Value::Int(size) => u64::try_from(*size).ok(),
        Value::Long(size) => u64::try_from(*size).ok(),
        _ => None,
    }
}
