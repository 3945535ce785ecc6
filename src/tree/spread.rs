//! Where names lie between two others, by the bytes that they consist of: what a listing is split by.
//! Pure, and only ever an estimate: a wrong one costs a request, never an entry.

/// The bytes that the names of one directory are made of, place by place, completed to their kinds: a
/// directory whose first thousand names begin with `0` has others that begin with `7`.
#[derive(Clone, Debug, Default)]
pub(super) struct Alphabet {
    places: Vec<Place>,
    all: Bytes,
}

/// What was seen at one place of the names.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    bytes: Bytes,
    /// A name ended before it.
    end: bool,
}

/// Names as numbers: each byte is a digit, in the base of its place. What is before the first of them
/// is the same in all names that it is used for.
#[derive(Clone, Debug)]
pub(super) struct Spread<'a> {
    stem: &'a str,
    digits: Vec<Digit>,
}

/// A place of a [`Spread`].
#[derive(Clone, Debug)]
struct Digit {
    /// In order.
    bytes: Vec<u8>,
    /// Names end before this place, too: 0 is their digit, and the bytes begin at 1.
    end: bool,
    /// What one step is worth: the product of the bases of all places behind.
    unit: u128,
}

/// A set of bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes([u128; 2]);

/// Bytes behind these are not looked at; names that differ only there are not told apart.
const PLACES_MAX: usize = 96;

/// Beyond the last byte in which the names seen differ: so many more tell 1,000 names apart.
const FURTHER_DIGITS: usize = 6;

impl Bytes {
    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 7)] |= 1 << (byte & 127);
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 7)] & (1 << (byte & 127)) != 0
    }

    fn any(&self, mut range: std::ops::RangeInclusive<u8>) -> bool {
        range.any(|byte| self.has(byte))
    }
}

impl Alphabet {
    /// Takes in the bytes of a name.
    pub(super) fn add(&mut self, name: &str) {
        let n_places = name.len().min(PLACES_MAX);
        if self.places.len() <= n_places {
            self.places.resize(n_places + 1, Place::default());
        }
        for (place, byte) in self.places.iter_mut().zip(name.bytes()) {
            place.bytes.add(byte);
            self.all.add(byte);
        }
        self.places[n_places].end |= name.len() == n_places;
    }

    fn digit(&self, place: usize, unit: u128) -> Digit {
        let end = self.places.get(place).is_none_or(|place| place.end);
        Digit { bytes: self.at(place), end, unit }
    }

    /// What may stand at a place, in order.
    fn at(&self, place: usize) -> Vec<u8> {
        let Some(Place { bytes: seen, .. }) = self.places.get(place) else { return Vec::new() };
        // Letters that go no further than `f`, beside digits, are hexadecimal: then a digit anywhere
        // may be a letter as well.
        let hex = |first: u8, sixth: u8, last: u8| {
            self.all.any(b'0'..=b'9')
                && self.all.any(first..=sixth)
                && !self.all.any(sixth + 1..=last)
        };
        let letters = |first: u8, sixth: u8, last: u8| {
            let is_hex = hex(first, sixth, last);
            match seen.any(first..=last) || is_hex && seen.any(b'0'..=b'9') {
                true if is_hex => Some(first..=sixth),
                true => Some(first..=last),
                false => None,
            }
        };
        let (lower, upper) = (letters(b'a', b'f', b'z'), letters(b'A', b'F', b'Z'));
        let some_hex = hex(b'a', b'f', b'z') || hex(b'A', b'F', b'Z');
        let is_hex_letter = seen.any(b'a'..=b'f') || seen.any(b'A'..=b'F');
        let digits = seen.any(b'0'..=b'9') || some_hex && is_hex_letter;
        let kinds = [digits.then_some(b'0'..=b'9'), lower, upper];
        let belongs =
            |byte: &u8| seen.has(*byte) || kinds.iter().flatten().any(|k| k.contains(byte));
        (0..=255).filter(belongs).collect()
    }
}

impl<'a> Spread<'a> {
    /// For names from `first` to `last` and what may follow.
    pub(super) fn new(alphabet: &Alphabet, first: &'a str, last: &str) -> Self {
        let n_common = common(first, last);
        let mut digits = Vec::new();
        let mut unit = 1_u128;
        let mut place = n_common + FURTHER_DIGITS;
        // As many places before that as 112 bits hold, so that a value may be multiplied by a page.
        while place > 0 {
            let digit = alphabet.digit(place - 1, unit);
            let Some(next) = unit.checked_mul(digit.base()).filter(|it| it >> 112 == 0) else {
                break;
            };
            place -= 1;
            digits.push(digit);
            unit = next;
        }
        digits.reverse();
        // The place is at a character of `first`, or a few digits are left out.
        let stem = &first[..first.ceil_char_boundary(place)];
        digits.drain(..(stem.len() - place).min(digits.len()));
        Self { stem, digits }
    }

    /// The place of `name`. Names that consist of what the alphabet has seen come in their order.
    pub(super) fn value(&self, name: &str) -> u128 {
        let Some(rest) = name.strip_prefix(self.stem) else {
            return if name < self.stem { 0 } else { self.end() };
        };
        let rest = rest.bytes().map(Some).chain(std::iter::repeat(None));
        self.digits.iter().zip(rest).map(|(digit, byte)| digit.value(byte)).sum()
    }

    /// Beyond all names that begin with the stem.
    pub(super) fn end(&self) -> u128 {
        self.digits.first().map_or(1, |digit| digit.unit * digit.base())
    }

    /// A short name between `after` and `until`, not much below `value`; `None` where there is none
    /// that could be written. `precision` is how far below it may be.
    pub(super) fn name_near(
        &self,
        value: u128,
        precision: u128,
        after: &str,
        until: Option<&str>,
    ) -> Option<String> {
        if value >= self.end() {
            return None;
        }
        let mut name = self.stem.to_owned();
        let mut rest = value;
        for digit in &self.digits {
            let index = usize::try_from(rest / digit.unit).ok()?;
            rest %= digit.unit;
            let index = if digit.end {
                // No name can be written that ends here and goes on: the next one, then.
                rest = if index == 0 { 0 } else { rest };
                index.saturating_sub(1)
            } else {
                index
            };
            let byte = *digit.bytes.get(index)?;
            if !byte.is_ascii() {
                return None;
            }
            name.push(char::from(byte));
            let fits = after < name.as_str() && until.is_none_or(|until| name.as_str() < until);
            if fits && digit.unit <= precision.max(1) {
                return Some(name);
            }
        }
        None
    }
}

impl Digit {
    fn base(&self) -> u128 {
        (self.bytes.len() as u128 + u128::from(self.end)).max(1)
    }

    fn value(&self, byte: Option<u8>) -> u128 {
        let place = byte.map_or(0, |byte| {
            let before = self.bytes.partition_point(|each| *each < byte) as u128;
            (before + u128::from(self.end)).min(self.base() - 1)
        });
        self.unit * place
    }
}

/// How many bytes two names begin with alike.
fn common(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn alphabet(names: &[&str]) -> Alphabet {
        let mut alphabet = Alphabet::default();
        for name in names {
            alphabet.add(name);
        }
        alphabet
    }

    #[test]
    fn an_alphabet_is_completed_to_its_kinds() {
        let at = |names: &[&str], place| String::from_utf8(alphabet(names).at(place)).unwrap();
        assert_eq!(at(&["part-000", "part-001"], 5), "0123456789");
        assert_eq!(at(&["part-000", "part-001"], 4), "-");
        assert_eq!(at(&["00a1-b"], 0), "0123456789abcdef");
        assert_eq!(at(&["00a1-b"], 2), "0123456789abcdef");
        assert_eq!(at(&["00a1-b"], 4), "-");
        assert_eq!(at(&["abc"], 1), "abcdefghijklmnopqrstuvwxyz");
        assert_eq!(at(&["0F_"], 1), "0123456789ABCDEF");
        assert_eq!(at(&["0F_"], 9), "");
    }

    #[test]
    fn counters_are_spread_evenly() {
        let alphabet = alphabet(&["file-000000.csv", "file-000999.csv"]);
        let spread = Spread::new(&alphabet, "file-000000.csv", "file-000999.csv");
        let span = |a: &str, b: &str| spread.value(b) - spread.value(a);
        let thousand = span("file-000000.csv", "file-001000.csv");
        let ten_thousand = span("file-000000.csv", "file-010000.csv");
        let ratio = ten_thousand * 10 / thousand;
        assert_eq!(ratio, 100);
        assert_eq!(thousand, span("file-005000.csv", "file-006000.csv"));
    }

    #[test]
    fn a_name_near_a_value_lies_between_its_neighbors() {
        let digits = alphabet(&["000000", "000999"]);
        let spread = Spread::new(&digits, "000000", "000999");
        let (a, b) = (spread.value("000999"), spread.value("090000"));
        let name = spread.name_near((a + b) / 2, (b - a) / 8, "000999", Some("090000")).unwrap();
        assert!("03" < &*name && &*name < "06" && name.len() <= 3, "{name}");
        assert_eq!(spread.name_near(spread.end(), 1, "000999", None), None);
        let umlauts = alphabet(&["\u{e4}\u{e4}"]);
        let spread = Spread::new(&umlauts, "", "\u{e4}");
        assert_eq!(spread.name_near(spread.end() / 2, 1, "", None), None);
    }

    proptest! {
        #[test]
        fn the_order_of_values_is_that_of_names(
            names in prop::collection::vec("[a-d0-3.-]{1,9}", 3..6),
        ) {
            let mut names = names;
            names.sort();
            let mut alphabet = Alphabet::default();
            names.iter().for_each(|name| alphabet.add(name));
            let spread = Spread::new(&alphabet, &names[0], &names[1]);
            let values: Vec<u128> = names.iter().map(|name| spread.value(name)).collect();
            prop_assert!(values.is_sorted(), "{names:?} {values:?}");
        }

        #[test]
        fn what_is_between_is_between(
            a in "[a-dé0-3.-]{0,9}", b in "[a-dé0-3.-]{1,9}", part in 0_u128..100,
        ) {
            let (a, b) = if a <= b { (a, b) } else { (b, a) };
            let mut alphabet = Alphabet::default();
            alphabet.add(&a);
            alphabet.add(&b);
            let spread = Spread::new(&alphabet, &a, &b);
            let (low, high) = (spread.value(&a), spread.value(&b));
            let near = low + (high - low) / 100 * part;
            if let Some(name) = spread.name_near(near, (high - low) / 8, &a, Some(&b)) {
                prop_assert!(a < name && name < b, "{a:?} {name:?} {b:?}");
            }
        }
    }
}
