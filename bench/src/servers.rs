//! Servers that rows need, each in a process of its own that ends with its owner.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use waybill_contracts::ReadyFile;

use crate::{program::Program, tools::Tools};

/// Until a server listens.
const PATIENCE: Duration = Duration::from_secs(60);

/// `waybill-local`, with a subscription for each who reads.
pub(crate) struct Local {
    process: Ended,
    binary: PathBuf,
    pub(crate) ready: ReadyFile,
    pub(crate) ready_path: PathBuf,
    _folder: TempDir,
}

impl Local {
    pub(crate) fn start(tools: &Tools, subscriptions: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (config, ready_path) = (folder.path().join("local.toml"), folder.path().join("ready.json"));
        // A peer that takes a hundred messages works for a while until it settles the last of them.
        let mut text = "lock_duration_ms = 300000\nqueues = [\"bench\"]\n".to_owned();
        for name in subscriptions {
            text.push_str(&format!("[[tenants]]\nname = \"{name}\"\n"));
        }
        fs::write(&config, text)?;
        let binary = tools.ours("waybill-local");
        let mut command = Command::new(&binary);
        command.args(["run", "--random-ports", "--config"]).arg(&config).arg("--ready-file").arg(&ready_path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).env("RUST_LOG", "error");
        let mut process = Ended(command.spawn().context("waybill-local cannot be started")?);
        let began = Instant::now();
        while !ready_path.exists() {
            if let Some(status) = process.0.try_wait()? {
                bail!("waybill-local ended before it was ready ({status})");
            }
            ensure!(began.elapsed() < PATIENCE, "waybill-local did not become ready");
            std::thread::sleep(Duration::from_millis(5));
        }
        let ready = serde_json::from_slice(&fs::read(&ready_path)?)?;
        Ok(Self { process, binary, ready, ready_path, _folder: folder })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Messages of an entity that were not settled.
    pub(crate) fn left(&self, entity: &str) -> Result<u64> {
        let look = Program::new(&self.binary).args(["status", "--format", "json", "--local"]).args([&self.ready_path]);
        let status: serde_json::Value = serde_json::from_str(&look.output()?)?;
        let entities = status["entities"].as_array().context("waybill-local lists no entities")?;
        let found = entities.iter().find(|one| one["path"].as_str() == Some(entity));
        let counts = &found.with_context(|| format!("waybill-local has no {entity}"))?["counts"];
        let count = |name: &str| counts[name].as_u64().with_context(|| format!("{entity} counts no {name}"));
        Ok(count("active")? + count("locked")?)
    }
}

/// Microsoft's emulator of Blob Storage.
pub(crate) struct Azurite {
    _process: Ended,
    /// Stays open, so that it never writes into a closed pipe.
    _output: BufReader<ChildStdout>,
    pub(crate) connection_string: String,
    _folder: TempDir,
}

impl Azurite {
    /// Starts it from the packages in `node`.
    pub(crate) fn start(node: &Path) -> Result<Self> {
        // Source: Azurite's manual, "Default storage account".
        const ACCOUNT: &str = "AccountName=devstoreaccount1;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
        let folder = tempfile::tempdir()?;
        let mut command = Command::new("node");
        command.arg(node.join("node_modules/azurite/dist/src/blob/main.js"));
        command.args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--silent", "--skipApiVersionCheck"]);
        command.args(["--disableTelemetry", "--location"]).arg(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Ended(command.spawn().context("node cannot be started")?);
        let mut output = BufReader::new(process.0.stdout.take().context("its output is ours")?);
        loop {
            let mut line = String::new();
            ensure!(output.read_line(&mut line)? > 0, "Azurite ended before it listened");
            if let Some((_, address)) = line.split_once("successfully listens on ") {
                let endpoint = format!("{}/devstoreaccount1", address.trim());
                let connection_string = format!("DefaultEndpointsProtocol=http;{ACCOUNT};BlobEndpoint={endpoint};");
                return Ok(Self { _process: process, _output: output, connection_string, _folder: folder });
            }
        }
    }
}

/// A process that ends when it is dropped.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        for result in [self.0.kill(), self.0.wait().map(drop)] {
            if let Err(error) = result {
                eprintln!("   process {} does not end: {error}", self.0.id());
            }
        }
    }
}
