//! Whether an endpoint is on this machine: the only place where plain text may carry a token.

use std::net::IpAddr;

use url::{Host, Url};

/// `localhost`, 127.0.0.0/8 or ::1. Names that merely resolve to loopback do not count: DNS may change its mind.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        // With a scheme that the URL standard does not know (`sb`, `amqp`) an IPv4 address stays text.
        Some(Host::Domain(name)) => {
            name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(url: &str) -> bool {
        is_loopback(&Url::parse(url).unwrap())
    }

    #[test]
    fn loopback_is_known_by_address_or_by_its_one_name() {
        for url in [
            "http://127.0.0.1:10000/account",
            "http://127.8.9.1",
            "http://[::1]:80",
            "http://LOCALHOST:1",
            "amqp://127.0.0.1:5672",
            "amqp://localhost",
            "sb://[::1]",
        ] {
            assert!(loopback(url), "{url}");
        }
    }

    #[test]
    fn what_only_looks_like_loopback_is_not() {
        for url in [
            "http://127.0.0.1.example.com",
            "http://localhost.example.com",
            "amqp://10.0.0.1:5672",
            "http://0.0.0.0",
            "https://account.blob.core.windows.net",
            "http://127.0.0.1@example.com",
            "data:text/plain,localhost",
        ] {
            assert!(!loopback(url), "{url}");
        }
    }
}
