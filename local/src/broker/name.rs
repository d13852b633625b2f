//! Which names queues, topics and subscriptions may have.
//!
//! # Sources
//! "Naming rules and restrictions for Azure resources", Microsoft.ServiceBus (lengths and characters); the tilde beside them
//! is taken by Azure, and its administration clients do not forbid it.

/// Longest name of a queue or topic, and longest path.
pub(crate) const PATH_MAX: usize = 260;
/// Longest name of a subscription.
const SUBSCRIPTION_MAX: usize = 50;

/// Whether a queue or topic may be called so.
pub(crate) fn names_entity(name: &str) -> bool {
    let segment = |segment: &str| !segment.is_empty() && !segment.eq_ignore_ascii_case("subscriptions");
    name.len() <= PATH_MAX && has_letters(name, "/") && name.split('/').all(segment)
}

/// Whether a subscription may be called so.
pub(crate) fn names_subscription(name: &str) -> bool {
    name.len() <= SUBSCRIPTION_MAX && has_letters(name, "")
}

fn has_letters(name: &str, more: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric();
    name.starts_with(plain)
        && name.ends_with(plain)
        && name.chars().all(|letter| plain(letter) || ".-_~".contains(letter) || more.contains(letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_azure_takes() {
        for name in ["a", "7", "jobs", "Letters/Inbound", "a.b-c_d~e/f", &"x".repeat(260)] {
            assert!(names_entity(name), "{name}");
        }
        for name in ["a", "acme", "North-1_x.y~z", &"x".repeat(50)] {
            assert!(names_subscription(name), "{name}");
        }
        for name in
            ["", "/a", "a/", "a//b", "$cbs", "a/$management", "sb://host/a", "bad name", "a?", "a#b", "a\nb", "_a"]
        {
            assert!(!names_entity(name) && !names_subscription(name), "{name}");
        }
        for name in ["x/subscriptions/y", "Subscriptions", "größe", &"x".repeat(261)] {
            assert!(!names_entity(name), "{name}");
        }
        assert!(!names_subscription("a/b") && !names_subscription(&"x".repeat(51)));
    }
}
