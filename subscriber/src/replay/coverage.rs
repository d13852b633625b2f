//! Whether files are all that there ever were, by their publishers' sequences.
//!
//! A publisher numbers the files of each type 1, 2, 3 … within an epoch. So files are complete up to the last one that came
//! when no number is missing, every one of them took effect, and there is one epoch: where an earlier epoch ended, no number
//! tells. What was published after the last one that came cannot be known from sequences; it still comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::inbox::{PublisherSequence, State};

/// Gaps that are kept; more are counted.
pub const GAPS_SHOWN_MAX: usize = 100;

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    /// Files that were seen.
    pub files: u64,
    /// What speaks against completeness, at most [`GAPS_SHOWN_MAX`].
    pub gaps: Vec<Gap>,
    /// All gaps, those that are not kept among them.
    pub gaps_found: u64,
    /// By type and publisher, and then by epoch.
    sequences: BTreeMap<(String, String), BTreeMap<String, BTreeSet<u64>>>,
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
    /// Whether nothing speaks against it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.gaps_found == 0
    }

    pub(super) fn see(&mut self, id: i64, state: State, blob_type: &str, sequence: Option<&PublisherSequence>) {
        self.files += 1;
        if state != State::Done {
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

    pub(super) fn finish(&mut self) {
        for ((blob_type, publisher), epochs) in std::mem::take(&mut self.sequences) {
            if epochs.len() > 1 {
                self.add(Gap::SeveralEpochs { blob_type: blob_type.clone(), publisher: publisher.clone() });
            }
            for numbers in epochs.into_values() {
                let mut next = 1;
                for number in numbers {
                    if number > next {
                        self.add(Gap::Missing {
                            blob_type: blob_type.clone(),
                            publisher: publisher.clone(),
                            from: next,
                            to: number - 1,
                        });
                    }
                    next = number.saturating_add(1);
                }
            }
        }
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
            coverage.see(id, State::Done, blob_type, Some(&sequence));
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
        coverage.see(7, State::Done, "T", None);
        coverage.see(
            8,
            State::Quarantined,
            "T",
            Some(&PublisherSequence { publisher: "a".to_owned(), epoch: "e".to_owned(), sequence: 1 }),
        );
        coverage.finish();
        let found: Vec<_> = coverage.gaps.iter().map(Gap::to_string).collect();
        assert_eq!(
            found,
            ["T: file 7 has no number, so nobody can say what is missing beside it", "T: file 8 is quarantined"]
        );
    }

    #[test]
    fn gaps_are_bounded_and_counted() {
        let files: Vec<_> = (1..=500).map(|n| ("T", "a", "e", n * 2)).collect();
        assert_eq!(of(&files).len(), GAPS_SHOWN_MAX);
    }
}
