//! What comes to a connection from elsewhere: the broker wakes links, faults and people cut them, tokens die.

use tokio::time::Instant;

use super::TokenEnd;
use super::connection::Engine;
use super::context::scripted;
use super::performative::AmqpError;
use super::session::Session;
use super::tokens::Dead;
use crate::broker::{Command, Cut, LinkKey};
use crate::fault::Condition;
use crate::log::{printable, say};

impl Engine {
    pub(super) fn mail(&mut self, at: Instant) {
        let (mut woken, mut commands) = (std::mem::take(&mut self.woken), std::mem::take(&mut self.commands));
        self.cx.peer.take_mail(&mut woken, &mut commands);
        for key in woken.drain(..) {
            if let Some(session) = self.sessions.get_mut(&key.channel) {
                session.wake(&mut self.cx, key);
            }
        }
        for command in commands.drain(..) {
            match command {
                Command::Reset => self.reset = true,
                Command::Report => self.report(),
                // Of what else is told to a connection that is swallowed nobody would hear.
                _ if self.swallows => {}
                Command::Blackhole => self.swallow(),
                Command::Resume => self.resume(at),
                Command::Close(condition) => {
                    self.resume(at);
                    self.fail(&scripted(condition), at);
                }
                Command::End { entity, condition } => self.end_all(&entity, condition),
                Command::Detach { entity, cut } => self.detach_all(&entity, cut),
            }
        }
        (self.woken, self.commands) = (woken, commands);
    }

    pub(super) fn end_all(&mut self, entity: &str, condition: Condition) {
        for session in self.sessions.values_mut().filter(|session| !session.has_ended()) {
            if session.links().any(|(_, link)| link.entity().is_some_and(|(path, _)| path == entity)) {
                session.end(&mut self.cx, &scripted(condition));
            }
        }
    }

    pub(super) fn report(&self) {
        let links = self.sessions.values().flat_map(Session::links);
        let credits: Vec<(LinkKey, u32)> = links.filter_map(|(_, link)| Some((link.key()?, link.credit()))).collect();
        self.cx.peer.report(&credits);
        self.cx.broker.changed();
    }

    pub(super) fn detach_all(&mut self, entity: &str, cut: Cut) {
        for session in self.sessions.values_mut() {
            let cuts: Vec<_> =
                session.links().filter_map(|(handle, link)| Some((handle, link.cut_of(entity, cut)?))).collect();
            for (handle, cause) in cuts {
                say!(
                    self.cx.lines(),
                    info,
                    "bus: link cut",
                    connection = self.cx.peer.id(),
                    entity = %printable(&session.entity_of(handle)),
                    handle,
                    why = %printable(&cause.description)
                );
                session.cut(&mut self.cx, handle, &cause);
            }
        }
    }

    /// Cuts the links whose token is over.
    pub(super) fn bury_tokens(&mut self) {
        let now = self.cx.now.seconds();
        let dead = self.cx.tokens.bury(&self.cx.keys, now);
        if dead.is_empty() {
            return;
        }
        for session in self.sessions.values_mut() {
            let mut cuts: Vec<(u32, AmqpError)> = Vec::new();
            for (handle, link) in session.links() {
                let Some(need) = link.need().filter(|need| !self.cx.tokens.allow(need, now)) else { continue };
                let words = dead.iter().find(|dead| dead.covered(need)).map(Dead::words).unwrap_or_default();
                cuts.push((handle, token_end(self.options.token_end, &need.path, words)));
            }
            for (handle, cause) in cuts {
                say!(
                    self.cx.lines(),
                    warn,
                    "bus: link cut with its token",
                    connection = self.cx.peer.id(),
                    entity = %printable(&session.entity_of(handle)),
                    handle,
                    why = %printable(&cause.description)
                );
                session.cut(&mut self.cx, handle, &cause);
            }
        }
    }
}

/// What a link is told when its token is over: Azure was seen with either form.
fn token_end(form: TokenEnd, path: &str, words: String) -> AmqpError {
    match form {
        TokenEnd::UnauthorizedAccess => AmqpError::new("amqp:unauthorized-access", words),
        TokenEnd::DetachForced => {
            let text = format!(
                "The link is force detached. Code: RenewToken. Details: Unauthorized access. {words} Resource: '{path}'."
            );
            AmqpError::new("amqp:link:detach-forced", text)
        }
    }
}
