//! The signatures here were computed with Python's `hmac` and the strings to sign written out by hand from the REST
//! reference, for example `base64(hmac_sha256(b"SAS_KEY_VALUE", "sb%3A%2F%2Flocalhost%2Fexports\n1800000000"))`.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, Method};

use super::*;

/// 2027-01-15T08:00:00Z, when the tokens below end.
const END: i64 = 1_800_000_000;
const NOW: i64 = END - 60;

const BUS_ROOT: &str = "SharedAccessSignature sr=sb%3A%2F%2Flocalhost%2Fexports&sig=DtqlaDqOoE81udH54rkE2HogkiAh%2BaMJjhMUqoQRoLA%3D&se=1800000000&skn=RootManageSharedAccessKey";

fn keys_with_acme() -> Keys {
    let keys = Keys::emulator();
    keys.add_tenant("acme", "exports/Subscriptions/acme");
    keys.add_tenant("zenith", "exports/subscriptions/zenith");
    keys
}

#[test]
fn bus_signature_computed_elsewhere_is_accepted_in_any_field_order() {
    let keys = Keys::emulator();
    let claim = keys.check_bus(BUS_ROOT, "exports", NOW).unwrap();
    assert_eq!((claim.scope.as_str(), claim.expires_at), ("exports", END));
    assert_eq!(claim.rights, Rights::ALL);
    let (_, fields) = BUS_ROOT.split_once(' ').unwrap();
    let mut fields: Vec<&str> = fields.split('&').collect();
    for turn in 0..fields.len() {
        fields.rotate_left(turn);
        let token = format!("SharedAccessSignature {}", fields.join("&"));
        assert_eq!(keys.check_bus(&token, "exports", NOW).as_ref(), Ok(&claim), "{token}");
    }
}

#[test]
fn bus_signing_gives_what_was_computed_elsewhere() {
    assert_eq!(Keys::emulator().root_bus_token("localhost", "exports", END), BUS_ROOT);
}

#[test]
fn a_changed_bus_token_is_refused() {
    let keys = Keys::emulator();
    for (from, to) in [
        ("se=1800000000", "se=1800000001"),
        ("2Fexports", "2Fexport"),
        ("%3A%2F%2F", "%3a%2f%2f"),
        ("sig=Dt", "sig=DT"),
        ("skn=Root", "skn=root"),
    ] {
        let token = BUS_ROOT.replace(from, to);
        assert_ne!(token, BUS_ROOT);
        assert_eq!(keys.check_bus(&token, "exports", NOW), Err(SasRefusal::BadSignature), "{from}");
    }
}

#[test]
fn a_bus_token_ends_in_its_second() {
    let keys = Keys::emulator();
    assert!(keys.check_bus(BUS_ROOT, "exports", END - 1).is_ok());
    assert_eq!(keys.check_bus(BUS_ROOT, "exports", END), Err(SasRefusal::Expired));
}

#[test]
fn a_bus_token_says_what_is_wrong_with_its_form() {
    let keys = Keys::emulator();
    for (token, what) in [
        ("Bearer x", "does not begin"),
        ("SharedAccessSignature sr=a&sig=YQ==&se=1", "'skn' is missing"),
        ("SharedAccessSignature sig=YQ==&se=1&skn=k", "'sr' is missing"),
        ("SharedAccessSignature sr=a&se=1&skn=k", "'sig' is missing"),
        ("SharedAccessSignature sr=a&sig=YQ==&skn=k", "'se' is missing"),
        ("SharedAccessSignature sr=a&sig=%%%&se=1&skn=k", "'sig' is not base64"),
        ("SharedAccessSignature sr=a&sig=YQ==&se=soon&skn=k", "'se' is not a number"),
        ("SharedAccessSignature sr", "no '='"),
    ] {
        match keys.check_bus(token, "exports", NOW) {
            Err(SasRefusal::Malformed(text)) => assert!(text.contains(what), "{token}: {text}"),
            other => panic!("{token}: {other:?}"),
        }
    }
}

#[test]
fn the_scope_of_a_bus_token_is_compared_by_whole_segments_without_scheme_port_and_case() {
    let keys = Keys::emulator();
    for (resource, entity, fits) in [
        ("sb://localhost/exports", "exports", true),
        ("sb://localhost/exports", "Exports/Subscriptions/acme", true),
        ("amqps://LocalHost:5671/EXPORTS/", "exports/$management", true),
        ("http://127.0.0.1", "exports", true),
        ("sb://[::1]:5671/exports", "exports", true),
        ("sb://other.example/exports", "exports", false),
        ("sb://localhost.other.example/exports", "exports", false),
        ("exports", "exports", false),
        ("sb://localhost/", "queue", true),
        ("sb://localhost/exports", "exports2", false),
        ("sb://localhost/exports/subscriptions/acme", "exports", false),
        ("sb://localhost/exports/subscriptions/acme", "exports/subscriptions/acme2", false),
        ("sb://localhost/exports/subscriptions/acme", "exports/subscriptions/acme/$deadletterqueue", true),
    ] {
        let token = bus_sas::sign(resource, EMULATOR_BUS_KEY_NAME, EMULATOR_BUS_KEY.as_bytes(), END);
        let checked = keys.check_bus(&token, entity, NOW);
        assert_eq!(checked.is_ok(), fits, "{resource} for {entity}: {checked:?}");
        if !fits {
            assert_eq!(checked, Err(SasRefusal::WrongAudience));
        }
    }
}

#[test]
fn a_tenants_bus_token_listens_on_its_own_subscription_and_nothing_else() {
    let keys = keys_with_acme();
    let token = keys.bus_token("acme", "127.0.0.1", END).unwrap();
    let claim = keys.check_bus(&token, "exports/subscriptions/acme", NOW).unwrap();
    assert_eq!(claim.rights, Rights::LISTEN);
    assert_eq!(claim.scope, "exports/subscriptions/acme");
    for other in ["exports", "exports/subscriptions/zenith", "exports/subscriptions/acm", ""] {
        assert_eq!(keys.check_bus(&token, other, NOW), Err(SasRefusal::WrongAudience), "{other}");
    }
}

#[test]
fn a_tenants_key_cannot_sign_for_more_than_its_subscription() {
    let keys = keys_with_acme();
    let key = keys.state().tenants["acme"].bus.current().to_vec();
    for resource in ["sb://localhost/", "sb://localhost/exports", "sb://localhost/exports/subscriptions/zenith"] {
        let token = bus_sas::sign(resource, "listen-acme", &key, END);
        let refused = keys.check_bus(&token, "exports/subscriptions/zenith", NOW);
        assert_eq!(refused, Err(SasRefusal::WrongAudience), "{resource}");
    }
}

#[test]
fn rotation_kills_the_tokens_of_its_tenant_and_wakes_those_who_watch() {
    let keys = keys_with_acme();
    let mut watch = keys.revocations();
    let entity = "exports/subscriptions/acme";
    let token = keys.bus_token("acme", "localhost", END).unwrap();
    let claim = keys.check_bus(&token, entity, NOW).unwrap();
    let other = keys.bus_token("zenith", "localhost", END).unwrap();
    let other_claim = keys.check_bus(&other, "exports/subscriptions/zenith", NOW).unwrap();
    assert!(!keys.is_revoked(&claim));

    keys.rotate(Some("acme")).unwrap();

    assert!(watch.has_changed().unwrap());
    watch.mark_unchanged();
    assert!(keys.is_revoked(&claim));
    assert_eq!(keys.check_bus(&token, entity, NOW), Err(SasRefusal::Revoked));
    assert!(!keys.is_revoked(&other_claim));
    assert!(keys.check_bus(&other, "exports/subscriptions/zenith", NOW).is_ok());
    let fresh = keys.bus_token("acme", "localhost", END).unwrap();
    assert_ne!(fresh, token);
    let fresh = keys.check_bus(&fresh, entity, NOW).unwrap();
    assert!(!keys.is_revoked(&fresh));

    keys.rotate(None).unwrap();
    assert!(keys.is_revoked(&fresh) && keys.is_revoked(&other_claim));
    assert!(keys.check_bus(BUS_ROOT, "exports", NOW).is_ok(), "the root key is never rotated");
}

#[test]
fn a_key_rotated_long_ago_still_fails() {
    let keys = keys_with_acme();
    let token = keys.bus_token("acme", "localhost", END).unwrap();
    for _ in 0..20 {
        keys.rotate(Some("acme")).unwrap();
    }
    assert_eq!(keys.check_bus(&token, "exports/subscriptions/acme", NOW), Err(SasRefusal::BadSignature));
}

#[test]
fn one_refused_token_leaves_its_key_alone() {
    let keys = Keys::emulator();
    let claim = keys.check_bus(BUS_ROOT, "exports", NOW).unwrap();
    keys.refuse(&claim.signature);
    assert!(keys.is_revoked(&claim));
    assert_eq!(keys.check_bus(BUS_ROOT, "exports", NOW), Err(SasRefusal::Revoked));
    assert!(keys.check_bus(&keys.root_bus_token("localhost", "exports", END + 1), "exports", NOW).is_ok());
}

#[test]
fn an_unknown_tenant_is_named() {
    let keys = keys_with_acme();
    let message = keys.bus_token("acmee", "localhost", END).unwrap_err().to_string();
    assert_eq!(message, "no tenant is called \"acmee\"; the configuration names the tenants");
    assert!(keys.rotate(Some("acmee")).is_err());
}

#[test]
fn broken_tokens_are_refused_without_a_panic() {
    let keys = keys_with_acme();
    for token in [BUS_ROOT.to_owned(), keys.bus_token("acme", "localhost", END).unwrap()] {
        for at in 1..token.len() {
            let (head, tail) = token.split_at(at);
            for broken in [head.to_owned(), tail.to_owned(), format!("{head}%{tail}"), format!("{head}ü{tail}")] {
                let accepted = keys.check_bus(&broken, "exports/subscriptions/acme", NOW);
                assert!(accepted.is_err(), "{broken}");
            }
        }
    }
}

#[test]
fn debug_shows_no_key() {
    let shown = format!("{:?}", keys_with_acme());
    assert!(!shown.contains("SAS_KEY_VALUE") && !shown.contains("Eby8"), "{shown}");
}

// Storage.

struct Case {
    method: Method,
    path: &'static str,
    query: String,
    headers: HeaderMap,
    container: Option<&'static str>,
    blob: Option<&'static str>,
    client: IpAddr,
    https: bool,
    now: i64,
}

fn get(container: &'static str, blob: Option<&'static str>, query: &str) -> Case {
    Case {
        method: Method::GET,
        path: "/devstoreaccount1/batchtoprocess",
        query: query.to_owned(),
        headers: HeaderMap::new(),
        container: Some(container),
        blob,
        client: IpAddr::from([127, 0, 0, 1]),
        https: false,
        now: NOW,
    }
}

impl Case {
    fn check(&self, keys: &Keys) -> Result<StorageAccess, StorageRefusal> {
        let query = StorageQuery::parse(&self.query);
        let request = StorageRequest {
            method: &self.method,
            path: self.path,
            query: &query,
            headers: &self.headers,
            account: EMULATOR_ACCOUNT,
            container: self.container,
            blob: self.blob,
            client: self.client,
            https: self.https,
        };
        keys.check_storage(&request, self.now)
    }

    #[track_caller]
    fn detail(&self, keys: &Keys) -> &'static str {
        match self.check(keys) {
            Err(StorageRefusal::AuthenticationFailed(detail)) => detail,
            other => panic!("{other:?}"),
        }
    }
}

const CONTAINER_2021: &str =
    "sv=2021-12-02&se=2027-01-15T08%3A00%3A00Z&sr=c&sp=rl&sig=ZrjNCcDSNTiF2yH3SJLRJ0IVv8njME8QyHanefJrHU8%3D";
const BLOB_2021: &str = "sp=r&st=2026-01-01T00:00Z&se=2027-01-15&sip=127.0.0.1-127.0.0.9&spr=https,http&sv=2021-12-02&sr=b&rscc=no-cache&rscd=attachment&rsce=gzip&rscl=de&rsct=text%2Fcsv&sig=qvesWP62Wx3GFB4olmkvKJUzlvVo2UJNrBmVEZQfHwA%3D";
const ACCOUNT_2021: &str = "sv=2021-12-02&ss=b&srt=sco&spr=https,http&se=2027-01-15T08:00:00Z&sp=rwdlc&sig=wEuvBNA5CtEcTaPSnCxlV6vT%2B1eymn4JpGfJW6/NtbM%3D";

#[test]
fn container_sas_of_each_version_is_accepted() {
    let keys = Keys::emulator();
    for query in [
        CONTAINER_2021,
        "sv=2019-12-12&se=2027-01-15T08:00:00Z&sr=c&sp=r&sig=oPNQGfcVhS0z0JPztybosQTYk0/5Dn6qZ6DCKnhuz5U=",
        "sv=2015-04-05&se=2027-01-15T08:00:00Z&sr=c&sp=r&sig=czB24mGWUFQr7Evgn9CXvuePlIhHKPFhVW2FjfW7maE=",
    ] {
        for blob in [None, Some("any/blob")] {
            let access = get("batchtoprocess", blob, query).check(&keys).unwrap();
            access.allows(StorageLevel::Object, "r").unwrap();
            assert_eq!(access.allows(StorageLevel::Object, "cw"), Err(StorageRefusal::PermissionMismatch));
            assert_eq!(access.allows(StorageLevel::Container, "r"), Err(StorageRefusal::NotAuthorized));
            assert_eq!(access.allows(StorageLevel::Service, "l"), Err(StorageRefusal::NotAuthorized));
            assert_eq!(access.allows(StorageLevel::Listing, "l").is_ok(), query == CONTAINER_2021);
        }
    }
}

#[test]
fn container_sas_fits_no_other_container() {
    let keys = Keys::emulator();
    assert_eq!(get("batchtoprocess2", None, CONTAINER_2021).detail(&keys), "Signature did not match.");
}

#[test]
fn blob_sas_with_every_field_fits_its_blob_alone() {
    let keys = Keys::emulator();
    // `se` names a day, so it ends at midnight before the others.
    let at = |case: Case| Case { now: END - 86_400, ..case };
    let access = at(get("batchtoprocess", Some("a b/ü.gz"), BLOB_2021)).check(&keys).unwrap();
    access.allows(StorageLevel::Object, "r").unwrap();
    assert_eq!(access.allows(StorageLevel::Listing, "r"), Err(StorageRefusal::NotAuthorized));
    assert_eq!(at(get("batchtoprocess", Some("a b/ü.gz2"), BLOB_2021)).detail(&keys), "Signature did not match.");
    assert!(at(get("batchtoprocess", None, BLOB_2021)).detail(&keys).contains("names none"));
    let begins_later = Case { now: 1_700_000_000, ..get("batchtoprocess", Some("a b/ü.gz"), BLOB_2021) };
    assert!(begins_later.detail(&keys).contains("begins later"));
    let elsewhere = IpAddr::from([127, 0, 0, 10]);
    let elsewhere = Case { client: elsewhere, ..at(get("batchtoprocess", Some("a b/ü.gz"), BLOB_2021)) };
    assert_eq!(elsewhere.check(&keys), Err(StorageRefusal::SourceAddressMismatch));
}

#[test]
fn each_changed_field_of_a_blob_sas_breaks_its_signature() {
    let keys = Keys::emulator();
    for field in ["sp", "st", "se", "sip", "spr", "rscc", "rscd", "rsce", "rscl", "rsct"] {
        let changed: Vec<String> = BLOB_2021
            .split('&')
            .map(|part| if part.starts_with(&format!("{field}=")) { format!("{part}1") } else { part.to_owned() })
            .collect();
        let changed = Case { now: END - 86_400, ..get("batchtoprocess", Some("a b/ü.gz"), &changed.join("&")) };
        assert_ne!(changed.query, BLOB_2021);
        assert_eq!(changed.detail(&keys), "Signature did not match.", "{field}");
    }
    let other_resource = BLOB_2021.replace("sr=b", "sr=c");
    assert_eq!(get("batchtoprocess", Some("a b/ü.gz"), &other_resource).detail(&keys), "Signature did not match.");
}

#[test]
fn a_storage_sas_ends_in_its_second() {
    let keys = Keys::emulator();
    let at = |now| Case { now, ..get("batchtoprocess", None, CONTAINER_2021) };
    assert!(at(END - 1).check(&keys).is_ok());
    assert!(at(END).detail(&keys).contains("expired"));
}

#[test]
fn an_account_sas_opens_what_its_letters_say() {
    let keys = Keys::emulator();
    let access = get("c", Some("b"), ACCOUNT_2021).check(&keys).unwrap();
    for level in [StorageLevel::Service, StorageLevel::Container, StorageLevel::Listing, StorageLevel::Object] {
        access.allows(level, "l").unwrap();
        assert_eq!(access.allows(level, "x"), Err(StorageRefusal::PermissionMismatch));
    }
    let objects =
        "sv=2019-12-12&ss=b&srt=o&sp=r&se=2027-01-15T08:00:00Z&sig=dM1bq/0pkc4uo0Og/ZWbUEUyUpalt7iZ/tV3UCNjKSA=";
    let access = get("c", Some("b"), objects).check(&keys).unwrap();
    access.allows(StorageLevel::Object, "r").unwrap();
    assert_eq!(access.allows(StorageLevel::Listing, "r"), Err(StorageRefusal::ResourceTypeMismatch));
    assert_eq!(access.allows(StorageLevel::Container, "r"), Err(StorageRefusal::ResourceTypeMismatch));
}

#[test]
fn signing_gives_what_was_computed_elsewhere() {
    let keys = Keys::emulator();
    let container = keys.service_sas("batchtoprocess", None, "rl", END);
    assert_eq!(container, CONTAINER_2021);
    let account = StorageQuery::parse(&keys.account_sas("rwdlc", END));
    // The vector has `spr` as well, so only the fields can be compared; the check below covers the signature.
    assert_eq!((account.get("ss"), account.get("srt"), account.get("sp")), (Some("b"), Some("sco"), Some("rwdlc")));
    assert!(get("c", None, &keys.account_sas("rwdlc", END)).check(&keys).is_ok());
    let blob = keys.service_sas("batchtoprocess", Some("a b/ü"), "r", END);
    assert!(get("batchtoprocess", Some("a b/ü"), &blob).check(&keys).is_ok());
    assert_eq!(get("batchtoprocess", Some("a b/u"), &blob).detail(&keys), "Signature did not match.");
}

#[test]
fn tokens_are_counted_by_hash_and_never_shown() {
    let keys = Keys::emulator();
    for _ in 0..2 {
        keys.check_bus(BUS_ROOT, "exports", NOW).unwrap();
        get("batchtoprocess", None, CONTAINER_2021).check(&keys).unwrap();
    }
    get("c", None, ACCOUNT_2021).check(&keys).unwrap();
    // sha256("DtqlaDqOoE81udH54rkE2HogkiAh+aMJjhMUqoQRoLA="), its first 16 digits.
    let bus = keys.tokens_used(TokenKind::Bus);
    let [used] = &bus[..] else { panic!("{bus:?}") };
    assert_eq!((used.sha256.as_str(), used.uses, used.tenant.as_deref()), ("d8af8640f656a33a", 2, None));
    assert_eq!(used.signed_by, "RootManageSharedAccessKey");
    assert!(used.expires_at.is_some_and(|end| end > NOW), "{used:?}");
    let mut uses: Vec<u64> = keys.tokens_used(TokenKind::Storage).iter().map(|token| token.uses).collect();
    uses.sort_unstable();
    assert_eq!(uses, [1, 2]);
}

#[test]
fn a_sas_for_https_is_refused_in_plain() {
    let query =
        "sv=2021-12-02&spr=https&se=2027-01-15T08:00:00Z&sr=c&sp=r&sig=Tol8UopOvhdTjKdXrtlmCpTCxYLKs51nbPHDeE4HTNg%3D";
    let keys = Keys::emulator();
    assert_eq!(get("batchtoprocess", None, query).check(&keys), Err(StorageRefusal::ProtocolMismatch));
    assert!(Case { https: true, ..get("batchtoprocess", None, query) }.check(&keys).is_ok());
}

#[test]
fn a_sas_says_what_is_missing() {
    let keys = Keys::emulator();
    assert_eq!(get("c", None, "sv=2021-12-02").check(&keys), Err(StorageRefusal::Anonymous));
    for (query, what) in [
        ("sr=c&sig=YQ==", "sv is missing"),
        ("sv=2014-02-14&sr=c&sig=YQ==", "older than"),
        ("sv=2021-12-02&sr=d&sig=YQ==", "not supported"),
        ("sv=2021-12-02&sr=c&sig=*", "not base64"),
    ] {
        let detail = get("c", None, query).detail(&keys);
        assert!(detail.contains(what), "{query}: {detail}");
    }
}

#[test]
fn a_tenants_container_token_works_until_rotation() {
    let keys = keys_with_acme();
    let token = keys.container_token("acme", "batchtoprocess", "r", END).unwrap();
    assert!(token.starts_with("sv=2021-12-02&se=2027-01-15T08%3A00%3A00Z&sr=c&sp=r&sig="), "{token}");
    let other = keys.container_token("zenith", "batchtoprocess", "r", END).unwrap();
    assert!(get("batchtoprocess", Some("b"), &token).check(&keys).is_ok());
    keys.rotate(Some("acme")).unwrap();
    assert!(get("batchtoprocess", Some("b"), &token).detail(&keys).contains("rotated"));
    assert!(get("batchtoprocess", Some("b"), &other).check(&keys).is_ok());
    let fresh = keys.container_token("acme", "batchtoprocess", "r", END).unwrap();
    let access = get("batchtoprocess", Some("b"), &fresh).check(&keys).unwrap();
    keys.refuse(access.signature.as_ref().unwrap());
    assert!(get("batchtoprocess", Some("b"), &fresh).detail(&keys).contains("a fault script refused"));
}

fn shared_key_put(signature: &str) -> Case {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-ms-date", "Fri, 15 Jan 2027 07:59:00 GMT"),
        ("date", "Fri, 15 Jan 2027 07:58:00 GMT"),
        ("x-ms-blob-type", " BlockBlob "),
        ("x-ms-version", "2021-12-02"),
        ("x-ms-meta-a-b", "1"),
        ("x-ms-meta-aa", "3"),
        ("x-ms-meta-ab", "2"),
        ("content-length", "11"),
        ("content-type", "text/plain"),
        ("if-none-match", "*"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("authorization", format!("SharedKey devstoreaccount1:{signature}").parse().unwrap());
    Case {
        method: Method::PUT,
        path: "/devstoreaccount1/batchtoprocess/a%20b.txt",
        headers,
        ..get("batchtoprocess", Some("a b.txt"), "timeout=30&comp=block")
    }
}

#[test]
fn shared_key_in_either_header_order_is_accepted() {
    let keys = Keys::emulator();
    for (order, signature) in [
        ("by byte", "hBMpwDLiM7UX6KJmvIAAJCcURc5FcBPBQ8F+4hw3YLc="),
        ("as .NET sorts", "HFAOXCn6gpyayIjPwf8sB8fCMBFQr3QR+xKmuR94PLY="),
    ] {
        let access = shared_key_put(signature).check(&keys);
        assert_eq!(access, Ok(StorageAccess::account_key()), "{order}");
    }
}

#[test]
fn shared_key_joins_repeated_parameters_and_leaves_a_zero_length_out() {
    let mut headers = HeaderMap::new();
    headers.insert("x-ms-date", HeaderValue::from_static("Fri, 15 Jan 2027 07:59:00 GMT"));
    headers.insert("x-ms-version", HeaderValue::from_static("2021-12-02"));
    headers.insert("content-length", HeaderValue::from_static("0"));
    let value = "SharedKey devstoreaccount1:UxGiT3slZ8ptti3X9Utt0QK+EGQtPgatdEUz736Oaq8=";
    headers.insert("authorization", HeaderValue::from_static(value));
    let case = Case {
        path: "/batchtoprocess",
        headers,
        ..get("batchtoprocess", None, "restype=container&comp=list&include=uncommittedblobs&include=metadata")
    };
    assert_eq!(case.check(&Keys::emulator()), Ok(StorageAccess::account_key()));
}

#[test]
fn a_shared_key_request_that_was_changed_is_refused() {
    let keys = Keys::emulator();
    let good = "hBMpwDLiM7UX6KJmvIAAJCcURc5FcBPBQ8F+4hw3YLc=";
    for (name, value) in [
        ("content-length", "12"),
        ("content-type", "text/csv"),
        ("if-none-match", "x"),
        ("if-match", "x"),
        ("range", "bytes=0-1"),
        ("x-ms-meta-ab", "3"),
        ("x-ms-new", "1"),
    ] {
        let mut case = shared_key_put(good);
        case.headers.insert(name, HeaderValue::from_static(value));
        assert!(case.detail(&keys).starts_with("The MAC signature"), "{name}");
    }
    let other = Case { method: Method::GET, ..shared_key_put(good) };
    assert!(other.detail(&keys).starts_with("The MAC signature"));
    let other = Case { query: "timeout=31&comp=block".to_owned(), ..shared_key_put(good) };
    assert!(other.detail(&keys).starts_with("The MAC signature"));
    let late = Case { now: NOW + 901, ..shared_key_put(good) };
    assert!(late.detail(&keys).contains("15 minutes"));
    let mut other = shared_key_put(good);
    other.headers.insert("authorization", HeaderValue::from_static("SharedKey another:YQ=="));
    assert!(other.detail(&keys).contains("another account"));
    other.headers.insert("authorization", HeaderValue::from_static("Bearer e30"));
    let plain = StorageRefusal::InvalidAuthenticationInfo("access tokens are taken over https only");
    assert_eq!(other.check(&keys), Err(plain));
    other.headers.insert("authorization", HeaderValue::from_static("SharedKeyLite a:b"));
    assert!(other.detail(&keys).contains("neither SharedKey nor Bearer"));
}

#[test]
fn a_query_shows_no_value_in_debug() {
    let query = StorageQuery::parse(CONTAINER_2021);
    assert!(!format!("{query:?}").contains("Zrj"));
}

#[test]
fn a_policy_opens_its_entity_with_its_rights_and_no_more() {
    let keys = Keys::emulator();
    let send = Rights { send: true, ..Rights::default() };
    keys.add_policy("send-only", "k1", Some("Exports"), send);
    keys.add_policy("send-only", "k2", Some("jobs"), send);
    keys.add_policy("watch", "k3", None, Rights::LISTEN);
    let token = |name, key: &str, resource: &str| bus_sas::sign(resource, name, key.as_bytes(), END);
    for (name, key, resource, entity, rights) in [
        ("send-only", "k1", "sb://localhost/exports", "exports", send),
        ("send-only", "k1", "sb://localhost/exports/subscriptions/acme", "exports/subscriptions/acme", send),
        ("send-only", "k2", "sb://localhost/jobs", "jobs", send),
        ("watch", "k3", "sb://localhost", "jobs", Rights::LISTEN),
        ("watch", "k3", "sb://localhost/jobs/$deadletterqueue", "jobs/$deadletterqueue", Rights::LISTEN),
    ] {
        let claim = keys.check_bus(&token(name, key, resource), entity, NOW).unwrap();
        assert_eq!(claim.rights, rights, "{name} {resource}");
    }
    for (name, key, resource, entity, refusal) in [
        ("send-only", "k1", "sb://localhost/", "exports", SasRefusal::WrongAudience),
        ("send-only", "k1", "sb://localhost/jobs", "jobs", SasRefusal::WrongAudience),
        ("send-only", "k1", "sb://localhost/exports2", "exports2", SasRefusal::WrongAudience),
        ("send-only", "k1", "sb://localhost/exports", "jobs", SasRefusal::WrongAudience),
        ("send-only", "k3", "sb://localhost/exports", "exports", SasRefusal::BadSignature),
        ("nobody", "k1", "sb://localhost/exports", "exports", SasRefusal::BadSignature),
        ("Watch", "k3", "sb://localhost", "jobs", SasRefusal::BadSignature),
    ] {
        assert_eq!(keys.check_bus(&token(name, key, resource), entity, NOW), Err(refusal), "{name} {resource}");
    }
    keys.add_policy("watch", "k4", None, Rights::ALL);
    let old = token("watch", "k3", "sb://localhost");
    assert_eq!(keys.check_bus(&old, "jobs", NOW), Err(SasRefusal::BadSignature), "replaced");
}

#[test]
fn a_further_name_of_the_namespace_must_be_given() {
    let keys = Keys::emulator();
    let token = keys.root_bus_token("NS.servicebus.example", "exports", END);
    assert_eq!(keys.check_bus(&token, "exports", NOW), Err(SasRefusal::WrongAudience));
    keys.add_host("ns.ServiceBus.example");
    assert!(keys.check_bus(&token, "exports", NOW).is_ok());
}
