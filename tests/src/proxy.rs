//! A network that lets nothing out but what its proxy tunnels.

use std::{
    collections::BTreeSet,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::Command,
    task::JoinSet,
    time::timeout,
};
use waybill_local::{Local, keys::TokenKind};

use crate::{
    harness::{PATIENCE, SUBSCRIPTION, TENANT, World, assert_nothing_was_dead_lettered, binary},
    line::Line,
    watch::signature_in,
};

/// A name that no resolver knows: only the proxy finds it.
const HOST: &str = "azure.waybill.invalid";
/// The only port that a strict proxy lets the bus have.
const HTTPS: u16 = 443;

/// Tunnels to [`HOST`], which is this machine, and to nothing else.
struct Proxy {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

/// Where a port of [`HOST`] leads.
type Leads = Arc<dyn Fn(u16) -> Option<u16> + Send + Sync>;

impl Proxy {
    /// `leads` says to which port of this machine a port leads, if to any.
    async fn start(leads: impl Fn(u16) -> Option<u16> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let (seen, leads, mut tasks) = (Arc::clone(&heads), Arc::new(leads) as Leads, JoinSet::new());
        tasks.spawn(async move {
            let mut tunnels = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                tunnels.spawn(tunnel(client, Arc::clone(&leads), Arc::clone(&seen)));
            }
        });
        Self { port, heads, _tasks: tasks }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `HOST:PORT` of all tunnels that were asked for.
    fn asked(&self) -> BTreeSet<String> {
        self.heads().iter().filter_map(|head| Some(head.split(' ').nth(1)?.to_owned())).collect()
    }

    /// Names and who asks for them, and nothing that a proxy must not see.
    fn assert_saw_no_token(&self) {
        for head in self.heads() {
            let head = head.to_ascii_lowercase();
            assert!(head.contains("proxy-authorization: basic") && !head.contains("\r\nauthorization:"), "{head}");
            assert!(!head.contains("sig="), "{head}");
        }
    }

    /// Runs a binary that can go out by this proxy alone, with every line of its log; whether it succeeded, and what it told.
    async fn output(&self, folder: &Path, arguments: &[&str], settings: &[(&str, String)]) -> (bool, String) {
        let (program, arguments) = arguments.split_first().expect("a program");
        let mut command = Command::new(binary(program));
        command.args(arguments).arg("--data").arg(folder.join(program));
        for variable in ["https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"] {
            command.env_remove(variable);
        }
        command.env("HTTPS_PROXY", format!("http://user:TOPSECRET@127.0.0.1:{}", self.port)).env("RUST_LOG", "trace");
        command.envs(settings.iter().map(|(name, value)| (*name, value)));
        command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await.expect("it ends in time").expect("it runs");
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!told.contains("TOPSECRET"), "{told}");
        assert_eq!(signature_in(told.as_bytes()), None, "{program} shows a token");
        (output.status.success(), told)
    }

    async fn run(&self, folder: &Path, arguments: &[&str], settings: &[(&str, String)]) {
        let (went, told) = self.output(folder, arguments, settings).await;
        assert!(went, "{arguments:?}: {told}");
    }
}

async fn tunnel(mut client: TcpStream, leads: Leads, heads: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = client.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let port = head.strip_prefix(&format!("CONNECT {HOST}:")).and_then(|rest| rest.split(' ').next()?.parse().ok());
    heads.lock().unwrap_or_else(PoisonError::into_inner).push(head);
    let port = match port.and_then(|port| leads(port)) {
        Some(port) => port,
        None => return drop(client.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await),
    };
    let mut server = TcpStream::connect(("127.0.0.1", port)).await.expect("local listens");
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.expect("the client waits");
    // Either side may leave as it likes.
    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
}

fn places(ports: impl IntoIterator<Item = u16>) -> BTreeSet<String> {
    ports.into_iter().map(|port| format!("{HOST}:{port}")).collect()
}

const ROWS: u64 = 5_000;

fn write_rows(world: &World) {
    let rows: String = (0..ROWS).map(|n| format!("{{\"n\":{n},\"text\":\"{}\"}}\n", uuid::Uuid::new_v4())).collect();
    std::fs::write(world.path("numbers.jsonl"), rows).expect("the file is written");
}

fn assert_all_rows_came(world: &World) {
    assert_eq!(world.query("SELECT count(*), count(DISTINCT n), max(n) FROM \"Number\""), ["5000|5000|4999"]);
    assert_nothing_was_dead_lettered(world);
}

#[tokio::test]
async fn behind_a_proxy_with_an_authority_of_its_own_files_are_published_and_applied() {
    let world = World::of(Local::builder().tls().host(HOST)).await;
    let ready = world.ready_file().display().to_string();
    let proxy = Proxy::start(Some).await;
    write_rows(&world);
    // Both show who they are by a certificate, so that the authority of Entra ID is asked by the proxy too.
    let certificate = world.local.ready_file().clients[0].certificate_file.clone().expect("a certificate");
    let (folder, sink) = (world.path(""), format!("sqlite:{}", world.database().display()));
    let publish = ["waybill-publisher", "publish", "--type", "Number", "numbers.jsonl", "--local", &ready];
    let publisher = [("WAYBILL_PUBLISHER__ENTRA__CERTIFICATE_FILES", certificate.clone())];
    proxy.run(&folder, &publish, &publisher).await;
    let run = ["waybill-subscriber", "run", "--sink", &sink, "--until-idle", "1", "--local", &ready];
    let subscriber = [("WAYBILL_SUBSCRIBER__TENANT__ENTRA__CERTIFICATE_FILES", certificate)];
    proxy.run(&folder, &run, &subscriber).await;
    assert_all_rows_came(&world);
    for kind in [TokenKind::Bus, TokenKind::Storage] {
        let used = world.local.keys().tokens_used(kind);
        assert!(used.iter().any(|used| used.signed_by.starts_with("client ")), "{kind:?}: {used:?}");
    }

    let ports = world.local.ports();
    let wanted = places([ports.amqps, ports.blob, ports.tenant, ports.authority]);
    assert_eq!(proxy.asked(), wanted, "bus, storage, TenantService and the authority, and nothing else");
    proxy.assert_saw_no_token();
    world.end().await;
}

/// As Azure is behind a strict proxy: the namespace is named without a port, and of its two only 443 is to be had.
#[tokio::test]
async fn where_a_proxy_opens_443_alone_the_bus_is_reached_there_and_at_no_other_port() {
    let world = World::of(Local::builder().tls().host(HOST)).await;
    let ready = world.local.ready_file().clone();
    let ports = world.local.ports();
    let proxy = Proxy::start(move |port| match port {
        HTTPS => Some(ports.amqps),
        _ => (port == ports.blob).then_some(port),
    })
    .await;
    write_rows(&world);
    // Its TenantService is on this machine, where no proxy is asked; what it grants names the namespace as Azure does.
    let tenant = World::of(Local::builder()).await;
    tenant
        .local
        .set_grant(TENANT, [world.local.bus_offer(SUBSCRIPTION), world.local.blob_offer(&ready.container)])
        .expect("it is known");
    let named =
        [format!("{HOST}:{}\"", ports.amqps), format!("{HOST}\"{}", " ".repeat(ports.amqps.to_string().len() + 1))];
    let granting = Line::saying(tenant.local.ports().tenant, Some(named)).await;
    let ca_file = ready.ca_file.clone().expect("there is TLS");
    let bus = ready.service_bus_tls_connection_string.clone().expect("there is TLS");
    let (folder, sink) = (world.path(""), format!("sqlite:{}", world.database().display()));
    let publisher = [
        ("WAYBILL_PUBLISHER__SERVICE_BUS_CONNECTION_STRING", bus.replace(&format!("{HOST}:{}", ports.amqps), HOST)),
        ("WAYBILL_PUBLISHER__BLOB_CONNECTION_STRING", ready.blob_connection_string.clone()),
        ("WAYBILL_PUBLISHER__CA_FILE", ca_file.clone()),
    ];
    let publish = ["waybill-publisher", "publish", "--type", "Number", "numbers.jsonl"];
    proxy.run(&folder, &publish, &publisher).await;
    assert_eq!(proxy.asked(), places([HTTPS, ports.blob]), "of the bus, nothing but 443 by the publisher");
    let subscriber = [
        ("WAYBILL_SUBSCRIBER__TENANT__URL", format!("http://127.0.0.1:{}", granting.port)),
        ("WAYBILL_SUBSCRIBER__TENANT__BEARER_TOKEN", tenant.local.ready_file().bearer_token.clone()),
        ("WAYBILL_SUBSCRIBER__CA_FILE", ca_file),
    ];
    let run = ["waybill-subscriber", "run", "--sink", &sink, "--until-idle", "1"];
    proxy.run(&folder, &run, &subscriber).await;
    assert_all_rows_came(&world);
    assert_eq!(proxy.asked(), places([HTTPS, ports.blob]), "of the bus, nothing but 443");

    // Who wants the other port is told what hinders it, by name.
    let amqp = [&subscriber[..], &[("WAYBILL_SUBSCRIBER__TRANSPORT", "amqp".to_owned())]].concat();
    let (well, told) = proxy.output(&folder, &["waybill-subscriber", "doctor", "--sink", &sink], &amqp).await;
    assert!(!well && told.contains("403 Forbidden"), "{told}");
    assert!(proxy.asked().contains(&format!("{HOST}:5671")), "5671 was asked for, and refused: {:?}", proxy.asked());
    proxy.assert_saw_no_token();
    tenant.end().await;
    world.end().await;
}
