//! What an address or a token's audience names.

use std::fmt;

/// A node of this namespace, as an address names it. Paths are lower case, without slashes at their ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// The token node of the connection.
    Cbs,
    /// The request node of an entity.
    Management { entity: String },
    /// A queue, topic, subscription or dead-letter queue.
    Entity(String),
}

impl Address {
    /// `<entity>` or `scheme://host[:port]/<entity>`; Python and Rust send the latter.
    pub(crate) fn parse(address: &str) -> Self {
        let path = path_of(address);
        if path == "$cbs" {
            return Self::Cbs;
        }
        match path.strip_suffix("/$management") {
            Some(entity) => Self::Management { entity: entity.to_owned() },
            None => Self::Entity(path),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cbs => f.write_str("$cbs"),
            Self::Management { entity } => write!(f, "{entity}/$management"),
            Self::Entity(path) => f.write_str(path),
        }
    }
}

/// The path below the host, in lower case (Service Bus compares names without case).
pub(crate) fn path_of(address: &str) -> String {
    let path = match address.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => address,
    };
    path.trim_matches('/').to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_all_clients_name_the_same_entity() {
        let expected = Address::Entity("exports/subscriptions/acme/$deadletterqueue".to_owned());
        for address in [
            "exports/Subscriptions/acme/$DeadLetterQueue",
            "/exports/Subscriptions/acme/$DeadLetterQueue/",
            "amqps://localhost/exports/Subscriptions/Acme/$deadletterqueue",
            "sb://127.0.0.1:5672/EXPORTS/subscriptions/acme/$DeadLetterQueue",
        ] {
            assert_eq!(Address::parse(address), expected, "{address}");
        }
    }

    #[test]
    fn cbs_management_and_the_namespace_are_told_apart() {
        assert_eq!(Address::parse("$cbs"), Address::Cbs);
        assert_eq!(Address::parse("amqps://localhost/$cbs"), Address::Cbs);
        assert_eq!(Address::parse("Jobs/$management"), Address::Management { entity: "jobs".to_owned() });
        assert_eq!(path_of("sb://localhost"), "");
        assert_eq!(path_of("sb://localhost/"), "");
    }
}
