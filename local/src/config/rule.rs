//! Rules as people write them: a name, and one of `sql`, `correlation` and `all`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::broker::{CorrelationFilter, Filter, Rule, SqlFilter, Value};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sql: Option<String>,
    /// Of `sql`.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BTreeMap<String, Property>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation: Option<Correlation>,
    /// Every message, or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    all: Option<bool>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Correlation {
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to_session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    properties: BTreeMap<String, Property>,
}

/// A value that a property is compared with.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "a text, a number, true or false")]
enum Property {
    Bool(bool),
    Integer(i64),
    Double(f64),
    Text(String),
}

impl From<Property> for Value {
    fn from(property: Property) -> Self {
        match property {
            Property::Bool(value) => Self::Bool(value),
            Property::Integer(value) => Self::Int(value),
            Property::Double(value) => Self::Double(value),
            Property::Text(value) => Self::Text(value),
        }
    }
}

impl From<&Value> for Property {
    /// What no file can say (a rule that a client added may have it) is shown as text.
    fn from(value: &Value) -> Self {
        match value {
            Value::Bool(value) => Self::Bool(*value),
            Value::Double(value) => Self::Double(*value),
            Value::Text(value) | Value::Symbol(value) => Self::Text(value.clone()),
            Value::Uuid(value) => Self::Text(value.to_string()),
            Value::Char(value) => Self::Text(value.to_string()),
            other => other.as_int().map_or_else(|| Self::Text(format!("{other:?}")), Self::Integer),
        }
    }
}

impl TryFrom<Text> for Rule {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        let Text { name, sql, parameters, correlation, all } = text;
        let refuse = |problem: String| format!("rule '{name}': {problem}");
        let filter = match (sql, correlation, all) {
            (Some(sql), None, None) => {
                let parameters = parameters.unwrap_or_default().into_iter();
                let parameters = parameters.map(|(name, value)| (name, value.into())).collect();
                let filter = SqlFilter::with_parameters(&sql, parameters);
                Filter::Sql(filter.map_err(|error| refuse(error.to_string()))?)
            }
            (None, Some(correlation), None) => Filter::Correlation(correlation.into()),
            (None, None, Some(true)) => Filter::True,
            (None, None, Some(false)) => Filter::False,
            _ => {
                let problem = "give one of `sql`, `correlation` and `all` (all = true is every message)";
                return Err(refuse(problem.to_owned()));
            }
        };
        filter.check().map_err(|error| refuse(error.to_string()))?;
        Ok(Self::new(name, filter))
    }
}

impl From<Correlation> for CorrelationFilter {
    fn from(written: Correlation) -> Self {
        Self {
            correlation_id: written.correlation_id,
            message_id: written.message_id,
            to: written.to,
            reply_to: written.reply_to,
            subject: written.subject,
            session_id: written.session_id,
            reply_to_session_id: written.reply_to_session_id,
            content_type: written.content_type,
            properties: written.properties.into_iter().map(|(name, value)| (name, value.into())).collect(),
        }
    }
}

impl From<&Rule> for Text {
    fn from(rule: &Rule) -> Self {
        let mut text = Self { name: rule.name.clone(), sql: None, parameters: None, correlation: None, all: None };
        match &rule.filter {
            Filter::True => text.all = Some(true),
            Filter::False => text.all = Some(false),
            Filter::Sql(filter) => {
                text.sql = Some(filter.expression().to_owned());
                text.parameters = Some(pairs(filter.parameters())).filter(|parameters| !parameters.is_empty());
            }
            Filter::Correlation(filter) => {
                let filter = filter.clone();
                text.correlation = Some(Correlation {
                    properties: pairs(&filter.properties),
                    correlation_id: filter.correlation_id,
                    message_id: filter.message_id,
                    to: filter.to,
                    reply_to: filter.reply_to,
                    subject: filter.subject,
                    session_id: filter.session_id,
                    reply_to_session_id: filter.reply_to_session_id,
                    content_type: filter.content_type,
                });
            }
        }
        text
    }
}

fn pairs(pairs: &[(String, Value)]) -> BTreeMap<String, Property> {
    pairs.iter().map(|(name, value)| (name.clone(), value.into())).collect()
}

/// One rule of a list, so that an error has its place.
#[derive(Deserialize)]
#[serde(try_from = "Text")]
struct Entry(Rule);

impl TryFrom<Text> for Entry {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        Rule::try_from(text).map(Self)
    }
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Rule>, D::Error> {
    Ok(Vec::<Entry>::deserialize(deserializer)?.into_iter().map(|Entry(rule)| rule).collect())
}

pub(super) fn serialize<S: Serializer>(rules: &[Rule], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rules.iter().map(Text::from))
}
