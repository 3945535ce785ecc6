//! Names in a directory: which can be shown, and in which order. Pure.

use std::cmp::Ordering;

/// `NAME_MAX` of Linux, bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// S3's own bound: a longer key cannot exist.
pub(super) const KEY_BYTES_MAX: usize = 1024;

/// Whether a component of a key can be a name in a directory as it is.
pub fn is_presentable(name: &str) -> bool {
    let reserved = matches!(name, "" | "." | "..");
    !reserved && name.len() <= NAME_BYTES_MAX && !name.bytes().any(|b| b == 0 || b == b'/')
}

/// Directory order: the order of name + `/`, for files too. S3's own order puts a file `a` before
/// `a-x` and the directory `a/` after it; this one gives both names one place.
pub(super) fn directory_order(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let common = a.len().min(b.len());
    let after = |name: &[u8]| name.get(common).copied().unwrap_or(b'/');
    // Names hold no `/`, so the byte after the common part decides, unless both end there.
    a[..common].cmp(&b[..common]).then_with(|| after(a).cmp(&after(b)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_names_that_linux_can_hold_are_shown() {
        for name in ["", ".", "..", "a\0b", "a/b", &"x".repeat(256)] {
            assert!(!is_presentable(name), "{name:?}");
        }
        for name in ["...", " ", "%2e", "a\nb", "é", &"x".repeat(255)] {
            assert!(is_presentable(name), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn directory_order_is_the_order_of_the_name_with_a_slash(
            a in "[ab.0é-]{0,5}", b in "[ab.0é-]{0,5}",
        ) {
            let expected = format!("{a}/").cmp(&format!("{b}/"));
            prop_assert_eq!(directory_order(&a, &b), expected);
        }
    }
}
