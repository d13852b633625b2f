//! What senders and receivers share: how a link or its connection tells that it is over, and how a link is wound down.
//!
//! Each link has a session of its own. The engine ends a whole session when a message arrives for a link that was dropped
//! a moment ago, and with it every other link of that session; so a link is also never just dropped while messages may be
//! on their way: a task of the connection takes it over, gives back what comes, and closes it.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use fe2o3_amqp::{
    Receiver,
    link::{
        DetachError, IllegalLinkStateError, LinkStateError, ReceiverAttachError, RecvError, SendError,
        SenderAttachError, SessionStopReason, delivery::DeliveryInfo,
    },
    session::{self, BeginError, SessionHandle},
};
use fe2o3_amqp_types::{definitions, messaging::Body, primitives::Value};
use tokio::{
    sync::oneshot,
    time::{error::Elapsed, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{BusError, error::Cause};

/// How long the reason of a lost connection may lag behind the loss.
const REASON_LAG: Duration = Duration::from_secs(1);

/// How long a closing receiver waits in silence for messages that are still on their way to it.
const CLOSING_SILENCE: Duration = Duration::from_millis(100);

/// Whether a connection, or a link on it, is over, and why. The first reason stays.
#[derive(Debug, Default)]
pub(super) struct Status {
    over: CancellationToken,
    why: OnceLock<BusError>,
    /// The connection, for a link.
    under: Option<Arc<Status>>,
}

impl Status {
    /// Of something that is over when `under` is.
    fn on(under: &Arc<Self>) -> Self {
        Self { over: under.over.child_token(), why: OnceLock::new(), under: Some(Arc::clone(under)) }
    }

    pub(super) fn end(&self, why: BusError) {
        // Whoever comes later met a consequence of the first.
        drop(self.why.set(why));
        self.over.cancel();
    }

    /// The reason, if it is over.
    pub(super) fn why(&self) -> Option<BusError> {
        let own = self.why.get().cloned();
        own.or_else(|| self.under.as_ref().and_then(|under| under.why()))
    }

    /// Waits until it is over.
    pub(super) async fn ended(&self) -> BusError {
        self.over.cancelled().await;
        self.why().unwrap_or_else(|| BusError::Disconnected { problem: "it was closed on this side".to_owned() })
    }
}

/// Why a link cannot be used any more, as the engine tells it.
#[derive(Debug)]
pub(super) enum Ended {
    /// The broker gave a reason.
    By(Cause),
    /// It gave none, or the fault is on this side.
    Quietly(String),
    /// The connection went; it knows why.
    WithConnection,
}

impl From<&definitions::Error> for Ended {
    fn from(error: &definitions::Error) -> Self {
        Self::By(Cause::from(error))
    }
}

impl From<&SessionStopReason> for Ended {
    fn from(reason: &SessionStopReason) -> Self {
        match reason {
            SessionStopReason::RemoteEndedWithError(error) | SessionStopReason::EndedWithError(error) => error.into(),
            SessionStopReason::Ended | SessionStopReason::RemoteEnded => {
                Self::Quietly("the session was ended".to_owned())
            }
            SessionStopReason::ConnectionStopped(_) => Self::WithConnection,
        }
    }
}

impl From<&LinkStateError> for Ended {
    fn from(error: &LinkStateError) -> Self {
        match error {
            LinkStateError::RemoteClosedWithError(error) | LinkStateError::RemoteDetachedWithError(error) => {
                error.into()
            }
            LinkStateError::SessionStopped(reason) => reason.into(),
            LinkStateError::RemoteDetached | LinkStateError::RemoteClosed => {
                Self::Quietly("the broker closed it without a reason".to_owned())
            }
            LinkStateError::IllegalState | LinkStateError::ExpectImmediateDetach => Self::Quietly(error.to_string()),
        }
    }
}

impl From<&DetachError> for Ended {
    fn from(error: &DetachError) -> Self {
        match error {
            DetachError::RemoteClosedWithError(error) | DetachError::RemoteDetachedWithError(error) => error.into(),
            DetachError::SessionStopped(reason) => reason.into(),
            _ => Self::Quietly(error.to_string()),
        }
    }
}

impl From<&IllegalLinkStateError> for Ended {
    fn from(error: &IllegalLinkStateError) -> Self {
        match error {
            IllegalLinkStateError::SessionStopped(reason) => reason.into(),
            IllegalLinkStateError::IllegalState => Self::Quietly("the link is not attached".to_owned()),
        }
    }
}

impl From<&SendError> for Ended {
    fn from(error: &SendError) -> Self {
        match error {
            SendError::LinkStateError(error) => error.into(),
            SendError::Detached(error) => error.into(),
            _ => Self::Quietly(error.to_string()),
        }
    }
}

impl From<&RecvError> for Ended {
    fn from(error: &RecvError) -> Self {
        match error {
            RecvError::LinkStateError(error) => error.into(),
            _ => Self::Quietly(error.to_string()),
        }
    }
}

impl From<&SenderAttachError> for Ended {
    fn from(error: &SenderAttachError) -> Self {
        match error {
            SenderAttachError::RemoteClosedWithError(error) => error.into(),
            SenderAttachError::SessionStopped(reason) => reason.into(),
            _ => Self::Quietly(error.to_string()),
        }
    }
}

impl From<&ReceiverAttachError> for Ended {
    fn from(error: &ReceiverAttachError) -> Self {
        match error {
            ReceiverAttachError::RemoteClosedWithError(error) => error.into(),
            ReceiverAttachError::SessionStopped(reason) => reason.into(),
            _ => Self::Quietly(error.to_string()),
        }
    }
}

impl From<&BeginError> for Ended {
    fn from(error: &BeginError) -> Self {
        match error {
            BeginError::RemoteEndedWithError(error) => error.into(),
            BeginError::ConnectionStopped(_) | BeginError::ConnectionNotOpened => Self::WithConnection,
            BeginError::IllegalState | BeginError::RemoteEnded | BeginError::LocalChannelMaxReached => {
                Self::Quietly(error.to_string())
            }
        }
    }
}

/// What a sender or receiver keeps besides the engine's link.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// The address, for errors.
    pub(super) entity: String,
    pub(super) status: Arc<Status>,
    /// Deadline of a call.
    pub(super) limit: Duration,
}

impl Link {
    /// The node that takes tokens.
    pub(super) const CBS: &'static str = "$cbs";

    pub(super) fn new(entity: String, connection: &Arc<Status>, limit: Duration) -> Self {
        Self { entity, status: Arc::new(Status::on(connection)), limit }
    }

    /// Records the end of the link and gives its reason.
    pub(super) async fn lost(&self, ended: Ended) -> BusError {
        let why = match ended {
            Ended::By(cause) => cause.at_detach(&self.entity),
            Ended::Quietly(problem) => BusError::Detached { entity: self.entity.clone(), problem },
            Ended::WithConnection => match timeout(REASON_LAG, self.status.ended()).await {
                Ok(why) => why,
                Err(Elapsed { .. }) => BusError::Disconnected { problem: "it ended without a reason".to_owned() },
            },
        };
        tracing::debug!(entity = self.entity, %why, "link ended");
        self.status.end(why.clone());
        self.status.why().unwrap_or(why)
    }

    /// Bounds a call by the deadline and by the life of the link.
    pub(super) async fn bounded<T>(&self, what: &'static str, call: impl Future<Output = T>) -> Result<T, BusError> {
        tokio::select! {
            done = timeout(self.limit, call) => done.map_err(|Elapsed { .. }| BusError::Timeout { what, limit: self.limit }),
            why = self.status.ended() => Err(why),
        }
    }
}

/// Watches the session of a link until it ends or the link is given up, and then closes both.
///
/// `retired` brings a receiver that must be wound down; a sender is dropped together with its end of the channel.
pub(super) async fn tend(link: Link, mut session: SessionHandle<()>, mut retired: oneshot::Receiver<Receiver>) {
    tokio::select! {
        ended = session.on_end() => {
            let ended = match &ended {
                Err(session::Error::RemoteEndedWithError(error)) => error.into(),
                Err(session::Error::ConnectionStopped(_)) | Ok(()) => Ended::WithConnection,
                Err(error) => Ended::Quietly(error.to_string()),
            };
            link.lost(ended).await;
        }
        receiver = &mut retired => {
            let closing = async {
                if let Ok(receiver) = receiver {
                    wind_down(receiver).await;
                }
                session.end().await
            };
            if !matches!(link.bounded("closing a link", closing).await, Ok(Ok(()))) {
                tracing::debug!(entity = link.entity, "a link did not close in order");
            }
            link.status.end(BusError::Detached { entity: link.entity.clone(), problem: "it was closed on this side".to_owned() });
        }
    }
}

/// Gives back what arrived and was not taken, also what the broker still sends for credit that it has, and closes.
async fn wind_down(mut receiver: Receiver) {
    let mut untaken: Vec<DeliveryInfo> = Vec::new();
    if receiver.credit() > 0 && receiver.drain().await.is_ok() {
        while receiver.credit() > 0 {
            match timeout(CLOSING_SILENCE, receiver.recv::<Body<Value>>()).await {
                Ok(Ok(delivery)) => untaken.push(delivery.into()),
                Ok(Err(RecvError::MessageDecode(error))) => untaken.push(error.info),
                Ok(Err(_)) | Err(Elapsed { .. }) => break,
            }
        }
    }
    let released = untaken.is_empty() || receiver.release_all(untaken).await.is_ok();
    if receiver.close().await.is_err() || !released {
        tracing::debug!("a receiver did not close in order; its messages come back when their locks end");
    }
}
