//! Finds the places in text where one of many literals stands, looking at a fraction of the bytes.
//!
//! A text is sampled: four bytes at every `stride`-th place, looked up in a small table. Each literal is long enough
//! that wherever it stands, a sample falls into it whole, and every sample that may is in the table. So the cost is one
//! load, multiplication and look-up for `stride` bytes, however many literals there are.

use crate::extract::literals::{fold, rarest};

/// Bytes of a sample.
const GRAM: usize = 4;
/// Samples are never further apart.
const MAX_STRIDE: usize = 4;
/// Samples that are looked up between two questions whether one was found.
const BLOCK: usize = 8;
/// Bits of a hash: the table (16 KiB) stays in the nearest cache.
const BITS: u32 = 14;

/// The shortest literal that can be found.
pub(super) const MIN_LITERAL: usize = GRAM;
/// The part of a literal that its samples are taken from.
pub(super) const WINDOW: usize = GRAM + MAX_STRIDE - 1;

/// A set of literals, each for a number; see the module.
#[derive(Debug)]
pub(super) struct Sieve {
    stride: usize,
    /// By hash of a sample, which of `buckets` has the literals with such a sample; the first one is empty.
    table: Vec<u8>,
    buckets: Vec<Vec<Piece>>,
}

/// A literal and where in it a sample was taken.
#[derive(Debug, Clone)]
struct Piece {
    literal: Vec<u8>,
    at: usize,
    number: usize,
}

impl Sieve {
    /// Makes a sieve of folded literals of at least [`MIN_LITERAL`] bytes.
    pub(super) fn new(literals: &[(Vec<u8>, usize)]) -> Self {
        let shortest = literals.iter().map(|(l, _)| l.len()).min().unwrap_or(WINDOW);
        let stride = (shortest + 1 - GRAM).min(MAX_STRIDE);
        let (mut table, mut buckets) = (vec![0u8; 1 << BITS], vec![Vec::new()]);
        let mut next = 0;
        for (literal, number) in literals {
            let window = rarest(literal, GRAM + stride - 1);
            for at in window.start..window.start + stride {
                let slot = &mut table[slot(gram(&literal[at..]))];
                if *slot == 0 {
                    // With more samples than numbers for buckets some share one.
                    next = next % usize::from(u8::MAX) + 1;
                    *slot = u8::try_from(next).expect("at most 255");
                    buckets.resize_with(buckets.len().max(next + 1), Vec::new);
                }
                buckets[usize::from(*slot)].push(Piece { literal: literal.clone(), at, number: *number });
            }
        }
        Self { stride, table, buckets }
    }

    /// Returns a place in the first literal that begins at `from` or later, and where to search on; `found` gets the numbers.
    pub(super) fn find(&self, text: &[u8], from: usize, found: impl FnMut(usize)) -> Option<(usize, usize)> {
        match self.stride {
            1 => self.search::<1>(text, from, found),
            2 => self.search::<2>(text, from, found),
            3 => self.search::<3>(text, from, found),
            _ => self.search::<MAX_STRIDE>(text, from, found),
        }
    }

    #[inline]
    fn search<const STRIDE: usize>(
        &self,
        text: &[u8],
        from: usize,
        mut found: impl FnMut(usize),
    ) -> Option<(usize, usize)> {
        let table: &[u8; 1 << BITS] = self.table.as_slice().try_into().expect("it was made so");
        let mut at = from;
        while at + GRAM <= text.len() {
            while let Some(block) = text.get(at..at + (BLOCK - 1) * STRIDE + GRAM) {
                let seen = (0..BLOCK).fold(0, |seen, n| seen | table[slot(gram(&block[n * STRIDE..]))]);
                if seen != 0 {
                    break;
                }
                at += BLOCK * STRIDE;
            }
            for _ in 0..BLOCK {
                let sample = text.get(at..at + GRAM)?;
                let bucket = table[slot(gram(sample))];
                if bucket != 0 {
                    let mut any = false;
                    for piece in self.buckets[usize::from(bucket)].iter().filter(|p| p.stands(text, at)) {
                        any = true;
                        found(piece.number);
                    }
                    if any {
                        return Some((at, at + STRIDE));
                    }
                }
                at += STRIDE;
            }
        }
        None
    }
}

impl Piece {
    /// Whether the literal stands where its sample is at `at`.
    fn stands(&self, text: &[u8], at: usize) -> bool {
        let place = at.checked_sub(self.at).and_then(|start| text.get(start..start + self.literal.len()));
        place.is_some_and(|place| place.iter().zip(&self.literal).all(|(t, l)| fold(*t) == *l))
    }
}

/// The first [`GRAM`] bytes of `bytes`, folded.
#[inline]
fn gram(bytes: &[u8]) -> u32 {
    const FOLD: u32 = u32::from_ne_bytes([fold(0); GRAM]);
    u32::from_ne_bytes(bytes[..GRAM].try_into().expect("that many")) | FOLD
}

#[inline]
fn slot(gram: u32) -> usize {
    (gram.wrapping_mul(0x9e37_79b1) >> (u32::BITS - BITS)) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_literal_is_found_wherever_it_stands(
            literals in proptest::collection::vec("[a-d]{4,12}", 1..12),
            text in "[a-dA-D]{0,200}",
            from in 0usize..20,
        ) {
            let numbered: Vec<(Vec<u8>, usize)> =
                literals.iter().enumerate().map(|(n, l)| (l.bytes().map(fold).collect(), n)).collect();
            let sieve = Sieve::new(&numbered);
            let (mut seen, mut at) = (BTreeSet::new(), from);
            while let Some((place, next)) = sieve.find(text.as_bytes(), at, |n| { seen.insert(n); }) {
                prop_assert!(place >= at && next > place);
                at = next;
            }
            let low = text.to_ascii_lowercase();
            let from = from.min(low.len());
            let expected: BTreeSet<usize> =
                (0..literals.len()).filter(|n| low[from..].contains(&literals[*n])).collect();
            // One that begins before `from` may be told too: it does stand there.
            let most: BTreeSet<usize> = (0..literals.len()).filter(|n| low.contains(&literals[*n])).collect();
            prop_assert!(expected.is_subset(&seen) && seen.is_subset(&most), "{expected:?} {seen:?}");
        }
    }
}
