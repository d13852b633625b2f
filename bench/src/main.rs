//! Waybill beside what a user would use instead: `cargo xtask bench` prepares what is compared, and runs this.
//!
//! `data` makes seeded files, `tools` says what is there. A `rows` module says for one part of the program what is compared: a
//! `bench` of contenders, each a `program` that is run once a round, and targets. `work` holds our side where no binary of ours
//! does just that. `report` makes the table.

mod bench;
mod data;
mod program;
mod report;
mod rows;
mod servers;
mod tools;
mod work;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};

use crate::{bench::Measured, data::Data, report::Machine, rows::Setting, tools::Tools};

/// Measures Waybill beside what a user would use instead, and prints one table.
#[derive(Debug, Parser)]
#[command(name = "waybill-bench")]
struct Cli {
    #[command(subcommand)]
    work: Option<Work>,
    /// Only these rows, by name or number [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Small data and three rounds
    #[arg(long)]
    quick: bool,
    /// Rows of the data, whatever a row of the table asks for: to try the bench itself
    #[arg(long, hide = true)]
    rows: Option<u64>,
    /// Rounds in which every program runs once [default: 5, or 3 with --quick]
    #[arg(long)]
    rounds: Option<usize>,
    /// Name the rows, and measure nothing
    #[arg(long)]
    list: bool,
    /// Where data and results are kept
    #[arg(long, default_value = ".cache/bench", value_name = "DIR")]
    cache: PathBuf,
    /// Write the table of all results that are kept into this file
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// What the harness runs as our side of a row
    #[command(hide = true)]
    Work {
        #[command(subcommand)]
        work: work::Work,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.work {
        Some(Work::Work { work }) => work::run(work),
        None => run(&cli),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("waybill-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let chosen: Vec<_> = rows::ALL
        .iter()
        .filter(|row| cli.names.is_empty() || cli.names.iter().any(|name| name == row.name || name == row.number))
        .collect();
    if let Some(unknown) =
        cli.names.iter().find(|name| !rows::ALL.iter().any(|row| row.name == *name || row.number == *name))
    {
        let names: Vec<&str> = rows::ALL.iter().map(|row| row.name).collect();
        bail!("there is no row {unknown:?}; there are {}", names.join(", "));
    }
    if cli.list {
        for row in chosen {
            println!("{:>3}  {}", row.number, row.name);
        }
        return Ok(());
    }
    let tools = Tools::look();
    let machine = Machine::look(tools.versions());
    let results = cli.cache.join(if cli.quick { "quick" } else { "results" });
    fs::create_dir_all(&results).with_context(|| results.display().to_string())?;
    let data = Data::new(std::path::absolute(cli.cache.join("data"))?)?;
    let rounds = cli.rounds.unwrap_or(if cli.quick { 3 } else { 5 }).max(1);
    let setting = Setting { tools, data, quick: cli.quick, rows: cli.rows };
    let (mut measured, mut failed) = (Vec::new(), Vec::new());
    for row in chosen {
        eprintln!("── {}. {}", row.number, row.name);
        // One that fails stops no other.
        let one = match (row.make)(&setting).and_then(|bench| bench.measure(rounds, cli.quick)) {
            Ok(one) => one,
            Err(error) => {
                eprintln!("   failed: {error:#}");
                failed.push(row.name);
                continue;
            }
        };
        for missing in &one.missing {
            eprintln!("   not compared: {missing}");
        }
        fs::write(results.join(format!("{}.json", row.name)), serde_json::to_vec_pretty(&(&machine, &one))?)?;
        measured.push(one);
    }
    println!("{}", report::markdown(&machine, &measured));
    if let Some(path) = &cli.write {
        write(path, &results)?;
    }
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    Ok(())
}

/// Puts the table of all results that are kept behind the file's mark.
fn write(path: &Path, results: &Path) -> Result<()> {
    const MARK: &str = "<!-- what follows is printed by the bench -->\n";
    let mut measured: Vec<Measured> = Vec::new();
    let mut machine = Machine::default();
    for row in rows::ALL {
        let Ok(json) = fs::read(results.join(format!("{}.json", row.name))) else { continue };
        let kept: (Machine, Measured) = serde_json::from_slice(&json)?;
        machine = kept.0;
        measured.push(kept.1);
    }
    let before = fs::read_to_string(path).unwrap_or_default();
    let head = before.split(MARK).next().unwrap_or_default();
    fs::write(path, format!("{head}{MARK}\n{}", report::markdown(&machine, &measured)))?;
    Ok(())
}
