//! Whether files are all that there ever were, by their publishers' sequences.
//!
//! A publisher numbers the files of each type 1, 2, 3 … within an epoch. So files are complete up to the last one that came
//! when no number is missing, every one of them took effect, and there is one epoch: where an earlier epoch ended, no number
//! tells. Manifests say which numbers no file has, and up to where there are files; what was published after that cannot be known,
//! and still comes.
//!
//! A full export of which every part came stands for all files up to its place, and for earlier epochs: what comes after is all
//! that is needed besides. Files up to there are then left out: what deleted some of their rows may be among those that are lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use waybill_contracts::Snapshot;

use crate::inbox::{PublisherSequence, SequenceNamed, State};

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
    starts: Option<Vec<Start>>,
    has_unnumbered: bool,
    waiting: Waiting,
    /// By type and publisher, and then by epoch.
    sequences: BTreeMap<(String, String), BTreeMap<String, Numbers>>,
}

/// From where on the files of a publisher's type are all that there are: behind the place of a full export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The type.
    pub blob_type: String,
    /// The publisher's name.
    pub publisher: String,
    /// The epoch of the full export.
    pub epoch: String,
    /// The full export's identity.
    pub snapshot: String,
    /// Its place: files of this epoch up to this number, and those of earlier epochs, are left out.
    pub as_of: u64,
}

impl Start {
    /// Whether the full export holds what this file brought.
    #[must_use]
    pub fn supersedes(&self, blob_type: &str, of: &PublisherSequence) -> bool {
        (self.blob_type.as_str(), &self.publisher) == (blob_type, &of.publisher)
            && (of.epoch < self.epoch || of.epoch == self.epoch && of.sequence <= self.as_of)
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blob_type, publisher, snapshot, as_of, .. } = self;
        write!(f, "{blob_type}: from the full export {snapshot:?} of publisher {publisher:?} on, as of number {as_of}")
    }
}

/// Numbers that were seen, as stretches without a gap: from the first, to the last.
#[derive(Debug, Clone, Default)]
struct Numbers {
    seen: BTreeMap<u64, u64>,
    /// There are so many.
    up_to: u64,
    /// Of files whose rows did not take effect.
    not_done: Vec<u64>,
    /// Parts of full exports, by place and identity.
    snapshots: BTreeMap<(u64, String), Parts>,
}

/// The parts of a full export that are there.
#[derive(Debug, Clone, Default)]
struct Parts {
    of: u64,
    there: BTreeSet<u64>,
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

    /// What is missing between this number and the last one.
    fn gaps_after(&self, number: u64) -> impl Iterator<Item = (u64, u64)> {
        let mut next = number.saturating_add(1);
        let behind = (self.up_to.saturating_add(1), self.up_to);
        self.seen.iter().map(|(from, to)| (*from, *to)).chain([behind]).filter_map(move |(from, to)| {
            let gap = (from > next).then(|| (next, from - 1));
            next = next.max(to.saturating_add(1));
            gap
        })
    }
}

impl Numbers {
    /// The latest full export of which all parts are there, and everything after its place.
    fn start(&self) -> Option<(u64, &str)> {
        let is_whole = |parts: &Parts| parts.there.len() as u64 == parts.of;
        let is_all =
            |as_of: u64| self.gaps_after(as_of).next().is_none() && self.not_done.iter().all(|number| *number <= as_of);
        let whole = self.snapshots.iter().rev().filter(|(_, parts)| is_whole(parts));
        whole.map(|((as_of, id), _)| (*as_of, id.as_str())).find(|(as_of, _)| is_all(*as_of))
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

    /// Whether nothing speaks against it where full exports stand for what was before them: those that do. `None`: something
    /// speaks against it all the same.
    #[must_use]
    pub fn starts(&self) -> Option<&[Start]> {
        self.starts.as_deref()
    }

    pub(super) fn see(
        &mut self,
        id: i64,
        state: State,
        blob_type: &str,
        sequence: Option<&PublisherSequence>,
        snapshot: Option<Snapshot>,
    ) {
        self.files += 1;
        let comes = matches!(state, State::Saved | State::Working) && self.waiting == Waiting::Comes;
        let counts = state == State::Done || comes;
        if !counts {
            self.add(Gap::NotDone { id, blob_type: blob_type.to_owned(), state });
        }
        match sequence {
            Some(PublisherSequence { publisher, epoch, sequence }) => {
                let of = self.sequences.entry((blob_type.to_owned(), publisher.clone())).or_default();
                let numbers = of.entry(epoch.clone()).or_default();
                numbers.insert(*sequence);
                if !counts {
                    numbers.not_done.push(*sequence);
                } else if let Some(Snapshot { id, part, of, as_of }) = snapshot {
                    let parts = numbers.snapshots.entry((as_of, id)).or_default();
                    parts.of = of;
                    parts.there.insert(part);
                }
            }
            None => {
                self.has_unnumbered = true;
                self.add(Gap::Unnumbered { id, blob_type: blob_type.to_owned() });
            }
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

    pub(super) fn finish(&mut self) {
        let mut starts = (!self.has_unnumbered).then(Vec::new);
        for ((blob_type, publisher), epochs) in std::mem::take(&mut self.sequences) {
            let found_before = self.gaps_found;
            if epochs.len() > 1 {
                self.add(Gap::SeveralEpochs { blob_type: blob_type.clone(), publisher: publisher.clone() });
            }
            for (from, to) in epochs.values().flat_map(|numbers| numbers.gaps_after(0)) {
                self.add(Gap::Missing { blob_type: blob_type.clone(), publisher: publisher.clone(), from, to });
            }
            let has_gap = self.gaps_found > found_before || epochs.values().any(|numbers| !numbers.not_done.is_empty());
            if !has_gap {
                continue;
            }
            let latest = epochs.last_key_value().and_then(|(epoch, numbers)| Some((epoch.clone(), numbers.start()?)));
            match (&mut starts, latest) {
                (Some(starts), Some((epoch, (as_of, snapshot)))) => {
                    let snapshot = snapshot.to_owned();
                    starts.push(Start { blob_type, publisher, epoch, snapshot, as_of });
                }
                _ => starts = None,
            }
        }
        self.starts = starts;
    }

    fn add(&mut self, gap: Gap) {
        self.gaps_found += 1;
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
            coverage.see(id, State::Done, blob_type, Some(&sequence), None);
        }
        coverage.finish();
        assert_eq!(coverage.is_complete(), coverage.gaps.is_empty());
        coverage.gaps.iter().map(Gap::to_string).collect()
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
        coverage.see(7, State::Done, "T", None, None);
        coverage.see(
            8,
            State::Quarantined,
            "T",
            Some(&PublisherSequence { publisher: "a".to_owned(), epoch: "e".to_owned(), sequence: 1 }),
            None,
        );
        coverage.finish();
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
            coverage.see(1, state, "T", Some(&sequence), None);
            coverage.finish();
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
        assert_eq!(numbers.gaps_after(0).collect::<Vec<_>>(), [(2_001, u64::MAX - 1)]);
    }

    #[test]
    fn what_manifests_say_fills_gaps_and_shows_others() {
        let found = |files: &[u64], epoch: &str, up_to, void: &[(u64, u64)]| {
            let mut coverage = Coverage::default();
            for number in files {
                let (publisher, epoch) = ("a".to_owned(), "e".to_owned());
                let sequence = PublisherSequence { publisher, epoch, sequence: *number };
                coverage.see(1, State::Done, "T", Some(&sequence), None);
            }
            let (blob_type, publisher, epoch) = ("T".to_owned(), "a".to_owned(), epoch.to_owned());
            coverage.named(&SequenceNamed { blob_type, publisher, epoch, up_to, void: void.to_vec() });
            coverage.finish();
            coverage.gaps.iter().map(Gap::to_string).collect::<Vec<_>>()
        };
        assert!(found(&[1, 4, 5], "e", 5, &[(2, 3)]).is_empty());
        assert!(found(&[3], "e", 5, &[(1, 1), (2, 2), (4, 5)]).is_empty());
        assert!(found(&[1, 2, 3, 9], "e", 3, &[(2, 8)]).is_empty(), "one of them was sent after all");
        assert_eq!(found(&[1], "e", 3, &[(2, 2)]), ["T: number 3 of publisher \"a\" never came"]);
        assert!(found(&[1], "d", 1, &[(1, 1)])[0].contains("began its numbers anew"));
        assert!(found(&[], "e", 3, &[]).is_empty(), "no file of it came, so no row is derived from it");
    }

    /// Epoch, number, state; of a part of a full export its place, which part it is, and of how many.
    type File<'f> = (&'f str, u64, State, Option<(u64, u64, u64)>);

    fn starts(files: &[File<'_>]) -> Option<Vec<(String, u64)>> {
        let mut coverage = Coverage::new(Waiting::Comes);
        for (id, (epoch, sequence, state, part)) in (1..).zip(files) {
            let (publisher, epoch) = ("a".to_owned(), (*epoch).to_owned());
            let of = PublisherSequence { publisher, epoch, sequence: *sequence };
            let snapshot = part.map(|(as_of, part, of)| Snapshot { id: format!("full {as_of}"), part, of, as_of });
            coverage.see(id, *state, "T", Some(&of), snapshot);
        }
        coverage.finish();
        let starts = coverage.starts()?;
        Some(starts.iter().map(|start| (start.epoch.clone(), start.as_of)).collect())
    }

    #[test]
    fn a_whole_full_export_and_all_after_it_are_all_there_is() {
        use State::{Done, Quarantined, Saved};
        let from = |epoch: &str, as_of| Some(vec![(epoch.to_owned(), as_of)]);
        let full = |as_of, part, of| Some((as_of, part, of));
        assert_eq!(starts(&[("e", 1, Done, None), ("e", 2, Done, full(1, 1, 1))]), Some(vec![]), "it is not needed");
        assert_eq!(starts(&[("e", 5, Done, None)]), None, "nothing stands for 1 to 4");
        // 3 is lost; the full export holds it.
        let lost =
            [("e", 1, Done, None), ("e", 4, Done, full(3, 1, 2)), ("e", 5, Saved, full(3, 2, 2)), ("e", 6, Done, None)];
        assert_eq!(starts(&lost), from("e", 3));
        assert_eq!(starts(&lost[..2]), None, "a part of it is missing");
        let after = [("e", 2, Done, full(1, 1, 1)), ("e", 4, Done, None)];
        assert_eq!(starts(&after), None, "3 is lost, and came later");
        assert_eq!(starts(&[("e", 4, Done, full(2, 1, 1))]), None, "3 was published while it was made");
        // What could not be worked before it does not matter, and what could not after it does.
        let bad = [("e", 1, Quarantined, None), ("e", 2, Done, full(1, 1, 1)), ("e", 3, Quarantined, None)];
        assert_eq!(starts(&bad[..2]), from("e", 1));
        assert_eq!(starts(&bad), None);
        assert_eq!(starts(&[("e", 2, Quarantined, full(1, 1, 1))]), None, "its own rows are not in effect");
        // Of several the latest that is whole; an earlier one may have to do.
        let two =
            [("e", 5, Done, full(4, 1, 1)), ("e", 8, Done, full(7, 1, 1)), ("e", 6, Done, None), ("e", 7, Done, None)];
        assert_eq!(starts(&two), from("e", 7));
        let half = [("e", 5, Done, full(4, 1, 1)), ("e", 6, Done, full(5, 1, 2))];
        assert_eq!(starts(&half), from("e", 4));
        // Where an earlier epoch ended does not matter any more; that of a later one would.
        let (old, new) = ("01890000-0000-7000-8000-000000000000", "01990000-0000-7000-8000-000000000000");
        assert_eq!(starts(&[(old, 7, Done, None), (new, 1, Done, full(0, 1, 1))]), from(new, 0));
        assert_eq!(starts(&[(old, 2, Done, full(1, 1, 1)), (new, 1, Done, None)]), None);
    }

    #[test]
    fn what_a_full_export_stands_for_is_of_its_publisher_and_not_after_it() {
        let (blob_type, publisher, epoch) = ("T".to_owned(), "a".to_owned(), "e2".to_owned());
        let start = Start { blob_type, publisher, epoch, snapshot: "full".to_owned(), as_of: 3 };
        let of = |publisher: &str, epoch: &str, sequence| {
            let (publisher, epoch) = (publisher.to_owned(), epoch.to_owned());
            start.supersedes("T", &PublisherSequence { publisher, epoch, sequence })
        };
        assert!(of("a", "e2", 3) && of("a", "e1", 99));
        assert!(!of("a", "e2", 4) && !of("a", "e3", 1) && !of("b", "e2", 1));
        let unnumbered = {
            let mut coverage = Coverage::default();
            coverage.see(1, State::Done, "T", None, None);
            coverage.finish();
            coverage.starts().is_none()
        };
        assert!(unnumbered, "what has no number is before or after nothing");
    }

    #[test]
    fn gaps_are_bounded_and_counted() {
        let files: Vec<_> = (1..=500).map(|n| ("T", "a", "e", n * 2)).collect();
        assert_eq!(of(&files).len(), GAPS_SHOWN_MAX);
    }
}
