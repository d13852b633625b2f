//! Other names of the hosts that grants name: as a custom domain.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use url::{Host, Url};
use waybill_contracts::{BlobPath, BlobUri};

use crate::inbox::Place;

/// Hosts that messages may name in the place of a grant's (default: none). A file is fetched from the grant's host all the same:
/// an alias only says which file is meant, and is itself asked for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct HostAliases(BTreeMap<String, String>);

/// What cannot be an alias.
#[derive(Debug, thiserror::Error)]
#[error("host {alias:?} cannot stand for {means:?}: {problem}")]
pub struct AliasError {
    alias: String,
    means: String,
    problem: &'static str,
}

impl HostAliases {
    /// Each host with the host of a grant that it stands for; both as `host`, or `host:port` where it is not that of https.
    ///
    /// # Errors
    /// [`AliasError`]: one is no host, or stands for itself or for two others.
    pub fn new<A: Into<String>, M: Into<String>>(
        aliases: impl IntoIterator<Item = (A, M)>,
    ) -> Result<Self, AliasError> {
        let mut known: BTreeMap<String, String> = BTreeMap::new();
        for (alias, means) in aliases {
            let (alias, means) = (alias.into(), means.into());
            match entry(&alias, &means) {
                Ok((from, to)) if known.get(&from).is_none_or(|before| *before == to) => {
                    known.insert(from, to);
                }
                Ok(_) => return Err(AliasError { alias, means, problem: "it stands for another one already" }),
                Err(problem) => return Err(AliasError { alias, means, problem }),
            }
        }
        Ok(Self(known))
    }

    /// The blob's name when an address lies in `container` at `endpoint`, by its own host or by one that stands for that.
    pub(crate) fn under(&self, uri: &BlobUri, endpoint: &Url, container: &str) -> Option<BlobPath> {
        uri.under(endpoint, container).or_else(|| self.meant(uri, endpoint)?.under(endpoint, container))
    }

    /// Whether a blob lies in a place.
    pub(crate) fn holds(&self, place: &Place, uri: &BlobUri) -> bool {
        Url::parse(&place.endpoint).is_ok_and(|endpoint| self.under(uri, &endpoint, &place.container).is_some())
    }

    /// The address with the host of `endpoint`, if its own stands for that.
    fn meant(&self, uri: &BlobUri, endpoint: &Url) -> Option<BlobUri> {
        let origin = endpoint.origin().ascii_serialization();
        let means = self.0.get(without_scheme(&uri.origin))?;
        (means == without_scheme(&origin)).then(|| BlobUri { origin, segments: uri.segments.clone() })
    }
}

impl TryFrom<BTreeMap<String, String>> for HostAliases {
    type Error = AliasError;

    fn try_from(aliases: BTreeMap<String, String>) -> Result<Self, AliasError> {
        Self::new(aliases)
    }
}

impl From<HostAliases> for BTreeMap<String, String> {
    fn from(aliases: HostAliases) -> Self {
        aliases.0
    }
}

fn entry(alias: &str, means: &str) -> Result<(String, String), &'static str> {
    let (from, to) = (host(alias)?, host(means)?);
    if from == to { Err("both are the same host") } else { Ok((from, to)) }
}

/// As it stands in an origin.
fn host(text: &str) -> Result<String, &'static str> {
    const NO_HOST: &str = "write each as host or host:port, without scheme, path and query";
    // A parser of hosts would decode an escape.
    if text.contains(['%', '/', '@', ' ']) {
        return Err(NO_HOST);
    }
    // A bracket ends an IPv6 address; the colons within it are no port.
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let host = Host::parse(host).map_err(|_| NO_HOST)?;
    match port {
        None => Ok(host.to_string()),
        Some(port) if port.bytes().all(|digit| digit.is_ascii_digit()) => match port.parse::<u16>() {
            Ok(443) => Ok(host.to_string()),
            Ok(port) if port > 0 => Ok(format!("{host}:{port}")),
            _ => Err("a port is 1 to 65535"),
        },
        Some(_) => Err(NO_HOST),
    }
}

fn without_scheme(origin: &str) -> &str {
    origin.split_once("://").map_or(origin, |(_, authority)| authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn under(aliases: &[(&str, &str)], uri: &str, endpoint: &str) -> Option<String> {
        let aliases = HostAliases::new(aliases.iter().copied()).unwrap();
        let blob = aliases.under(&BlobUri::parse(uri).unwrap(), &endpoint.parse().unwrap(), "c")?;
        Some(blob.as_str().to_owned())
    }

    #[test]
    fn an_alias_stands_for_the_host_that_it_names_and_for_no_other() {
        const GRANT: &str = "https://acme.blob.core.windows.net";
        let aliases = &[("Files.Example.com:443", "ACME.blob.core.windows.net"), ("[::1]:8443", "other.example:444")];
        let here = Some("a/b.gz".to_owned());
        assert_eq!(under(aliases, "https://files.example.com/c/a/b.gz?sig=x", GRANT), here);
        assert_eq!(
            under(aliases, "https://acme.blob.core.windows.net/c/a/b.gz", GRANT),
            here,
            "its own name still does"
        );
        assert_eq!(under(aliases, "https://[::1]:8443/c/a/b.gz", "https://other.example:444/"), here);
        for (uri, endpoint) in [
            ("https://files.example.com/d/a/b.gz", GRANT),
            ("https://files.example.com:444/c/a/b.gz", GRANT),
            ("https://files.example.com.evil.example/c/a/b.gz", GRANT),
            ("https://x.files.example.com/c/a/b.gz", GRANT),
            ("https://files.example.com/c/a/b.gz", "https://other.example:444"),
            ("https://files.example.com/c/a/b.gz", "https://acme.blob.core.windows.net:444"),
            ("https://[::1]:8443/c/a/b.gz", GRANT),
            // What stands for a host does not stand for what that stands for.
            ("https://first.example/c/a/b.gz", GRANT),
        ] {
            let more = [aliases.as_slice(), &[("first.example", "files.example.com")]].concat();
            assert_eq!(under(&more, uri, endpoint), None, "{uri} under {endpoint}");
        }
        assert_eq!(under(&[], "https://files.example.com/c/a/b.gz", GRANT), None, "without any");
    }

    #[test]
    fn what_is_no_host_is_refused_with_what_to_write() {
        for (alias, means, problem) in [
            ("https://files.example.com", "a.example", "without scheme"),
            ("files.example.com/c", "a.example", "without scheme, path"),
            ("files.example.com?x", "a.example", "without scheme, path and query"),
            ("user@files.example.com", "a.example", "host or host:port"),
            ("files%2Eexample.com", "a.example", "host or host:port"),
            ("", "a.example", "host or host:port"),
            ("files.example.com", "https://a.example", "host or host:port"),
            ("files.example.com:0", "a.example", "1 to 65535"),
            ("files.example.com:65536", "a.example", "1 to 65535"),
            ("files.example.com:", "a.example", "1 to 65535"),
            ("::1", "a.example", "host or host:port"),
            ("A.example", "a.example:443", "the same host"),
        ] {
            let error = HostAliases::new([(alias, means)]).unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains(&format!("{alias:?}")), "{error}");
        }
        let twice = [("a.example", "b.example"), ("A.example", "c.example")];
        let error = HostAliases::new(twice).unwrap_err().to_string();
        assert!(error.contains("another one already"), "{error}");
        assert_eq!(
            HostAliases::new([("a.example", "b.example"), ("A.example", "b.example:443")]).unwrap(),
            HostAliases::new([("a.example", "b.example")]).unwrap()
        );
    }
}
