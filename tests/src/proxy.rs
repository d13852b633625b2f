//! A network that lets nothing out but what its proxy tunnels.

use std::{
    collections::BTreeSet,
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
use waybill_local::Local;

use crate::harness::{PATIENCE, World, assert_nothing_was_dead_lettered, binary};

/// A name that no resolver knows: only the proxy finds it.
const HOST: &str = "azure.waybill.invalid";

/// Tunnels to [`HOST`], which is this machine, and to nothing else.
struct Proxy {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let (seen, mut tasks) = (Arc::clone(&heads), JoinSet::new());
        tasks.spawn(async move {
            let mut tunnels = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                tunnels.spawn(tunnel(client, Arc::clone(&seen)));
            }
        });
        Self { port, heads, _tasks: tasks }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn tunnel(mut client: TcpStream, heads: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = client.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let port = head.strip_prefix(&format!("CONNECT {HOST}:")).and_then(|rest| rest.split(' ').next()?.parse().ok());
    heads.lock().unwrap_or_else(PoisonError::into_inner).push(head);
    let port: u16 = match port {
        Some(port) => port,
        None => return drop(client.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await),
    };
    let mut server = TcpStream::connect(("127.0.0.1", port)).await.expect("local listens");
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.expect("the client waits");
    // Either side may leave as it likes.
    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
}

#[tokio::test]
async fn behind_a_proxy_with_an_authority_of_its_own_files_are_published_and_applied() {
    let world = World::of(Local::builder().tls().host(HOST)).await;
    let ready = world.ready_file();
    let proxy = Proxy::start().await;
    let run = async |program: &str, arguments: &[&str]| {
        let mut command = Command::new(binary(program));
        command.args(arguments).arg("--local").arg(&ready).arg("--data").arg(world.path(program));
        for variable in ["https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"] {
            command.env_remove(variable);
        }
        command.env("HTTPS_PROXY", format!("http://user:TOPSECRET@127.0.0.1:{}", proxy.port)).env("RUST_LOG", "debug");
        command.current_dir(world.path("")).stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await.expect("it ends in time").expect("it runs");
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program}: {}\n{told}", output.status);
        assert!(!told.contains("TOPSECRET"), "{told}");
    };
    let rows: String = (0..5_000).map(|n| format!("{{\"n\":{n},\"text\":\"{}\"}}\n", uuid::Uuid::new_v4())).collect();
    std::fs::write(world.path("numbers.jsonl"), rows).expect("the file is written");
    run("waybill-publisher", &["publish", "--type", "Number", "numbers.jsonl"]).await;
    let sink = format!("sqlite:{}", world.database().display());
    run("waybill-subscriber", &["run", "--sink", &sink, "--until-idle", "1"]).await;
    assert_eq!(world.query("SELECT count(*), count(DISTINCT n), max(n) FROM \"Number\""), ["5000|5000|4999"]);
    assert_nothing_was_dead_lettered(&world);

    let heads = proxy.heads();
    let asked: BTreeSet<&str> = heads.iter().filter_map(|head| head.split(' ').nth(1)).collect();
    let ports = world.local.ports();
    let places = [ports.amqps, ports.blob, ports.tenant].map(|port| format!("{HOST}:{port}"));
    assert_eq!(asked, places.iter().map(String::as_str).collect(), "bus, storage and TenantService, and nothing else");
    for head in &heads {
        let head = head.to_ascii_lowercase();
        assert!(head.contains("proxy-authorization: basic") && !head.contains("\r\nauthorization:"), "{head}");
        assert!(!head.contains("sig="), "{head}");
    }
    world.end().await;
}
