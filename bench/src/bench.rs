//! One row of the table being measured: what is compared, how often, and what it should come to.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::program::{Program, Sample};

/// A row of the table, ready to be measured.
pub(crate) struct Bench {
    pub(crate) contenders: Vec<Contender>,
    /// What could not be had, and how to get it.
    pub(crate) missing: Vec<String>,
    /// Servers and folders that live as long as the row is measured.
    pub(crate) keep: Vec<Box<dyn std::any::Any>>,
}

type Before = Box<dyn Fn() -> Result<()>>;
type Check = Box<dyn Fn(&Sample) -> Result<String>>;

/// One way to do the work.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    /// Done before each run, not timed.
    before: Option<Before>,
    outcome: Outcome,
    /// It answers a question of its own: its result is compared with nobody's.
    is_alone: bool,
    /// In how many rounds it takes part, if not in all: for what takes long, and is far from the others. Of a quick run in one.
    rounds_max: usize,
}

/// How it is known that it did the work.
enum Outcome {
    /// It says so.
    Said,
    /// By looking at what it left, not timed.
    Found(Check),
    /// It does only a part of the work, and nothing is compared.
    Part,
}

impl Contender {
    pub(crate) fn new(name: &'static str, program: Program) -> Self {
        Self { name, program, before: None, outcome: Outcome::Said, is_alone: false, rounds_max: usize::MAX }
    }

    /// Nobody else answers its question.
    pub(crate) fn alone(mut self) -> Self {
        self.is_alone = true;
        self
    }

    /// It does less than the others: a bound on what they can reach.
    pub(crate) fn part_of_the_work(mut self) -> Self {
        self.outcome = Outcome::Part;
        self
    }

    pub(crate) fn before(mut self, before: impl Fn() -> Result<()> + 'static) -> Self {
        self.before = Some(Box::new(before));
        self
    }

    pub(crate) fn found_by(mut self, check: impl Fn(&Sample) -> Result<String> + 'static) -> Self {
        self.outcome = Outcome::Found(Box::new(check));
        self
    }

    pub(crate) fn at_most_rounds(mut self, rounds: usize) -> Self {
        self.rounds_max = rounds;
        self
    }
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    Seconds,
    /// The largest process.
    PeakMib,
    /// What the program says of itself under this name.
    Said(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    /// Ours over the other one's.
    AtMost(f64),
    /// The other one's over ours: so many times as fast.
    AtLeast(f64),
}

/// What it should come to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) ours: &'static str,
    pub(crate) figure: Figure,
    pub(crate) bound: Bound,
    /// Without, the figure itself is bounded.
    pub(crate) other: Option<&'static str>,
    /// What bounds it, as far as it is known.
    pub(crate) if_missed: Option<&'static str>,
}

impl Target {
    const fn new(ours: &'static str, figure: Figure, bound: Bound, other: Option<&'static str>) -> Self {
        Self { ours, figure, bound, other, if_missed: None }
    }

    /// Ours takes at most so many times what the other one takes.
    pub(crate) const fn at_most(ours: &'static str, times: f64, other: &'static str) -> Self {
        Self::new(ours, Figure::Seconds, Bound::AtMost(times), Some(other))
    }

    /// Ours is at least so many times as fast as the other one.
    pub(crate) const fn at_least(ours: &'static str, times: f64, other: &'static str) -> Self {
        Self::new(ours, Figure::Seconds, Bound::AtLeast(times), Some(other))
    }

    pub(crate) const fn of(self, figure: Figure) -> Self {
        Self { figure, ..self }
    }

    /// The figure itself is at most this.
    pub(crate) const fn no_more(ours: &'static str, most: f64, figure: Figure) -> Self {
        Self::new(ours, figure, Bound::AtMost(most), None)
    }

    /// The figure itself is at least this.
    pub(crate) const fn no_less(ours: &'static str, least: f64, figure: Figure) -> Self {
        Self::new(ours, figure, Bound::AtLeast(least), None)
    }

    /// Says what bounds it, for a table in which it is missed. `docs/performance.md` has more of it.
    pub(crate) const fn if_missed(self, why: &'static str) -> Self {
        Self { if_missed: Some(why), ..self }
    }
}

/// What a row came to. What it means and should come to is said when the table is printed: it may be known better by then.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) quick: bool,
    pub(crate) at: String,
    pub(crate) load_before: f64,
    pub(crate) rounds: usize,
    pub(crate) contenders: Vec<Rounds>,
    pub(crate) missing: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rounds {
    pub(crate) name: String,
    pub(crate) is_part: bool,
    pub(crate) samples: Vec<Sample>,
}

/// What came of a target.
#[derive(Debug, Clone)]
pub(crate) struct Reached {
    /// In each round in which both took part.
    pub(crate) values: Vec<f64>,
    /// `None`: the other one is not here, or did not say it.
    pub(crate) is_met: Option<bool>,
}

impl Bench {
    /// Runs every contender once in each round, one after the other.
    ///
    /// # Errors
    /// A program failed, or came to another result than the first one.
    pub(crate) fn measure(self, row: &str, rounds: usize, quick: bool) -> Result<Measured> {
        let load_before = load();
        let at = now();
        let mut measured: Vec<Rounds> = self.contenders.iter().map(Rounds::of).collect();
        let mut agreed: Option<(&'static str, String)> = None;
        for round in 0..rounds {
            for (contender, measured) in self.contenders.iter().zip(&mut measured) {
                let most = if quick && contender.rounds_max < usize::MAX { 1 } else { contender.rounds_max };
                if round >= most {
                    continue;
                }
                let name = contender.name;
                let failed = || format!("{row}: {name}");
                if let Some(before) = &contender.before {
                    before().with_context(failed)?;
                }
                let mut sample = contender.program.run().with_context(failed)?;
                match &contender.outcome {
                    Outcome::Part => sample.result.clear(),
                    Outcome::Said => {}
                    Outcome::Found(check) => sample.result = check(&sample).with_context(failed)?,
                }
                ensure!(measured.is_part || !sample.result.is_empty(), "{row}: {name} comes to nothing");
                if !measured.is_part && !contender.is_alone {
                    let (first, result) = agreed.get_or_insert_with(|| (name, sample.result.clone()));
                    ensure!(
                        *result == sample.result,
                        "{row}: {name} comes to {:?}, and {first} to {result:?}: they do not do the same work",
                        sample.result
                    );
                }
                eprintln!(
                    "   {}/{rounds} {name:36} {:9.3} s {:8.2} s of CPU {:8.1} MiB",
                    round + 1,
                    sample.seconds,
                    sample.cpu_seconds,
                    sample.peak_mib
                );
                measured.samples.push(sample);
            }
        }
        drop(self.keep);
        let (name, contenders) = (row.to_owned(), measured);
        Ok(Measured { name, quick, at, load_before, rounds, contenders, missing: self.missing })
    }
}

impl Rounds {
    fn of(contender: &Contender) -> Self {
        let is_part = matches!(contender.outcome, Outcome::Part);
        Self { name: contender.name.to_owned(), is_part, samples: Vec::new() }
    }
}

impl Target {
    /// From what was measured of the row.
    pub(crate) fn reached(&self, measured: &[Rounds]) -> Reached {
        let of = |name: &str| measured.iter().find(|rounds| rounds.name == name);
        let samples = match (of(self.ours), self.other) {
            (Some(ours), None) => Some((ours, None)),
            (Some(ours), Some(other)) => of(other).map(|other| (ours, Some(other))),
            (None, _) => None,
        };
        let Some((ours, other)) = samples else { return Reached { values: Vec::new(), is_met: None } };
        let values: Vec<f64> = ours
            .samples
            .iter()
            .enumerate()
            .filter_map(|(round, ours)| {
                let ours = self.figure.of(ours)?;
                let Some(other) = other else { return Some(ours) };
                let other = self.figure.of(other.samples.get(round)?)?;
                Some(match self.bound {
                    Bound::AtMost(_) => ours / other,
                    Bound::AtLeast(_) => other / ours,
                })
            })
            .collect();
        let is_met = (!values.is_empty()).then(|| match self.bound {
            Bound::AtMost(most) => median(&values) <= most,
            Bound::AtLeast(least) => median(&values) >= least,
        });
        Reached { values, is_met }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ours, figure, bound, other, if_missed: _ } = self;
        match (bound, other) {
            (Bound::AtMost(most), Some(other)) => write!(f, "{ours}: {figure}≤ {most} × {other}"),
            (Bound::AtLeast(least), Some(other)) => write!(f, "{ours}: ≥ {least} × as {} as {other}", figure.good()),
            (Bound::AtMost(most), None) => write!(f, "{ours}: {figure}≤ {most}{}", figure.unit()),
            (Bound::AtLeast(least), None) => write!(f, "{ours}: {figure}≥ {least}{}", figure.unit()),
        }
    }
}

impl Figure {
    fn of(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::Seconds => Some(sample.seconds),
            Self::PeakMib => Some(sample.peak_mib),
            Self::Said(name) => sample.figures.get(name).copied(),
        }
    }

    /// Where its name does not say it.
    fn unit(self) -> &'static str {
        match self {
            Self::Seconds => " s",
            Self::PeakMib | Self::Said(_) => "",
        }
    }

    fn good(self) -> &'static str {
        match self {
            Self::Seconds => "fast",
            Self::PeakMib | Self::Said(_) => "small",
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds => Ok(()),
            Self::PeakMib => f.write_str("peak MiB "),
            Self::Said(name) => write!(f, "{name} "),
        }
    }
}

/// The middle; of an even number, the mean of the two.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.as_slice() {
        [] => f64::NAN,
        [.., last] if sorted.len() == 1 => *last,
        _ if sorted.len() % 2 == 1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// The least and the most.
pub(crate) fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), &value| (least.min(value), most.max(value)))
}

/// Programs that ran or wanted to run, over the last minute.
pub(crate) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN)
}

fn now() -> String {
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    time::OffsetDateTime::now_utc().format(format).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(contenders: Vec<Contender>, rounds: usize, quick: bool) -> Result<Measured> {
        Bench { contenders, missing: Vec::new(), keep: Vec::new() }.measure("trial", rounds, quick)
    }

    fn says(name: &'static str, seconds: f64, result: &str) -> Contender {
        Contender::new(name, Program::shell(&format!("echo '{{\"seconds\":{seconds},\"result\":\"{result}\"}}'")))
    }

    #[test]
    fn a_time_counts_only_with_the_same_result() {
        let error = measured(vec![says("ours", 1.0, "7"), says("theirs", 2.0, "8")], 1, true);
        assert_eq!(
            error.unwrap_err().to_string(),
            "trial: theirs comes to \"8\", and ours to \"7\": they do not do the same work"
        );
        assert!(measured(vec![says("ours", 1.0, "")], 1, true).is_err(), "no result is no proof");
        assert!(measured(vec![says("ours", 1.0, "").alone()], 1, true).is_err(), "whoever else there is");
        for other in [says("a part", 1.0, "8").part_of_the_work(), says("another question", 1.0, "8").alone()] {
            assert!(measured(vec![says("ours", 1.0, "7"), other], 2, true).is_ok());
        }
    }

    #[test]
    fn a_quick_run_has_one_round_of_what_takes_long() {
        let rounds = |quick| {
            let measured = measured(vec![says("ours", 1.0, "7"), says("theirs", 9.0, "7").at_most_rounds(2)], 3, quick);
            measured.unwrap().contenders.iter().map(|rounds| rounds.samples.len()).collect::<Vec<_>>()
        };
        assert_eq!((rounds(false), rounds(true)), (vec![3, 2], vec![3, 1]));
    }

    #[test]
    fn targets_are_the_medians_of_ratios_within_rounds() {
        let contenders = vec![says("ours", 2.0, "7"), says("theirs", 4.0, "7").at_most_rounds(2)];
        let measured = measured(contenders, 3, false).unwrap();
        let reached = |target: Target| {
            let Reached { values, is_met } = target.reached(&measured.contenders);
            (values, is_met)
        };
        assert_eq!(reached(Target::at_most("ours", 0.5, "theirs")), (vec![0.5, 0.5], Some(true)));
        let times = Target::at_least("ours", 2.5, "theirs");
        assert_eq!(times.to_string(), "ours: ≥ 2.5 × as fast as theirs");
        assert_eq!(reached(times), (vec![2.0, 2.0], Some(false)));
        assert_eq!(reached(Target::at_most("ours", 1.0, "absent")), (vec![], None));
        assert_eq!(reached(Target::no_more("ours", 1.5, Figure::Seconds)), (vec![2.0; 3], Some(false)));
        assert_eq!(reached(Target::no_less("ours", 1.5, Figure::Seconds)), (vec![2.0; 3], Some(true)));
        let said = Target::no_less("ours", 10_000.0, Figure::Said("messages/s"));
        assert_eq!((said.to_string().as_str(), reached(said)), ("ours: messages/s ≥ 10000", (vec![], None)));
    }

    #[test]
    fn the_middle_of_an_even_number_is_between_two() {
        assert_eq!(median(&[4.0, 1.0, 3.0]), 3.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(range(&[4.0, 1.0, 3.0]), (1.0, 4.0));
    }
}
