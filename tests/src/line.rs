//! A line to a service that can be cut, and its process, whose processor time counts.

use std::{
    path::Path,
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::harness::{PATIENCE, binary};

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It leads to the service.
    Open,
    /// It is refused: nobody listens.
    Refusing,
    /// It is taken and closed at once, as a load balancer does whose service is gone; so it can be counted.
    Closing,
}

/// A port of this machine that leads to another.
pub(crate) struct Line {
    pub(crate) port: u16,
    state: watch::Sender<State>,
    met: Arc<AtomicU64>,
    _serving: JoinSet<()>,
}

impl Line {
    pub(crate) async fn to(port: u16) -> Self {
        Self::saying(port, None).await
    }

    /// Puts a text for another of the same length in what the service answers: an address that leads by a line as well.
    pub(crate) async fn saying(to: u16, other: Option<[String; 2]>) -> Self {
        assert!(other.iter().all(|[a, b]| a.len() == b.len()), "an answer says how long it is: {other:?}");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (state, seen) = watch::channel(State::Open);
        let met = Arc::<AtomicU64>::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, port, to, other, seen, Arc::clone(&met)));
        Self { port, state, met, _serving: serving }
    }

    /// From here on nobody listens, and what was connected is closed.
    pub(crate) fn cut(&self) {
        self.state.send_replace(State::Refusing);
    }

    /// Still cut; but who comes is counted.
    pub(crate) fn count(&self) {
        self.met.store(0, Ordering::SeqCst);
        self.state.send_replace(State::Closing);
    }

    pub(crate) fn mend(&self) {
        self.state.send_replace(State::Open);
    }

    /// Connections since it was made, or since [`Line::count`].
    pub(crate) fn met(&self) -> u64 {
        self.met.load(Ordering::SeqCst)
    }
}

async fn serve(
    listener: TcpListener,
    port: u16,
    to: u16,
    other: Option<[String; 2]>,
    mut state: watch::Receiver<State>,
    met: Arc<AtomicU64>,
) {
    let (mut listener, mut relays) = (Some(listener), JoinSet::new());
    loop {
        let now = *state.borrow_and_update();
        if now != State::Open {
            relays.shutdown().await;
        }
        if now == State::Refusing {
            listener = None;
            if state.changed().await.is_err() {
                return;
            }
            continue;
        }
        let at = match listener.take() {
            Some(at) => at,
            None => TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free"),
        };
        tokio::select! {
            changed = state.changed() => if changed.is_err() {
                return;
            },
            Some(_) = relays.join_next() => {}
            accepted = at.accept() => if let Ok((client, _)) = accepted {
                met.fetch_add(1, Ordering::SeqCst);
                if now == State::Open {
                    relays.spawn(relay(client, to, other.clone()));
                }
            },
        }
        listener = Some(at);
    }
}

async fn relay(mut client: TcpStream, to: u16, other: Option<[String; 2]>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let Some([from, by]) = other else {
        // An error is an end.
        return drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
    };
    let ((mut asked, mut answered), (mut answers, mut asks)) = (client.split(), server.split());
    let answering = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(read @ 1..) = answers.read(&mut buffer).await {
            let text = String::from_utf8_lossy(&buffer[..read]).replace(&from, &by);
            if answered.write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = tokio::io::copy(&mut asked, &mut asks) => {}
        () = answering => {}
    }
}

/// A binary of ours in a process of its own.
pub(crate) struct Process {
    child: Child,
    what: String,
}

impl Process {
    /// `more` says the arguments and the environment.
    pub(crate) fn start(name: &str, folder: &Path, what: &str, more: impl FnOnce(&mut Command)) -> Self {
        let mut run = Command::new(binary(name));
        run.env_remove("RUST_LOG").current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
        run.stderr(std::fs::File::create(folder.join(format!("{what}.log"))).expect("a log"));
        more(&mut run);
        Self { child: run.kill_on_drop(true).spawn().expect("it starts"), what: what.to_owned() }
    }

    fn pid(&self) -> u32 {
        self.child.id().unwrap_or_else(|| panic!("{} ended", self.what))
    }

    /// Processor time so far, of all its threads, to a hundredth of a second.
    pub(crate) fn cpu(&self) -> Duration {
        const TICKS_PER_SECOND: u64 = 100;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it runs");
        let fields: Vec<&str> = stat.rsplit_once(')').expect("its name").1.split_whitespace().collect();
        // Source: proc(5): utime and stime are fields 14 and 15; the third is the first after the name.
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
    }

    /// Stops it in an orderly way, and says what it wrote if that was no good end.
    pub(crate) async fn stop(self, folder: &Path) {
        let sent = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().await.expect("kill runs");
        assert!(sent.success(), "SIGTERM to {}", self.what);
        let ended: Output = timeout(PATIENCE, self.child.wait_with_output()).await.expect("in time").expect("it ran");
        let log = std::fs::read_to_string(folder.join(format!("{}.log", self.what))).unwrap_or_default();
        assert!(ended.status.success(), "{}: {}\n{log}", self.what, ended.status);
    }
}
