//! `$management` of a subscription: adding, removing and listing its rules.
//!
//! A Listen right is enough, as in Azure: "The rule manager requires only Listen claims, whereas the
//! ServiceBusAdministrationClient requires Manage claims" (reference of `ServiceBusRuleManager`).
//!
//! # Sources
//! "AMQP 1.0 in Azure Service Bus: request-response-based operations", "Rule operations" (bodies, descriptors). The fourth
//! field of a rule description, the time at which the rule was made, is what .NET's client reads. Conditions are those that
//! `@azure/core-amqp` and `Azure.Messaging.ServiceBus` map to their errors; JavaScript tells a missing entity by Azure's words.

use super::codec::Value;
use super::encode::Write;
use super::request::{Answer, Request};
use super::tokens::{Need, Right, Tokens, unauthorized};
use crate::broker::rule::Rules;
use crate::broker::{Broker, BrokerError, CorrelationFilter, Filter, Moment, Rule, RuleError, SqlFilter};

const ADD: &str = "com.microsoft:add-rule";
const REMOVE: &str = "com.microsoft:remove-rule";
const LIST: &str = "com.microsoft:enumerate-rules";

/// Rules in one answer.
const PAGE_MAX: usize = 1_000;

const RULE_DESCRIPTION: u64 = 0x137_0000_0004;
const EMPTY_ACTION: u64 = 0x137_0000_0005;
const SQL_FILTER: u64 = 0x13_7000_0006;
const TRUE_FILTER: u64 = 0x13_7000_0007;
const FALSE_FILTER: u64 = 0x13_7000_0008;
const CORRELATION_FILTER: u64 = 0x13_7000_0009;

const ARGUMENT_ERROR: &str = "com.microsoft:argument-error";

/// Answers a request about rules; `None` if it is about something else.
pub(crate) fn answer(
    request: &Request<'_>,
    entity: &str,
    broker: &Broker,
    tokens: &Tokens,
    now: Moment,
) -> Option<Answer> {
    let operation = request.property("operation").filter(|operation| [ADD, REMOVE, LIST].contains(operation))?;
    let need = Need { path: format!("{entity}/$management"), right: Right::Listen };
    if !tokens.allow(&need, now.seconds()) {
        let refusal = unauthorized(&need);
        return Some(Answer::refusal(401, refusal.condition, refusal.description));
    }
    let rules = match broker.rules_of(entity) {
        Ok(rules) => rules,
        Err(BrokerError::NotFound(_)) => {
            return Some(Answer::refusal(
                404,
                "amqp:not-found",
                format!("The messaging entity '{entity}' could not be found."),
            ));
        }
        Err(error) => return Some(Answer::refusal(400, "amqp:not-allowed", error.to_string())),
    };
    let answer = match operation {
        ADD => add(&request.body, &rules, now),
        REMOVE => remove(&request.body, &rules),
        _ => list(&request.body, &rules),
    };
    Some(answer.unwrap_or_else(|refusal| refusal))
}

fn add(body: &Value, rules: &Rules, now: Moment) -> Result<Answer, Answer> {
    let name = rule_name(body)?;
    let description = body.get("rule-description").ok_or_else(|| argument("'rule-description' is missing"))?;
    if stated(description, "sql-rule-action").is_some() {
        let text = "Rule actions are not supported here; add the rule without an action.";
        return Err(Answer::refusal(501, "amqp:not-implemented", text));
    }
    let filter = match (stated(description, "sql-filter"), stated(description, "correlation-filter")) {
        (Some(sql), None) => sql_filter(sql)?,
        (None, Some(correlation)) => Filter::Correlation(correlation_filter(correlation)?),
        _ => return Err(argument("'rule-description' must have either 'sql-filter' or 'correlation-filter'")),
    };
    rules.add(Rule::new(name, filter), now).map_err(|error| refusal(&error))?;
    Ok(Answer::ok(None))
}

fn remove(body: &Value, rules: &Rules) -> Result<Answer, Answer> {
    rules.remove(rule_name(body)?).map_err(|error| refusal(&error))?;
    Ok(Answer::ok(None))
}

fn list(body: &Value, rules: &Rules) -> Result<Answer, Answer> {
    let number = |key: &str, default: usize| match body.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value
            .as_int()
            .and_then(|value| usize::try_from(value).ok())
            .ok_or_else(|| argument(&format!("'{key}' must be an integer of 0 or more"))),
    };
    let page = rules.page(number("skip", 0)?, number("top", PAGE_MAX)?.min(PAGE_MAX));
    if page.is_empty() {
        return Ok(Answer { status: 204, description: "No content".to_owned(), condition: None, body: None });
    }
    let mut out = Vec::new();
    out.map(|map| {
        map.text("rules");
        map.list(|list| {
            for (rule, created_at) in &page {
                list.map(|map| {
                    map.text("rule-description");
                    map.raw(&description(rule, *created_at));
                });
            }
        });
    });
    Ok(Answer::ok(Some(out)))
}

fn description(rule: &Rule, created_at: Moment) -> Vec<u8> {
    let mut out = described(RULE_DESCRIPTION);
    out.list(|list| {
        list.raw(&filter(&rule.filter));
        let mut action = described(EMPTY_ACTION);
        action.list(|_| {});
        list.raw(&action);
        list.text(&rule.name);
        list.timestamp(created_at.0);
    });
    out
}

fn filter(filter: &Filter) -> Vec<u8> {
    match filter {
        Filter::True => {
            let mut out = described(TRUE_FILTER);
            out.list(|_| {});
            out
        }
        Filter::False => {
            let mut out = described(FALSE_FILTER);
            out.list(|_| {});
            out
        }
        Filter::Sql(sql) => {
            let mut out = described(SQL_FILTER);
            out.list(|list| list.text(sql.expression()));
            out
        }
        Filter::Correlation(correlation) => {
            let mut out = described(CORRELATION_FILTER);
            out.list(|list| {
                for (_, text) in correlation.fields() {
                    match text {
                        Some(text) => list.text(text),
                        None => list.null(),
                    }
                }
                list.map(|map| {
                    for (name, value) in &correlation.properties {
                        map.text(name);
                        map.raw(&encoded(value));
                    }
                });
            });
            out
        }
    }
}

fn described(descriptor: u64) -> Vec<u8> {
    let mut out = vec![0x00];
    out.ulong(descriptor);
    out
}

/// A value that a correlation filter may compare with.
fn encoded(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    match value {
        Value::Bool(value) => out.bool(*value),
        // Clients that write an int want one back.
        Value::Int(value) => match i32::try_from(*value) {
            Ok(small) => out.int(small),
            Err(_) => out.long(*value),
        },
        Value::Uint(value) => out.ulong(*value),
        Value::Double(value) => {
            out.push(0x82);
            out.extend(value.to_be_bytes());
        }
        Value::Char(value) => {
            out.push(0x73);
            out.extend(u32::from(*value).to_be_bytes());
        }
        Value::Timestamp(at) => out.timestamp(*at),
        Value::Uuid(id) => out.uuid(*id),
        Value::Text(text) => out.text(text),
        Value::Symbol(text) => out.symbol(text),
        Value::Described(described) => {
            out.push(0x00);
            out.extend(encoded(&described.0));
            out.extend(encoded(&described.1));
        }
        Value::Null | Value::Binary(_) | Value::List(_) | Value::Map(_) | Value::Array(_) | Value::Other(..) => {
            out.null();
        }
    }
    out
}

fn sql_filter(sql: &Value) -> Result<Filter, Answer> {
    let expression = stated(sql, "expression").and_then(Value::as_text);
    let expression = expression.ok_or_else(|| argument("'sql-filter' must have an 'expression' that is a text"))?;
    // Clients have no parameters here, but Azure's broker knows them.
    let parameters = match stated(sql, "parameters") {
        Some(parameters) => named_values(parameters, "parameters")?,
        None => Vec::new(),
    };
    SqlFilter::with_parameters(expression, parameters).map(Filter::Sql).map_err(|error| argument(&error.to_string()))
}

fn correlation_filter(stated_filter: &Value) -> Result<CorrelationFilter, Answer> {
    let text = |key: &str| match stated(stated_filter, key) {
        None => Ok(None),
        Some(value) => value
            .as_text()
            .map(|text| Some(text.to_owned()))
            .ok_or_else(|| argument(&format!("'{key}' of a correlation filter must be a text"))),
    };
    Ok(CorrelationFilter {
        correlation_id: text("correlation-id")?,
        message_id: text("message-id")?,
        to: text("to")?,
        reply_to: text("reply-to")?,
        subject: text("label")?,
        session_id: text("session-id")?,
        reply_to_session_id: text("reply-to-session-id")?,
        content_type: text("content-type")?,
        properties: match stated(stated_filter, "properties") {
            Some(properties) => named_values(properties, "properties")?,
            None => Vec::new(),
        },
    })
}

fn named_values(map: &Value, what: &str) -> Result<Vec<(String, Value)>, Answer> {
    let Value::Map(pairs) = map else { return Err(argument(&format!("'{what}' must be a map"))) };
    let pair = |(name, value): &(Value, Value)| Some((name.as_text()?.to_owned(), value.clone()));
    pairs.iter().map(pair).collect::<Option<_>>().ok_or_else(|| argument(&format!("a name in '{what}' is no text")))
}

fn rule_name(body: &Value) -> Result<&str, Answer> {
    body.get("rule-name").and_then(Value::as_text).ok_or_else(|| argument("'rule-name' must be a text"))
}

/// The value of a key that is neither missing nor null: JavaScript writes every key.
fn stated<'a>(map: &'a Value, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|value| **value != Value::Null)
}

fn argument(text: &str) -> Answer {
    Answer::refusal(400, ARGUMENT_ERROR, text)
}

fn refusal(error: &RuleError) -> Answer {
    let (status, condition) = match error {
        RuleError::Exists(_) => (409, "com.microsoft:entity-already-exists"),
        RuleError::NotFound(_) => (404, "amqp:not-found"),
        RuleError::TooMany(_) => (403, "amqp:resource-limit-exceeded"),
        RuleError::BadName(_) | RuleError::BadFilter { .. } => (400, ARGUMENT_ERROR),
    };
    Answer::refusal(status, condition, error.to_string())
}
