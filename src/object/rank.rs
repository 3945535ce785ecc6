//! A number that goes up with the name: what inode numbers of directories begin with.

/// Bits of a [`rank`].
pub(super) const RANK_BITS: u32 = 42;

/// Of the interval that names are put into; the more, the more exact.
const WIDTH_BITS: u32 = 60;

/// So many digits are a counter, whatever comes before them.
const COUNTER_DIGITS: usize = 5;

/// How likely each symbol is after a digit, and elsewhere.
const AFTER_DIGIT: Weights = Weights { rest: 1, separator: 14, digit: 18, letter: 1 };
const ELSEWHERE: Weights = Weights { rest: 1, separator: 2, digit: 6, letter: 2 };

/// Shares of the interval, in the order of the symbols: the end of the name, `-`, `.`, each digit, `_`,
/// each letter; and between these and behind them the rest, of which nothing is told apart.
struct Weights {
    rest: u64,
    separator: u64,
    digit: u64,
    letter: u64,
}

/// A symbol's part of the interval.
struct Share {
    begin: u64,
    width: u64,
    /// What comes behind it has an order.
    goes_on: bool,
}

impl Weights {
    const fn digits(&self) -> u64 {
        2 * self.rest + 2 * self.separator
    }

    const fn letters(&self) -> u64 {
        self.digits() + 10 * self.digit + self.rest + self.separator + self.rest
    }

    const fn sum(&self) -> u64 {
        self.letters() + 26 * self.letter + self.rest
    }

    /// That of `byte`, or of the name's end.
    fn share(&self, byte: Option<u8>) -> Share {
        let Some(byte) = byte.map(|byte| byte.to_ascii_lowercase()) else {
            return Share { begin: 0, width: self.rest, goes_on: false };
        };
        let one = |begin, width| Share { begin, width, goes_on: true };
        let rest = |begin| Share { begin, width: self.rest, goes_on: false };
        let behind_digits = self.digits() + 10 * self.digit;
        match byte {
            0..b'-' => rest(self.rest),
            b'-' => one(2 * self.rest, self.separator),
            b'.' | b'/' => one(2 * self.rest + self.separator, self.separator),
            b'0'..=b'9' => one(self.digits() + u64::from(byte - b'0') * self.digit, self.digit),
            b':'..b'_' => rest(behind_digits),
            b'_' => one(behind_digits + self.rest, self.separator),
            b'`' => rest(behind_digits + self.rest + self.separator),
            b'a'..=b'z' => one(self.letters() + u64::from(byte - b'a') * self.letter, self.letter),
            b'{'.. => rest(self.letters() + 26 * self.letter),
        }
    }
}

/// The place of a name among its siblings, as they usually are called: arithmetic coding with fixed
/// weights, which keeps the order of what it codes. There is room for seven letters, ten digits or a day, so
/// what comes before a number is left out, as siblings have the same there.
pub(super) fn rank(name: &str) -> u64 {
    let (mut low, mut width) = (0, 1_u64 << WIDTH_BITS);
    let mut weights = &ELSEWHERE;
    for byte in name.as_bytes()[stem(name)..].iter().copied().map(Some).chain([None]) {
        let share = weights.share(byte);
        let unit = width / weights.sum();
        (low, width) = (low + unit * share.begin, unit * share.width);
        if !share.goes_on || width >> (WIDTH_BITS - RANK_BITS) == 0 {
            break; // What follows makes no difference.
        }
        let is_digit = byte.is_some_and(|byte| byte.is_ascii_digit());
        weights = if is_digit { &AFTER_DIGIT } else { &ELSEWHERE };
    }
    low >> (WIDTH_BITS - RANK_BITS)
}

/// How many bytes come before the number in a name that ends in one or has one in its middle: digits behind
/// a separator (`sample_12`), or so many that they count (`SRR0012345`, but `alice92`). Not in what
/// may be hexadecimal.
fn stem(name: &str) -> usize {
    let bytes = name.as_bytes();
    let Some(len) = bytes.iter().position(u8::is_ascii_digit) else { return 0 };
    let (stem, number) = bytes.split_at(len);
    let n_digits = number.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let is_hex = stem.iter().all(u8::is_ascii_hexdigit);
    let is_behind_separator = stem.last().is_some_and(|byte| b"-_=.:+ ".contains(byte));
    if is_behind_separator || n_digits >= COUNTER_DIGITS && !is_hex { len } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// How many of `names`, which come in order, have a rank of their own, if none goes down.
    #[track_caller]
    fn distinct(names: impl Iterator<Item = String>) -> usize {
        let ranks: Vec<u64> = names.map(|name| rank(&name)).collect();
        assert!(ranks.is_sorted());
        assert!(ranks.iter().all(|rank| rank >> RANK_BITS == 0));
        ranks.into_iter().collect::<BTreeSet<_>>().len()
    }

    #[test]
    fn usual_names_are_told_apart() {
        let n = 100_000;
        assert_eq!(distinct((0..n).map(|n| format!("{n:06}"))), n);
        assert_eq!(distinct((0..n).map(|n| format!("d{n:06}"))), n);
        assert_eq!(distinct((0..n).map(|n| format!("n{n:08}"))), n);
        assert_eq!(distinct((0..n).map(|n| format!("sample_{n:06}"))), n);
        assert_eq!(distinct((0..n).map(|n| format!("user_id={n:08}"))), n);
        assert_eq!(distinct((0..n).map(|n| format!("SRR{n:07}"))), n);
        let days = (1..10).flat_map(|month| (1..29).map(move |day| (month, day)));
        let days = days.map(|(month, day)| format!("date=2026-0{month}-{day:02}"));
        assert_eq!(distinct(days), 9 * 28);
        // More than a program reads in a moment are never of one rank.
        let hex = (0..n as u64).map(|n| format!("{:016x}", n << 47));
        assert!(distinct(hex) > n / 10);
        let words = ["alpha", "beta", "gamma", "gamut", "zeta"];
        assert_eq!(distinct(words.map(str::to_owned).into_iter()), words.len());
    }

    proptest! {
        #[test]
        fn the_rank_goes_up_with_the_name(names in prop::collection::btree_set("[a-z0-9._é-]{1,9}", 2..20)) {
            // With one beginning, so that none of it is left out.
            let ranks: Vec<u64> = names.iter().map(|name| rank(&format!("0{name}"))).collect();
            prop_assert!(ranks.is_sorted_by(|a, b| a <= b), "{names:?} {ranks:?}");
        }
    }
}
