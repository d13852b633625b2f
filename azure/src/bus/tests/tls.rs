//! TLS: with the authority it works, without it nothing is said.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio_rustls::TlsAcceptor;

use super::*;

/// A name that only a proxy can find.
pub(super) const NAMESPACE: &str = "ns.waybill.invalid";

/// A server with TLS in front of a plain port, and its authority as PEM.
pub(super) async fn tls_in_front_of(to: u16) -> (u16, String, JoinSet<()>) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned(), NAMESPACE.to_owned()])
        .unwrap()
        .signed_by(&key, &authority)
        .unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut lines = JoinSet::new();
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            lines.spawn(async move {
                // A client that does not trust us leaves during the handshake.
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
            });
        }
    });
    (port, authority.pem(), tasks)
}

fn over_tls(local: &Arc<Local>, port: u16, ca_file: Option<PathBuf>) -> Bus {
    let tokens = TestTokens::new(local, Holder::Root(TOPIC.to_owned()), HOUR);
    tokens.with(|state| state.endpoint = format!("sb://localhost:{port}").parse().unwrap());
    Bus::new(tokens, BusOptions { ca_file, ..options() })
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted() {
    let local = local().await;
    let (port, authority, _tasks) = tls_in_front_of(local.ports().amqp).await;
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, authority).unwrap();
    let bus = over_tls(&local, port, Some(ca_file));
    soon(soon(bus.sender()).await.unwrap().send(&messages(200))).await.unwrap();
    assert_eq!(counts(local.broker(), TOPIC).totals.enqueued, 200);
    bus.close().await;
}

#[tokio::test]
async fn an_unknown_authority_is_refused_before_a_token_is_shown() {
    let local = local().await;
    let (port, _, _tasks) = tls_in_front_of(local.ports().amqp).await;
    let error = soon(over_tls(&local, port, None).sender()).await.unwrap_err();
    let BusError::Connect { problem, .. } = &error else { panic!("{error:?}") };
    assert!(problem.contains("certificate"), "{problem}");
    assert_eq!(local.broker().connections(), 0);
}

#[tokio::test]
async fn an_authority_file_that_is_none_needs_a_person() {
    let local = local().await;
    let (port, _, _tasks) = tls_in_front_of(local.ports().amqp).await;
    let error = soon(over_tls(&local, port, Some(PathBuf::from("no-such-file.pem"))).sender()).await.unwrap_err();
    assert!(matches!(error, BusError::Setup { .. }), "{error:?}");
    assert!(error.needs_person() && error.to_string().contains("no-such-file.pem"), "{error}");
}

#[tokio::test]
async fn a_plain_server_behind_a_tls_endpoint_is_refused() {
    let local = local().await;
    let error = soon(over_tls(&local, local.ports().amqp, None).sender()).await.unwrap_err();
    assert!(matches!(error, BusError::Connect { .. }), "{error:?}");
}
