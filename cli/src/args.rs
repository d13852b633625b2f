//! Flags that every binary understands, and how it logs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tracing_subscriber::{EnvFilter, fmt};

/// Flags common to all commands of the publisher, the subscriber and the republisher.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Settings file [default: waybill.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of our own state [default: .waybill]
    #[arg(long, global = true, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Take every endpoint and credential from the file that `waybill-local run --ready-file` writes; waits for it
    #[arg(long, global = true, value_name = "READY_FILE")]
    pub local: Option<PathBuf>,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// How log lines are written; RUST_LOG sets their level [default level: warn]
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log: LogFormat,
}

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables and sentences.
    Text,
    /// One JSON document.
    Json,
}

/// `--log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object per line.
    Json,
}

/// Sends logs to standard error: `default_level` for our own crates unless `RUST_LOG` says otherwise.
pub fn start_logs(format: LogFormat, default_level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        let ours = ["azure", "cli", "formats", "local", "publisher", "republish", "store", "subscriber"];
        let directives: Vec<String> =
            ours.iter().map(|name| format!("waybill_{name}={default_level}")).chain(["warn".to_owned()]).collect();
        EnvFilter::new(directives.join(","))
    });
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => {
            use std::io::IsTerminal;
            builder.with_ansi(std::io::stderr().is_terminal()).init();
        }
        LogFormat::Json => builder.json().init(),
    }
}

/// A number of seconds, with or without a fraction.
///
/// # Errors
/// It is no number, or none that a time can be.
pub fn seconds(text: &str) -> Result<std::time::Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    std::time::Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
