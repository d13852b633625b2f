//! The fields of a JSON object in their order, borrowed from its text.

use std::borrow::Cow;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use waybill_formats::Field;

struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// A name that borrows when it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(map.size_hint().unwrap_or(16));
                while let Some((Name(name), value)) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

pub(super) fn fields_of(json: &str) -> Result<Vec<(Cow<'_, str>, Field<'_>)>, String> {
    let Fields(fields) = serde_json::from_str(json).map_err(|error| format!("it is no JSON object: {error}"))?;
    fields.into_iter().map(|(name, value)| Ok((name, field(value)?))).collect()
}

fn field(value: &RawValue) -> Result<Field<'_>, String> {
    let text = value.get();
    Ok(match text.as_bytes().first() {
        Some(b'n') => Field::Null,
        Some(b't') => Field::Bool(true),
        Some(b'f') => Field::Bool(false),
        Some(b'"') => {
            let Name(text) = serde_json::from_str(text).map_err(|error| error.to_string())?;
            Field::Text(text)
        }
        Some(b'{' | b'[') => Field::Nested(text.as_bytes().into()),
        _ => Field::Number(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_objects_fields_come_in_order_as_written() {
        let fields = fields_of(r#"{"b":19.90,"a":"x\ny","n":null,"t":true,"f":false,"l":[1, 2],"é":"é"}"#).unwrap();
        let expected = [
            ("b", Field::Number("19.90")),
            ("a", Field::Text("x\ny".into())),
            ("n", Field::Null),
            ("t", Field::Bool(true)),
            ("f", Field::Bool(false)),
            ("l", Field::Nested(b"[1, 2]".into())),
            ("é", Field::Text("é".into())),
        ];
        assert_eq!(fields.len(), expected.len());
        for ((name, field), (expected_name, expected)) in fields.iter().zip(&expected) {
            assert_eq!((name.as_ref(), field), (*expected_name, expected));
        }
        assert!(matches!(&fields[6].1, Field::Text(Cow::Borrowed(_))), "without escapes nothing is copied");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert!(fields_of("[1]").unwrap_err().contains("no JSON object"));
    }
}
