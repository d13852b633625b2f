//! Microsoft's own clients, and others, against `local`: every operation by every client, each a named case.
//!
//! A suite is a list of operations. A client is a script of `python/` or `node/` that has a case for each and prints a JSON
//! object per case and line: `case`, `outcome` (`passed`, `failed`, `absent`) and `detail`. `absent` is what an SDK does
//! not have, and says why. A case that the client forgot, or that the list does not have, fails the suite: nothing is
//! skipped silently. What comes out is a table of operation × client.

mod azurite;
mod blob;
mod bus;
mod tokens;

use std::{collections::BTreeMap, fmt::Write as _, io::Write as _, process::Stdio, time::Duration};

use serde::Deserialize;
use tokio::{process::Command, time::timeout};

use crate::harness::{here, node_packages, python};

/// For all cases of one client. Each has its own, shorter limit.
const CLIENT_PATIENCE: Duration = Duration::from_secs(600);

/// What a client made of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed(String),
    Absent(String),
}

/// A line that a client's script prints.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    case: String,
    outcome: String,
    #[serde(default)]
    detail: String,
}

/// Operations, and what each client made of them.
pub(crate) struct Suite {
    title: &'static str,
    operations: &'static [&'static str],
    clients: Vec<(&'static str, BTreeMap<String, Outcome>)>,
    problems: Vec<String>,
}

/// A script of `python/` under the interpreter that has Microsoft's SDKs.
pub(crate) fn python_client(script: &str) -> Command {
    let mut command = Command::new(python());
    command.arg(here().join("python").join(script));
    command
}

/// A script of `node/` that finds Microsoft's SDKs.
pub(crate) fn node_client(script: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(here().join("node").join(script)).env("NODE_PATH", node_packages().join("node_modules"));
    command
}

impl Suite {
    pub(crate) fn new(title: &'static str, operations: &'static [&'static str]) -> Self {
        Self { title, operations, clients: Vec::new(), problems: Vec::new() }
    }

    /// Runs a client's script and keeps what it reports.
    pub(crate) async fn run(&mut self, client: &'static str, mut command: Command) {
        // Everything is on this machine, whatever proxy the environment names.
        command.env("NO_PROXY", "127.0.0.1,localhost").stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(CLIENT_PATIENCE, command.output()).await.expect("a client ends in time");
        let output = output.expect("the client's language is installed");
        let mut outcomes = BTreeMap::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            match serde_json::from_str::<Report>(line) {
                Ok(report) => self.note(client, report, &mut outcomes),
                Err(error) => self.problems.push(format!("{client}: {line:?} is no report: {error}")),
            }
        }
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            self.problems.push(format!("{client} ended with {}:\n{said}", output.status));
        }
        for forgotten in self.operations.iter().filter(|operation| !outcomes.contains_key(**operation)) {
            self.problems.push(format!("{client}: no case for {forgotten}"));
        }
        self.clients.push((client, outcomes));
    }

    fn note(&mut self, client: &str, report: Report, outcomes: &mut BTreeMap<String, Outcome>) {
        let Report { case, outcome, detail } = report;
        let outcome = match outcome.as_str() {
            "passed" => Outcome::Passed,
            "absent" if !detail.is_empty() => Outcome::Absent(detail),
            other => {
                self.problems.push(format!("{client}: {case} {other}: {detail}"));
                Outcome::Failed(detail)
            }
        };
        if !self.operations.contains(&case.as_str()) {
            self.problems.push(format!("{client}: {case} is not in the list of operations"));
        }
        if outcomes.insert(case.clone(), outcome).is_some() {
            self.problems.push(format!("{client}: two reports of {case}"));
        }
    }

    /// Prints the table, also when the test passes.
    ///
    /// # Panics
    /// When anything failed or was forgotten; the text says what.
    pub(crate) fn finish(self) {
        // Not `println!`, which a passing test keeps to itself.
        std::io::stdout().write_all(self.table().as_bytes()).expect("standard output");
        assert!(self.problems.is_empty(), "{}:\n{}", self.title, self.problems.join("\n"));
    }

    fn table(&self) -> String {
        let first = self.operations.iter().map(|name| name.len()).max().unwrap_or(0);
        let mut table = format!("\n{}\n{:first$}", self.title, "");
        for (client, _) in &self.clients {
            table.extend(["  ", client]);
        }
        table.push('\n');
        let mut reasons = Vec::new();
        for operation in self.operations {
            _ = write!(table, "{operation:first$}");
            for (client, outcomes) in &self.clients {
                let shown = match outcomes.get(*operation) {
                    Some(Outcome::Passed) => "passed",
                    Some(Outcome::Failed(_)) => "FAILED",
                    Some(Outcome::Absent(reason)) => {
                        reasons.push(format!("{client} has no {operation}: {reason}\n"));
                        "absent"
                    }
                    None => "FORGOTTEN",
                };
                _ = write!(table, "  {shown:width$}", width = client.len());
            }
            table.truncate(table.trim_end().len());
            table.push('\n');
        }
        table.extend(reasons);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(lines: &str) -> Suite {
        let mut suite = Suite::new("two operations", &["put", "get"]);
        let mut command = Command::new("printf");
        command.arg("%s").arg(lines);
        suite.run("a client", command).await;
        suite
    }

    #[tokio::test]
    async fn a_table_has_a_row_for_each_operation_and_says_what_is_absent_and_why() {
        let suite = told(
            "{\"case\":\"put\",\"outcome\":\"passed\"}\n\
             {\"case\":\"get\",\"outcome\":\"absent\",\"detail\":\"write-only\"}\n",
        )
        .await;
        assert!(suite.problems.is_empty(), "{:?}", suite.problems);
        assert_eq!(
            suite.table(),
            "\ntwo operations\n     a client\nput  passed\nget  absent\na client has no get: write-only\n"
        );
    }

    #[tokio::test]
    async fn what_failed_was_forgotten_or_is_unknown_is_a_problem() {
        for (lines, problem) in [
            ("{\"case\":\"put\",\"outcome\":\"passed\"}\n", "no case for get"),
            ("{\"case\":\"put\",\"outcome\":\"failed\",\"detail\":\"boom\"}\n", "put failed: boom"),
            ("{\"case\":\"list\",\"outcome\":\"passed\"}\n", "list is not in the list of operations"),
            ("{\"case\":\"put\",\"outcome\":\"absent\"}\n", "put absent: "),
            ("warning\n", "is no report"),
            (
                "{\"case\":\"put\",\"outcome\":\"passed\"}\n{\"case\":\"put\",\"outcome\":\"passed\"}\n",
                "two reports of put",
            ),
        ] {
            let suite = told(lines).await;
            assert!(suite.problems.iter().any(|found| found.contains(problem)), "{problem}: {:?}", suite.problems);
        }
    }
}
