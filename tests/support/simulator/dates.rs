//! Dates as S3 writes them, always in whole seconds.

use std::time::SystemTime;

use s3s::dto::{Timestamp, TimestampFormat};

/// As in listings: `2026-11-22T14:06:00.000Z`.
pub(crate) fn iso(time: SystemTime) -> String {
    format(time, TimestampFormat::DateTime)
}

/// As [`iso`], with a fraction that S3 never has.
pub(crate) fn fractional(time: SystemTime) -> String {
    iso(time).replace(".000Z", ".789Z")
}

/// As in headers: `Sun, 22 Nov 2026 14:06:00 GMT`.
pub(crate) fn http(time: SystemTime) -> String {
    format(time, TimestampFormat::HttpDate)
}

fn format(time: SystemTime, format: TimestampFormat) -> String {
    let mut text = Vec::with_capacity(32);
    Timestamp::from(time).format(format, &mut text).expect("years of four digits");
    String::from_utf8(text).expect("dates are ASCII")
}
