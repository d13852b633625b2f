//! A JSON object whose values stay as they were written.
//!
//! Numbers keep their digits and nothing of a value's depth reaches the stack: `serde_json` only steps over it.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Fields in their order; of a repeated one only the first is kept, so that every reader sees the same value.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawObject(pub(crate) Vec<(String, Box<RawValue>)>);

impl RawObject {
    pub(crate) fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| &**value)
    }

    /// Sets a field in its place, or after the last one.
    pub(crate) fn set(&mut self, name: &str, value: Box<RawValue>) {
        match self.0.iter_mut().find(|(field, _)| field == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// The object as JSON text without whitespace of its own.
    pub(crate) fn to_raw(&self) -> Box<RawValue> {
        let mut text = String::from("{");
        for (name, value) in &self.0 {
            if text.len() > 1 {
                text.push(',');
            }
            push_text(&mut text, name);
            text.push(':');
            text.push_str(value.get());
        }
        text.push('}');
        RawValue::from_string(text).expect("names are escaped and values are valid JSON")
    }
}

/// Appends `text` as a JSON string.
fn push_text(to: &mut String, text: &str) {
    to.push_str(&serde_json::to_string(text).expect("any text is a JSON string"));
}

/// `text` as a raw JSON string.
pub(crate) fn raw_text(text: &str) -> Box<RawValue> {
    serde_json::value::to_raw_value(text).expect("any text is a JSON string")
}

/// `number` as a raw JSON integer.
pub(crate) fn raw_number(number: u64) -> Box<RawValue> {
    serde_json::value::to_raw_value(&number).expect("any integer is a JSON number")
}

/// What a JSON text is, for errors that must not quote it.
pub(crate) fn kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "text",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

impl<'de> Deserialize<'de> for RawObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = RawObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawObject, A::Error> {
                let mut seen = HashSet::new();
                let mut fields = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let value = map.next_value::<Box<RawValue>>()?;
                    if seen.insert(name.clone()) {
                        fields.push((name, value));
                    }
                }
                Ok(RawObject(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}
