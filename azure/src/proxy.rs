//! The proxy for what goes out over TLS, as the usual variables name it: `HTTPS_PROXY` or `ALL_PROXY` (upper or lower
//! case), and `NO_PROXY` for the hosts that are reached without it. Loopback never goes through a proxy. A proxy is asked
//! for a tunnel by CONNECT, so it sees names and ports, and no token.

use std::fmt;

use http::{HeaderValue, StatusCode};
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::NoProxy;

/// Loopback in the notation of `NO_PROXY`.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// What the variables say. The address may hold a password.
#[derive(Clone, Default)]
pub(crate) struct ProxySettings {
    proxy: Option<Named>,
    except: String,
}

#[derive(Clone)]
struct Named {
    variable: &'static str,
    address: String,
}

impl fmt::Debug for ProxySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variable = self.proxy.as_ref().map(|named| named.variable);
        f.debug_struct("ProxySettings").field("from", &variable).field("except", &self.except).finish()
    }
}

impl ProxySettings {
    pub(crate) fn from_environment() -> Self {
        Self::read(|name| std::env::var(name).ok())
    }

    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&'static str]| {
            names.iter().find_map(|name| Some((*name, variable(name).filter(|value| !value.trim().is_empty())?)))
        };
        let proxy = first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
            .map(|(variable, address)| Named { variable, address: address.trim().to_owned() });
        let except = match first(&["NO_PROXY", "no_proxy"]) {
            Some((_, hosts)) => format!("{hosts},{LOOPBACK}"),
            None => LOOPBACK.to_owned(),
        };
        Self { proxy, except }
    }

    /// For the HTTP client.
    ///
    /// # Errors
    /// Names the variable whose value is no proxy.
    pub(crate) fn for_http(&self) -> Result<Option<reqwest::Proxy>, String> {
        let Some(named) = &self.proxy else { return Ok(None) };
        let proxy = reqwest::Proxy::https(named.address.as_str()).map_err(|_| named.unusable())?;
        Ok(Some(proxy.no_proxy(NoProxy::from_string(&self.except))))
    }

    /// The proxy that stands before `host`; `None` when it is reached directly.
    ///
    /// # Errors
    /// Names the variable whose value is no proxy.
    pub(crate) fn before(&self, host: &str) -> Result<Option<Proxy>, String> {
        let Some(named) = &self.proxy else { return Ok(None) };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let there = format!("https://{host}").parse().map_err(|_| format!("{host} is no address"))?;
        let matcher = Matcher::builder().https(named.address.as_str()).no(self.except.as_str()).build();
        let Some(found) = matcher.intercept(&there) else {
            // The matcher passes over an address that it cannot read; nobody shall be reached directly for that.
            let unreadable = Matcher::builder().https(named.address.as_str()).build().intercept(&there).is_none();
            return if unreadable { Err(named.unusable()) } else { Ok(None) };
        };
        let uri = found.uri();
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(named.unusable()),
        };
        let host = uri.host().ok_or_else(|| named.unusable())?;
        Ok(Some(Proxy {
            variable: named.variable,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            tls,
            authorization: found.basic_auth().cloned().map(|mut value| {
                value.set_sensitive(true);
                value
            }),
        }))
    }
}

/// A proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// What names it.
    variable: &'static str,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Whether the proxy itself is spoken to over TLS.
    pub(crate) tls: bool,
    /// `Proxy-Authorization`.
    pub(crate) authorization: Option<HeaderValue>,
}

impl Proxy {
    /// It answered, but opened no tunnel `there`; and what helps.
    pub(crate) fn refused(&self, there: &str, status: StatusCode) -> String {
        let helps = match status {
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => "give user and password in the proxy's URL",
            _ => "ask those who run it to allow this address",
        };
        format!("the proxy {self} ({}) answered {status} to CONNECT {there}; {helps}", self.variable)
    }

    /// It opened no tunnel `there`, and what it answered is not known: a refusal, or nothing that a proxy says.
    pub(crate) fn silent(&self, there: &str) -> String {
        format!(
            "the proxy {self} ({}) opened no tunnel to {there}; ask those who run it to allow this address, or correct the \
             variable if no HTTP proxy is there",
            self.variable
        )
    }

    /// It cannot be spoken with; and what helps.
    pub(crate) fn failed(&self, problem: impl fmt::Display) -> String {
        format!(
            "the proxy {self} ({}): {problem}; correct the variable, or name hosts that are reached without it in NO_PROXY",
            self.variable
        )
    }
}

/// Without its user and password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "{host}:{}", self.port)
    }
}

impl Named {
    /// The value may hold a password, so it is not quoted.
    fn unusable(&self) -> String {
        format!("{} is not a proxy's URL (http://host:port)", self.variable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> ProxySettings {
        ProxySettings::read(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_proxy_that_is_no_address_is_named_and_not_quoted_and_nothing_goes_past_it() {
        for address in ["http://user:TOPSECRET@:80:80", "socks5://user:TOPSECRET@proxy:1080", "ftp://TOPSECRET@proxy"] {
            let settings = settings(&[("HTTPS_PROXY", address)]);
            let error = settings.before("ns.invalid").unwrap_err();
            assert_eq!(error, "HTTPS_PROXY is not a proxy's URL (http://host:port)");
            assert!(!format!("{settings:?}").contains("TOPSECRET"), "{settings:?}");
        }
    }

    #[test]
    fn a_tunnel_is_asked_for_unless_the_host_is_excepted() {
        let settings = settings(&[("all_proxy", "proxy:8080"), ("no_proxy", "direct.invalid,10.0.0.0/8")]);
        let tunnel = settings.before("ns.invalid").unwrap().unwrap();
        assert_eq!((tunnel.host.as_str(), tunnel.port), ("proxy", 8080));
        for host in ["direct.invalid", "10.1.2.3", "localhost", "127.0.0.1", "::1"] {
            assert!(settings.before(host).unwrap().is_none(), "{host}");
        }
    }
}
