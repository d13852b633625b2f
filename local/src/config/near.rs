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

/// Adds the nearest name to what serde says of an unknown field or variant: "unknown field `ampq`, expected one of …".
pub(crate) fn with_nearest(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let nearest = match names.next() {
        Some(wrong) if message.starts_with("unknown ") => nearest(wrong, names),
        _ => None,
    };
    match nearest {
        Some(name) => format!("{message}; did you mean `{name}`?"),
        None => message.to_owned(),
    }
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
        assert_eq!(with_nearest(unknown), format!("{unknown}; did you mean `amqp`?"));
        for plain in ["missing field `name`", "unknown field `colour`, expected `name` or `key`", "invalid type"] {
            assert_eq!(with_nearest(plain), plain);
        }
    }
}
