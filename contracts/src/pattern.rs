//! Which blobTypes a configuration means: names, and patterns such as `Gateway.*`.

/// Whether a blobType is one of these names or fits one of these patterns, in which `*` stands for any characters, or none.
#[must_use]
pub fn is_of_types(blob_type: &str, types: &[String]) -> bool {
    types.iter().any(|pattern| fits(blob_type, pattern))
}

fn fits(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(last) = parts.next_back() else { return text == pattern };
    let Some(mut rest) = text.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else { return false };
    // The first place of each part leaves the most for those that follow.
    parts.all(|part| match rest.split_once(part) {
        _ if part.is_empty() => true,
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_or_none() {
        for (pattern, fitting, others) in [
            ("Item", vec!["Item"], vec!["item", "Items", "AnItem", ""]),
            (
                "Gateway.*",
                vec!["Gateway.", "Gateway.Order", "Gateway.a.b"],
                vec!["Gateway", "gateway.Order", "AGateway.x"],
            ),
            ("*Changes", vec!["Changes", "ItemChanges"], vec!["ItemChanges2", "ItemChange"]),
            ("*", vec!["", "Item", "a*b"], vec![]),
            ("a*a", vec!["aa", "aba"], vec!["a", "ab"]),
            ("a*b*c", vec!["abc", "axbxc", "abbc", "abcbc"], vec!["acb", "ac", "abcd"]),
            ("a**c", vec!["ac", "abc"], vec!["a"]),
            ("[a]?*", vec!["[a]?", "[a]?x"], vec!["ax", "[a]"]),
            ("*ö*", vec!["Größe", "ö"], vec!["Grosse"]),
        ] {
            for text in fitting {
                assert!(fits(text, pattern), "{text:?} fits {pattern:?}");
            }
            for text in others {
                assert!(!fits(text, pattern), "{text:?} does not fit {pattern:?}");
            }
        }
    }
}
