//! What scripts want done to one event itself: what the service that is in the middle of it has to do.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use super::{
    Faults, Source, Step,
    refusal::{Condition, Refusal},
    what::{CutAt, What, Whose},
};

/// What is to be done to a request or frame, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ToDo {
    pub(crate) delay: Duration,
    /// How often scripts had been cleared when it was decided.
    pub(super) clears: u64,
    /// The end of what the event is on, instead of doing it.
    pub(crate) fate: Option<Fate>,
    pub(crate) refuse_sas: bool,
    pub(crate) refuse: Option<(Refusal, Option<u64>)>,
    /// An upload's body ends after so many bytes.
    pub(crate) cut_upload: Option<u64>,
    /// The blob gets another ETag, and these bytes if there are any.
    pub(crate) replace: Option<Option<String>>,
    /// The blob is not longer than this.
    pub(crate) truncate: Option<u64>,
    pub(crate) lose_lock: bool,
    pub(crate) twice: bool,
    /// It is done and not answered; true: and the connection reset.
    pub(crate) drop_answer: Option<bool>,
}

/// How a connection, session or link ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Reset,
    Blackhole,
    Close(Condition),
    End(Condition),
    Detach(Condition),
}

impl ToDo {
    /// Takes up what a step does to its own event; false when it is somebody else's to do.
    pub(super) fn take_up(&mut self, what: &What) -> bool {
        match what {
            What::Delay(by) => self.delay = self.delay.saturating_add(*by),
            What::RefuseSas => self.refuse_sas = true,
            What::Refuse { with, retry_after } => {
                self.refuse = Some((*with, retry_after.map(|after| after.as_secs())));
            }
            What::Cut { at, refuse_sas } => {
                if let CutAt::BodyByte(at) = at {
                    self.cut_upload = Some(*at);
                }
                self.refuse_sas |= refuse_sas;
            }
            What::Truncate { at } => self.truncate = Some(*at),
            What::Replace { text } => self.replace = Some(text.clone()),
            What::DropAnswer { reset } => self.drop_answer = Some(*reset),
            What::Reset(Whose::Event) => self.fate = Some(Fate::Reset),
            What::Blackhole { whose: Whose::Event, .. } => self.fate = Some(Fate::Blackhole),
            What::Close { whose: Whose::Event, condition } => self.fate = Some(Fate::Close(*condition)),
            What::End { whose: Whose::Event, condition } => self.fate = Some(Fate::End(*condition)),
            What::Detach { whose: Whose::Event, condition } => self.fate = Some(Fate::Detach(*condition)),
            What::LoseLocks(Whose::Event) => self.lose_lock = true,
            What::DeliverTwice { whose: Whose::Event, .. } => self.twice = true,
            _ => return false,
        }
        true
    }
}

/// What is done to a body that is about to be sent.
#[derive(Default)]
pub(crate) struct ToBody {
    pub(crate) cut: Option<Cut>,
    /// Bytes of the blob whose lowest bit is turned over.
    pub(crate) corrupt: Vec<u64>,
    /// It may have so many bytes a second.
    pub(crate) slow: Option<NonZeroU32>,
}

/// A cut that was promised to one response. It counts as fired once [`happened`](Cut::happened); when the client goes away
/// before, it is given back to the script.
pub(crate) struct Cut {
    faults: Arc<Faults>,
    step: (usize, Arc<Step>),
    /// `None` once it happened.
    source: Option<Source>,
    /// The first byte of the blob that is not sent.
    pub(crate) at: u64,
    pub(crate) refuse_sas: bool,
}

impl Cut {
    pub(super) fn new(
        faults: &Arc<Faults>,
        step: (usize, Arc<Step>),
        source: Source,
        at: u64,
        refuse_sas: bool,
    ) -> Self {
        Self { faults: Arc::clone(faults), step, source: Some(source), at, refuse_sas }
    }

    /// Writes it to the log.
    pub(crate) fn happened(mut self) {
        if let Some(source) = self.source.take() {
            self.faults.happened((self.step.0, &self.step.1), source);
        }
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if self.source.is_some() {
            self.faults.give_back(self.step.0);
        }
    }
}
