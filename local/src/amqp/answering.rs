//! Messages to `$cbs` and `$management`: who answers them, and on which link the answer leaves.

use tokio::time::Instant;

use super::address::Address;
use super::connection::Engine;
use super::request::{Answer, Request, Spelling};
use super::session::{Failure, RequestBytes};
use super::{cbs, management, rules};
use crate::broker::path_of;
use crate::fault::BusEvent;
use crate::log::{printable, say};

impl Engine {
    /// Answers a message to `$cbs` or `$management`.
    pub(super) fn request(&mut self, channel: u16, bytes: &RequestBytes, at: Instant) {
        let request = match Request::read(&bytes.bytes) {
            Ok(request) => request,
            Err(error) => {
                return self.failed(channel, Failure::session(error.condition(), error.to_string()), at);
            }
        };
        let cx = &mut self.cx;
        let to_do = match &bytes.node {
            _ if !cx.has_scripts() => None,
            Address::Management { entity } => {
                let operation = request.property("operation").unwrap_or_default();
                cx.tell(BusEvent::Management, entity, None, operation, channel, None)
            }
            Address::Cbs | Address::Entity(_) => {
                let entity = path_of(request.property("name").unwrap_or_default());
                cx.tell(BusEvent::PutToken, &entity, None, "", channel, None)
            }
        }
        .unwrap_or_default();
        if to_do.fate.is_some() {
            return;
        }
        let refused = to_do.refuse.map(|(refusal, _)| {
            let condition = refusal.condition();
            Answer::refusal(condition.status(), condition.name(), condition.text())
        });
        let (answer, spelling) = match &bytes.node {
            Address::Management { entity } => {
                let ruled = || rules::answer(&request, entity, &cx.broker, &cx.tokens, cx.now);
                let answer = refused.or_else(ruled).unwrap_or_else(|| {
                    management::answer(&request, entity, cx.broker.node(entity), &cx.tokens, cx.now)
                });
                (answer, Spelling::Management)
            }
            Address::Cbs | Address::Entity(_) => {
                let answer =
                    refused.unwrap_or_else(|| cbs::answer(&request, &mut cx.tokens, &cx.keys, cx.now.seconds()));
                (answer, Spelling::Cbs)
            }
        };
        if answer.status >= 400 {
            let said = |name| request.property(name).map(|text| tracing::field::display(printable(text)));
            say!(
                cx.lines(),
                warn,
                "bus: request refused",
                connection = cx.peer.id(),
                node = %printable(&bytes.node.to_string()),
                operation = said("operation"),
                audience = said("name"),
                status = answer.status,
                why = %printable(&answer.description)
            );
        }
        match to_do.drop_answer {
            Some(true) => return cx.reset_after(),
            Some(false) => return,
            None => {}
        }
        let mut answer = request.answer(spelling, &answer);
        // The session of the request first: with several links to one node that is where its twin is.
        let others = self.sessions.keys().copied().filter(|other| *other != channel);
        let order: Vec<u16> = std::iter::once(channel).chain(others).collect();
        for channel in order {
            let Some(session) = self.sessions.get_mut(&channel).filter(|session| !session.has_ended()) else {
                continue;
            };
            match session.reply(&mut self.cx, &bytes.node, request.reply_to.as_deref(), &mut answer) {
                Ok(true) => return,
                Ok(false) => {}
                Err(failure) => return self.failed(channel, failure, at),
            }
        }
        tracing::debug!(connection = self.cx.peer.id(), "a request came without a link for its answer");
    }
}
