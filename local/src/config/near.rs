//! "Did you mean": what a misspelt name was probably to be.

/// Names this alike are taken for each other (1.0 is the same).
const ALIKE: f64 = 0.75;

/// The known name that is most like `wrong`, if any is like it; letter case does not count.
pub(crate) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = wrong.to_lowercase();
    let likeness = |name: &str| strsim::jaro_winkler(&lower, &name.to_lowercase());
    let best = known.into_iter().map(|name| (likeness(name), name)).max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(likeness, _)| *likeness >= ALIKE).map(|(_, name)| name)
}

/// What serde says, for people: of an unknown field or variant ("unknown field `ampq`, expected one of …") the nearest
/// name first, and numbers without the names of Rust's types.
pub(crate) fn with_nearest(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let nearest = match names.next() {
        Some(wrong) if message.starts_with("unknown ") => nearest(wrong, names),
        _ => None,
    };
    match (nearest, message.split_once(", expected")) {
        (Some(name), Some((problem, expected))) => format!("{problem}; did you mean `{name}`? Expected{expected}"),
        _ => NUMBERS.iter().fold(message.to_owned(), |said, (rust, plain)| said.replace(rust, plain)),
    }
}

/// What serde expects, and what that is.
const NUMBERS: [(&str, &str); 5] = [
    ("expected u16", "expected a whole number from 0 to 65535"),
    ("expected u32", "expected a whole number from 0 to 4294967295"),
    ("expected u64", "expected a whole number from 0 on"),
    ("expected a nonzero u32", "expected a whole number from 1 to 4294967295"),
    ("expected i64", "expected a whole number"),
];

/// What serde_json says without the place at its end, for messages that name the line themselves.
pub(crate) fn without_place(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    with_nearest(message.strip_suffix(&place).unwrap_or(&message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_the_one_that_was_meant() {
        let known = ["amqp", "blob", "tenant", "admin", "lock_duration_ms", "max_delivery_count"];
        for (wrong, meant) in [("ampq", "amqp"), ("Blobs", "blob"), ("lock_duration", "lock_duration_ms")] {
            assert_eq!(nearest(wrong, known), Some(meant), "{wrong}");
        }
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("colour", []), None);
    }

    #[test]
    fn what_serde_says_is_kept_and_only_unknown_names_get_an_addition() {
        let unknown = "unknown field `ampq`, expected one of `amqp`, `blob`";
        assert_eq!(with_nearest(unknown), "unknown field `ampq`; did you mean `amqp`? Expected one of `amqp`, `blob`");
        let port = "invalid value: integer `70000`, expected u16";
        assert_eq!(with_nearest(port), "invalid value: integer `70000`, expected a whole number from 0 to 65535");
        for plain in ["missing field `name`", "unknown field `colour`, expected `name` or `key`", "invalid type"] {
            assert_eq!(with_nearest(plain), plain);
        }
    }
}
