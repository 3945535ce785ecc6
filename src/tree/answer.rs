//! What an answer of S3 says about one name, and how long it holds. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::{MetadataTtl, Ttl};
use crate::object::Version;

/// What a name means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum What {
    File(Version),
    Directory {
        /// False where LIST of it is denied, so that its existence is a guess.
        listable: bool,
    },
    Absent,
}

/// What a name means, and how we know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    pub(super) what: What,
    /// When the request was sent that told it.
    pub(super) sent: Instant,
    /// What it cost, in pages of a listing; a probe is one.
    pub(super) n_pages: usize,
    pub(super) source: Source,
}

/// Which kind of request told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// A HEAD, a GET, or a LIST of one name.
    Single,
    Listing {
        is_complete: bool,
    },
}

/// The times to live, as the mount was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ages {
    pub(super) metadata: MetadataTtl,
    pub(super) negative: Ttl,
}

impl Ages {
    /// `auto`: what a page costs the user, in time to live.
    const PER_PAGE: Duration = Duration::from_secs(2);
    /// `auto`: no answer is given that is older than this.
    pub(super) const AUTO_MAX: Duration = Duration::from_secs(60);
    /// A slow server needs as long for a page.
    const WHILE: Duration = Duration::from_secs(1);
    /// The kernel counts in ticks and rounds up: an absence that lasted a tick too long would hide
    /// a new object beyond its time.
    const KERNEL_ROUNDING: Duration = Duration::from_millis(100);

    /// How long what cost `n_pages` holds.
    pub(super) fn metadata(&self, n_pages: usize) -> Ttl {
        match self.metadata {
            MetadataTtl::Fixed(ttl) => ttl,
            MetadataTtl::Auto => {
                let pages = u32::try_from(n_pages.max(1)).unwrap_or(u32::MAX);
                Ttl::For(Self::PER_PAGE.saturating_mul(pages).min(Self::AUTO_MAX))
            }
        }
    }

    /// What is left of the answer's time.
    pub(super) fn left(&self, answer: &Answer, now: Instant) -> Duration {
        let ttl = match answer.what {
            What::Absent => self.negative,
            What::File(_) | What::Directory { .. } => self.metadata(answer.n_pages),
        };
        ttl.left(now.saturating_duration_since(answer.sent))
    }

    /// What the kernel is told of it.
    pub(super) fn valid_for(&self, answer: &Answer, now: Instant) -> Duration {
        let left = self.left(answer, now);
        match answer.what {
            What::Absent => left.saturating_sub(Self::KERNEL_ROUNDING),
            What::File(_) | What::Directory { .. } => left,
        }
    }

    /// Whether what a listing of `n_pages` told may answer although its time is over, while it is
    /// listed again behind. A time that the user gave is meant as it is: then never.
    pub(super) fn answers_on(&self, n_pages: usize, sent: Instant, now: Instant) -> bool {
        let age = now.saturating_duration_since(sent);
        self.metadata == MetadataTtl::Auto && n_pages > 1 && age < Self::AUTO_MAX
    }

    /// Whether what is told ahead of its use is still good when it comes to that.
    pub(super) fn hold_for_a_while(&self) -> bool {
        !matches!(self.metadata, MetadataTtl::Fixed(Ttl::For(time)) if time < Self::WHILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTO: Ages =
        Ages { metadata: MetadataTtl::Auto, negative: Ttl::For(Duration::from_secs(1)) };

    fn left(ages: Ages, what: What, n_pages: usize, age_ms: u64) -> (u128, u128) {
        let sent = Instant::now();
        let answer = Answer { what, sent, n_pages, source: Source::Single };
        let now = sent + Duration::from_millis(age_ms);
        (ages.left(&answer, now).as_millis(), ages.valid_for(&answer, now).as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn auto_is_two_seconds_a_page_and_a_minute_at_most() {
        let present = || What::Directory { listable: true };
        for (n_pages, expected) in
            [(0, 2_000), (1, 2_000), (5, 10_000), (30, 60_000), (999, 60_000)]
        {
            assert_eq!(left(AUTO, present(), n_pages, 0), (expected, expected), "{n_pages} pages");
        }
        assert_eq!(left(AUTO, present(), 1, 1_500), (500, 500));
        assert_eq!(left(AUTO, present(), 1, 9_500), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_absence_is_told_to_the_kernel_100_ms_short() {
        assert_eq!(left(AUTO, What::Absent, 9, 0), (1_000, 900));
        assert_eq!(left(AUTO, What::Absent, 9, 950), (50, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_given_time_is_never_overdrawn() {
        let now = Instant::now();
        let later = now + Duration::from_secs(20);
        assert!(AUTO.answers_on(5, now, later));
        assert!(!AUTO.answers_on(1, now, later), "one page is refreshed in line");
        assert!(!AUTO.answers_on(5, now, now + Duration::from_secs(60)));
        let fixed = Ages { metadata: MetadataTtl::Fixed(Ttl::For(Duration::from_secs(5))), ..AUTO };
        assert!(!fixed.answers_on(5, now, later));
    }
}
