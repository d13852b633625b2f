//! A throw-away PostgreSQL for the tests: on a free port of loopback, in a folder that goes with it, ended by its process id.

use std::{
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::debian;

/// A server; dropped, it ends.
pub(crate) struct Postgres {
    server: Child,
    /// `postgres://waybill@127.0.0.1:PORT/postgres`, with all rights.
    pub(crate) url: String,
    /// All that it keeps.
    pub(crate) folder: PathBuf,
}

impl Postgres {
    /// Makes a cluster and starts it. PostgreSQL refuses to run as root, which then takes the user that the packages of
    /// PostgreSQL bring.
    pub(crate) fn start() -> Result<Self> {
        // What it holds is thrown away; tests kill our programs, not this one. Its write-ahead log keeps what tests wrote and
        // dropped, so that it can be looked through for tokens.
        let kept = ["max_wal_size=1536MB", "checkpoint_timeout=1h", "wal_keep_size=1024MB"];
        Self::start_with(&[&["fsync=off", "full_page_writes=off", "max_connections=300"][..], &kept].concat())
    }

    /// One that keeps what it says it keeps, with the memory that its documentation advises.
    pub(crate) fn start_durable() -> Result<Self> {
        let memory = ["shared_buffers=512MB", "work_mem=64MB", "maintenance_work_mem=256MB"];
        Self::start_with(&[&memory[..], &["max_wal_size=8GB", "checkpoint_timeout=30min"]].concat())
    }

    fn start_with(settings: &[&str]) -> Result<Self> {
        let programs = programs()?;
        let folder = std::env::temp_dir().join(format!("waybill-postgres-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let started = Self::start_in(&programs, &folder, settings);
        if started.is_err() {
            drop(std::fs::remove_dir_all(&folder));
        }
        started
    }

    fn start_in(programs: &Path, folder: &Path, settings: &[&str]) -> Result<Self> {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
        let is_root = debian::is_root();
        if is_root {
            let given = Command::new("chown").arg("postgres").arg(folder).status()?;
            ensure!(given.success(), "root cannot run PostgreSQL, and there is no user postgres");
        }
        let user = |program: &str| {
            let program = programs.join(program);
            // The server ends with us even if we are killed.
            let mut command = Command::new("setpriv");
            if is_root {
                command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
            }
            command.arg("--pdeathsig=INT").arg(program).current_dir(folder);
            command
        };
        let data = folder.join("data");
        let mut make = user("initdb");
        make.arg("-D").arg(&data).args(["-U", "waybill", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]);
        let made = make.output().context("cannot start initdb")?;
        ensure!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));

        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = std::fs::File::create(folder.join("log"))?;
        let server = user("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-h", "127.0.0.1", "-c", "unix_socket_directories="])
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start postgres")?;
        let url = format!("postgres://waybill@127.0.0.1:{port}/postgres");
        let mut postgres = Self { server, url, folder: folder.to_owned() };
        postgres.wait(programs, port)?;
        Ok(postgres)
    }

    fn wait(&mut self, programs: &Path, port: u16) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let asked = Command::new(programs.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()])
                .status()
                .context("cannot start pg_isready")?;
            if asked.success() {
                return Ok(());
            }
            if self.server.try_wait()?.is_some() || Instant::now() > until {
                let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                bail!("PostgreSQL did not start:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGINT is a fast shutdown.
        let told = Command::new("kill").args(["-INT", &self.server.id().to_string()]).status();
        if told.is_ok_and(|told| told.success()) {
            drop(self.server.wait());
        }
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// Where the programs are.
fn programs() -> Result<PathBuf> {
    if let Some(found) = find() {
        return Ok(found);
    }
    debian::install(&["postgresql"], "no PostgreSQL: the tests start one of their own")?;
    find().context("PostgreSQL was installed, but its programs are not where Debian has them")
}

fn find() -> Option<PathBuf> {
    let on_path =
        std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let mut debian: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .collect();
    debian.sort();
    debian
        .into_iter()
        .rev()
        .chain(on_path)
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
}
