//! The table, for people.

use std::fmt::Write as _;

use crate::bench::{Measured, Reached, Rounds, median, range};

/// Where it was measured.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) system: String,
    /// Programs and their versions.
    pub(crate) versions: Vec<String>,
}

impl Machine {
    pub(crate) fn look(versions: Vec<String>) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let kib = after(&read("/proc/meminfo"), "MemTotal");
        let kib: u64 = kib.trim_end_matches(" kB").parse().unwrap_or_default();
        let name = read("/etc/os-release");
        let name = name.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or_default();
        Self {
            processor: after(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: kib >> 20,
            system: format!("Linux {}, {}", read("/proc/sys/kernel/osrelease").trim(), name.trim_matches('"')),
            versions,
        }
    }
}

/// All rows as Markdown.
pub(crate) fn markdown(machine: &Machine, rows: &[Measured]) -> String {
    let mut text = String::new();
    let Machine { processor, cores, memory_gib, system, versions } = machine;
    let mut line = |line: String| text.push_str(&(line + "\n"));
    line(format!("{cores} cores ({processor}), {memory_gib} GiB, {system}."));
    line(format!("\n{}.", versions.join("; ")));
    line("\n| # | target | median | min–max | |\n|--:|---|--:|--:|---|".to_owned());
    for row in rows {
        for Reached { what, values, is_met } in &row.targets {
            let what = cell(what);
            let (least, most) = range(values);
            let verdict = match is_met {
                Some(true) => "met",
                Some(false) => "**missed**",
                None => "not measured",
            };
            line(match values[..] {
                [] => format!("| {} | {what} | | | {verdict} |", row.number),
                _ => format!(
                    "| {} | {what} | {} | {}–{} | {verdict} |",
                    row.number,
                    figure(median(values)),
                    figure(least),
                    figure(most)
                ),
            });
        }
    }
    for row in rows {
        line(String::new());
        line(of_row(row));
    }
    text
}

fn of_row(row: &Measured) -> String {
    let mut text = format!("### {}. {}\n\n{}\n", row.number, row.title, row.meaning);
    let size = if row.quick { ", small data" } else { "" };
    writeln!(text, "\n`{}`: {} rounds{size}, {}, load before {:.1}.\n", row.name, row.rounds, row.at, row.load_before)
        .expect("text takes it");
    text.push_str("| | s | min–max | CPU s | peak MiB | result |\n|---|--:|--:|--:|--:|---|\n");
    for Rounds { name, samples, is_part } in &row.contenders {
        let all = |of: fn(&crate::program::Sample) -> f64| samples.iter().map(of).collect::<Vec<f64>>();
        let seconds = all(|sample| sample.seconds);
        let (least, most) = range(&seconds);
        let mut result = samples.first().map(|sample| sample.result.clone()).unwrap_or_default();
        if *is_part {
            result = "a part of the work".to_owned();
        }
        for name in samples.first().into_iter().flat_map(|sample| sample.figures.keys()) {
            let values: Vec<f64> = samples.iter().filter_map(|sample| sample.figures.get(name).copied()).collect();
            write!(result, "{}{name} {}", if result.is_empty() { "" } else { "; " }, figure(median(&values)))
                .expect("text takes it");
        }
        writeln!(
            text,
            "| {} | {:.3} | {least:.3}–{most:.3} | {:.2} | {:.0} | {} |",
            cell(name),
            median(&seconds),
            median(&all(|sample| sample.cpu_seconds)),
            median(&all(|sample| sample.peak_mib)),
            cell(&result),
        )
        .expect("text takes it");
    }
    for missing in &row.missing {
        writeln!(text, "\nNot compared: {missing}.").expect("text takes it");
    }
    text
}

/// A pipe would end it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// Three digits that count; large numbers whole, with commas.
fn figure(value: f64) -> String {
    match value.abs() {
        1000.0.. => {
            let digits = format!("{value:.0}");
            let mut grouped = String::new();
            for (at, digit) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at) % 3 == 0 {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            grouped
        }
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_as_long_as_they_mean_something() {
        let shown = [0.953, 12.34, 123.4, 1_234_567.8].map(figure);
        assert_eq!(shown, ["0.95", "12.3", "123", "1,234,568"]);
    }
}
