//! Sizes, times and the other values of options, as people write them. The errors say what is
//! allowed; the command line puts the option and the value before them.

use std::str::FromStr;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::{BANDWIDTH_MIN_BYTES, FOREVER, MEMORY_MIN_BYTES, MetadataTtl, Ttl};

/// `512MiB`, `128M`, `1G`, plain bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    const ALLOWED: &str = "a size is written as 512MiB, 128M, 1G or in plain bytes";
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| ALLOWED)?;
    let (base, power): (u64, u32) = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => (1, 0),
        "k" | "kib" => (1024, 1),
        "m" | "mib" => (1024, 2),
        "g" | "gib" => (1024, 3),
        "t" | "tib" => (1024, 4),
        "kb" => (1000, 1),
        "mb" => (1000, 2),
        "gb" => (1000, 3),
        "tb" => (1000, 4),
        _ => return Err(ALLOWED.to_owned()),
    };
    number.checked_mul(base.pow(power)).ok_or_else(|| ALLOWED.to_owned())
}

/// `--memory`.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if bytes < MEMORY_MIN_BYTES {
        return Err(format!("the smallest that works is {}MiB", MEMORY_MIN_BYTES >> 20));
    }
    Ok(bytes)
}

/// `--max-bandwidth`: bytes in a second.
pub fn parse_bandwidth(text: &str) -> Result<u64, String> {
    let bytes =
        parse_size(text).map_err(|_| "a size for each second is written as 20MiB or 500K")?;
    if bytes < BANDWIDTH_MIN_BYTES {
        let least = BANDWIDTH_MIN_BYTES >> 10;
        return Err(format!("the smallest that works is {least}KiB, for each second"));
    }
    Ok(bytes)
}

/// `--max-requests`: at least one for names and one for bytes, at most as many as `--memory` has room for
/// beside it.
pub fn parse_requests(text: &str) -> Result<u16, String> {
    let number = text.trim().parse().ok().filter(|number| (2..=64).contains(number));
    number.ok_or_else(|| "allowed is a number from 2 to 64".to_owned())
}

/// Permission bits in octal.
pub fn parse_mode(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    u16::from_str_radix(digits, 8)
        .ok()
        .filter(|mode| *mode <= 0o777 && !digits.starts_with('+'))
        .ok_or_else(|| "a mode is written in octal, from 0000 to 0777".to_owned())
}

pub fn parse_level(text: &str) -> Result<LevelFilter, String> {
    match text.to_ascii_lowercase().as_str() {
        "error" => Ok(LevelFilter::ERROR),
        "warn" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        "trace" => Ok(LevelFilter::TRACE),
        _ => Err("allowed are error, warn, info, debug and trace".to_owned()),
    }
}

/// Whether a time written in parts may be longer than numbers go: not with 9 digits each, 64 bytes in all.
fn is_immense(text: &str) -> bool {
    let longest = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max();
    text.len() > 64 || longest > Some(9)
}

impl FromStr for Ttl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("forever") {
            return Ok(Self::Forever);
        }
        let wrong = "a time is written as 60s, 5m, 1m30s, 0 or forever";
        // Mountpoint counts in plain seconds.
        let duration = match text.parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            // A sum that passes all numbers is a panic there.
            Err(_) if is_immense(text) => return Err(wrong.to_owned()),
            Err(_) => humantime::parse_duration(text).map_err(|_| wrong)?,
        };
        Ok(Self::For(duration.min(FOREVER)))
    }
}

impl FromStr for MetadataTtl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::Fixed).map_err(|err: String| format!("{err}, or auto"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("12", 12),
            ("1K", 1024),
            ("1k", 1024),
            ("128M", 128 << 20),
            ("512MiB", 512 << 20),
            ("512 MiB", 512 << 20),
            ("1G", 1 << 30),
            ("2TiB", 2 << 40),
            ("1MB", 1_000_000),
            ("3gb", 3_000_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "-1", "1.5G", "1X", "1MiBs", "99999999999T", "0x10"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn memory_has_a_smallest_value() {
        assert_eq!(parse_memory("32MiB"), Ok(32 << 20));
        assert!(parse_memory("33554431").unwrap_err().contains("32MiB"));
    }

    #[test]
    fn times() {
        for (text, ttl) in [
            ("0", Ttl::For(Duration::ZERO)),
            ("60", Ttl::For(Duration::from_secs(60))),
            ("60s", Ttl::For(Duration::from_secs(60))),
            ("1m30s", Ttl::For(Duration::from_secs(90))),
            ("500ms", Ttl::For(Duration::from_millis(500))),
            ("9999y", Ttl::For(FOREVER)),
            ("Forever", Ttl::Forever),
        ] {
            assert_eq!(text.parse(), Ok(ttl), "{text}");
            assert_eq!(text.parse(), Ok(MetadataTtl::Fixed(ttl)), "{text}");
        }
        assert_eq!("auto".parse(), Ok(MetadataTtl::Auto));
        let immense = "18446744073709551615s1000ms";
        for text in ["", "auto", "-1s", "soon", "1.5", immense] {
            assert!(text.parse::<Ttl>().is_err(), "{text}");
        }
    }

    #[test]
    fn modes() {
        for (text, mode) in [("0444", 0o444), ("755", 0o755), ("0o640", 0o640), ("0", 0)] {
            assert_eq!(parse_mode(text), Ok(mode), "{text}");
        }
        for text in ["", "888", "1777", "+7", "-1", "rwx"] {
            assert!(parse_mode(text).is_err(), "{text}");
        }
    }
}
