//! Shared access signatures: signing them with a key, and reading when they die.
//!
//! # Sources
//! Microsoft, "Service Bus access control with Shared Access Signatures" (the bus token: the key's own text is the HMAC
//! key, `sr` is signed as it is written, percent-encoded); "Create a service SAS" (the fields of version 2020-12-06 and
//! later, in order; the formats of `se`).

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::Sha256;
use time::{
    Date, OffsetDateTime, Time, UtcOffset,
    format_description::{BorrowedFormatItem, well_known::Iso8601},
    macros::format_description,
};
use url::Url;

use crate::Secret;

/// The version whose fields [`blob_service_sas`] signs.
const STORAGE_VERSION: &str = "2021-12-02";
/// `2026-11-22T10:00:00Z`.
const STORAGE_TIME: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
/// `2026-11-22`.
const DATE: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");
/// All but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What a bus token begins with.
const BUS_PREFIX: &str = "SharedAccessSignature ";

/// Why a SAS cannot be read or made.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SasError(pub(crate) String);

/// What a container SAS allows (`sp=`): read, create, write, delete, list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "Azure's own words")]
pub struct BlobPermissions {
    pub read: bool,
    pub create: bool,
    pub write: bool,
    pub delete: bool,
    pub list: bool,
}

impl BlobPermissions {
    /// The letters of `sp=`, in the order that Azure wants.
    fn letters(self) -> String {
        [(self.read, 'r'), (self.create, 'c'), (self.write, 'w'), (self.delete, 'd'), (self.list, 'l')]
            .into_iter()
            .filter_map(|(allowed, letter)| allowed.then_some(letter))
            .collect()
    }
}

/// Signs a Service Bus SAS for `resource` (`sb://host/exports`): the token covers it and everything below.
#[must_use]
pub fn bus_sas(resource: &str, key_name: &str, key: &Secret, expires_at: OffsetDateTime) -> Secret {
    let resource = utf8_percent_encode(resource, RESERVED);
    let expiry = expires_at.unix_timestamp();
    let signature = sign(key.expose().as_bytes(), &format!("{resource}\n{expiry}"));
    Secret::new(format!(
        "{BUS_PREFIX}sr={resource}&sig={}&se={expiry}&skn={}",
        utf8_percent_encode(&signature, RESERVED),
        utf8_percent_encode(key_name, RESERVED)
    ))
}

/// Signs a service SAS for a container; the query without `?`. It has no start time, so that a slow clock here does not
/// delay it, and is good over https only, unless the endpoint itself is http.
///
/// # Errors
/// When the account key is not base64, no permission is given, or the expiry is beyond the year 9999.
pub fn blob_service_sas(
    account: &str,
    key: &Secret,
    container: &str,
    permissions: BlobPermissions,
    expires_at: OffsetDateTime,
    endpoint: &Url,
) -> Result<Secret, SasError> {
    let key = decode_account_key(key)?;
    let permissions = permissions.letters();
    if permissions.is_empty() {
        return Err(SasError(format!("container {container}: a SAS needs at least one permission")));
    }
    let expiry = expires_at
        .to_offset(UtcOffset::UTC)
        .format(STORAGE_TIME)
        .map_err(|error| SasError(format!("container {container}: this expiry cannot be written: {error}")))?;
    let protocol = if endpoint.scheme() == "http" { "" } else { "https" };
    // Permissions, start, expiry, resource, identifier, IP range, protocol, version, kind of resource, snapshot,
    // encryption scope, and five response headers to override.
    let signature = sign(
        &key,
        &format!(
            "{permissions}\n\n{expiry}\n/blob/{account}/{container}\n\n\n{protocol}\n{STORAGE_VERSION}\nc\n\n\n\n\n\n\n"
        ),
    );
    let mut query = format!("sv={STORAGE_VERSION}");
    if !protocol.is_empty() {
        query.push_str("&spr=");
        query.push_str(protocol);
    }
    query.push_str(&format!(
        "&se={}&sr=c&sp={permissions}&sig={}",
        utf8_percent_encode(&expiry, RESERVED),
        utf8_percent_encode(&signature, RESERVED)
    ));
    Ok(Secret::new(query))
}

/// The bytes of a storage account's key.
///
/// # Errors
/// When it is not base64; the text is not quoted.
pub(crate) fn decode_account_key(key: &Secret) -> Result<Vec<u8>, SasError> {
    STANDARD
        .decode(key.expose())
        .map_err(|_| SasError("the account key is not base64; copy it whole, with its trailing `=`".to_owned()))
}

/// base64 of HMAC-SHA256.
fn sign(key: &[u8], text: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(text.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

/// When a SAS of either kind dies: `se=` as seconds since 1970 (bus) or ISO 8601 (blob; without a time it means midnight).
///
/// # Errors
/// When there is no `se=` (a stored access policy may hold the expiry instead), or it is neither.
pub fn sas_expiry(sas: &Secret) -> Result<OffsetDateTime, SasError> {
    let text = sas.expose();
    let fields = text.strip_prefix(BUS_PREFIX).or_else(|| text.strip_prefix('?')).unwrap_or(text);
    let expiry = fields
        .split('&')
        .find_map(|field| field.strip_prefix("se="))
        .ok_or_else(|| SasError("the token has no `se=`, so its expiry must be given beside it".to_owned()))?;
    let expiry = percent_decode_str(expiry).decode_utf8_lossy();
    parse_expiry(&expiry).ok_or_else(|| {
        // An expiry is no secret, but a token that was put together wrongly may have anything in this place.
        SasError("the token's `se=` is neither seconds since 1970 nor an ISO 8601 time".to_owned())
    })
}

fn parse_expiry(text: &str) -> Option<OffsetDateTime> {
    if let Ok(seconds) = text.parse::<i64>() {
        return OffsetDateTime::from_unix_timestamp(seconds).ok();
    }
    if let Ok(date) = Date::parse(text, DATE) {
        return Some(OffsetDateTime::new_utc(date, Time::MIDNIGHT));
    }
    OffsetDateTime::parse(text, &Iso8601::PARSING).ok()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

    fn permissions() -> BlobPermissions {
        BlobPermissions { read: true, create: true, write: true, delete: true, list: true }
    }

    fn blob(endpoint: &str) -> String {
        blob_service_sas(
            "devstoreaccount1",
            &Secret::new(KEY),
            "batchtoprocess",
            permissions(),
            datetime!(2026-11-22 12:34:56 +02:00),
            &Url::parse(endpoint).unwrap(),
        )
        .unwrap()
        .expose()
        .to_owned()
    }

    // The expected signatures were made with Python's hmac and urllib.parse.quote from Microsoft's description.

    #[test]
    fn a_bus_token_has_the_signature_that_python_computes() {
        let sas = bus_sas(
            "sb://contoso.servicebus.windows.net/exports/subscriptions/acme",
            "Root/Manage Key",
            &Secret::new("SAS_KEY_VALUE+/="),
            datetime!(2026-11-22 10:00:00 UTC),
        );
        assert_eq!(sas.expose(), BUS_EXPECTED);
    }

    #[test]
    fn a_container_token_has_the_signature_that_python_computes() {
        assert_eq!(blob("https://devstoreaccount1.blob.core.windows.net"), BLOB_HTTPS_EXPECTED);
    }

    #[test]
    fn a_container_token_for_plain_http_leaves_the_protocol_open() {
        assert_eq!(blob("http://127.0.0.1:10000/devstoreaccount1"), BLOB_HTTP_EXPECTED);
    }

    const BUS_EXPECTED: &str = "SharedAccessSignature sr=sb%3A%2F%2Fcontoso.servicebus.windows.net%2Fexports%2Fsubscriptions%2Facme&sig=hbDMMEQnn7Ighrj6gfYoaQmUihw6lvlZqral7huhF%2B8%3D&se=1795341600&skn=Root%2FManage%20Key";
    const BLOB_HTTPS_EXPECTED: &str = "sv=2021-12-02&spr=https&se=2026-11-22T10%3A34%3A56Z&sr=c&sp=rcwdl&sig=PcgxDrSBq%2FOoZWXJqNEm%2FRr%2BuydsOtEBYAh%2Boqvrpc8%3D";
    const BLOB_HTTP_EXPECTED: &str =
        "sv=2021-12-02&se=2026-11-22T10%3A34%3A56Z&sr=c&sp=rcwdl&sig=9t16wEdE0RY2ThMlBmjqRN8mWk5h9fnCBbT1djRtjd0%3D";

    #[test]
    fn permissions_come_in_the_order_that_azure_wants() {
        assert_eq!(permissions().letters(), "rcwdl");
        assert_eq!(BlobPermissions { list: true, read: true, ..Default::default() }.letters(), "rl");
    }

    #[test]
    fn a_key_that_is_not_base64_is_refused_and_not_quoted() {
        let endpoint = Url::parse("https://a.blob.core.windows.net").unwrap();
        let at = datetime!(2026-11-22 10:00:00 UTC);
        let error = blob_service_sas("a", &Secret::new("not*base64"), "c", permissions(), at, &endpoint).unwrap_err();
        assert!(!error.to_string().contains("not*base64"), "{error}");
        assert!(error.to_string().contains("not base64"), "{error}");
    }

    #[test]
    fn a_token_that_allows_nothing_is_refused() {
        let endpoint = Url::parse("https://a.blob.core.windows.net").unwrap();
        let at = datetime!(2026-11-22 10:00:00 UTC);
        blob_service_sas("a", &Secret::new(KEY), "c", BlobPermissions::default(), at, &endpoint).unwrap_err();
    }

    #[test]
    fn expiry_is_read_from_both_kinds_of_token_and_all_of_azures_formats() {
        let at = datetime!(2026-11-22 10:00:00 UTC);
        for (sas, expected) in [
            (BUS_EXPECTED, at),
            (BLOB_HTTPS_EXPECTED, datetime!(2026-11-22 10:34:56 UTC)),
            ("?sv=2021-12-02&se=2026-11-22T10:00:00Z&sig=x", at),
            ("se=2026-11-22T10%3A00Z", at),
            ("se=2026-11-22T12%3A00%3A00%2B02%3A00", at),
            ("se=2026-11-22T10:00:00.0000000Z", at),
            ("se=2026-11-22", datetime!(2026-11-22 00:00:00 UTC)),
            ("se=1795341600", at),
        ] {
            assert_eq!(sas_expiry(&Secret::new(sas)).unwrap(), expected, "{sas}");
        }
    }

    #[test]
    fn a_token_without_a_readable_expiry_is_refused_and_not_quoted() {
        for sas in ["sv=2021-12-02&sig=TOPSECRET", "se=TOPSECRET", "se=", "", "SharedAccessSignature sig=TOPSECRET"] {
            let error = sas_expiry(&Secret::new(sas)).unwrap_err().to_string();
            assert!(!error.contains("TOPSECRET"), "{error}");
        }
    }
}
