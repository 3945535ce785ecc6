//! How often it is worth mounting anew. Pure: the clock is the caller's.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What dies so often in so long dies of something that another start does not mend: each of them
/// costs those who read, and the bucket, once more what the last one had.
pub(super) const DEATHS_MAX: usize = 5;
pub(super) const WITHIN: Duration = Duration::from_secs(600);

/// Before the second try; doubled with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Between tries to reach a server that was reached before: as long as it takes.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The deaths of late.
#[derive(Default, Debug)]
pub(super) struct Deaths {
    times: VecDeque<Instant>,
}

impl Deaths {
    /// How long to wait before the next process is started after one that died `now`; `None` when
    /// enough have died.
    pub(super) fn add(&mut self, now: Instant) -> Option<Duration> {
        self.times.retain(|death| now.duration_since(*death) < WITHIN);
        self.times.push_back(now);
        match self.times.len() {
            1 => Some(Duration::ZERO),
            n if n < DEATHS_MAX => Some(doubled(n - 2)),
            _ => None,
        }
    }
}

/// How long to wait after the start that failed as the `n`th in a row, from 0 on.
pub(super) fn doubled(n: usize) -> Duration {
    let factor = u32::try_from(n).ok().and_then(|n| 1_u32.checked_shl(n)).unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(factor).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_replaced_at_once_and_the_fifth_not_at_all() {
        let mut deaths = Deaths::default();
        let start = Instant::now();
        let pauses: Vec<_> = (0..5).map(|n| deaths.add(start + FIRST_PAUSE * n)).collect();
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(pauses, [seconds(0), seconds(1), seconds(2), seconds(4), None]);
    }

    #[test]
    fn what_dies_rarely_is_mounted_anew_for_ever() {
        let mut deaths = Deaths::default();
        let start = Instant::now();
        for n in 0..100 {
            assert!(deaths.add(start + WITHIN / 4 * n).is_some(), "{n}");
        }
        assert_eq!(deaths.add(start + WITHIN * 30), Some(Duration::ZERO), "long ago is forgotten");
    }

    #[test]
    fn tries_become_rare_and_go_on() {
        let seconds = [0, 1, 4, 5, 31, 32, 1_000].map(|n| doubled(n).as_secs());
        assert_eq!(seconds, [1, 2, 16, 30, 30, 30, 30]);
    }
}
