//! Numbers as databases keep them.

use sha2::{Digest as _, Sha256};

/// A count: SQL's integers have a sign. What is too large for it is the largest.
#[must_use]
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The number of the advisory lock of this name in PostgreSQL, told apart from those of other programs in the database.
#[must_use]
pub fn lock_number(name: &str) -> i64 {
    let mut number = [0; 8];
    number.iter_mut().zip(Sha256::digest(name)).for_each(|(to, from)| *to = from);
    i64::from_be_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_keeps_its_number() {
        // Another one would let two versions of a program do at once what only one may do.
        assert_eq!(lock_number("waybill"), -3_588_520_369_396_724_095);
        assert_ne!(lock_number("waybill"), lock_number("waybil"));
    }
}
