//! What publishers' numbers tell: which files never came, and up to which one every file took effect. Manifests tell which numbers
//! no file has, and of files behind the last one that came.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use time::OffsetDateTime;

use super::State;

/// How many gaps of a sequence are named.
pub(super) const GAPS_NAMED: usize = 10;

/// A publisher's sequence of a blobType, as far as its files were announced to this inbox. Numbers before `first` were
/// published before the subscription began, or are lost: that nobody here can tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SequenceSeen {
    /// The blobType.
    pub blob_type: String,
    /// The publisher's name; empty when it gave none.
    pub publisher: String,
    /// Made with the publisher's outbox.
    pub epoch: String,
    /// The smallest number that was announced.
    pub first: u64,
    /// The largest that was announced, or that a manifest names.
    pub last: u64,
    /// Up to here manifests name every number; `None` where none came yet.
    pub named_to: Option<u64>,
    /// Up to here, from `first` on, every file took effect; `None` where not even the first did.
    pub applied_to: Option<u64>,
    /// How many numbers from `first` to `last` were never announced and are not void either.
    pub missing: u64,
    /// The first of these, ten at most.
    pub gaps: Vec<SequenceGap>,
    /// The first file that was announced and did not take effect.
    pub open: Option<OpenFile>,
}

/// What manifests say of a publisher's sequence. What they do not call void, up to `up_to`, was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SequenceNamed {
    /// The blobType.
    pub blob_type: String,
    /// The publisher's name.
    pub publisher: String,
    /// Made with the publisher's outbox.
    pub epoch: String,
    /// The largest number that is named.
    pub up_to: u64,
    /// Numbers that no file has: from, to; in their order.
    pub void: Vec<(u64, u64)>,
}

/// Numbers that were never announced, though later ones were, or a manifest names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SequenceGap {
    /// The first of them.
    pub from: u64,
    /// The last.
    pub to: u64,
    /// Since when they are missed. Messages overtake each other, so that one of seconds means nothing.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}

/// A file that is not in effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenFile {
    /// The row's number.
    pub id: i64,
    /// Its number in the sequence.
    pub sequence: u64,
    /// Where it is in its life.
    pub state: State,
}

impl SequenceSeen {
    /// Every number from the first to the last came and took effect.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.applied_to == Some(self.last)
    }

    /// Every number from the first to this one came and took effect, or is void.
    #[must_use]
    pub fn is_complete_to(&self, number: u64) -> bool {
        self.first <= number && self.applied_to >= Some(number)
    }

    /// Of the runs of numbers that were announced, one at least, in their order, and of what manifests say.
    pub(super) fn of(names: [String; 3], runs: &[Run], named: Option<&Named>) -> Self {
        let [publisher, epoch, blob_type] = names;
        let void = named.map_or(&[][..], |named| &named.of.void);
        let mut first = runs.first().map_or(0, |run| run.first);
        // What is void before the first that was announced belongs to it: nothing can have come before.
        for (from, to) in void.iter().rev() {
            if to.saturating_add(1) >= first {
                first = first.min(*from);
            }
        }
        let named_to = named.map(|named| named.of.up_to);
        let last = runs.last().map_or(0, |run| run.last).max(named_to.unwrap_or_default());
        let mut seen = Self {
            blob_type,
            publisher,
            epoch,
            first,
            last,
            named_to,
            applied_to: Some(last),
            missing: 0,
            gaps: Vec::new(),
            open: None,
        };
        // A gap is missed since the next run of announced numbers began, or since a manifest named what is behind the last.
        let is_named = named.map(|named| named.since);
        let since_of = |number: u64| {
            let next = runs.iter().find(|run| run.first > number).map(|run| run.since);
            next.or(is_named).unwrap_or(OffsetDateTime::UNIX_EPOCH)
        };
        let announced = runs.iter().map(|run| (run.first, run.last));
        let mut there: Vec<(u64, u64)> = announced.chain(void.iter().copied()).filter(|(_, to)| *to >= first).collect();
        there.sort_unstable();
        let mut covered_to = first.saturating_sub(1);
        for (from, to) in there.into_iter().chain([(last.saturating_add(1), last)]) {
            let next = covered_to.saturating_add(1);
            if from > next {
                seen.miss(SequenceGap { from: next, to: from - 1, since: since_of(next) });
            }
            covered_to = covered_to.max(to);
        }
        seen
    }

    fn miss(&mut self, gap: SequenceGap) {
        if self.missing == 0 {
            self.applied_to = gap.from.checked_sub(1);
        }
        self.missing = self.missing.saturating_add((gap.to - gap.from).saturating_add(1));
        if self.gaps.len() < GAPS_NAMED {
            self.gaps.push(gap);
        }
    }

    /// The first file that did not take effect, if there is one.
    pub(super) fn close(&mut self, open: Option<OpenFile>) {
        if let Some(open) = &open
            && self.applied_to >= Some(open.sequence)
        {
            self.applied_to = open.sequence.checked_sub(1).filter(|before| *before >= self.first);
        }
        self.open = open;
    }
}

/// Numbers that were announced, without a gap.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) last: u64,
    /// When the numbers before it were first missed.
    pub(super) since: OffsetDateTime,
}

/// What manifests say, and since when they say it of the largest number.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) of: SequenceNamed,
    pub(super) since: OffsetDateTime,
}

/// Sequences of which runs were read, in the order of their names, put together with what manifests say of them.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    sequences: Vec<([String; 3], Vec<Run>)>,
}

impl Assembly {
    /// The next run; whether it is the first of its sequence.
    pub(super) fn add(&mut self, names: [String; 3], run: Run) -> bool {
        match self.sequences.last_mut().filter(|(known, _)| *known == names) {
            Some((_, runs)) => {
                runs.push(run);
                false
            }
            None => {
                self.sequences.push((names, vec![run]));
                true
            }
        }
    }

    pub(super) fn finish(self, named: Vec<Named>) -> Vec<SequenceSeen> {
        let key = |of: &SequenceNamed| [of.publisher.clone(), of.epoch.clone(), of.blob_type.clone()];
        let named: HashMap<_, _> = named.into_iter().map(|named| (key(&named.of), named)).collect();
        let of = |(names, runs): ([String; 3], Vec<Run>)| {
            let named = named.get(&names);
            SequenceSeen::of(names, &runs, named)
        };
        self.sequences.into_iter().map(of).collect()
    }
}

/// What manifests say of each sequence, by runs of void numbers in their order.
#[derive(Debug, Default)]
pub(super) struct AllNamed(BTreeMap<[String; 3], Named>);

impl AllNamed {
    pub(super) fn add(&mut self, names: [String; 3], up_to: u64, since: OffsetDateTime) {
        let [publisher, epoch, blob_type] = names.clone();
        let of = SequenceNamed { blob_type, publisher, epoch, up_to, void: Vec::new() };
        self.0.insert(names, Named { of, since });
    }

    pub(super) fn void(&mut self, names: &[String; 3], from: u64, to: u64) {
        if let Some(named) = self.0.get_mut(names) {
            named.of.void.push((from, to));
        }
    }

    pub(super) fn finish(self) -> Vec<Named> {
        self.0.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(
        runs: &[(u64, u64)],
        named_to: Option<u64>,
        void: &[(u64, u64)],
    ) -> (u64, u64, Option<u64>, Vec<(u64, u64)>) {
        let names = || ["p", "e", "T"].map(str::to_owned);
        let at = |second: u64| OffsetDateTime::UNIX_EPOCH + std::time::Duration::from_secs(second);
        let runs: Vec<_> =
            runs.iter().map(|(first, last)| Run { first: *first, last: *last, since: at(*first) }).collect();
        let [publisher, epoch, blob_type] = names();
        let named = named_to.map(|up_to| Named {
            of: SequenceNamed { blob_type, publisher, epoch, up_to, void: void.to_vec() },
            since: at(1_000),
        });
        let seen = SequenceSeen::of(names(), &runs, named.as_ref());
        let missing: u64 = seen.gaps.iter().map(|gap| gap.to - gap.from + 1).sum();
        assert_eq!((seen.missing, seen.named_to), (missing, named_to));
        for gap in &seen.gaps {
            let next = runs.iter().find(|run| run.first > gap.to);
            assert_eq!(gap.since, next.map_or(at(1_000), |run| run.since));
        }
        (seen.first, seen.last, seen.applied_to, seen.gaps.iter().map(|gap| (gap.from, gap.to)).collect())
    }

    #[test]
    fn what_is_void_is_not_missing() {
        assert_eq!(seen(&[(1, 4), (7, 9)], None, &[]), (1, 9, Some(4), vec![(5, 6)]));
        assert_eq!(seen(&[(1, 4), (7, 9)], Some(9), &[(5, 6)]), (1, 9, Some(9), vec![]));
        assert_eq!(seen(&[(1, 4), (9, 9)], Some(9), &[(6, 7)]), (1, 9, Some(4), vec![(5, 5), (8, 8)]));
        assert_eq!(seen(&[(1, 9)], Some(9), &[(5, 6)]), (1, 9, Some(9), vec![]), "it was sent after all");
    }

    #[test]
    fn what_a_manifest_names_behind_the_last_one_that_came_is_missing() {
        assert_eq!(seen(&[(1, 4)], Some(7), &[]), (1, 7, Some(4), vec![(5, 7)]));
        assert_eq!(seen(&[(1, 4)], Some(7), &[(6, 7)]), (1, 7, Some(4), vec![(5, 5)]));
        assert_eq!(seen(&[(1, 4)], Some(7), &[(5, 7)]), (1, 7, Some(7), vec![]));
        assert_eq!(seen(&[(1, 9)], Some(7), &[]), (1, 9, Some(9), vec![]), "manifests come later than files");
    }

    #[test]
    fn void_numbers_just_before_the_first_that_came_are_no_begin_of_their_own() {
        assert_eq!(seen(&[(3, 9)], Some(9), &[(1, 1), (2, 2)]), (1, 9, Some(9), vec![]));
        assert_eq!(seen(&[(50, 60)], Some(60), &[(3, 3)]), (50, 60, Some(60), vec![]), "before the subscription");
        assert_eq!(seen(&[(50, 60)], Some(60), &[(3, 3), (49, 49)]), (49, 60, Some(60), vec![]));
    }
}
