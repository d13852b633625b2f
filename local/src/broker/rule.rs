//! The rules of a subscription: which of the topic's messages it gets.
//!
//! A message is put on a subscription once if any rule matches. A subscription without rules gets nothing; one that is made
//! without stating any has `$Default`, which matches everything. Names are compared without case and listed in their order.
//!
//! # Sources
//! "Topic filters and actions" (rules without actions are combined with OR into a single message; the default rule);
//! "Service Bus quotas" (2,000 SQL filters, here for rules of any kind, per subscription). The order of the list is what
//! the live tests of `@azure/service-bus` expect (`ruleManager.spec.ts`, "list rules by page").

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::filter::{Filter, FilterError, View};
use super::moment::Moment;
use super::{Broker, BrokerError, Entity};
use crate::amqp::address::path_of;
use crate::amqp::message::Message;

/// Name of the rule that a subscription has when none is stated.
pub const DEFAULT_RULE: &str = "$Default";

/// Rules of one subscription.
pub(crate) const RULES_MAX: usize = 2_000;

/// Characters of a rule's name.
const NAME_MAX: usize = 50;

/// A named filter of a subscription.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Unique within the subscription, whatever the case.
    pub name: String,
    /// Which messages it matches.
    pub filter: Filter,
}

impl Rule {
    /// A rule.
    #[must_use]
    pub fn new(name: impl Into<String>, filter: Filter) -> Self {
        Self { name: name.into(), filter }
    }

    /// `$Default`, which matches everything.
    #[must_use]
    pub fn everything() -> Self {
        Self::new(DEFAULT_RULE, Filter::True)
    }
}

/// Why the rules of a subscription were not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The subscription has a rule of this name. The wording is Azure's.
    #[error("The messaging entity '{0}' already exists.")]
    Exists(String),
    /// The subscription has no rule of this name. The wording is Azure's.
    #[error("The messaging entity '{0}' could not be found.")]
    NotFound(String),
    /// The name cannot be one.
    #[error(r"'{0}' cannot name a rule; use 1 to 50 characters other than / \ @ ? # *")]
    BadName(String),
    /// The filter cannot be one.
    #[error("rule '{rule}': {source}")]
    BadFilter {
        /// Name of the rule.
        rule: String,
        /// What is wrong with it.
        source: FilterError,
    },
    /// The subscription has as many rules as it may have.
    #[error("The subscription '{0}' has {RULES_MAX} rules, which is the most; remove one first.")]
    TooMany(String),
}

/// The rules of one subscription, shared by its topic and those who change them.
#[derive(Debug)]
pub(crate) struct Rules {
    /// `local:Topic:exports|acme`: how Azure names a subscription in its errors.
    owner: String,
    set: RwLock<Set>,
}

#[derive(Debug, Default)]
struct Set {
    /// By name in lower case.
    by_name: BTreeMap<String, Entry>,
    /// One of them matches every message, so no message needs to be looked at.
    everything: bool,
}

#[derive(Debug)]
struct Entry {
    rule: Rule,
    created_at: Moment,
    /// An evaluation failed before; the next failures are logged quietly.
    has_failed: AtomicBool,
}

impl Set {
    fn settle(&mut self) {
        self.everything = self.by_name.values().any(|entry| entry.rule.filter.matches_everything());
    }
}

impl Rules {
    /// The rules that a subscription starts with; `$Default` if there are none.
    pub(crate) fn new(topic: &str, subscription: &str, rules: Vec<Rule>, now: Moment) -> Result<Self, RuleError> {
        let all = Self { owner: format!("local:Topic:{topic}|{subscription}"), set: RwLock::default() };
        if rules.is_empty() {
            all.add(Rule::everything(), now)?;
        }
        for rule in rules {
            all.add(rule, now)?;
        }
        Ok(all)
    }

    pub(crate) fn add(&self, rule: Rule, now: Moment) -> Result<(), RuleError> {
        if !is_name(&rule.name) {
            return Err(RuleError::BadName(rule.name));
        }
        rule.filter.check().map_err(|source| RuleError::BadFilter { rule: rule.name.clone(), source })?;
        let mut set = self.set.write().unwrap_or_else(PoisonError::into_inner);
        let key = rule.name.to_lowercase();
        if set.by_name.contains_key(&key) {
            return Err(RuleError::Exists(self.full_name(&rule.name)));
        }
        if set.by_name.len() >= RULES_MAX {
            return Err(RuleError::TooMany(self.owner.clone()));
        }
        set.by_name.insert(key, Entry { rule, created_at: now, has_failed: AtomicBool::new(false) });
        set.settle();
        Ok(())
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), RuleError> {
        let mut set = self.set.write().unwrap_or_else(PoisonError::into_inner);
        if set.by_name.remove(&name.to_lowercase()).is_none() {
            return Err(RuleError::NotFound(self.full_name(name)));
        }
        set.settle();
        Ok(())
    }

    /// A page of the rules in the order of their names, with the times at which they were made.
    pub(crate) fn page(&self, skip: usize, top: usize) -> Vec<(Rule, Moment)> {
        let set = self.set.read().unwrap_or_else(PoisonError::into_inner);
        set.by_name.values().skip(skip).take(top).map(|entry| (entry.rule.clone(), entry.created_at)).collect()
    }

    /// Those of the messages that a rule matches. `views` are of the same messages, and are not asked for in vain.
    pub(crate) fn select<'m, 'v>(
        &self,
        messages: &'m [Arc<Message>],
        views: impl FnOnce() -> &'v [View<'v>],
    ) -> Cow<'m, [Arc<Message>]> {
        let set = self.set.read().unwrap_or_else(PoisonError::into_inner);
        if set.everything {
            return Cow::Borrowed(messages);
        }
        let chosen = messages.iter().zip(views()).filter(|(_, view)| self.matches(&set, view));
        Cow::Owned(chosen.map(|(message, _)| Arc::clone(message)).collect())
    }

    fn matches(&self, set: &Set, view: &View<'_>) -> bool {
        set.by_name.values().any(|entry| match entry.rule.filter.matches(view) {
            Ok(truth) => truth == Some(true),
            Err(error) => {
                let rule = self.full_name(&entry.rule.name);
                if entry.has_failed.swap(true, Ordering::Relaxed) {
                    tracing::debug!(%rule, %error, "a filter cannot be evaluated for a message; it does not match");
                } else {
                    tracing::warn!(
                        %rule, %error,
                        "a filter cannot be evaluated for a message; it does not match (said once per rule)"
                    );
                }
                false
            }
        })
    }

    fn full_name(&self, rule: &str) -> String {
        format!("{}|{rule}", self.owner)
    }
}

impl Broker {
    /// The rules of a subscription (`exports/subscriptions/acme`) in the order of their names.
    ///
    /// # Errors
    /// When there is no such subscription.
    pub fn rules(&self, subscription: &str) -> Result<Vec<Rule>, BrokerError> {
        let rules = self.rules_of(&path_of(subscription))?;
        Ok(rules.page(0, usize::MAX).into_iter().map(|(rule, _)| rule).collect())
    }

    /// Adds a rule to a subscription; it decides about what is sent from now on.
    ///
    /// # Errors
    /// When there is no such subscription, or the rule cannot be or has a name that is in use.
    pub fn add_rule(&self, subscription: &str, rule: Rule) -> Result<(), BrokerError> {
        Ok(self.rules_of(&path_of(subscription))?.add(rule, self.now())?)
    }

    /// Removes a rule. A subscription without rules gets nothing.
    ///
    /// # Errors
    /// When there is no such subscription or rule.
    pub fn remove_rule(&self, subscription: &str, name: &str) -> Result<(), BrokerError> {
        Ok(self.rules_of(&path_of(subscription))?.remove(name)?)
    }

    /// The rules of the subscription at a normalised path.
    pub(crate) fn rules_of(&self, path: &str) -> Result<Arc<Rules>, BrokerError> {
        match self.read().get(path) {
            Some(Entity::Subscription(_, rules)) => Ok(Arc::clone(rules)),
            Some(Entity::Queue(_) | Entity::Topic(_)) => Err(BrokerError::NotASubscription(path.to_owned())),
            None => Err(BrokerError::NotFound(path.to_owned())),
        }
    }
}

fn is_name(name: &str) -> bool {
    let length = name.chars().count();
    (1..=NAME_MAX).contains(&length) && !name.contains(['/', '\\', '@', '?', '#', '*']) && !name.trim().is_empty()
}
