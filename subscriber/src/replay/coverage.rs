//! Whether files are all that there ever were, by their publishers' sequences.
//!
//! A publisher numbers the files of each type 1, 2, 3 … within an epoch. So files are complete up to the last one that came
//! when no number is missing, every one of them took effect, and there is one epoch: where an earlier epoch ended, no number
//! tells. Manifests say which numbers no file has, and up to where there are files; what was published after that cannot be known,
//! and still comes. Where tables begin at a [full export](super::FullExport), files before it are not needed.

use std::{collections::BTreeMap, fmt};

use crate::{
    apply::Begin,
    inbox::{PublisherSequence, SequenceNamed, State},
};

/// Gaps that are kept; more are counted.
pub const GAPS_SHOWN_MAX: usize = 100;

/// What a file that is received and not worked yet means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Waiting {
    /// It is missing.
    #[default]
    IsMissing,
    /// It comes, as always, to a table that is derived without it.
    Comes,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    /// Files that were seen.
    pub files: u64,
    /// What speaks against completeness, at most [`GAPS_SHOWN_MAX`].
    pub gaps: Vec<Gap>,
    /// All gaps, those that are not kept among them.
    pub gaps_found: u64,
    /// How much of each type is missing: numbers that never came, and files and publishers that prove nothing.
    pub missing_of: BTreeMap<String, u64>,
    waiting: Waiting,
    /// By type and publisher, and then by epoch.
    sequences: BTreeMap<(String, String), BTreeMap<String, Numbers>>,
}

/// Numbers that were seen, as stretches without a gap: from the first, to the last.
#[derive(Debug, Clone, Default)]
struct Numbers {
    seen: BTreeMap<u64, u64>,
    /// There are so many.
    up_to: u64,
}

impl Numbers {
    fn insert(&mut self, number: u64) {
        self.insert_run(number, number);
    }

    fn insert_run(&mut self, from: u64, to: u64) {
        let (mut from, mut to) = (from, to);
        if let Some((begin, end)) = self.seen.range(..=from).next_back().map(|(begin, end)| (*begin, *end))
            && end.saturating_add(1) >= from
        {
            (from, to) = (begin, to.max(end));
        }
        while let Some((begin, end)) = self.seen.range(from..=to.saturating_add(1)).next_back().map(|(b, e)| (*b, *e)) {
            self.seen.remove(&begin);
            to = to.max(end);
        }
        self.seen.insert(from, to);
    }

    /// What is missing between 1 and the last one.
    fn gaps(self) -> impl Iterator<Item = (u64, u64)> {
        let mut next = 1;
        let behind = (self.up_to.saturating_add(1), self.up_to);
        self.seen.into_iter().chain([behind]).filter_map(move |(from, to)| {
            let gap = (from > next).then(|| (next, from - 1));
            next = next.max(to.saturating_add(1));
            gap
        })
    }
}

/// Something that speaks against completeness.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gap {
    /// Numbers of a sequence that no file has.
    Missing {
        /// The type.
        blob_type: String,
        /// The publisher's name.
        publisher: String,
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
    },
    /// A file whose rows did not take effect.
    NotDone {
        /// Its number in the inbox.
        id: i64,
        /// The type.
        blob_type: String,
        /// Where it is in its life.
        state: State,
    },
    /// A file without a place in a sequence.
    Unnumbered {
        /// Its number in the inbox.
        id: i64,
        /// The type.
        blob_type: String,
    },
    /// A publisher that began anew, so that the end of what it published before is unknown.
    SeveralEpochs {
        /// The type.
        blob_type: String,
        /// The publisher's name.
        publisher: String,
    },
}

impl Gap {
    /// The type whose files are not all there.
    #[must_use]
    pub fn blob_type(&self) -> &str {
        match self {
            Self::Missing { blob_type, .. }
            | Self::NotDone { blob_type, .. }
            | Self::Unnumbered { blob_type, .. }
            | Self::SeveralEpochs { blob_type, .. } => blob_type,
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { blob_type, publisher, from, to } if from == to => {
                write!(f, "{blob_type}: number {from} of publisher {publisher:?} never came")
            }
            Self::Missing { blob_type, publisher, from, to } => {
                write!(f, "{blob_type}: numbers {from} to {to} of publisher {publisher:?} never came")
            }
            Self::NotDone { id, blob_type, state } => write!(f, "{blob_type}: file {id} is {state}"),
            Self::Unnumbered { id, blob_type } => {
                write!(f, "{blob_type}: file {id} has no number, so nobody can say what is missing beside it")
            }
            Self::SeveralEpochs { blob_type, publisher } => write!(
                f,
                "{blob_type}: publisher {publisher:?} began its numbers anew, so how many there were before is unknown"
            ),
        }
    }
}

impl Coverage {
    pub(super) fn new(waiting: Waiting) -> Self {
        Self { waiting, ..Self::default() }
    }

    /// Whether nothing speaks against it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.gaps_found == 0
    }

    pub(super) fn see(&mut self, id: i64, state: State, blob_type: &str, sequence: Option<&PublisherSequence>) {
        self.files += 1;
        let comes = matches!(state, State::Saved | State::Working) && self.waiting == Waiting::Comes;
        if state != State::Done && !comes {
            self.add(Gap::NotDone { id, blob_type: blob_type.to_owned(), state });
        }
        match sequence {
            Some(PublisherSequence { publisher, epoch, sequence }) => {
                let of = self.sequences.entry((blob_type.to_owned(), publisher.clone())).or_default();
                of.entry(epoch.clone()).or_default().insert(*sequence);
            }
            None => self.add(Gap::Unnumbered { id, blob_type: blob_type.to_owned() }),
        }
    }

    /// What manifests say of a sequence, after all files were seen. Of a type of which no file came, nothing is derived.
    pub(super) fn named(&mut self, of: &SequenceNamed) {
        let SequenceNamed { blob_type, publisher, epoch, up_to, void } = of;
        let Some(epochs) = self.sequences.get_mut(&(blob_type.clone(), publisher.clone())) else { return };
        let numbers = epochs.entry(epoch.clone()).or_default();
        for (from, to) in void {
            numbers.insert_run(*from, *to);
        }
        numbers.up_to = *up_to;
    }

    /// With the places at which tables begin: what is before them is not missing.
    pub(super) fn finish<'b>(&mut self, begins: impl IntoIterator<Item = &'b Begin>) {
        let begins: Vec<&Begin> = begins.into_iter().collect();
        for ((blob_type, publisher), epochs) in std::mem::take(&mut self.sequences) {
            if epochs.len() > 1 {
                self.add(Gap::SeveralEpochs { blob_type: blob_type.clone(), publisher: publisher.clone() });
            }
            let names = (blob_type.as_str(), publisher.as_str());
            let begin = begins.iter().find(|of| (of.blob_type.as_str(), of.publisher.as_str()) == names);
            for (epoch, mut numbers) in epochs {
                if let Some(begin) = begin.filter(|begin| begin.epoch == epoch && begin.as_of > 0) {
                    numbers.insert_run(1, begin.as_of);
                }
                for (from, to) in numbers.gaps() {
                    self.add(Gap::Missing { blob_type: blob_type.clone(), publisher: publisher.clone(), from, to });
                }
            }
        }
    }

    fn add(&mut self, gap: Gap) {
        self.gaps_found += 1;
        let missing = match &gap {
            Gap::Missing { from, to, .. } => (to - from).saturating_add(1),
            Gap::NotDone { .. } | Gap::Unnumbered { .. } | Gap::SeveralEpochs { .. } => 1,
        };
        let missing_of = self.missing_of.entry(gap.blob_type().to_owned()).or_default();
        *missing_of = missing_of.saturating_add(missing);
        if self.gaps.len() < GAPS_SHOWN_MAX {
            self.gaps.push(gap);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str, &str, u64)]) -> Vec<String> {
        let mut coverage = Coverage::default();
        for (id, (blob_type, publisher, epoch, sequence)) in (1..).zip(files) {
            let sequence = PublisherSequence {
                publisher: (*publisher).to_owned(),
                epoch: (*epoch).to_owned(),
                sequence: *sequence,
            };
            coverage.see(id, State::Done, blob_type, Some(&sequence));
        }
        coverage.finish([]);
        assert_eq!(coverage.is_complete(), coverage.gaps.is_empty());
        coverage.gaps.iter().map(Gap::to_string).collect()
    }

    #[test]
    fn what_a_full_export_stands_for_counts_though_some_of_a_gap_remains() {
        let missing = |begins: &[Begin]| {
            let mut coverage = Coverage::new(Waiting::Comes);
            for sequence in [1, 9] {
                let of = PublisherSequence { publisher: "a".to_owned(), epoch: "e".to_owned(), sequence };
                coverage.see(1, State::Done, "T", Some(&of));
            }
            coverage.finish(begins);
            (coverage.gaps_found, coverage.missing_of["T"])
        };
        let [blob_type, publisher, epoch, snapshot] = ["T", "a", "e", "s"].map(str::to_owned);
        assert_eq!(missing(&[]), (1, 7));
        assert_eq!(missing(&[Begin { blob_type, publisher, epoch, as_of: 5, snapshot }]), (1, 3));
    }

    #[test]
    fn sequences_from_one_without_a_gap_are_complete_in_any_order() {
        assert!(of(&[]).is_empty());
        assert!(
            of(&[("T", "a", "e", 3), ("T", "a", "e", 1), ("T", "a", "e", 2), ("T", "b", "f", 1), ("U", "a", "e", 1)])
                .is_empty()
        );
    }

    #[test]
    fn every_missing_number_is_told() {
        let found = of(&[("T", "a", "e", 9), ("T", "a", "e", 2), ("T", "a", "e", 4), ("U", "a", "e", 1)]);
        let expected = [
            "T: number 1 of publisher \"a\" never came",
            "T: number 3 of publisher \"a\" never came",
            "T: numbers 5 to 8 of publisher \"a\" never came",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_numbers_cannot_prove_is_not_called_complete() {
        assert_eq!(of(&[("T", "a", "e", 1), ("T", "a", "f", 1)]).len(), 1, "where the first epoch ended is unknown");
        let mut coverage = Coverage::default();
        coverage.see(7, State::Done, "T", None);
        coverage.see(
            8,
            State::Quarantined,
            "T",
            Some(&PublisherSequence { publisher: "a".to_owned(), epoch: "e".to_owned(), sequence: 1 }),
        );
        coverage.finish([]);
        let found: Vec<_> = coverage.gaps.iter().map(Gap::to_string).collect();
        assert_eq!(
            found,
            ["T: file 7 has no number, so nobody can say what is missing beside it", "T: file 8 is quarantined"]
        );
    }

    #[test]
    fn a_file_that_is_still_to_be_worked_is_missing_or_still_comes() {
        let sequence = PublisherSequence { publisher: "a".to_owned(), epoch: "e".to_owned(), sequence: 1 };
        for (waiting, state, is_complete) in [
            (Waiting::IsMissing, State::Saved, false),
            (Waiting::Comes, State::Saved, true),
            (Waiting::Comes, State::Working, true),
            (Waiting::Comes, State::Skipped, false),
        ] {
            let mut coverage = Coverage::new(waiting);
            coverage.see(1, state, "T", Some(&sequence));
            coverage.finish([]);
            assert_eq!(coverage.is_complete(), is_complete, "{waiting:?} {state}");
        }
    }

    #[test]
    fn numbers_without_a_gap_take_no_room() {
        let mut numbers = Numbers::default();
        // Every second one, then those between, and all again.
        (1..=1_000)
            .map(|n| n * 2)
            .chain((0..1_000).map(|n| n * 2 + 1))
            .chain(1..=2_000)
            .for_each(|n| numbers.insert(n));
        numbers.insert(u64::MAX);
        assert_eq!(numbers.seen, BTreeMap::from([(1, 2_000), (u64::MAX, u64::MAX)]));
        assert_eq!(numbers.gaps().collect::<Vec<_>>(), [(2_001, u64::MAX - 1)]);
    }

    #[test]
    fn what_manifests_say_fills_gaps_and_shows_others() {
        let found = |files: &[u64], epoch: &str, up_to, void: &[(u64, u64)]| {
            let mut coverage = Coverage::default();
            for number in files {
                let (publisher, epoch) = ("a".to_owned(), "e".to_owned());
                let sequence = PublisherSequence { publisher, epoch, sequence: *number };
                coverage.see(1, State::Done, "T", Some(&sequence));
            }
            let (blob_type, publisher, epoch) = ("T".to_owned(), "a".to_owned(), epoch.to_owned());
            coverage.named(&SequenceNamed { blob_type, publisher, epoch, up_to, void: void.to_vec() });
            coverage.finish([]);
            coverage.gaps.iter().map(Gap::to_string).collect::<Vec<_>>()
        };
        assert!(found(&[1, 4, 5], "e", 5, &[(2, 3)]).is_empty());
        assert!(found(&[3], "e", 5, &[(1, 1), (2, 2), (4, 5)]).is_empty());
        assert!(found(&[1, 2, 3, 9], "e", 3, &[(2, 8)]).is_empty(), "one of them was sent after all");
        assert_eq!(found(&[1], "e", 3, &[(2, 2)]), ["T: number 3 of publisher \"a\" never came"]);
        assert!(found(&[1], "d", 1, &[(1, 1)])[0].contains("began its numbers anew"));
        assert!(found(&[], "e", 3, &[]).is_empty(), "no file of it came, so no row is derived from it");
    }

    #[test]
    fn gaps_are_bounded_and_counted() {
        let files: Vec<_> = (1..=500).map(|n| ("T", "a", "e", n * 2)).collect();
        assert_eq!(of(&files).len(), GAPS_SHOWN_MAX);
    }
}
