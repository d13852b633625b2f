//! What a `doctor` tried and found, for people line by line, for programs at the end.

use std::fmt::Display;

use serde::Serialize;

use crate::{
    args::{Common, Format},
    exit::Outcome,
    output::{json, line},
};

/// The checks so far.
#[derive(Debug)]
pub struct Checks {
    people: bool,
    all: Vec<Check>,
}

/// What was tried.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Check {
    check: &'static str,
    state: State,
    /// What was found, or what is wrong and helps.
    detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Ok,
    Failed,
    /// Something before it failed.
    NotTried,
}

impl Checks {
    /// None so far; told in the format that is wanted.
    #[must_use]
    pub fn new(common: &Common) -> Self {
        Self { people: common.format != Format::Json, all: Vec::new() }
    }

    /// It is as it should be.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn ok(&mut self, check: &'static str, detail: impl Display) -> anyhow::Result<()> {
        self.say(check, State::Ok, detail)
    }

    /// It is not.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn failed(&mut self, check: &'static str, detail: impl Display) -> anyhow::Result<()> {
        self.say(check, State::Failed, detail)
    }

    /// What it needs failed before.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn not_tried(&mut self, check: &'static str) -> anyhow::Result<()> {
        self.say(check, State::NotTried, "what it needs failed above")
    }

    fn say(&mut self, check: &'static str, state: State, detail: impl Display) -> anyhow::Result<()> {
        let detail = detail.to_string();
        if self.people {
            let mark = match state {
                State::Ok => "ok",
                State::Failed => "FAILED",
                State::NotTried => "-",
            };
            line(format_args!("{mark:<7} {check:<14} {detail}"))?;
        }
        self.all.push(Check { check, state, detail });
        Ok(())
    }

    /// All were tried: whether all is well.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn end(self) -> anyhow::Result<Outcome> {
        if !self.people {
            json(&self.all)?;
        }
        let well = self.all.iter().all(|check| check.state == State::Ok);
        Ok(if well { Outcome::Done } else { Outcome::Failed })
    }
}
