//! Eight bytes at a time: how far a stretch of bytes goes that nothing has to be done for.
//!
//! Stretches are short where a screen is drawn, a word or the inside of a sequence. There a call of a vectorised search
//! costs more than the search, and a branch for each byte is mispredicted at each end.

/// Returns the length of the stretch at the start of `bytes` in which `stops` finds nothing. It is given eight bytes, the
/// first one lowest, and returns a word whose lowest set bit lies in the first byte that ends the stretch.
#[inline]
pub(crate) fn stretch(bytes: &[u8], stops: impl Fn(u64) -> u64) -> usize {
    let mut rest = bytes;
    while let Some((eight, later)) = rest.split_first_chunk() {
        let found = stops(u64::from_le_bytes(*eight));
        if found != 0 {
            return bytes.len() - rest.len() + found.trailing_zeros() as usize / 8;
        }
        rest = later;
    }
    // What is missing to eight may stop, but not before what is there.
    let found = stops(few(rest));
    bytes.len() - rest.len() + rest.len().min(found.trailing_zeros() as usize / 8)
}

/// A word that begins with less than eight bytes.
#[inline]
fn few(bytes: &[u8]) -> u64 {
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let shift = 8 * (bytes.len() - 4);
        return u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << shift;
    }
    bytes.iter().rev().fold(0, |word, b| word << 8 | u64::from(*b))
}

/// `byte`, eight times.
const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Finds `byte`. Like the others it may mark a later byte wrongly, but never an earlier one.
#[inline]
pub(crate) fn is(byte: u8, word: u64) -> u64 {
    let zero = word ^ each(byte);
    zero.wrapping_sub(each(1)) & !zero & each(0x80)
}

/// Finds control characters below 0x20.
#[inline]
pub(crate) fn is_control(word: u64) -> u64 {
    word.wrapping_sub(each(0x20)) & !word & each(0x80)
}

/// Finds what is no printable ASCII character.
#[inline]
pub(crate) fn is_not_printable(word: u64) -> u64 {
    is_control(word) | is(0x7f, word) | word & each(0x80)
}

/// Finds what does not stand between the introducer of a control sequence and the byte that ends it.
#[inline]
pub(crate) fn is_not_inside(word: u64) -> u64 {
    is_control(word) | (word | word << 1) & each(0x80)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_stretch_ends_where_the_first_byte_does_that_stops_it(
            bytes in proptest::collection::vec(prop_oneof![4 => 0x20u8..0x40, 1 => any::<u8>()], 0..40),
        ) {
            let first = |stops: &dyn Fn(u8) -> bool| bytes.iter().position(|b| stops(*b)).unwrap_or(bytes.len());
            prop_assert_eq!(stretch(&bytes, |w| is(b' ', w)), first(&|b| b == b' '));
            prop_assert_eq!(stretch(&bytes, is_control), first(&|b| b < 0x20));
            prop_assert_eq!(stretch(&bytes, is_not_printable), first(&|b| !(0x20..0x7f).contains(&b)));
            prop_assert_eq!(stretch(&bytes, is_not_inside), first(&|b| !(0x20..0x40).contains(&b)));
        }
    }
}
