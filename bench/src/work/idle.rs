//! What processes use that have nothing to do.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{beside::processor_seconds, result};
use crate::{program::Said, servers::Ended};

/// What one of ours says on standard error when it can be asked.
const SAYS: &str = ": health and metrics at http://";
/// Until it is ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether it is.
const LOOK: Duration = Duration::from_millis(50);

/// One of ours that is to run with `--health`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Idler {
    /// Of its figure.
    pub(crate) name: String,
    pub(crate) command: Vec<String>,
}

/// Runs them beside each other; says what each of them uses, in percent of a core.
pub(super) fn idle(settle_seconds: u64, seconds: u64, processes: &str) -> Result<Said> {
    let idlers: Vec<Idler> = serde_json::from_str(processes)?;
    let logs = tempfile::tempdir()?;
    let started = idlers.into_iter().enumerate().map(|(nth, idler)| Running::start(idler, nth, &logs));
    let mut running = started.collect::<Result<Vec<_>>>()?;
    for process in &mut running {
        process.until_ready()?;
    }
    // The first looks around are over then.
    sleep(Duration::from_secs(settle_seconds));
    let before = running.iter().map(Running::used).collect::<Result<Vec<f64>>>()?;
    let began = Instant::now();
    sleep(Duration::from_secs(seconds));
    let after = running.iter().map(Running::used).collect::<Result<Vec<f64>>>()?;
    let lasted = began.elapsed().as_secs_f64();
    for process in &mut running {
        let ready = process.is_ready()?;
        ensure!(ready, "{} is not ready any more: {}", process.name, process.log());
    }
    let used = before.iter().zip(after).map(|(before, after)| (after - before) / lasted * 100.0);
    let figures = running.iter().map(|process| process.name.clone()).zip(used).collect();
    Ok(Said { seconds: Some(lasted), figures, ..result("they are ready, and wait") })
}

struct Running {
    name: String,
    process: Ended,
    log: PathBuf,
    /// Where it answers.
    address: Option<String>,
}

impl Running {
    fn start(Idler { name, command }: Idler, nth: usize, logs: &TempDir) -> Result<Self> {
        let (program, arguments) = command.split_first().context("no program is named")?;
        let log = logs.path().join(format!("{nth}.log"));
        let mut start = Command::new(program);
        start.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let process = Ended(start.spawn().with_context(|| format!("{program} cannot be started"))?);
        Ok(Self { name, process, log, address: None })
    }

    fn until_ready(&mut self) -> Result<()> {
        let began = Instant::now();
        while !self.is_ready()? {
            if let Some(status) = self.process.0.try_wait()? {
                bail!("{} ended ({status}): {}", self.name, self.log());
            }
            ensure!(began.elapsed() < PATIENCE, "{} does not get ready: {}", self.name, self.log());
            sleep(LOOK);
        }
        Ok(())
    }

    fn is_ready(&mut self) -> Result<bool> {
        if self.address.is_none() {
            self.address = self.log().lines().find_map(|line| Some(line.split_once(SAYS)?.1.trim().to_owned()));
        }
        let Some(address) = &self.address else { return Ok(false) };
        let mut asked = TcpStream::connect(address).with_context(|| format!("{} does not answer", self.name))?;
        write!(asked, "GET /health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        asked.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200 "))
    }

    fn used(&self) -> Result<f64> {
        processor_seconds(self.process.0.id())
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}
