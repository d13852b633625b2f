//! A program run once, and what it took.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use wait4::Wait4 as _;

/// What is run.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    argv: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    output: Option<PathBuf>,
}

/// What it took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// From the start of the program to its end, or what the program says of itself.
    pub(crate) seconds: f64,
    /// Of all its processes, in user and kernel mode.
    pub(crate) cpu_seconds: f64,
    /// The largest of its processes. A pipe's programs are not added up.
    pub(crate) peak_mib: f64,
    /// What it found out: programs that do the same work say the same here.
    pub(crate) result: String,
    /// What else it said.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) figures: BTreeMap<String, f64>,
}

/// The last line of a program that measures itself, because its start is no part of the work.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Said {
    /// Instead of the time from start to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seconds: Option<f64>,
    /// As in [`Sample`].
    #[serde(default)]
    pub(crate) result: String,
    /// As in [`Sample`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) figures: BTreeMap<String, f64>,
}

impl Program {
    pub(crate) fn new(program: impl AsRef<Path>) -> Self {
        Self { argv: vec![program.as_ref().into()], envs: Vec::new(), output: None }
    }

    /// A line for bash, where a failing member of a pipe fails all of it. Paths are its arguments: `"$1"`, `"$@"`.
    pub(crate) fn shell(line: &str) -> Self {
        Self::new("bash").args(["-o", "pipefail", "-c", line, "bash"])
    }

    pub(crate) fn args(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.argv.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub(crate) fn arg(self, argument: impl Into<OsString>) -> Self {
        self.args([argument])
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.envs.push((name.into(), value.into()));
        self
    }

    /// Sends standard output to a file; there is no result then, but what the bench finds in the file.
    pub(crate) fn output_to(mut self, path: &Path) -> Self {
        self.output = Some(path.to_owned());
        self
    }

    /// On one processor.
    pub(crate) fn on_one_core(mut self) -> Self {
        self.argv.splice(0..0, ["taskset", "-c", "0"].map(OsString::from));
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It cannot be started, or says that it failed.
    pub(crate) fn run(&self) -> Result<Sample> {
        let (program, arguments) = self.argv.split_first().context("no program is named")?;
        let shown = program.to_string_lossy();
        let mut command = Command::new(program);
        command.args(arguments).envs(self.envs.iter().cloned()).stdin(Stdio::null());
        match &self.output {
            Some(path) => command.stdout(File::create(path).with_context(|| path.display().to_string())?),
            None => command.stdout(Stdio::piped()),
        };
        forget_own_peak();
        let began = Instant::now();
        let mut child = command.spawn().with_context(|| format!("{shown} cannot be started"))?;
        let mut said = String::new();
        if let Some(output) = &mut child.stdout {
            output.read_to_string(&mut said).with_context(|| format!("{shown} does not write text"))?;
        }
        let used = child.wait4()?;
        let seconds = began.elapsed().as_secs_f64();
        if !used.status.success() {
            bail!("{} failed ({})", self.shown(), used.status);
        }
        let last = said.trim_end().lines().next_back().unwrap_or_default();
        let said = serde_json::from_str::<Said>(last)
            .unwrap_or_else(|_| Said { result: last.trim().to_owned(), ..Said::default() });
        Ok(Sample {
            seconds: said.seconds.unwrap_or(seconds),
            cpu_seconds: (used.rusage.utime + used.rusage.stime).as_secs_f64(),
            peak_mib: used.rusage.maxrss as f64 / f64::from(1 << 20),
            result: said.result,
            figures: said.figures,
        })
    }

    /// Runs it untimed, and gives what it prints.
    ///
    /// # Errors
    /// As [`Program::run`].
    pub(crate) fn output(&self) -> Result<String> {
        let (program, arguments) = self.argv.split_first().context("no program is named")?;
        let mut command = Command::new(program);
        command.args(arguments).envs(self.envs.iter().cloned()).stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = command.output().with_context(|| format!("{} cannot be started", program.to_string_lossy()))?;
        if !output.status.success() {
            bail!("{} failed ({})", self.shown(), output.status);
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn shown(&self) -> String {
        let words: Vec<_> = self.argv.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }
}

/// A process begins with the peak memory of the one that starts it, until it has passed that itself.
/// Source: proc(5), `/proc/PID/clear_refs`.
fn forget_own_peak() {
    // Where it cannot be, the figures are the larger of the two.
    let _is_kept = std::fs::write("/proc/self/clear_refs", "5");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_measures_itself_is_believed_and_the_others_are_measured() {
        let line = r#"sleep 0.05; echo noise; echo '{"seconds":7.5,"result":"42","figures":{"bytes":3}}'"#;
        let said = Program::shell(line).run().unwrap();
        assert_eq!((said.seconds, said.result.as_str(), said.figures["bytes"]), (7.5, "42", 3.0));
        let measured = Program::shell("sleep 0.05; echo 42").run().unwrap();
        assert!(measured.seconds >= 0.05 && measured.peak_mib > 0.1);
        assert_eq!(measured.result, "42");
    }

    #[test]
    fn the_processor_time_and_the_memory_of_a_pipes_programs_count() {
        let burn = "i=0; while ((i < 200000)); do ((i += 1)); done";
        let sample = Program::shell(&format!("({burn}) | cat")).run().unwrap();
        assert!(sample.cpu_seconds > 0.02, "{sample:?}");
    }

    #[test]
    fn a_pipe_of_which_one_program_fails_has_failed() {
        let error = Program::shell("false | cat").run().unwrap_err();
        assert!(error.to_string().contains("false | cat"), "{error}");
    }
}
