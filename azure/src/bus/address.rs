//! Where the bus is: what a grant's endpoint says.

use std::{borrow::Cow, fmt};

use url::Url;

use super::BusError;
use crate::endpoint::is_loopback;

/// Where the bus is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    /// For AMQP.
    pub(super) port: u16,
    /// For AMQP over WebSocket.
    pub(super) web_port: u16,
    pub(super) tls: bool,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.url_host(), self.port)
    }
}

impl Address {
    /// Reads a grant's endpoint.
    ///
    /// # Errors
    /// [`BusError::Setup`] when the scheme is none of the bus, or plain AMQP would leave this machine.
    pub(super) fn of(endpoint: &Url) -> Result<Self, BusError> {
        // The text of a URL could hold credentials, so only scheme, host and port are shown.
        let refuse = |problem: &str| {
            let host = endpoint.host_str().unwrap_or_default();
            let port = endpoint.port().map(|port| format!(":{port}")).unwrap_or_default();
            Err(BusError::Setup {
                address: format!("{}://{host}{port}", endpoint.scheme()),
                problem: problem.to_owned(),
            })
        };
        let (tls, usual_port, usual_web_port) = match endpoint.scheme() {
            "sb" | "amqps" => (true, 5671, 443),
            "amqp" => (false, 5672, 5672),
            _ => return refuse("the scheme must be sb or amqps, or amqp on loopback"),
        };
        let Some(host) = endpoint.host_str().filter(|host| !host.is_empty()) else {
            return refuse("the host is missing");
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if !tls && !is_loopback(endpoint) {
            return refuse(
                "plain AMQP would show the token to the network; use sb:// or amqps://, or a loopback address",
            );
        }
        // A port that an endpoint names beside the usual ones is a "custom endpoint": it speaks both.
        let named = endpoint.port().filter(|port| *port != usual_port);
        let (port, web_port) = (named.unwrap_or(usual_port), named.unwrap_or(usual_web_port));
        Ok(Self { host, port, web_port, tls })
    }

    /// The host as a URL has it.
    pub(super) fn url_host(&self) -> Cow<'_, str> {
        if self.host.contains(':') { format!("[{}]", self.host).into() } else { self.host.as_str().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Result<Address, BusError> {
        Address::of(&url.parse().unwrap())
    }

    #[test]
    fn tls_is_the_rule_and_ports_have_their_defaults() {
        let full = address("sb://ns.servicebus.windows.net/").unwrap();
        assert_eq!(
            full,
            Address { host: "ns.servicebus.windows.net".to_owned(), port: 5671, web_port: 443, tls: true }
        );
        assert_eq!(address("sb://ns:5671").unwrap().web_port, 443);
        assert_eq!(address("sb://ns:6000").unwrap().web_port, 6000, "a custom endpoint speaks both");
        assert_eq!(address("amqps://ns:6000").unwrap().to_string(), "ns:6000");
        assert_eq!(address("amqp://127.0.0.1").unwrap().to_string(), "127.0.0.1:5672");
        assert_eq!(address("amqp://[::1]:7").unwrap().to_string(), "[::1]:7");
        assert_eq!(address("amqp://LocalHost:7").unwrap().to_string(), "LocalHost:7");
    }

    #[test]
    fn plain_amqp_never_leaves_this_machine() {
        for url in [
            "amqp://ns.servicebus.windows.net",
            "amqp://10.0.0.1:5672",
            "amqp://localhost.evil.example",
            "amqp://[fe80::1]",
        ] {
            let error = address(url).unwrap_err();
            assert!(matches!(&error, BusError::Setup { .. }), "{url}: {error}");
            assert!(error.needs_person());
        }
    }

    #[test]
    fn a_foreign_scheme_is_refused_without_showing_credentials() {
        let error = address("https://user:hunter2@ns.example/path?sig=abc").unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot use the bus at https://ns.example: the scheme must be sb or amqps, or amqp on loopback"
        );
    }
}
