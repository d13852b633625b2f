//! The table, for people.

use std::fmt::{self, Write as _};

use crate::{
    bench::{Measured, Reached, Rounds, median, range},
    rows::Row,
};

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
pub(crate) fn markdown(machine: &Machine, rows: &[(&Row, Measured)]) -> String {
    let mut text = String::new();
    let Machine { processor, cores, memory_gib, system, versions } = machine;
    let mut line = |line: String| text.push_str(&(line + "\n"));
    line(format!("{cores} cores ({processor}), {memory_gib} GiB, {system}."));
    line(format!("\n{}.", versions.join("; ")));
    line("\n| # | target | median | min–max | |\n|--:|---|--:|--:|---|".to_owned());
    let mut verdicts = Verdicts::default();
    for (row, measured) in rows {
        let mut last = None;
        for target in row.targets {
            let Reached { values, is_met } = target.reached(&measured.contenders);
            let verdict = verdicts.on(is_met, target.if_missed, last);
            if is_met == Some(false) {
                last = target.if_missed;
            }
            let (least, most) = range(&values);
            let what = cell(&target.to_string());
            line(match values[..] {
                [] => format!("| {} | {what} | | | {verdict} |", row.number),
                _ => format!(
                    "| {} | {what} | {} | {}–{} | {verdict} |",
                    row.number,
                    figure(median(&values)),
                    figure(least),
                    figure(most)
                ),
            });
        }
    }
    line(format!("\n{verdicts}"));
    for (row, measured) in rows {
        line(String::new());
        line(of_row(row, measured));
    }
    text
}

/// How many targets are met.
#[derive(Debug, Default)]
struct Verdicts {
    met: usize,
    explained: usize,
    unexplained: usize,
    not_measured: usize,
}

impl Verdicts {
    /// Words for a target; `last` is why the one before it was missed.
    fn on(&mut self, is_met: Option<bool>, why: Option<&str>, last: Option<&str>) -> String {
        let (count, words) = match (is_met, why) {
            (Some(true), _) => (&mut self.met, "met".to_owned()),
            (None, _) => (&mut self.not_measured, "not measured".to_owned()),
            (Some(false), None) => (&mut self.unexplained, "**missed**, and not explained".to_owned()),
            (Some(false), Some(_)) if why == last => (&mut self.explained, "**missed**, as above".to_owned()),
            (Some(false), Some(why)) => (&mut self.explained, format!("**missed**: {}", cell(why))),
        };
        *count += 1;
        words
    }
}

impl fmt::Display for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { met, explained, unexplained, not_measured } = self;
        write!(
            f,
            "Of {} targets {met} are met, {explained} are missed for the reason that is given, {unexplained} without one, and \
             {not_measured} are not measured.",
            met + explained + unexplained + not_measured
        )
    }
}

fn of_row(row: &Row, measured: &Measured) -> String {
    let Row { number, name, title, meaning, limit, .. } = row;
    let mut text = format!("### {number}. {title}\n\n{meaning}\n\n*The limit:* {limit}\n");
    let size = if measured.quick { ", small data" } else { "" };
    let Measured { rounds, at, load_before, .. } = measured;
    let rounds = if *rounds == 1 { "1 round".to_owned() } else { format!("{rounds} rounds") };
    writeln!(text, "\n`{name}`: {rounds}{size}, {at}, load before {load_before:.1}.\n").expect("text takes it");
    text.push_str("| | s | min–max | CPU s | peak MiB | result |\n|---|--:|--:|--:|--:|---|\n");
    for Rounds { name, samples, is_part } in &measured.contenders {
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
    for missing in &measured.missing {
        writeln!(text, "\nNot compared: {missing}.").expect("text takes it");
    }
    text
}

/// A pipe would end it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// Two or three digits that count; large numbers whole, with commas.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
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
        0.1.. => format!("{value:.2}"),
        0.01.. => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Figure, Target};

    #[test]
    fn figures_are_as_long_as_they_mean_something() {
        let shown = [0.0, 0.0041, 0.0382, 0.953, 12.34, 123.4, 1_234_567.8].map(figure);
        assert_eq!(shown, ["0", "0.0041", "0.038", "0.95", "12.3", "123", "1,234,568"]);
    }

    #[test]
    fn a_target_is_met_or_says_why_not() {
        const TRIAL: Row = Row {
            number: "0",
            name: "trial",
            title: "A trial",
            meaning: "It shows.",
            limit: "One.",
            targets: &[
                Target::no_more("ours", 3.0, Figure::Seconds),
                Target::no_more("ours", 1.0, Figure::Seconds).if_missed("it rests | a while"),
                Target::no_more("ours", 1.5, Figure::Seconds).if_missed("it rests | a while"),
                Target::no_more("ours", 0.5, Figure::Seconds),
                Target::at_most("ours", 1.0, "absent").if_missed("nobody knows"),
            ],
            make: |_| anyhow::bail!("nothing is measured"),
        };
        // As it was kept by an earlier version, which also kept what is said here now.
        let kept = r#"{"number":"0","name":"trial","title":"old","meaning":"old","quick":true,"at":"today","load_before":0.5,
            "rounds":1,"contenders":[{"name":"ours","is_part":false,"samples":[{"seconds":2.0,"cpu_seconds":1.0,"peak_mib":3.0,
            "result":"7"}]}],"targets":[],"missing":["peer (buy it)"]}"#;
        let text = markdown(&Machine::default(), &[(&TRIAL, serde_json::from_str(kept).unwrap())]);
        for there in [
            "| 0 | ours: ≤ 3 s | 2.00 | 2.00–2.00 | met |",
            "| 0 | ours: ≤ 1 s | 2.00 | 2.00–2.00 | **missed**: it rests \\| a while |",
            "| 0 | ours: ≤ 1.5 s | 2.00 | 2.00–2.00 | **missed**, as above |",
            "| 0 | ours: ≤ 0.5 s | 2.00 | 2.00–2.00 | **missed**, and not explained |",
            "| 0 | ours: ≤ 1 × absent | | | not measured |",
            "Of 5 targets 1 are met, 2 are missed for the reason that is given, 1 without one, and 1 are not measured.",
            "### 0. A trial\n\nIt shows.\n\n*The limit:* One.\n\n`trial`: 1 round, small data, today, load before 0.5.",
            "| ours | 2.000 | 2.000–2.000 | 1.00 | 3 | 7 |",
            "Not compared: peer (buy it).",
        ] {
            assert!(text.contains(there), "{there}: {text}");
        }
    }
}
