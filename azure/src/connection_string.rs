//! Connection strings of Service Bus and Storage accounts: for publishers that hold a key, for tests, and for `local`.
//!
//! Parts come in any order, their names in any case; parts that are not needed here are ignored. Nothing of a connection
//! string is ever quoted, because any part of a mangled one may be the key.
//!
//! # Sources
//! Microsoft, "Configure Azure Storage connection strings"; "Get a Service Bus connection string"; "Service Bus emulator"
//! (`UseDevelopmentEmulator`, plain AMQP on 5672); "Use the Azurite emulator" (the development account and its public key).

use std::{collections::BTreeMap, str::FromStr};

use url::Url;

pub use crate::account::key_tokens;
use crate::{Secret, endpoint::is_loopback, sas::decode_account_key};

/// A parsed Service Bus connection string. With `UseDevelopmentEmulator=true` the endpoint is plain AMQP on the port given
/// (default 5672) and must be loopback.
#[derive(Debug, Clone)]
pub struct BusConnectionString {
    /// `amqps://host` or `amqp://host:port`.
    pub endpoint: Url,
    /// `SharedAccessKeyName`.
    pub key_name: String,
    /// `SharedAccessKey`.
    pub key: Secret,
    /// `EntityPath`, if given.
    pub entity_path: Option<String>,
}

/// A parsed Storage connection string. `UseDevelopmentStorage=true` stands for Azurite's account on 127.0.0.1:10000.
#[derive(Debug, Clone)]
pub struct BlobConnectionString {
    /// `BlobEndpoint`, or made of `DefaultEndpointsProtocol`, `AccountName` and `EndpointSuffix`. Plain http is taken for
    /// loopback only.
    pub endpoint: Url,
    /// `AccountName`.
    pub account: String,
    /// `AccountKey`, base64.
    pub key: Secret,
}

/// Why a connection string cannot be used; never quotes a value.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConnectionStringError(String);

/// What a service's connection string is called in errors.
#[derive(Clone, Copy)]
enum Kind {
    Bus,
    Storage,
}

impl Kind {
    fn error(self, problem: &str) -> ConnectionStringError {
        let name = match self {
            Self::Bus => "Service Bus",
            Self::Storage => "storage",
        };
        ConnectionStringError(format!("{name} connection string: {problem}"))
    }
}

/// The parts of a connection string, by their names in lower case.
struct Parts<'a> {
    kind: Kind,
    values: BTreeMap<String, &'a str>,
}

impl<'a> Parts<'a> {
    fn parse(text: &'a str, kind: Kind) -> Result<Self, ConnectionStringError> {
        let mut values = BTreeMap::new();
        for (number, part) in text.split(';').map(str::trim).enumerate().filter(|(_, part)| !part.is_empty()) {
            let number = number + 1;
            // Only the first `=` divides: keys are base64 and end with some.
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| kind.error(&format!("part {number} is not NAME=VALUE (is it quoted or cut off?)")))?;
            if values.insert(name.trim().to_ascii_lowercase(), value.trim()).is_some() {
                return Err(kind.error(&format!("part {number} says again what an earlier part said")));
            }
        }
        Ok(Self { kind, values })
    }

    /// A part that is there and not empty.
    fn optional(&self, name: &str) -> Option<&'a str> {
        self.values.get(&name.to_ascii_lowercase()).copied().filter(|value| !value.is_empty())
    }

    fn required(&self, name: &str) -> Result<&'a str, ConnectionStringError> {
        self.optional(name).ok_or_else(|| match self.optional("SharedAccessSignature") {
            Some(_) => self.kind.error(&format!(
                "it holds a SharedAccessSignature; a key is needed here to sign fresh tokens ({name} is missing)"
            )),
            None => self.kind.error(&format!("{name} is missing")),
        })
    }

    fn is_true(&self, name: &str) -> bool {
        self.optional(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    fn url(&self, name: &str, text: &str) -> Result<Url, ConnectionStringError> {
        let url = Url::parse(text).map_err(|_| self.kind.error(&format!("{name} is not a URL")))?;
        let plain_host = url.has_host() && url.username().is_empty() && url.password().is_none();
        if !plain_host || url.query().is_some() || url.fragment().is_some() {
            return Err(self
                .kind
                .error(&format!("{name} must be scheme://host[:port] without user, query or fragment")));
        }
        Ok(url)
    }
}

impl FromStr for BusConnectionString {
    type Err = ConnectionStringError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EMULATOR_PORT: u16 = 5672;
        let parts = Parts::parse(text, Kind::Bus)?;
        let given = parts.url("Endpoint", parts.required("Endpoint")?)?;
        let host = given.host_str().unwrap_or_default().to_ascii_lowercase();
        let address = if parts.is_true("UseDevelopmentEmulator") {
            if !is_loopback(&given) {
                return Err(parts.kind.error(
                    "with UseDevelopmentEmulator=true the Endpoint must be this machine (localhost, 127.0.0.1 or [::1]): \
                     the connection is not encrypted",
                ));
            }
            format!("amqp://{host}:{}", given.port().unwrap_or(EMULATOR_PORT))
        } else {
            if !matches!(given.scheme(), "sb" | "amqps") {
                return Err(parts.kind.error("Endpoint must begin with sb:// or amqps://"));
            }
            match given.port() {
                Some(port) => format!("amqps://{host}:{port}"),
                None => format!("amqps://{host}"),
            }
        };
        Ok(Self {
            endpoint: parts.url("Endpoint", &address)?,
            key_name: parts.required("SharedAccessKeyName")?.to_owned(),
            key: Secret::new(parts.required("SharedAccessKey")?),
            entity_path: parts.optional("EntityPath").map(str::to_owned),
        })
    }
}

impl FromStr for BlobConnectionString {
    type Err = ConnectionStringError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const DEVELOPMENT: &str = "AccountName=devstoreaccount1;BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;\
            AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
        let mut parts = Parts::parse(text, Kind::Storage)?;
        if parts.is_true("UseDevelopmentStorage") {
            parts = Parts::parse(DEVELOPMENT, Kind::Storage)?;
        }
        let account = parts.required("AccountName")?.to_owned();
        let key = Secret::new(parts.required("AccountKey")?);
        decode_account_key(&key).map_err(|error| parts.kind.error(&error.to_string()))?;
        let endpoint = match parts.optional("BlobEndpoint") {
            Some(endpoint) => parts.url("BlobEndpoint", endpoint)?,
            None => {
                let protocol = parts.optional("DefaultEndpointsProtocol").unwrap_or("https");
                let suffix = parts.optional("EndpointSuffix").unwrap_or("core.windows.net");
                parts.url(
                    "the endpoint made of DefaultEndpointsProtocol, AccountName and EndpointSuffix",
                    &format!("{protocol}://{account}.blob.{suffix}"),
                )?
            }
        };
        match endpoint.scheme() {
            "https" => {}
            "http" if is_loopback(&endpoint) => {}
            _ => return Err(parts.kind.error("the blob endpoint must be https (http is for this machine only)")),
        }
        Ok(Self { endpoint, account, key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "U0VDUkVUS0VZ+/U0VDUkVUS0VQ==";

    fn bus(text: &str) -> Result<BusConnectionString, String> {
        text.replace("KEY", KEY).parse().map_err(|error: ConnectionStringError| error.to_string())
    }

    fn blob(text: &str) -> Result<BlobConnectionString, String> {
        text.replace("KEY", KEY).parse().map_err(|error: ConnectionStringError| error.to_string())
    }

    #[test]
    fn a_bus_string_is_read_in_any_order_and_case_with_equal_signs_in_its_key() {
        for text in [
            "Endpoint=sb://Contoso.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=KEY;EntityPath=exports",
            "EntityPath=exports;SharedAccessKey=KEY;sharedaccesskeyname=Root;ENDPOINT=sb://contoso.servicebus.windows.net;",
            " SharedAccessKey=KEY ; TransportType=AmqpWebSockets ; EntityPath=exports ;; Endpoint=amqps://contoso.servicebus.windows.net ; SharedAccessKeyName=Root",
        ] {
            let parsed = bus(text).unwrap();
            assert_eq!(parsed.endpoint.as_str(), "amqps://contoso.servicebus.windows.net");
            assert_eq!((parsed.key_name.as_str(), parsed.key.expose()), ("Root", KEY));
            assert_eq!(parsed.entity_path.as_deref(), Some("exports"));
        }
    }

    #[test]
    fn the_emulator_is_plain_amqp_on_the_given_port_or_5672() {
        for (given, expected) in [
            ("sb://localhost", "amqp://localhost:5672"),
            ("sb://127.0.0.1:41234", "amqp://127.0.0.1:41234"),
            ("sb://LOCALHOST:1/", "amqp://localhost:1"),
            ("amqp://[::1]", "amqp://[::1]:5672"),
        ] {
            let text =
                format!("Endpoint={given};SharedAccessKeyName=Root;SharedAccessKey=KEY;UseDevelopmentEmulator=true;");
            assert_eq!(bus(&text).unwrap().endpoint.as_str(), expected, "{given}");
        }
    }

    #[test]
    fn the_emulator_elsewhere_is_refused_because_it_is_not_encrypted() {
        for host in ["contoso.servicebus.windows.net", "127.0.0.1.example.com", "10.0.0.1:5672"] {
            let text = format!(
                "Endpoint=sb://{host};SharedAccessKeyName=Root;SharedAccessKey=KEY;UseDevelopmentEmulator=true"
            );
            let error = bus(&text).unwrap_err();
            assert!(error.contains("not encrypted"), "{error}");
        }
        // Without the flag the same host is reached over TLS.
        let text = "Endpoint=sb://127.0.0.1:5671;SharedAccessKeyName=Root;SharedAccessKey=KEY";
        assert_eq!(bus(text).unwrap().endpoint.as_str(), "amqps://127.0.0.1:5671");
    }

    #[test]
    fn a_storage_string_gives_its_endpoint_or_makes_it() {
        for (text, endpoint) in [
            ("AccountName=acme;AccountKey=KEY", "https://acme.blob.core.windows.net/"),
            (
                "DefaultEndpointsProtocol=https;EndpointSuffix=core.chinacloudapi.cn;AccountKey=KEY;AccountName=acme",
                "https://acme.blob.core.chinacloudapi.cn/",
            ),
            (
                "BlobEndpoint=http://127.0.0.1:10000/acme;QueueEndpoint=http://127.0.0.1:10001/acme;AccountName=acme;AccountKey=KEY",
                "http://127.0.0.1:10000/acme",
            ),
        ] {
            let parsed = blob(text).unwrap();
            assert_eq!((parsed.endpoint.as_str(), parsed.account.as_str()), (endpoint, "acme"));
            assert_eq!(parsed.key.expose(), KEY);
        }
    }

    #[test]
    fn the_development_account_is_azurites() {
        let parsed = blob("UseDevelopmentStorage=true").unwrap();
        assert_eq!(parsed.endpoint.as_str(), "http://127.0.0.1:10000/devstoreaccount1");
        assert_eq!(parsed.account, "devstoreaccount1");
    }

    #[test]
    fn every_mistake_says_what_is_wrong_and_quotes_nothing() {
        let bus_mistakes = [
            ("", "Endpoint is missing"),
            ("Endpoint=sb://host;SharedAccessKey=KEY", "SharedAccessKeyName is missing"),
            ("Endpoint=sb://host;SharedAccessKeyName=Root", "SharedAccessKey is missing"),
            ("Endpoint=sb://host;SharedAccessKeyName=Root;SharedAccessKey=", "SharedAccessKey is missing"),
            ("Endpoint=sb://host;SharedAccessSignature=KEY", "it holds a SharedAccessSignature"),
            ("Endpoint=KEY;SharedAccessKeyName=Root;SharedAccessKey=KEY", "Endpoint is not a URL"),
            ("Endpoint=https://host;SharedAccessKeyName=Root;SharedAccessKey=KEY", "sb:// or amqps://"),
            ("Endpoint=amqp://localhost;SharedAccessKeyName=Root;SharedAccessKey=KEY", "sb:// or amqps://"),
            ("Endpoint=sb://Root:U0VDUkVUS0VZ@host;SharedAccessKeyName=Root;SharedAccessKey=KEY", "without user"),
            ("Endpoint=sb://host;U0VDUkVUS0VZ", "part 2 is not NAME=VALUE"),
            ("SharedAccessKey=KEY;Endpoint=sb://host;SharedAccessKey=KEY", "part 3 says again"),
        ];
        let storage_mistakes = [
            ("AccountName=acme", "AccountKey is missing"),
            ("AccountKey=KEY", "AccountName is missing"),
            ("AccountName=acme;AccountKey=U0VDUkVUS0VZ*", "the account key is not base64"),
            ("AccountName=acme;SharedAccessSignature=KEY", "it holds a SharedAccessSignature"),
            ("AccountName=acme;AccountKey=KEY;DefaultEndpointsProtocol=http", "must be https"),
            ("AccountName=acme;AccountKey=KEY;BlobEndpoint=http://acme.example.com", "must be https"),
            ("AccountName=acme;AccountKey=KEY;BlobEndpoint=https://host?sv=KEY", "without user, query"),
        ];
        let errors = bus_mistakes.map(|(text, expected)| (bus(text).unwrap_err(), expected)).into_iter();
        for (error, expected) in
            errors.chain(storage_mistakes.map(|(text, expected)| (blob(text).unwrap_err(), expected)))
        {
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("U0VDUkVUS0VZ"), "{error}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let bus = bus("Endpoint=sb://host;SharedAccessKeyName=Root;SharedAccessKey=KEY").unwrap();
        let blob = blob("AccountName=acme;AccountKey=KEY").unwrap();
        assert!(!format!("{bus:?}{blob:?}").contains("U0VDUkVUS0VZ"));
    }
}
