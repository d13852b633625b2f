//! The bus of `waybill-local` under our own client, each in a process of its own, with 1 KiB messages on loopback: messages
//! a second, the server's CPU per message, its memory, and what it costs while nothing happens.
//! `cargo bench -p waybill-cli --bench bus [-- MESSAGES]`
//!
//! On a busy machine rates say little; the CPU per message is steadier.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use waybill_azure::{
    bus::{Bus, BusOptions, Delivery, Message, Receiver, ReceiverOptions, Settlement},
    connection_string::key_tokens,
};
use waybill_contracts::ReadyFile;

/// Messages that wait at once, unless the command line says otherwise.
const MESSAGES: usize = 100_000;
const BATCH: usize = 100;
/// Calls of `send` under way at once, so that the sender need not wait for each answer.
const SENDS: usize = 4;
/// Deliveries that are under way or wait in the client.
const PREFETCH: u32 = 1_000;
const SUBSCRIPTION: &str = "exports/subscriptions/acme";
/// As Linux counts CPU time in `/proc` (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

fn main() -> Result<()> {
    let asked = std::env::args().skip(1).find_map(|arg| arg.parse().ok());
    let messages: usize = asked.unwrap_or(MESSAGES).next_multiple_of(SENDS * BATCH);
    let mut starts = Vec::new();
    for _ in 0..5 {
        starts.push(Server::start()?.ready_after);
    }
    starts.sort();
    println!("start to ready: {:.0?} ({:.0?} to {:.0?} in 5 starts)", starts[2], starts[0], starts[4]);

    let server = Server::start()?;
    let before = Usage::of(server.pid())?;
    std::thread::sleep(Duration::from_secs(5));
    let idle = Usage::of(server.pid())?;
    println!("idle: {:?} of CPU in 5 s, {} MB resident", idle.cpu - before.cpu, idle.resident >> 20);

    tokio::runtime::Runtime::new()?.block_on(measure(&server, messages))
}

async fn measure(server: &Server, messages: usize) -> Result<()> {
    let mut sum = Duration::ZERO;
    let bus = server.bus(SUBSCRIPTION)?;
    for (how, burst) in [("completed one by one", 1), ("completed in bursts of up to 100", 100)] {
        let meter = Meter::start(server)?;
        send(&server.bus("exports")?, messages).await?;
        sum += meter.stop(&format!("sent in batches of {BATCH}"), messages)?;
        println!("  {} MB resident with {messages} waiting", Usage::of(server.pid())?.resident >> 20);

        let mut receiver = bus.receiver(ReceiverOptions::default()).await?;
        let meter = Meter::start(server)?;
        receive(&mut receiver, messages, burst).await?;
        sum += meter.stop(&format!("received and {how}"), messages)?;
        println!("  both ways together {:.1} µs of the server's CPU", micros(sum, messages));
        sum = Duration::ZERO;
        receiver.close().await;
    }
    bus.close().await;
    Ok(())
}

async fn send(bus: &Bus, messages: usize) -> Result<()> {
    let sender = bus.sender().await?;
    let body = vec![b'x'; 1024];
    let calls = (0..SENDS).map(async |call| {
        for number in 0..messages / SENDS / BATCH {
            let batch: Vec<Message> = (0..BATCH)
                .map(|index| Message {
                    body: body.clone().into(),
                    message_id: format!("{call}-{number}-{index}"),
                    ..Message::default()
                })
                .collect();
            sender.send(&batch).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(calls).await?;
    drop(sender);
    bus.close().await;
    Ok(())
}

async fn receive(receiver: &mut Receiver, messages: usize, burst: usize) -> Result<()> {
    receiver.add_credit(PREFETCH).await?;
    let (mut received, mut used) = (0, 0);
    let mut tags = Vec::with_capacity(burst);
    while received < messages {
        let Delivery { tag, body, .. } = receiver.next().await?;
        ensure!(body.is_some_and(|body| body.len() == 1024), "a message came back otherwise");
        tags.push(tag);
        while tags.len() < burst
            && let Some(more) = receiver.try_next()
        {
            tags.push(more.tag);
        }
        receiver.settle(&tags, &Settlement::Complete).await?;
        received += tags.len();
        used += u32::try_from(tags.len())?;
        tags.clear();
        if used >= PREFETCH / 2 {
            receiver.add_credit(std::mem::take(&mut used)).await?;
        }
    }
    Ok(())
}

/// `waybill-local` in a process of its own.
struct Server {
    child: Child,
    ready: ReadyFile,
    ready_after: Duration,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("local.json");
        let began = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_waybill-local"))
            .args(["run", "--random-ports", "--ready-file"])
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        while !path.exists() {
            if began.elapsed() > Duration::from_secs(20) || child.try_wait()?.is_some() {
                child.kill()?;
                child.wait()?;
                bail!("waybill-local did not become ready");
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let ready_after = began.elapsed();
        let ready = serde_json::from_slice(&fs::read(&path)?)?;
        Ok(Self { child, ready, ready_after, _folder: folder })
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn bus(&self, entity: &str) -> Result<Bus> {
        let ready = &self.ready;
        let tokens = key_tokens(
            ready.service_bus_connection_string.parse()?,
            entity.to_owned(),
            ready.blob_connection_string.parse()?,
            ready.container.clone(),
            Duration::from_hours(1),
        );
        Ok(Bus::new(tokens, BusOptions::default()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for result in [self.child.kill(), self.child.wait().map(drop)] {
            if let Err(error) = result {
                eprintln!("waybill-local did not end: {error}");
            }
        }
    }
}

/// What a process has used.
struct Usage {
    cpu: Duration,
    resident: u64,
}

impl Usage {
    fn of(pid: u32) -> Result<Self> {
        let folder = Path::new("/proc").join(pid.to_string());
        let stat =
            fs::read_to_string(folder.join("stat")).context("CPU and memory are read from /proc, as Linux has it")?;
        // The second field is the name in brackets and may hold anything; utime is the 14th, stime the 15th.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u32>().ok()).unwrap_or_default();
        let status = fs::read_to_string(folder.join("status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let kib: u64 = resident.trim().trim_end_matches(" kB").parse()?;
        Ok(Self { cpu: TICK * (ticks(11) + ticks(12)), resident: kib << 10 })
    }
}

/// Measures a stretch of work.
struct Meter {
    server: u32,
    began: Instant,
    before: [Duration; 2],
}

impl Meter {
    fn start(server: &Server) -> Result<Self> {
        let server = server.pid();
        let before = [Usage::of(server)?.cpu, Usage::of(std::process::id())?.cpu];
        Ok(Self { server, began: Instant::now(), before })
    }

    /// Prints the rate, and returns the server's CPU time.
    fn stop(self, what: &str, messages: usize) -> Result<Duration> {
        let took = self.began.elapsed();
        let server = Usage::of(self.server)?.cpu - self.before[0];
        let client = Usage::of(std::process::id())?.cpu - self.before[1];
        println!(
            "{what}: {:.0} messages/s; CPU per message {:.1} µs of the server, {:.1} µs of the client",
            messages as f64 / took.as_secs_f64(),
            micros(server, messages),
            micros(client, messages),
        );
        Ok(server)
    }
}

fn micros(time: Duration, messages: usize) -> f64 {
    time.as_secs_f64() * 1e6 / messages as f64
}
