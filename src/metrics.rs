//! What the mount has counted: plain atomics, shared by an `Arc`, written by the store's wrappers
//! and read by the data layer ([`Metrics::pace`]) and by whoever prints them.
//! Invariant: nothing here waits or locks; a counter only grows, a gauge returns to zero.

mod line;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::line::Line;
use crate::error::StoreErrorKind;

/// A kind of request to S3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestKind {
    Head,
    List,
    Get,
}

impl RequestKind {
    /// All three, for those who print the counters of each.
    pub const ALL: [Self; 3] = [Self::Head, Self::List, Self::Get];

    /// The name of the operation, as S3's documentation and a request log have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Head => "HeadObject",
            Self::List => "ListObjectsV2",
            Self::Get => "GetObject",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Head => 0,
            Self::List => 1,
            Self::Get => 2,
        }
    }
}

/// The counters of one mount.
#[derive(Default, Debug)]
pub struct Metrics {
    requests: [AtomicU64; RequestKind::ALL.len()],
    errors: [AtomicU64; ERROR_KINDS.len()],
    retries: AtomicU64,
    resumes: AtomicU64,
    hedges: AtomicU64,
    hedges_won: AtomicU64,
    bytes_received: AtomicU64,
    bytes_owed: AtomicU64,
    bytes_unread: AtomicU64,
    in_flight: AtomicU64,
    first_byte: Average,
    bytes_per_second: Average,
    line: Line,
    asked_back: AtomicU64,
    names_bytes: AtomicU64,
    names_overruns: AtomicU64,
}

/// How fast the way to S3 is, as smoothed from the requests of this mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// From sending a GET to its answer's head.
    pub first_byte: Duration,
    /// Of one connection, while a body streams.
    pub bytes_per_second: u64,
}

impl Pace {
    /// What is believed before the first measurement: S3 in the same region (Amazon's performance
    /// guidelines give 100 to 200 ms for small requests and 85 to 90 MB/s for one).
    pub const ASSUMED: Self =
        Self { first_byte: Duration::from_millis(100), bytes_per_second: 85_000_000 };
}

impl Metrics {
    /// One request goes out.
    pub fn request_sent(&self, kind: RequestKind) {
        self.requests[kind.index()].fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// One request, its body included, is over. Called once for each [`Metrics::request_sent`].
    pub fn request_over(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// A request or a body failed with `kind`.
    pub fn failed(&self, kind: StoreErrorKind) {
        self.errors[error_index(kind)].fetch_add(1, Ordering::Relaxed);
    }

    /// A request is sent again.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// A broken body is asked for again from where it broke.
    pub fn resumed(&self) {
        self.resumes.fetch_add(1, Ordering::Relaxed);
    }

    /// A GET that is late is asked for once more.
    pub fn hedged(&self) {
        self.hedges.fetch_add(1, Ordering::Relaxed);
    }

    /// The second request for what was late brought it first.
    pub fn hedge_won(&self) {
        self.hedges_won.fetch_add(1, Ordering::Relaxed);
    }

    /// So many bytes were asked for. Each of them is given up or comes: [`Metrics::not_owed`].
    pub fn owed(&self, bytes: u64) {
        self.bytes_owed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many of the bytes that were asked for have come, or are no longer wanted.
    pub fn not_owed(&self, bytes: u64) {
        self.bytes_owed.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes of a body have come in.
    pub fn received(&self, bytes: u64) {
        self.bytes_received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes had come ahead of a reader, and were let go before anybody read them.
    pub fn let_go_unread(&self, bytes: u64) {
        self.bytes_unread.fetch_add(bytes, Ordering::Relaxed);
    }

    /// One GET's answer began after `elapsed`.
    pub fn first_byte_seen(&self, elapsed: Duration) {
        self.first_byte.add(elapsed.as_secs_f64());
        self.line.first_byte_seen(elapsed);
    }

    /// One connection brought `bytes` of a body in `elapsed`, however many others shared the line.
    pub fn body_seen(&self, bytes: u64, elapsed: Duration) {
        self.line.body_seen(bytes, elapsed);
    }

    /// All connections together brought `bytes` in `elapsed`, which ended at `now` by the mount's clock.
    pub fn line_brought(&self, bytes: u64, elapsed: Duration, now: Duration) {
        self.line.brought(bytes, elapsed, now);
    }

    /// How many bytes of bodies may be on their way, so that the line is full and what is asked for next
    /// does not wait for long. `None` where nothing was measured yet.
    pub fn window_bytes(&self) -> Option<u64> {
        self.line.window_bytes()
    }

    /// What all connections together bring in a second, as far as it was measured.
    pub fn line_bytes_per_second(&self) -> Option<u64> {
        self.line.speed()
    }

    /// One connection brought `bytes` in `elapsed`; nothing is learnt from an empty time.
    pub fn speed_seen(&self, bytes: u64, elapsed: Duration) {
        if !elapsed.is_zero() {
            #[expect(clippy::cast_precision_loss, reason = "a speed needs no 53 bits")]
            self.bytes_per_second.add(bytes as f64 / elapsed.as_secs_f64());
        }
    }

    /// The smoothed first-byte time and speed; [`Pace::ASSUMED`] where nothing was measured yet.
    pub fn pace(&self) -> Pace {
        let first_byte = self.first_byte.get().map(Duration::from_secs_f64);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "speeds are positive and far below 2^64"
        )]
        let speed = self.bytes_per_second.get().map(|speed| (speed as u64).max(1));
        Pace {
            first_byte: first_byte.unwrap_or(Pace::ASSUMED.first_byte),
            bytes_per_second: speed.unwrap_or(Pace::ASSUMED.bytes_per_second),
        }
    }

    /// Requests sent so far, tries counted one by one.
    pub fn n_requests(&self, kind: RequestKind) -> u64 {
        self.requests[kind.index()].load(Ordering::Relaxed)
    }

    /// Requests and bodies that failed with `kind`, those that a retry made good included.
    pub fn n_errors(&self, kind: StoreErrorKind) -> u64 {
        self.errors[error_index(kind)].load(Ordering::Relaxed)
    }

    pub fn n_retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    pub fn n_resumes(&self) -> u64 {
        self.resumes.load(Ordering::Relaxed)
    }

    /// Requests that were sent only because an earlier one was late.
    pub fn n_hedges(&self) -> u64 {
        self.hedges.load(Ordering::Relaxed)
    }

    /// Those of them that were faster than the earlier one.
    pub fn n_hedges_won(&self) -> u64 {
        self.hedges_won.load(Ordering::Relaxed)
    }

    pub fn bytes_received(&self) -> u64 {
        self.bytes_received.load(Ordering::Relaxed)
    }

    /// Bytes of bodies that were asked for and have not come yet.
    pub fn bytes_owed(&self) -> u64 {
        self.bytes_owed.load(Ordering::Relaxed)
    }

    /// Bytes that came ahead of a reader and were let go before anybody read them: whoever reads them later
    /// asks for them again.
    pub fn bytes_unread(&self) -> u64 {
        self.bytes_unread.load(Ordering::Relaxed)
    }

    /// What the mount has asked of the bucket, in one sentence for the log.
    pub fn summary(&self) -> String {
        let requests =
            RequestKind::ALL.map(|kind| format!("{} {}", self.n_requests(kind), kind.name()));
        format!(
            "{} requests brought {} bytes, {} of which nobody read; {} of them were retries, {} resumed a \
             broken body, and {} asked again for what was late, {} of which were faster",
            requests.join(", "),
            self.bytes_received(),
            self.bytes_unread(),
            self.n_retries(),
            self.n_resumes(),
            self.n_hedges(),
            self.n_hedges_won(),
        )
    }

    /// The kernel was asked to let go of `n_inodes`.
    pub fn asked_back(&self, n_inodes: u64) {
        self.asked_back.fetch_add(n_inodes, Ordering::Relaxed);
    }

    /// Names and inodes hold `bytes` of the `max` that they may. Counts how often they come to hold more:
    /// what is in use cannot be dropped.
    pub fn names_held(&self, bytes: u64, max: u64) {
        let before = self.names_bytes.swap(bytes, Ordering::Relaxed);
        if bytes > max && before <= max {
            self.names_overruns.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Inodes that the kernel was asked to let go of so far, some of them more than once.
    pub fn n_asked_back(&self) -> u64 {
        self.asked_back.load(Ordering::Relaxed)
    }

    /// Bytes of names and inodes now.
    pub fn names_bytes(&self) -> u64 {
        self.names_bytes.load(Ordering::Relaxed)
    }

    /// How often names and inodes came to hold more than half of the budget.
    pub fn n_names_overruns(&self) -> u64 {
        self.names_overruns.load(Ordering::Relaxed)
    }

    /// Requests on the wire now, a GET until its body is over.
    pub fn n_in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// Every kind of error with its name, for those who print all counters.
pub const ERROR_KINDS: [(StoreErrorKind, &str); 16] = [
    (StoreErrorKind::NotFound, "not_found"),
    (StoreErrorKind::NoSuchBucket, "no_such_bucket"),
    (StoreErrorKind::Denied, "denied"),
    (StoreErrorKind::Changed, "changed"),
    (StoreErrorKind::NotModified, "not_modified"),
    (StoreErrorKind::OutOfRange, "out_of_range"),
    (StoreErrorKind::Archived, "archived"),
    (StoreErrorKind::Throttled, "throttled"),
    (StoreErrorKind::TimedOut, "timed_out"),
    (StoreErrorKind::Unreachable, "unreachable"),
    (StoreErrorKind::NoCredentials, "no_credentials"),
    (StoreErrorKind::BadCredentials, "bad_credentials"),
    (StoreErrorKind::WrongRegion, "wrong_region"),
    (StoreErrorKind::Corrupt, "corrupt"),
    (StoreErrorKind::Other, "other"),
    (StoreErrorKind::Asleep, "asleep"),
];

/// The place of `kind` in [`ERROR_KINDS`].
fn error_index(kind: StoreErrorKind) -> usize {
    match kind {
        StoreErrorKind::NotFound => 0,
        StoreErrorKind::NoSuchBucket => 1,
        StoreErrorKind::Denied => 2,
        StoreErrorKind::Changed => 3,
        StoreErrorKind::NotModified => 4,
        StoreErrorKind::OutOfRange => 5,
        StoreErrorKind::Archived => 6,
        StoreErrorKind::Throttled => 7,
        StoreErrorKind::TimedOut => 8,
        StoreErrorKind::Unreachable => 9,
        StoreErrorKind::NoCredentials => 10,
        StoreErrorKind::BadCredentials => 11,
        StoreErrorKind::WrongRegion => 12,
        StoreErrorKind::Corrupt => 13,
        StoreErrorKind::Other => 14,
        StoreErrorKind::Asleep => 15,
    }
}

/// An exponentially weighted moving average in one atomic: the bits of an `f64`, where 0.0 (all
/// bits zero) says that nothing was added yet.
#[derive(Default, Debug)]
struct Average(AtomicU64);

impl Average {
    /// 0.2 forgets nine tenths of a sample within ten: quick enough for a line that changes,
    /// steady enough that one late answer is not the new normal.
    const WEIGHT: f64 = 0.2;

    fn add(&self, sample: f64) {
        // Above zero, so that the value can not be taken for "nothing yet".
        let sample = sample.max(f64::MIN_POSITIVE);
        let step = |bits| {
            let old = f64::from_bits(bits);
            Some(if bits == 0 { sample } else { old + Self::WEIGHT * (sample - old) }.to_bits())
        };
        // The closure always gives a value, so there is no failure to handle.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
    }

    fn get(&self) -> Option<f64> {
        let bits = self.0.load(Ordering::Relaxed);
        (bits != 0).then(|| f64::from_bits(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_kind_is_counted_in_its_own_place() {
        for (place, (kind, name)) in ERROR_KINDS.iter().enumerate() {
            assert_eq!(error_index(*kind), place, "{name}");
        }
    }

    #[test]
    fn the_pace_is_assumed_until_measured_and_then_follows_the_measurements() {
        let metrics = Metrics::default();
        assert_eq!(metrics.pace(), Pace::ASSUMED);
        metrics.first_byte_seen(Duration::from_millis(10));
        metrics.speed_seen(1_000_000, Duration::from_millis(100));
        let pace = metrics.pace();
        assert_eq!(
            (pace.first_byte, pace.bytes_per_second),
            (Duration::from_millis(10), 10_000_000)
        );
        for _ in 0..50 {
            metrics.first_byte_seen(Duration::from_millis(200));
        }
        assert!(metrics.pace().first_byte > Duration::from_millis(190));
    }

    #[test]
    fn the_summary_names_what_was_asked() {
        let metrics = Metrics::default();
        metrics.request_sent(RequestKind::Get);
        metrics.received(1000);
        metrics.let_go_unread(10);
        metrics.hedged();
        assert_eq!(
            metrics.summary(),
            "0 HeadObject, 0 ListObjectsV2, 1 GetObject requests brought 1000 bytes, 10 of which nobody \
             read; 0 of them were retries, 0 resumed a broken body, and 1 asked again for what was late, \
             0 of which were faster"
        );
    }

    #[test]
    fn an_empty_time_teaches_no_speed() {
        let metrics = Metrics::default();
        metrics.speed_seen(5, Duration::ZERO);
        assert_eq!(metrics.pace(), Pace::ASSUMED);
    }
}
