//! Which reports were taken already: a report counts once, whoever hands it in again (T3). Pure.

use std::collections::BTreeSet;

use crate::ctl::Stamp;

/// Reports that are remembered. Hooks of one moment come within seconds of one another; this many are minutes.
const MOST: usize = 1024;

/// The stamps of the last reports.
#[derive(Debug, Default)]
pub(crate) struct Taken(BTreeSet<Stamp>);

impl Taken {
    /// Takes a stamp; false for one that was taken before, or is so old that nobody knows.
    pub(crate) fn take(&mut self, stamp: Stamp) -> bool {
        if self.0.len() == MOST {
            if self.0.first().is_some_and(|oldest| stamp < *oldest) {
                return false;
            }
            // Put in first: what is forgotten is the oldest of all.
            let new = self.0.insert(stamp);
            if new {
                self.0.pop_first();
            }
            return new;
        }
        self.0.insert(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t03_a_stamp_counts_once_in_whatever_order_also_when_it_is_forgotten() {
        let stamp = |at_us, nonce| Stamp { at_us, nonce };
        let mut taken = Taken::default();
        assert!(taken.take(stamp(7, 1)) && taken.take(stamp(7, 2)) && taken.take(stamp(5, 1)));
        assert!(!taken.take(stamp(7, 1)) && !taken.take(stamp(5, 1)));
        for at in 0..2000 {
            assert!(taken.take(stamp(100 + at, at)));
        }
        assert_eq!(taken.0.len(), MOST);
        for old in [stamp(7, 1), stamp(6, 6), stamp(100, 0), stamp(2099, 1999)] {
            assert!(!taken.take(old), "{old:?}");
        }
    }
}
