//! Entity tags, kept small: a listing brings one for each of its keys.

use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;

/// An entity tag as S3 gave it, with its quotes (RFC 9110, 8.8.3).
///
/// What S3 gives are 32 hexadecimal digits, and `-N` behind them for an object that was uploaded in
/// `N` parts: these take 24 bytes and no allocation. Any other tag is kept as its text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ETag(Tag);

/// Invariant: what can be a `Digest` is one, so that equal tags are equal here.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Tag {
    /// In quotes and in lower case.
    Digest(Digest),
    Text(Arc<str>),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Digest {
    hash: [u8; 16],
    n_parts: Option<NonZeroU16>,
}

/// What [`ETag::pack`] gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packing {
    /// 16 bytes, and two more for the number of parts, where there were some.
    Digest,
    /// The tag with its quotes.
    Text,
}

/// Hexadecimal digits of a [`Digest`].
const HASH_DIGITS: usize = 32;

/// What is no digit.
const NONE: u8 = 0xff;

/// The value of each byte as a hexadecimal digit in lower case.
const DIGITS: [u8; 256] = {
    let mut digits = [NONE; 256];
    let mut digit = 0;
    while digit < 16 {
        digits[b"0123456789abcdef"[digit as usize] as usize] = digit;
        digit += 1;
    }
    digits
};

impl ETag {
    /// Takes the tag as a server wrote it; one without quotes (some servers' listings) gets them,
    /// so that tags from a LIST, a HEAD and a GET compare equal.
    pub fn new(tag: &str) -> Self {
        let inner = tag.strip_prefix('"').map_or(Some(tag), |rest| rest.strip_suffix('"'));
        Self(match inner.and_then(Digest::parse) {
            Some(digest) => Tag::Digest(digest),
            None if tag.starts_with('"') || tag.starts_with("W/") => Tag::Text(tag.into()),
            None => Tag::Text(format!("\"{tag}\"").into()),
        })
    }

    /// Appends the tag with its quotes, as `If-Match` wants it.
    fn push_to(&self, text: &mut String) {
        match &self.0 {
            Tag::Digest(digest) => digest.push_to(text),
            Tag::Text(tag) => text.push_str(tag),
        }
    }

    /// Appends the shortest form.
    pub fn pack(&self, bytes: &mut Vec<u8>) -> Packing {
        match &self.0 {
            Tag::Digest(Digest { hash, n_parts }) => {
                bytes.extend_from_slice(hash);
                bytes.extend(n_parts.iter().flat_map(|n_parts| n_parts.get().to_le_bytes()));
                Packing::Digest
            }
            Tag::Text(tag) => {
                bytes.extend_from_slice(tag.as_bytes());
                Packing::Text
            }
        }
    }

    /// Reads what [`ETag::pack`] has written.
    ///
    /// # Panics
    /// When it has not.
    pub fn unpack(bytes: &[u8], packing: Packing) -> Self {
        Self(match packing {
            Packing::Digest => {
                let (hash, n_parts) = bytes.split_first_chunk().expect("a hash comes first");
                let n_parts = n_parts.try_into().ok().map(u16::from_le_bytes);
                Tag::Digest(Digest { hash: *hash, n_parts: n_parts.and_then(NonZeroU16::new) })
            }
            Packing::Text => Tag::Text(std::str::from_utf8(bytes).expect("a tag is text").into()),
        })
    }

    /// Whether only equal bytes mean the same (RFC 9110, 8.8.1): S3 has no others.
    pub fn is_weak(&self) -> bool {
        matches!(&self.0, Tag::Text(tag) if tag.starts_with("W/"))
    }

    /// What it takes beside its own size.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Tag::Digest(_) => 0,
            Tag::Text(tag) => tag.len() + 2 * size_of::<usize>(),
        }
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.push_to(&mut text);
        f.write_str(&text)
    }
}

impl fmt::Debug for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ETag({self})")
    }
}

impl Digest {
    /// `text` without quotes.
    fn parse(text: &str) -> Option<Self> {
        let (digits, rest) = text.as_bytes().split_at_checked(HASH_DIGITS)?;
        let mut hash = [0; 16];
        // A byte that is no digit shows in the upper half of the sum.
        let mut seen = 0;
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let (high, low) = (DIGITS[usize::from(pair[0])], DIGITS[usize::from(pair[1])]);
            seen |= high | low;
            *byte = high << 4 | low & 0xf;
        }
        if seen > 0xf {
            return None;
        }
        let n_parts = match rest {
            [] => None,
            // Only what is written again as it was.
            [b'-', b'1'..=b'9', ..] => Some(text[HASH_DIGITS + 1..].parse().ok()?),
            _ => return None,
        };
        Some(Self { hash, n_parts })
    }

    fn push_to(self, text: &mut String) {
        let mut digits = [0; HASH_DIGITS];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.hash) {
            let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
        }
        text.push('"');
        text.push_str(std::str::from_utf8(&digits).expect("they are ASCII"));
        if let Some(n_parts) = self.n_parts {
            text.push('-');
            text.push_str(&n_parts.to_string());
        }
        text.push('"');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tag_of_s3_takes_no_memory_of_its_own() {
        assert_eq!(size_of::<Option<ETag>>(), 24);
        for tag in [
            "d41d8cd98f00b204e9800998ecf8427e",
            "\"d41d8cd98f00b204e9800998ecf8427e\"",
            "\"d41d8cd98f00b204e9800998ecf8427e-1\"",
            "\"d41d8cd98f00b204e9800998ecf8427e-10000\"",
        ] {
            assert_eq!(ETag::new(tag).heap_bytes(), 0, "{tag}");
        }
    }

    #[test]
    fn tags_of_other_servers_stay_as_they_are() {
        for tag in [
            "\"\"",
            "\"",
            "W/\"d41d8cd98f00b204e9800998ecf8427e\"",
            "\"D41D8CD98F00B204E9800998ECF8427E\"",
            "\"d41d8cd98f00b204e9800998ecf8427e-\"",
            "\"d41d8cd98f00b204e9800998ecf8427e-0\"",
            "\"d41d8cd98f00b204e9800998ecf8427e-01\"",
            "\"d41d8cd98f00b204e9800998ecf8427e-65536\"",
            "\"d41d8cd98f00b204e9800998ecf8427e-1x\"",
            "\"d41d8cd98f00b204e9800998ecf8427e",
            "\"d41d8cd98f00b204e9800998ecf842\u{e9}e\"",
        ] {
            assert_eq!(ETag::new(tag).to_string(), tag);
        }
        assert_eq!(ETag::new("abc").to_string(), "\"abc\"");
        assert_eq!(ETag::new("abc"), ETag::new("\"abc\""));
    }

    proptest! {
        #[test]
        fn a_tag_is_given_back_as_it_was_and_no_two_are_one(
            one in "\"[0-9a-f]{31,33}(-[0-9]{1,6})?\"|\"[0-9a-fA-F]{32}\"",
            other in "\"[0-9a-f]{32}(-[0-9]{1,6})?\"",
        ) {
            let (a, b) = (ETag::new(&one), ETag::new(&other));
            prop_assert_eq!(a.to_string(), &one[..]);
            prop_assert_eq!(b.to_string(), &other[..]);
            prop_assert_eq!(a == b, one == other);
            let mut bytes = Vec::new();
            let packing = a.pack(&mut bytes);
            prop_assert_eq!(ETag::unpack(&bytes, packing), a.clone());
            prop_assert_eq!(ETag::new(one.trim_matches('"')), a, "without quotes it is the same");
        }
    }
}
