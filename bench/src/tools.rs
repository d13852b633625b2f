//! What is there to be compared with. `cargo xtask bench` prepares it and says where it is.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Where things are.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// Our own binaries.
    pub(crate) ours: PathBuf,
    /// An interpreter with the peers' packages.
    pub(crate) python: Option<PathBuf>,
    /// A folder whose `node_modules` has Microsoft's SDKs and Azurite.
    pub(crate) node: Option<PathBuf>,
    /// A durable server, with all rights.
    pub(crate) postgres: Option<String>,
    /// Of the peers' programs, compiled.
    pub(crate) built: Option<PathBuf>,
    /// The peers' sources.
    pub(crate) peers: PathBuf,
}

impl Tools {
    pub(crate) fn look() -> Self {
        let variable = |name: &str| std::env::var_os(format!("WAYBILL_BENCH_{name}")).filter(|value| !value.is_empty());
        let here = std::env::current_exe().unwrap_or_default();
        Self {
            ours: here.parent().unwrap_or(Path::new(".")).to_owned(),
            python: variable("PYTHON").map(PathBuf::from),
            node: variable("NODE").map(PathBuf::from),
            postgres: variable("POSTGRES").and_then(|url| url.into_string().ok()),
            built: variable("BUILT").map(PathBuf::from),
            peers: Path::new(env!("CARGO_MANIFEST_DIR")).join("peers"),
        }
    }

    /// One of our binaries.
    pub(crate) fn ours(&self, name: &str) -> PathBuf {
        self.ours.join(name)
    }

    /// A program that is built for the bench, or else is on the path.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        let built = self.built.iter().map(|folder| folder.join(name));
        let path = std::env::var_os("PATH").unwrap_or_default();
        built.chain(std::env::split_paths(&path).map(|folder| folder.join(name))).find(|path| path.is_file())
    }

    /// One of the peers' sources.
    pub(crate) fn peer(&self, name: &str) -> PathBuf {
        self.peers.join(name)
    }

    /// Each program that is there, with what it says of its version.
    pub(crate) fn versions(&self) -> Vec<String> {
        const ASKED: [(&str, &str); 9] = [
            ("rustc", "--version"),
            ("igzip", "--version"),
            ("gzip", "--version"),
            ("pigz", "--version"),
            ("jq", "--version"),
            ("xan", "--version"),
            ("node", "--version"),
            ("sqlite3", "--version"),
            ("psql", "--version"),
        ];
        let mut versions = vec![format!("waybill {}", env!("CARGO_PKG_VERSION"))];
        for (name, flag) in ASKED {
            let Some(path) = self.program(name) else { continue };
            let Some(said) = said(Command::new(path).arg(flag)) else { continue };
            let words: Vec<&str> = said.split_whitespace().collect();
            let version = words.iter().find(|word| word.chars().any(|c| c.is_ascii_digit())).unwrap_or(&"");
            versions.push(format!("{name} {}", version.trim_start_matches(['v', '-']).trim_start_matches("jq-")));
        }
        if let Some(python) = &self.python {
            versions.extend(said(Command::new(python).arg("--version")));
            let list = said(Command::new(python).args(["-m", "pip", "list", "--format=freeze"])).unwrap_or_default();
            let wanted = std::fs::read_to_string(self.peer("requirements.txt")).unwrap_or_default();
            let names: Vec<&str> = wanted.lines().filter_map(|line| line.split(['=', '[']).next()).collect();
            let ours = list.lines().filter(|line| names.iter().any(|name| line.split("==").next() == Some(name)));
            versions.extend(ours.map(|line| line.replace("==", " ")));
        }
        if let Some(node) = &self.node {
            for name in ["@azure/service-bus", "@azure/storage-blob", "azurite"] {
                let text = std::fs::read_to_string(node.join("node_modules").join(name).join("package.json"));
                let package: Option<serde_json::Value> = text.ok().and_then(|text| serde_json::from_str(&text).ok());
                let version = package.and_then(|package| package.get("version")?.as_str().map(str::to_owned));
                versions.extend(version.map(|version| format!("{name} {version}")));
            }
        }
        if let (Some(psql), Some(server)) = (self.program("psql"), &self.postgres) {
            let version = said(Command::new(psql).args(["-qAtX", "-c", "show server_version", "-d", server]));
            let version = version.as_deref().and_then(|text| text.split_whitespace().next());
            versions.extend(version.map(|version| format!("PostgreSQL {version}")));
        }
        versions
    }
}

fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Some(String::from_utf8_lossy(&text).trim().to_owned())
}
