//! Where a table begins that does not begin at the first file: at a full export.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::version::{Position, epoch_key};

/// The place of a full export from which a table was derived. All rows that there were up to it are in the full export: so what
/// an earlier file brings is in it too, or deleted since, maybe by a file that nobody has any more.
///
/// So upserts of files before it take no effect on the table, whenever they come. Their deletions do: they are older than the
/// full export's row of that key, if it has one, and keep away others as ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Begin {
    /// The type, whose files alone make the table.
    pub blob_type: String,
    /// The one publisher of them.
    pub publisher: String,
    /// Of its numbers.
    pub epoch: String,
    /// The last number that the full export holds the effect of.
    pub as_of: u64,
    /// What the publisher calls it.
    pub snapshot: String,
}

/// On which side of it a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The full export holds what it brings.
    Before,
    /// A part of the full export, or newer.
    After,
}

impl Begin {
    /// On which side of it a file is; `None` for one of which nobody can say: of another type or publisher, of an earlier epoch,
    /// without a number. A later epoch goes on where this one ended, as everywhere in the order of versions.
    #[must_use]
    pub fn side(&self, blob_type: &str, position: &Position) -> Option<Side> {
        let (Position::Sequenced { publisher, epoch, .. } | Position::Snapshot { publisher, epoch, .. }) = position
        else {
            return None;
        };
        if (blob_type, publisher) != (self.blob_type.as_str(), &self.publisher) {
            return None;
        }
        let is_before = match (epoch_key(epoch).cmp(&epoch_key(&self.epoch)), position) {
            (Ordering::Less, _) | (_, Position::Broker { .. }) => return None,
            (Ordering::Greater, _) => false,
            (Ordering::Equal, Position::Sequenced { sequence, .. }) => *sequence <= self.as_of,
            // Another one of the same place holds the same.
            (Ordering::Equal, Position::Snapshot { as_of, .. }) => *as_of < self.as_of,
        };
        Some(if is_before { Side::Before } else { Side::After })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: &str = "01890000-0000-7000-8000-00000000000a";

    #[test]
    fn a_file_is_before_it_or_after_it_or_of_another_sequence() {
        let begin = Begin {
            blob_type: "T".to_owned(),
            publisher: "shop".to_owned(),
            epoch: EPOCH.to_owned(),
            as_of: 7,
            snapshot: "nightly".to_owned(),
        };
        let change = |publisher: &str, epoch: &str, sequence| Position::Sequenced {
            publisher: publisher.to_owned(),
            epoch: epoch.to_owned(),
            sequence,
        };
        let full = |epoch: &str, as_of| Position::Snapshot {
            publisher: "shop".to_owned(),
            epoch: epoch.to_owned(),
            as_of,
            sequence: 9,
        };
        let (earlier, later) = ("01890000-0000-7000-8000-000000000009", "01890000-0000-7000-8000-00000000000b");
        for (position, side) in [
            (change("shop", EPOCH, 1), Some(Side::Before)),
            (change("shop", EPOCH, 7), Some(Side::Before)),
            (change("shop", EPOCH, 8), Some(Side::After)),
            (change("shop", &EPOCH.to_uppercase(), 7), Some(Side::Before)),
            (full(EPOCH, 6), Some(Side::Before)),
            (full(EPOCH, 7), Some(Side::After)),
            (full(EPOCH, 8), Some(Side::After)),
            (change("shop", later, 1), Some(Side::After)),
            (full(later, 0), Some(Side::After)),
            (change("shop", earlier, 8), None),
            (change("shop", "not a UUID", 8), None),
            (change("other", EPOCH, 8), None),
            (Position::Broker { sequence_number: 99 }, None),
        ] {
            assert_eq!(begin.side("T", &position), side, "{position:?}");
            assert_eq!(begin.side("U", &position), None);
        }
    }
}
