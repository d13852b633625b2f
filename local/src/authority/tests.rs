//! What gets a token and what does not: each check of a form, an assertion and a token, tried one by one.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use base64::{
    Engine as _,
    engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, crypto::sign, encode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use time::OffsetDateTime;
use x509_parser::{der_parser::parse_der, pem::Pem};

use super::*;
use crate::broker::Broker;
use crate::config::{CLIENT_ID, DIRECTORY_ID};
use crate::fault::Hands;
use crate::keys::{Keys, Rights, Role, SasRefusal, SigningKey};
use crate::rotation::Rotations;

const SCOPE: &str = "https://servicebus.azure.net/.default";
const OTHER: &str = "10ca1000-0000-4000-8000-000000000099";

/// An authority with one application of two kinds of proof, and one without any.
struct Bench {
    authority: Authority,
    keys: Arc<Keys>,
    clock: Arc<AtomicI64>,
    key: EncodingKey,
    sha1: String,
    sha256: String,
}

fn bench() -> Bench {
    bench_with(false)
}

fn bench_with(assertions_once: bool) -> Bench {
    bench_at("https://localhost:8443", assertions_once)
}

fn bench_at(url: &str, assertions_once: bool) -> Bench {
    let url = url.to_owned();
    let made = client::make("acme").unwrap();
    let parts: Vec<Pem> = Pem::iter_from_buffer(made.pem.as_bytes()).map(Result::unwrap).collect();
    let key = parts.iter().find(|part| part.label == "PRIVATE KEY").unwrap();
    // PKCS #8 wraps the RSA key that the library takes.
    let (_, wrapped) = parse_der(&key.contents).unwrap();
    let key = EncodingKey::from_rsa_der(wrapped.as_sequence().unwrap()[2].as_slice().unwrap());
    let certificate = &made.application.certificates[0];
    let (sha1, sha256) = (certificate.sha1().to_owned(), certificate.sha256().to_owned());
    let other = Application {
        id: OTHER.to_owned(),
        tenant: "zenith".to_owned(),
        certificates: Vec::new(),
        secret: None,
        roles: BTreeSet::new(),
    };
    let tokens = AccessTokens {
        directory: DIRECTORY_ID.to_owned(),
        issuer: format!("{url}/{DIRECTORY_ID}/v2.0"),
        key: SigningKey::lazy(),
        applications: vec![made.application, other],
        life: Duration::from_secs(600),
    };
    let clock = Arc::new(AtomicI64::new(OffsetDateTime::now_utc().unix_timestamp()));
    let shown = Arc::clone(&clock);
    let now: Now = Arc::new(move || OffsetDateTime::from_unix_timestamp(shown.load(Ordering::SeqCst)).unwrap());
    let keys = Arc::new(Keys::emulator());
    for tenant in ["acme", "zenith"] {
        keys.add_tenant(tenant, &format!("exports/subscriptions/{tenant}"));
    }
    let hands = Hands {
        keys: Arc::clone(&keys),
        rotations: Arc::new(Rotations::new(Arc::clone(&keys))),
        broker: Arc::new(Broker::new(Arc::clone(&now))),
        blob_lines: Arc::default(),
        tenant_lines: Arc::default(),
    };
    let faults = Arc::new(Faults::new(hands));
    let authority = Authority::new(Arc::new(tokens), Arc::clone(&keys), faults, url, assertions_once, now);
    Bench { authority, keys, clock, key, sha1, sha256 }
}

impl Bench {
    fn now(&self) -> i64 {
        self.clock.load(Ordering::SeqCst)
    }

    fn secret(&self) -> String {
        self.authority.tokens.application(CLIENT_ID).unwrap().secret.clone().unwrap()
    }

    /// Claims that are good, with some of them replaced.
    fn claims(&self, changes: &Json) -> Json {
        let mut claims = json!({
            "aud": format!("https://localhost:8443/{DIRECTORY_ID}/oauth2/v2.0/token"),
            "iss": CLIENT_ID,
            "sub": CLIENT_ID,
            "jti": Uuid::new_v4().to_string(),
            "nbf": self.now(),
            "exp": self.now() + 600,
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    fn signed(&self, algorithm: Algorithm, changes: &Json) -> String {
        let mut header = Header::new(algorithm);
        header.x5t_s256 = Some(self.sha256.clone());
        encode(&header, &self.claims(changes), &self.key).unwrap()
    }

    fn ask(&self, form: &[(&str, &str)]) -> Result<Json, Refusal> {
        let encoded =
            form.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
        self.authority.token(&StorageQuery::parse(&encoded.collect::<Vec<_>>().join("&")))
    }

    fn show(&self, assertion: &str) -> Result<Json, Refusal> {
        self.ask(&[
            ("grant_type", "client_credentials"),
            ("client_id", CLIENT_ID),
            ("scope", SCOPE),
            ("client_assertion_type", assertion::TYPE),
            ("client_assertion", assertion),
        ])
    }

    fn token(&self, scope: &str) -> String {
        let answer = self.ask(&[
            ("grant_type", "client_credentials"),
            ("client_id", CLIENT_ID),
            ("scope", scope),
            ("client_secret", &self.secret()),
        ]);
        answer.unwrap()["access_token"].as_str().unwrap().to_owned()
    }
}

#[track_caller]
fn refused(answer: Result<Json, Refusal>, status: u16, error: &str, code: u32, says: &str) {
    let refusal = answer.expect_err("no token");
    assert_eq!((refusal.status.as_u16(), refusal.error, refusal.code), (status, error, code), "{}", refusal.text);
    assert!(refusal.text.contains(says), "{}", refusal.text);
}

#[test]
fn an_assertion_of_either_algorithm_gets_a_token_for_what_it_asked() {
    let bench = bench();
    for algorithm in [Algorithm::RS256, Algorithm::PS256] {
        let answer = bench.show(&bench.signed(algorithm, &json!({}))).unwrap();
        assert_eq!((answer["token_type"].as_str(), answer["expires_in"].as_u64()), (Some("Bearer"), Some(600)));
        let token = answer["access_token"].as_str().unwrap();
        let claims: Json =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap();
        assert_eq!(claims["aud"], "https://servicebus.azure.net");
        assert_eq!((&claims["appid"], &claims["tid"]), (&json!(CLIENT_ID), &json!(DIRECTORY_ID)));
        assert_eq!(claims["appidacr"], "2", "proved with a certificate");
        assert_eq!(claims["exp"].as_i64().unwrap(), bench.now() + 600);
    }
}

#[test]
fn the_certificate_may_be_named_in_each_of_the_ways_that_clients_use() {
    let bench = bench();
    let hex =
        URL_SAFE_NO_PAD.decode(&bench.sha1).unwrap().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02X}"));
    let headers = [
        ("x5t", Header { x5t: Some(bench.sha1.clone()), ..Header::new(Algorithm::RS256) }),
        ("padded", Header { x5t: Some(format!("{}=", bench.sha1)), ..Header::new(Algorithm::RS256) }),
        ("x5t#S256", Header { x5t_s256: Some(bench.sha256.clone()), ..Header::new(Algorithm::PS256) }),
        ("kid", Header { kid: Some(hex), ..Header::new(Algorithm::RS256) }),
    ];
    for (name, header) in headers {
        let assertion = encode(&header, &bench.claims(&json!({})), &bench.key).unwrap();
        assert!(bench.show(&assertion).is_ok(), "{name}");
    }
    for header in [
        Header::new(Algorithm::RS256),
        Header { x5t_s256: Some("b3RoZXI".to_owned()), x5t: Some(bench.sha1.clone()), ..Header::new(Algorithm::RS256) },
    ] {
        let assertion = encode(&header, &bench.claims(&json!({})), &bench.key).unwrap();
        refused(bench.show(&assertion), 401, "invalid_client", 700_027, "not registered");
    }
}

#[test]
fn an_assertion_with_an_extension_that_must_be_understood_is_refused() {
    let bench = bench();
    let header = Header {
        x5t_s256: Some(bench.sha256.clone()),
        crit: Some(vec!["b64".to_owned()]),
        ..Header::new(Algorithm::PS256)
    };
    let assertion = encode(&header, &bench.claims(&json!({})), &bench.key).unwrap();
    refused(bench.show(&assertion), 400, "invalid_request", 50_027, "'crit'");
}

#[test]
fn an_assertion_whose_parts_are_padded_is_checked_as_it_was_signed() {
    let bench = bench();
    let header = format!("{{\"alg\":\"RS256\",\"x5t\":\"{}\"}}", bench.sha1);
    let mut claims = bench.claims(&json!({})).to_string();
    if claims.len().is_multiple_of(3) {
        // A length that needs padding.
        claims.push(' ');
    }
    let signed = format!("{}.{}", URL_SAFE.encode(header), URL_SAFE.encode(&claims));
    let signature = sign(signed.as_bytes(), &bench.key, Algorithm::RS256).unwrap();
    assert!(signed.contains('='), "{signed}");
    assert!(bench.show(&format!("{signed}.{signature}==")).is_ok());
    let changed = format!("{}.{signature}", signed.replace('=', ""));
    refused(bench.show(&changed), 401, "invalid_client", 700_027, "failed signature validation");
}

#[test]
fn an_assertion_of_another_key_or_changed_underway_fails() {
    let (bench, stranger) = (bench(), self::bench());
    let header = Header { x5t_s256: Some(bench.sha256.clone()), ..Header::new(Algorithm::RS256) };
    let forged = encode(&header, &bench.claims(&json!({})), &stranger.key).unwrap();
    refused(bench.show(&forged), 401, "invalid_client", 700_027, "failed signature validation");
    let good = bench.signed(Algorithm::PS256, &json!({}));
    let parts: Vec<&str> = good.split('.').collect();
    let claims = URL_SAFE_NO_PAD.encode(bench.claims(&json!({ "exp": bench.now() + 999_999 })).to_string());
    let changed = format!("{}.{claims}.{}", parts[0], parts[2]);
    refused(bench.show(&changed), 401, "invalid_client", 700_027, "failed signature validation");
    let none = format!("{}.{claims}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#));
    refused(bench.show(&none), 400, "invalid_request", 50_027, "malformed");
    let by_name = encode(&Header::new(Algorithm::HS256), &bench.claims(&json!({})), &EncodingKey::from_secret(b"x"));
    refused(bench.show(&by_name.unwrap()), 401, "invalid_client", 5_002_738, "RS256 and PS256");
    for rubbish in ["", "x", "a.b.c", "eyJ.eyJ.x"] {
        refused(bench.show(rubbish), 400, "invalid_request", 50_027, "malformed");
    }
}

#[test]
fn by_the_name_that_it_gives_out_an_authority_is_meant_too() {
    let bench = bench_at("https://azure.example:8443", false);
    let show = |host: &str| {
        let audience = json!({ "aud": format!("https://{host}/{DIRECTORY_ID}/oauth2/v2.0/token") });
        bench.show(&bench.signed(Algorithm::PS256, &audience))
    };
    for good in ["azure.example:8443", "AZURE.example:8443", "localhost:8443", "127.0.0.1:8443"] {
        assert!(show(good).is_ok(), "{good}");
    }
    for bad in ["azure.example", "azure.example:9999", "evil.example:8443", "localhost:9999"] {
        refused(show(bad), 401, "invalid_client", 700_023, "");
    }
}

#[test]
fn each_claim_is_checked_with_little_patience_for_clocks() {
    let bench = bench();
    let now = bench.now();
    let endpoint = |host: &str| format!("https://{host}/{DIRECTORY_ID}/oauth2/v2.0/token");
    for good in [
        json!({ "aud": format!("https://localhost:8443/{DIRECTORY_ID}/v2.0") }),
        json!({ "aud": endpoint("127.0.0.1:8443") }),
        json!({ "iss": CLIENT_ID.to_uppercase() }),
        json!({ "nbf": now + 299 }),
        json!({ "exp": now - 299 }),
        json!({ "exp": now as f64 + 0.5 }),
        json!({ "nbf": null }),
        json!({ "jti": null }),
    ] {
        assert!(bench.show(&bench.signed(Algorithm::PS256, &good)).is_ok(), "{good}");
    }
    for (bad, code) in [
        (json!({ "iss": OTHER }), 700_021),
        (json!({ "sub": null }), 700_021),
        (json!({ "aud": endpoint("localhost:9999") }), 700_023),
        (json!({ "aud": endpoint("evil.example:8443") }), 700_023),
        (json!({ "aud": "https://localhost:8443" }), 700_023),
        (json!({ "aud": format!("http://localhost:8443/{DIRECTORY_ID}/v2.0") }), 700_023),
        (json!({ "aud": null }), 700_023),
        (json!({ "nbf": now + 302 }), 700_024),
        (json!({ "exp": now - 301 }), 700_024),
        (json!({ "exp": null }), 700_024),
    ] {
        refused(bench.show(&bench.signed(Algorithm::PS256, &bad)), 401, "invalid_client", code, "");
    }
    let malformed = bench.signed(Algorithm::PS256, &json!({ "exp": "soon" }));
    refused(bench.show(&malformed), 400, "invalid_request", 50_027, "malformed");
}

#[test]
fn an_assertion_of_a_certificate_whose_time_is_over_fails() {
    let bench = bench();
    bench.clock.fetch_add(400 * 86_400, Ordering::SeqCst);
    refused(
        bench.show(&bench.signed(Algorithm::PS256, &json!({}))),
        401,
        "invalid_client",
        700_027,
        "The key used is expired",
    );
}

#[test]
fn a_jti_names_one_assertion_only() {
    let bench = bench();
    let first = bench.signed(Algorithm::PS256, &json!({ "jti": "one" }));
    assert!(bench.show(&first).is_ok());
    assert!(bench.show(&first).is_ok(), "Microsoft's libraries show one assertion for as long as it lives");
    let second = bench.signed(Algorithm::PS256, &json!({ "jti": "one", "exp": bench.now() + 601 }));
    refused(bench.show(&second), 401, "invalid_client", 50_013, "used before");
    assert!(bench.show(&bench.signed(Algorithm::PS256, &json!({ "jti": "two" }))).is_ok());
}

#[test]
fn on_request_an_assertion_is_good_once() {
    let bench = bench_with(true);
    let first = bench.signed(Algorithm::RS256, &json!({}));
    assert!(bench.show(&first).is_ok());
    refused(bench.show(&first), 401, "invalid_client", 50_013, "used before");
    let nameless = bench.signed(Algorithm::RS256, &json!({ "jti": null }));
    assert!(bench.show(&nameless).is_ok());
    refused(bench.show(&nameless), 401, "invalid_client", 50_013, "used before");
}

#[test]
fn each_mistake_of_a_form_has_the_number_that_entra_gives_it() {
    let bench = bench();
    let secret = bench.secret();
    let good = [
        ("grant_type", "client_credentials"),
        ("client_id", CLIENT_ID),
        ("scope", SCOPE),
        ("client_secret", secret.as_str()),
    ];
    assert!(bench.ask(&good).is_ok());
    let with = |name: &'static str, value: &'static str| {
        good.map(|(known, old)| (known, if known == name { value } else { old }))
    };
    for name in ["grant_type", "client_id", "scope"] {
        refused(bench.ask(&with(name, "")), 400, "invalid_request", 900_144, name);
    }
    refused(bench.ask(&with("grant_type", "password")), 400, "unsupported_grant_type", 70_003, "password");
    refused(bench.ask(&with("client_id", "nobody")), 400, "unauthorized_client", 700_016, "nobody");
    refused(bench.ask(&with("client_id", OTHER)), 401, "invalid_client", 7_000_215, OTHER);
    refused(bench.ask(&with("client_secret", "wrong")), 401, "invalid_client", 7_000_215, CLIENT_ID);
    refused(bench.ask(&good[..3]), 401, "invalid_client", 7_000_216, "client_assertion");
    refused(bench.ask(&with("scope", "https://servicebus.azure.net")), 400, "invalid_scope", 1_002_012, ".default");
    refused(bench.ask(&with("scope", "api://x/.default")), 400, "invalid_resource", 500_011, "api://x");
    let two = "https://servicebus.azure.net/.default https://storage.azure.com/.default";
    refused(bench.ask(&with("scope", two)), 400, "invalid_scope", 70_011, "single");
    assert!(bench.ask(&with("scope", "https://servicebus.azure.net//.default")).is_ok(), "as JavaScript's SDK asks");
    let kind = [good[0], good[1], good[2], ("client_assertion", "x"), ("client_assertion_type", "saml")];
    refused(bench.ask(&kind), 400, "invalid_request", 70_002, "jwt-bearer");
    refused(bench.ask(&kind[..4]), 400, "invalid_request", 900_144, "client_assertion_type");
}

#[test]
fn an_access_token_opens_the_bus_as_its_roles_say_until_it_ends() {
    let bench = bench();
    let keys = &bench.keys;
    let token = bench.token(SCOPE);
    let claim = keys.check_bus(&token, "exports", bench.now()).unwrap();
    assert_eq!((claim.rights, claim.scope.as_str(), claim.expires_at), (Rights::ALL, "", bench.now() + 600));
    assert_eq!(keys.check_bus(&token, "exports", bench.now() + 600), Err(SasRefusal::Expired));
    for scope in ["https://storage.azure.com/.default", "api://waybill-tenant-service/.default"] {
        let other = bench.token(scope);
        assert_eq!(keys.check_bus(&other, "exports", bench.now()), Err(SasRefusal::WrongAudience), "{scope}");
    }
    keys.refuse(&claim.signature);
    assert_eq!(keys.check_bus(&token, "exports", bench.now()), Err(SasRefusal::Revoked));
    assert!(keys.is_revoked(&claim), "which cuts the links that use it");

    let receiver = Application {
        id: OTHER.to_owned(),
        tenant: "acme".to_owned(),
        certificates: Vec::new(),
        secret: None,
        roles: BTreeSet::from([Role::BusReceiver]),
    };
    let now = OffsetDateTime::from_unix_timestamp(bench.now()).unwrap();
    // Issued for an application that the authority knows as one without roles: its roles count now, not then.
    let (token, _) = keys.issue_access(&receiver, "https://servicebus.azure.net", false, now).unwrap();
    assert_eq!(keys.check_bus(&token, "exports", bench.now()).unwrap().rights, Rights::default());
}

#[test]
fn a_token_of_another_authority_or_of_none_is_refused() {
    let (bench, other) = (bench(), self::bench());
    let stranger = other.token(SCOPE);
    assert_eq!(bench.keys.check_bus(&stranger, "exports", bench.now()), Err(SasRefusal::BadSignature));
    let token = bench.token(SCOPE);
    let (head, _) = token.rsplit_once('.').unwrap();
    let unsigned = format!("{head}.");
    assert!(bench.keys.check_bus(&unsigned, "exports", bench.now()).is_err());
    let none = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), head.split('.').nth(1).unwrap());
    assert!(matches!(bench.keys.check_bus(&none, "exports", bench.now()), Err(SasRefusal::Malformed(_))));
    let without = Keys::emulator().check_bus(&token, "exports", bench.now());
    assert!(matches!(without, Err(SasRefusal::Malformed(text)) if text.contains("--tls")));
}

#[test]
fn a_rotation_ends_the_access_tokens_of_its_tenant_and_no_others() {
    let bench = bench();
    let keys = &bench.keys;
    let check = |token: &str| keys.check_bus(token, "exports", bench.now());
    let tenant_scope = "api://waybill-tenant-service/.default";
    let (bus, grants) = (bench.token(SCOPE), bench.token(tenant_scope));
    let claim = check(&bus).unwrap();
    assert!(keys.check_access(&grants, Resource::TenantService, bench.now()).is_ok());

    keys.rotate(Some("zenith")).unwrap();
    assert!(check(&bus).is_ok() && !keys.is_revoked(&claim), "of another tenant");
    let rotation = keys.rotate_keeping(Some("acme")).unwrap();
    assert!(check(&bus).is_ok() && !keys.is_revoked(&claim), "within the grace");
    let fresh = bench.token(SCOPE);
    keys.end_grace(rotation);
    assert_eq!(check(&bus), Err(SasRefusal::Revoked));
    assert!(keys.is_revoked(&claim), "which cuts the links that use it");
    let refused = keys.check_access(&grants, Resource::TenantService, bench.now()).unwrap_err();
    assert_eq!(refused, SasRefusal::Revoked);
    assert!(check(&fresh).is_ok(), "issued after the rotation");

    keys.rotate(None).unwrap();
    assert_eq!(check(&fresh), Err(SasRefusal::Revoked));
    assert!(check(&bench.token(SCOPE)).is_ok());
}

#[test]
fn an_expiry_ends_access_tokens_and_the_next_live_as_long_as_ever() {
    let bench = bench();
    let token = bench.token(SCOPE);
    let claim = bench.keys.check_bus(&token, "exports", bench.now()).unwrap();
    bench.keys.bus_token("acme", "localhost", bench.now() + 86_400).unwrap();
    bench.keys.expire(Some("acme")).unwrap();
    assert_eq!(bench.keys.check_bus(&token, "exports", bench.now()), Err(SasRefusal::Expired));
    assert!(bench.keys.is_revoked(&claim));
    let next = bench.keys.check_bus(&bench.token(SCOPE), "exports", bench.now()).unwrap();
    assert_eq!(next.expires_at, bench.now() + 600, "a SAS of a day does not make it longer");
}

#[test]
fn tokens_can_be_checked_with_the_published_key() {
    let bench = bench();
    let token = bench.token(SCOPE);
    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_value(bench.authority.tokens.key_set().unwrap()).unwrap();
    let header = jsonwebtoken::decode_header(&token).unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(keys.find(header.kid.as_ref().unwrap()).unwrap()).unwrap();
    let mut validation = jsonwebtoken::Validation::new(Algorithm::RS256);
    validation.set_audience(&["https://servicebus.azure.net"]);
    validation.set_issuer(&[&bench.authority.tokens.issuer]);
    assert!(jsonwebtoken::decode::<Json>(&token, &key, &validation).is_ok());
    assert_eq!(bench.authority.configuration()["issuer"], json!(bench.authority.tokens.issuer));
}
