//! Tokens that others put into messages: they are kept nowhere, so `show` cannot show them.

use std::{borrow::Cow, fmt, ops::Range};

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What a secret stands behind, in lower case.
const MARKS: [&str; 5] = ["sig=", "sig%3d", "sig\\u003d", "accountkey=", "sharedaccesskey="];

/// A waybill's JSON with the query of its `uri` left out; everything else stays as it was written.
pub(super) fn without_query(json: &str) -> String {
    let mut text = json.to_owned();
    let mut values = uri_values(json);
    values.reverse();
    for value in values {
        let Ok(uri) = serde_json::from_str::<String>(json.get(value.clone()).unwrap_or_default()) else { continue };
        if let Some((address, _query)) = uri.split_once('?') {
            let address = serde_json::to_string(address).expect("any text is a JSON string");
            text.replace_range(value, &address);
        }
    }
    text
}

/// Where the values of `uri` stand: all of them, if somebody wrote several.
fn uri_values(json: &str) -> Vec<Range<usize>> {
    struct Values<'de> {
        json: &'de str,
    }
    impl<'de> Visitor<'de> for Values<'de> {
        type Value = Vec<Range<usize>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = Vec::new();
            while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                let value: &'de RawValue = map.next_value()?;
                if name == "uri" {
                    let start = value.get().as_ptr() as usize - self.json.as_ptr() as usize;
                    found.push(start..start + value.get().len());
                }
            }
            Ok(found)
        }
    }
    let mut reader = serde_json::Deserializer::from_str(json);
    reader.deserialize_map(Values { json }).unwrap_or_default()
}

/// Any text with signatures and keys masked, for what is no waybill and is kept to be looked at.
pub(super) fn masked(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let mut shown = String::with_capacity(text.len());
    let mut at = 0;
    while let Some((found, mark)) =
        MARKS.iter().filter_map(|mark| Some((at + lower.get(at..)?.find(mark)?, mark))).min()
    {
        let secret = found + mark.len();
        shown.push_str(text.get(at..secret).unwrap_or_default());
        shown.push('…');
        at = secret + secret_length(text.get(secret..).unwrap_or_default());
    }
    shown.push_str(text.get(at..).unwrap_or_default());
    shown
}

/// Base64, percent-escaped or with JSON's escapes; ends at anything else, `\u0026` (an ampersand) among it.
fn secret_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'%' | b'+' | b'/' | b'=' | b'-' | b'_' | b'.' | b'~' => at += 1,
            b'\\' if bytes.get(at + 1) == Some(&b'/') => at += 2,
            b'\\' if bytes.get(at + 1) == Some(&b'u') => match bytes.get(at + 2..at + 6) {
                Some(hex) if hex != b"0026" && hex.iter().all(u8::is_ascii_hexdigit) => at += 6,
                _ => break,
            },
            _ => break,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_an_address_is_left_out_and_nothing_else_changes() {
        let json = r#"{ "a": 1.50, "ur\u0069" : "https:\/\/a.example\/c\/b?sv=1&sig=secret", "z":{"uri":"x?y"} }"#;
        let kept = without_query(json);
        assert_eq!(kept, r#"{ "a": 1.50, "ur\u0069" : "https://a.example/c/b", "z":{"uri":"x?y"} }"#);
        let plain = r#"{"uri":"https:\/\/a.example\/c\/b"}"#;
        assert_eq!(without_query(plain), plain, "without a query every byte stays");
        let twice = r#"{"uri":"u?1","uri":"v?2"}"#;
        assert_eq!(without_query(twice), r#"{"uri":"u","uri":"v"}"#);
    }

    #[test]
    fn signatures_and_keys_are_masked_wherever_they_stand() {
        for (text, shown) in [
            ("<a href='x?sv=1&sig=ab%2Bc/d=='>", "<a href='x?sv=1&sig=…'>"),
            (r#"{"uri":"x?SIG=ab\u002Bcd\u0026se=1"}"#, r#"{"uri":"x?SIG=…\u0026se=1"}"#),
            ("AccountName=a;AccountKey=k+/=;x", "AccountName=a;AccountKey=…;x"),
            ("sig%3Dab%26x ü sig=", "sig%3D… ü sig=…"),
            ("nothing here", "nothing here"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }
}
