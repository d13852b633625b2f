//! Against the token authority and TenantService of `waybill-local`, which check what is signed, by whom and until when.

use std::path::Path;

use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use tempfile::TempDir;
use waybill_local::{
    Local,
    config::{ClientConfig, Config, Ports},
};

use super::{certificate::newest, *};
use crate::http::HttpOptions;

const CLIENT: &str = "5e0b1f6e-0000-4000-8000-000000000001";
const DEADLINE: Duration = Duration::from_secs(20);

/// A certificate of so many days around now, and its key.
struct Pair {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Pair {
    fn rsa(from_days: i64, until_days: i64) -> Self {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        Self::of(key, from_days, until_days)
    }

    fn of(key: KeyPair, from_days: i64, until_days: i64) -> Self {
        let mut params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        let now = OffsetDateTime::now_utc();
        params.not_before = now + time::Duration::days(from_days);
        params.not_after = now + time::Duration::days(until_days);
        Self { certificate: params.self_signed(&key).unwrap(), key }
    }

    fn pem(&self) -> String {
        format!("{}{}", self.key.serialize_pem(), self.certificate.pem())
    }

    fn pkcs12(&self, password: &str) -> Vec<u8> {
        let key = PrivateKey::from_der(&self.key.serialize_der()).unwrap();
        let certificate = Certificate::from_der(self.certificate.der()).unwrap();
        let mut store = KeyStore::new();
        let chain = PrivateKeyChain::new(&[1_u8][..], key, [certificate]);
        store.add_entry("client", KeyStoreEntry::PrivateKeyChain(chain));
        store.writer(password).write().unwrap()
    }
}

/// `local` with a client whose certificates these are, and a folder for files.
struct World {
    local: Local,
    folder: TempDir,
    http: HttpClient,
}

impl World {
    async fn of(pairs: &[&Pair]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registered = folder.path().join("registered.pem");
        std::fs::write(&registered, pairs.iter().map(|pair| pair.certificate.pem()).collect::<String>()).unwrap();
        let mut config = Config { ports: Ports::RANDOM, tls: true, ..Config::default() };
        config.clients = vec![ClientConfig {
            id: CLIENT.to_owned(),
            tenant: "acme".to_owned(),
            secret: Some("s3cret".to_owned()),
            certificate_file: Some(registered),
            roles: Default::default(),
        }];
        let local = Local::builder().config(config).start().await.unwrap();
        let ca_file = local.ready_file().ca_file.clone().map(PathBuf::from);
        let http = HttpClient::new(&HttpOptions { ca_file, ..HttpOptions::default() }).unwrap();
        Self { local, folder, http }
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn directory(&self) -> String {
        self.local.ready_file().clients[0].directory_id.clone()
    }

    fn certificate(&self, files: Vec<PathBuf>) -> ClientCertificate {
        let (directory_id, client_id) = (self.directory(), CLIENT.to_owned());
        ClientCertificate { directory_id, client_id, files, password: None, signing: Signing::Ps256 }
    }

    fn secret(&self, secret: &str) -> Identity {
        let (directory_id, client_id) = (self.directory(), CLIENT.to_owned());
        Identity::Secret { directory_id, client_id, secret: Secret::new(secret) }
    }

    fn options(&self) -> AccessTokenOptions {
        let ready = self.local.ready_file();
        let authority = Some(ready.authority_url.as_deref().unwrap().parse().unwrap());
        AccessTokenOptions { authority, ..AccessTokenOptions::of(ready.tenant_scope.clone().unwrap()) }
    }

    fn tokens(&self, identity: Identity) -> AccessTokens {
        AccessTokens::new(self.http.clone(), identity, self.options()).unwrap()
    }

    /// What TenantService says to whoever shows this token.
    async fn shown(&self, token: &Secret) -> u16 {
        let path = waybill_contracts::TEMPORARY_ENDPOINTS_PATH;
        let url = format!("{}{path}", self.local.ready_file().tenant_url).parse().unwrap();
        self.http.get_json(&url, token, DEADLINE, 1 << 20).await.unwrap().status
    }

    async fn is_taken(&self, identity: Identity) {
        let token = self.tokens(identity).token().await.unwrap();
        assert_eq!(self.shown(&token).await, 200);
    }
}

#[tokio::test]
async fn a_certificate_in_pem_or_pkcs12_brings_a_token_that_tenantservice_takes() {
    let pair = Pair::rsa(-1, 100);
    let world = World::of(&[&pair]).await;
    let pem = world.file("client.pem", pair.pem());
    for signing in [Signing::Ps256, Signing::Rs256] {
        let certificate = ClientCertificate { signing, ..world.certificate(vec![pem.clone()]) };
        world.is_taken(Identity::Certificate(certificate)).await;
    }
    let p12 = world.file("client.p12", pair.pkcs12("open sesame"));
    let password = Some(Secret::new("open sesame"));
    let certificate = ClientCertificate { password, ..world.certificate(vec![p12]) };
    world.is_taken(Identity::Certificate(certificate.clone())).await;

    let wrong = ClientCertificate { password: Some(Secret::new("TOPSECRET")), ..certificate };
    let error = world.tokens(Identity::Certificate(wrong)).token().await.unwrap_err();
    let IdentityError::Setup(problem) = &error else { panic!("{error:?}") };
    assert!(
        problem.contains("client.p12") && problem.contains("password") && !problem.contains("TOPSECRET"),
        "{problem}"
    );
}

#[tokio::test]
async fn a_secret_brings_a_token_that_is_kept_until_it_is_refused() {
    let world = World::of(&[&Pair::rsa(-1, 100)]).await;
    let tokens = world.tokens(world.secret("s3cret"));
    let first = tokens.token().await.unwrap();
    assert_eq!(world.shown(&first).await, 200);
    assert_eq!(tokens.token().await.unwrap(), first, "asked again for a token that is good for an hour");
    tokens.forget().unwrap();
    assert_ne!(tokens.token().await.unwrap(), first);

    let error = world.tokens(world.secret("TOPSECRET")).token().await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, IdentityError::Refused(_)), "{text}");
    assert!(text.contains("invalid_client") && text.contains("401") && !text.contains("TOPSECRET"), "{text}");
}

#[tokio::test]
async fn the_next_certificate_is_taken_without_a_restart() {
    let (old, new) = (Pair::rsa(-30, 100), Pair::rsa(-1, 200));
    let world = World::of(&[&new]).await;
    let file = world.file("client.pem", old.pem());
    let tokens = world.tokens(Identity::Certificate(world.certificate(vec![file])));
    let error = tokens.token().await.unwrap_err();
    assert!(matches!(error, IdentityError::Refused(_)), "the old one is not registered: {error}");
    world.file("client.pem", new.pem());
    assert_eq!(world.shown(&tokens.token().await.unwrap()).await, 200);
}

#[test]
fn of_several_certificates_the_newest_that_is_valid_counts() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (over, old, new, next) = (Pair::rsa(-9, -1), Pair::rsa(-8, 9), Pair::rsa(-2, 9), Pair::rsa(3, 99));
    let both = put("both.pem", format!("{}{}", over.pem(), new.pem()));
    let files = vec![put("next.pem", next.pem()), put("old.pem", old.pem()), both];
    let client = |files: Vec<PathBuf>| ClientCertificate {
        directory_id: "d".to_owned(),
        client_id: "c".to_owned(),
        files,
        password: None,
        signing: Signing::Ps256,
    };
    let now = OffsetDateTime::now_utc();
    assert_eq!(&newest(&client(files.clone()), now).unwrap().der, new.certificate.der());
    let in_a_week = now + time::Duration::days(7);
    assert_eq!(&newest(&client(files.clone()), in_a_week).unwrap().der, next.certificate.der());
    // One that is being written does not hinder the others.
    let half = put("half.pem", new.pem().chars().take(900).collect());
    let files = files.into_iter().chain([half.clone(), folder.path().join("not there.pem")]).collect();
    assert_eq!(&newest(&client(files), now).unwrap().der, new.certificate.der());

    let says = |files: Vec<PathBuf>| newest(&client(files), now).unwrap_err().to_string();
    let past = says(vec![put("over.pem", over.pem())]);
    assert!(past.contains("no client certificate is valid at") && past.contains("clock"), "{past}");
    let curve = Pair::of(KeyPair::generate().unwrap(), -1, 9);
    let other = format!("{}{}", old.key.serialize_pem(), new.certificate.pem());
    for (name, text, expected) in [
        ("curve.pem", curve.pem(), "no RSA key"),
        ("other.pem", other, "of none of its certificates"),
        ("key.pem", old.key.serialize_pem(), "no certificate"),
        ("certificate.pem", old.certificate.pem(), "no private key"),
        (
            "locked.pem",
            old.pem()
                .replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE")
                .replace("END PRIVATE", "END ENCRYPTED PRIVATE"),
            "encrypted",
        ),
        ("text.pem", "nothing of the kind".to_owned(), "neither PEM nor PKCS#12"),
    ] {
        let problem = says(vec![put(name, text)]);
        assert!(problem.contains(name) && problem.contains(expected), "{problem}");
    }
    assert!(says(vec![Path::new("no/such.pem").to_owned()]).contains("no/such.pem"));
}

#[tokio::test]
async fn a_pods_token_is_its_assertion() {
    let pair = Pair::rsa(-1, 100);
    let world = World::of(&[&pair]).await;
    // The authority takes assertions of its clients' certificates only, so that one stands for the cluster's token.
    let certificate = world.certificate(vec![world.file("client.pem", pair.pem())]);
    let assertions = Assertions::new(certificate, &world.options());
    let assertion = azure_identity::ClientAssertion::secret(&assertions, None).await.unwrap();
    let identity = Identity::Workload {
        directory_id: Some(world.directory()),
        client_id: Some(CLIENT.to_owned()),
        token_file: Some(world.file("token", assertion)),
    };
    world.is_taken(identity).await;
}

#[tokio::test]
async fn an_authority_that_is_down_is_waited_for_and_one_without_tls_is_refused() {
    let world = World::of(&[&Pair::rsa(-1, 100)]).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let at = |authority: String| AccessTokenOptions { authority: Some(authority.parse().unwrap()), ..world.options() };
    let new = |options| AccessTokens::new(world.http.clone(), world.secret("s3cret"), options);
    let error = new(at(format!("https://localhost:{}", closed.port()))).unwrap().token().await.unwrap_err();
    assert!(
        matches!(&error, IdentityError::Unavailable { problem, .. } if problem.contains("cannot connect")),
        "{error}"
    );
    let error = new(at(format!("http://localhost:{}", closed.port()))).unwrap_err();
    assert!(matches!(&error, IdentityError::Setup(problem) if problem.contains("HTTPS")), "{error}");
    let error = new(AccessTokenOptions { scope: " ".to_owned(), ..world.options() }).unwrap_err();
    assert!(matches!(&error, IdentityError::Setup(problem) if problem.contains("scope")), "{error}");
}
