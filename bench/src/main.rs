//! Waybill beside what a user would use instead: `cargo xtask bench` prepares what is compared, and runs this.
//!
//! `data` makes seeded files, `tools` says what is there. A `rows` module says for one part of the program what is compared: what a
//! row means, its targets, and a `bench` of contenders, each a `program` that is run once a round. `work` holds our side where no
//! binary of ours does just that. What was measured is kept; `report` makes the table of it.

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

use crate::{
    bench::Measured,
    data::Data,
    report::Machine,
    rows::{Row, Setting},
    tools::Tools,
};

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
    /// Print the table of all results that are kept, and measure nothing
    #[arg(long, conflicts_with_all = ["names", "list"])]
    kept: bool,
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
    let done = match cli.work {
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
    let results = cli.cache.join(if cli.quick { "quick" } else { "results" });
    let mut failed = Vec::new();
    if cli.kept {
        println!("{}", table(&results)?);
    } else {
        let (measured, not_measured) = measure(cli, &chosen, &results)?;
        println!("{measured}");
        failed = not_measured;
    }
    if let Some(path) = &cli.write {
        write(path, &table(&results)?)?;
    }
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    Ok(())
}

/// The table of the rows that are chosen, and the names of those that failed.
fn measure(cli: &Cli, chosen: &[&'static Row], results: &Path) -> Result<(String, Vec<&'static str>)> {
    let tools = Tools::look();
    let machine = Machine::look(tools.versions());
    fs::create_dir_all(results).with_context(|| results.display().to_string())?;
    let data = Data::new(std::path::absolute(cli.cache.join("data"))?)?;
    let rounds = cli.rounds.unwrap_or(if cli.quick { 3 } else { 5 }).max(1);
    let setting = Setting { tools, data, quick: cli.quick, rows: cli.rows };
    let (mut measured, mut failed) = (Vec::new(), Vec::new());
    for &row in chosen {
        eprintln!("── {}. {}", row.number, row.name);
        // One that fails stops no other.
        let one = match (row.make)(&setting).and_then(|bench| bench.measure(row.name, rounds, cli.quick)) {
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
        fs::write(kept(results, row), serde_json::to_vec_pretty(&(&machine, &one))?)?;
        measured.push((row, one));
    }
    Ok((report::markdown(&machine, &measured), failed))
}

/// Where a row's result is kept.
fn kept(results: &Path, row: &Row) -> PathBuf {
    results.join(format!("{}.json", row.name))
}

/// All results that are kept.
fn table(results: &Path) -> Result<String> {
    let mut measured: Vec<(&Row, Measured)> = Vec::new();
    let mut machine = Machine::default();
    for row in rows::ALL {
        let path = kept(results, row);
        let Ok(json) = fs::read(&path) else { continue };
        let one: (Machine, Measured) = serde_json::from_slice(&json).with_context(|| path.display().to_string())?;
        machine = one.0;
        measured.push((row, one.1));
    }
    Ok(report::markdown(&machine, &measured))
}

/// Puts a table behind the file's mark.
fn write(path: &Path, table: &str) -> Result<()> {
    const MARK: &str = "<!-- what follows is printed by the bench -->\n";
    let before = fs::read_to_string(path).unwrap_or_default();
    let head = before.split(MARK).next().unwrap_or_default();
    Ok(fs::write(path, format!("{head}{MARK}\n{table}"))?)
}
