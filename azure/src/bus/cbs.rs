//! Claims-based security: showing the broker a token for an audience, before attaching and whenever it was renewed.
//!
//! Each round opens links of its own on a session of its own and closes them. Service Bus detaches links that idle for ten
//! minutes, and an answer that came too late would be taken for the next one's: a round that keeps nothing has neither
//! problem. It costs a few round trips per renewal.
//!
//! # Sources
//! Microsoft, "AMQP 1.0 in Azure Service Bus protocol guide", Claims-based security: `put-token`, type
//! `servicebus.windows.net:sastoken`, `name` = the audience that the token must cover, status 202. An access token has the type
//! `jwt` in Microsoft's own clients (azure-sdk-for-python, `azure.servicebus._pyamqp.cbs`: `TokenType.JWT`).

use fe2o3_amqp::{Session, connection::ConnectionHandle};
use fe2o3_amqp_cbs::{client::CbsClient, token::CbsToken};
use fe2o3_amqp_management::error::{AttachError, Error as RequestError};

use super::{
    BusError,
    link::{Ended, Link},
    message::timestamp,
};
use crate::{Grant, Token};

const SAS_TOKEN: &str = "servicebus.windows.net:sastoken";
const ACCESS_TOKEN: &str = "jwt";

/// Why a token was not put.
#[derive(Debug)]
pub(super) enum PutError {
    /// The broker does not take this token.
    Refused(String),
    /// It could not be asked, or it could not answer.
    Failed(BusError),
}

/// What a token must cover to use `entity`.
pub(super) fn audience(host: &str, entity: &str) -> String {
    format!("sb://{host}/{entity}")
}

/// Puts the grant's token for an audience.
pub(super) async fn put_token(
    connection: &mut ConnectionHandle<()>,
    audience: &str,
    grant: &Grant,
) -> Result<(), PutError> {
    let mut session = Session::begin(connection).await.map_err(|error| ended(&Ended::from(&error)))?;
    let node = format!("cbs-{}", uuid::Uuid::new_v4());
    let mut client = CbsClient::builder().client_node_addr(node).attach(&mut session).await.map_err(|error| {
        ended(&match &error {
            AttachError::Sender(error) => Ended::from(error),
            AttachError::Receiver(error) => Ended::from(error),
        })
    })?;
    let kind = match grant.token {
        Token::Sas(_) => SAS_TOKEN,
        Token::Access(_) => ACCESS_TOKEN,
    };
    let token = CbsToken::new(grant.token.expose(), kind, timestamp(grant.expires_at));
    let put = client.put_token(audience, token).await;
    // The token is put or refused by now; links that do not close in order go with the session.
    let closed = async { (client.close().await.is_ok(), session.end().await.is_ok()) }.await;
    if closed != (true, true) {
        tracing::debug!(audience, "the links of $cbs did not close in order");
    }
    put.map_err(|error| request_failed(&error))
}

fn request_failed(error: &RequestError) -> PutError {
    let problem = match error {
        RequestError::Status(status) => {
            let text = status.description.as_deref().unwrap_or("no description");
            return status_failed(status.code.0.get(), text);
        }
        RequestError::Send(error) => return ended(&Ended::from(error)),
        RequestError::Recv(error) => return ended(&Ended::from(error)),
        RequestError::Disposition(error) => return ended(&Ended::from(error)),
        RequestError::NotAccepted(outcome) => format!("put-token was not accepted: {outcome:?}"),
        RequestError::CorrelationIdAndMessageIdAreNone
        | RequestError::StatusCodeNotFound
        | RequestError::DecodeError(_) => format!("the answer to put-token cannot be read: {error}"),
    };
    PutError::Failed(BusError::Failed { entity: Link::CBS.to_owned(), problem })
}

/// `$cbs` answers with the numbers of HTTP.
fn status_failed(code: u16, text: &str) -> PutError {
    let (entity, problem) = (Link::CBS.to_owned(), format!("{code}: {text}"));
    match code {
        401 | 403 => PutError::Refused(problem),
        404 => PutError::Failed(BusError::NotFound { entity, problem }),
        429 | 503 => PutError::Failed(BusError::Busy { entity, problem }),
        _ => PutError::Failed(BusError::Failed { entity, problem }),
    }
}

fn ended(ended: &Ended) -> PutError {
    match ended {
        Ended::By(cause) if cause.is_token() => PutError::Refused(cause.to_string()),
        Ended::By(cause) => PutError::Failed(cause.at_attach(Link::CBS)),
        Ended::Quietly(problem) => {
            PutError::Failed(BusError::Detached { entity: Link::CBS.to_owned(), problem: problem.clone() })
        }
        Ended::WithConnection => {
            PutError::Failed(BusError::Disconnected { problem: "it ended during put-token".to_owned() })
        }
    }
}
