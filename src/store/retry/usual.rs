//! How long answers usually take, and when the silence of all connections is longer than that. Pure.

use std::time::Duration;

use parking_lot::Mutex;

use crate::metrics::RequestKind;

/// So many times as long as usual: an answer of S3 that is slow by itself takes ten times, and others are
/// answered meanwhile.
const TIMES: u32 = 10;

/// Below this a lost packet, which TCP sends again after 200 ms, 600 ms and 1.4 s, may be all there is.
const LEAST: Duration = Duration::from_secs(2);

/// With fewer answers nothing is usual.
const ANSWERS_MIN: u32 = 8;

/// The times of answers, by kind.
#[derive(Default)]
pub(super) struct Usual {
    kinds: [Mutex<Smoothed>; RequestKind::ALL.len()],
}

/// As TCP smooths its round trips (RFC 6298).
#[derive(Default)]
struct Smoothed {
    n_answers: u32,
    mean: Duration,
    deviation: Duration,
}

impl Usual {
    /// An answer has taken so long.
    pub(super) fn took(&self, kind: RequestKind, time: Duration) {
        let mut smoothed = self.of(kind).lock();
        if smoothed.n_answers == 0 {
            (smoothed.mean, smoothed.deviation) = (time, time / 2);
        } else {
            let apart = smoothed.mean.abs_diff(time);
            smoothed.deviation = (smoothed.deviation * 3 + apart) / 4;
            smoothed.mean = (smoothed.mean * 7 + time) / 8;
        }
        smoothed.n_answers = smoothed.n_answers.saturating_add(1);
    }

    /// After how long without any answer the connections are dead rather than slow; `None` before that is
    /// known.
    pub(super) fn silence(&self, kind: RequestKind) -> Option<Duration> {
        let smoothed = self.of(kind).lock();
        let usual = smoothed.mean + 4 * smoothed.deviation;
        (smoothed.n_answers >= ANSWERS_MIN).then(|| (usual * TIMES).max(LEAST))
    }

    fn of(&self, kind: RequestKind) -> &Mutex<Smoothed> {
        let index = RequestKind::ALL.iter().position(|other| *other == kind);
        &self.kinds[index.expect("all are there")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_long_against_what_is_usual_of_its_kind() {
        let usual = Usual::default();
        let millis = Duration::from_millis;
        (1..ANSWERS_MIN).for_each(|_| usual.took(RequestKind::List, millis(20)));
        assert_eq!(usual.silence(RequestKind::List), None);
        usual.took(RequestKind::List, millis(20));
        assert_eq!(usual.silence(RequestKind::List), Some(LEAST));
        assert_eq!(usual.silence(RequestKind::Get), None);
        (0..100).for_each(|_| usual.took(RequestKind::List, millis(600)));
        let slow = usual.silence(RequestKind::List).unwrap();
        assert!((millis(5_900)..millis(6_100)).contains(&slow), "{slow:?}");
    }
}
