//! How long things took lately, and when the next one is late. Pure, but for a lock of its own.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

/// So many of the latest times count: enough for a 95th percentile that one burst does not move,
/// few enough that a line which has become slower is believed within 13 late answers.
const SAMPLES_MAX: usize = 256;

/// With fewer there is no 95th percentile to speak of.
const SAMPLES_MIN: usize = 32;

/// Times between two looks at the percentile, as sorting costs some microseconds.
const SAMPLES_PER_LOOK: usize = 8;

/// The share of ordinary times that may be longer than what is usual. It is what the budget allows
/// to be asked again, so that the budget is spent on the latest and not on who comes first.
const TAIL: f64 = 0.05;

/// What late means against what is usual.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lateness {
    /// Nothing shorter is late.
    pub(super) least: Duration,
    /// Of the 95th percentile.
    pub(super) times: f64,
}

/// The latest times of one kind.
pub(super) struct Recent {
    lateness: Lateness,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    samples: VecDeque<Sample>,
    n_since_look: usize,
    /// By the last look.
    late: Option<Duration>,
}

/// One time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    took: Duration,
    /// False for what was given up: it would have taken longer.
    ended: bool,
}

impl Recent {
    pub(super) fn new(lateness: Lateness) -> Self {
        Self { lateness, state: Mutex::default() }
    }

    /// Something took so long.
    pub(super) fn ended(&self, took: Duration) {
        self.add(Sample { took, ended: true });
    }

    /// Something was given up after so long. Taking that for its time would teach that answers are
    /// fast from those that were not; leaving it out would, too.
    pub(super) fn given_up(&self, after: Duration) {
        self.add(Sample { took: after, ended: false });
    }

    /// What takes longer is late. `None` while too little is known.
    pub(super) fn late(&self) -> Option<Duration> {
        self.state.lock().late
    }

    fn add(&self, sample: Sample) {
        let mut state = self.state.lock();
        if state.samples.len() == SAMPLES_MAX {
            state.samples.pop_front();
        }
        state.samples.push_back(sample);
        state.n_since_look += 1;
        let n_samples = state.samples.len();
        if n_samples >= SAMPLES_MIN && state.n_since_look >= SAMPLES_PER_LOOK {
            state.n_since_look = 0;
            let usual = usual(state.samples.iter().copied().collect());
            state.late = Some(self.lateness.least.max(usual.mul_f64(self.lateness.times)));
        }
    }
}

/// The time that all but [`TAIL`] stay within, by the estimate of Kaplan and Meier: the weight of
/// what was given up goes to those that took longer than it had waited. Where so many were given
/// up that it is not known, the longest of all, which is at least what was waited.
fn usual(mut samples: Vec<Sample>) -> Duration {
    samples.sort_unstable_by_key(|sample| (sample.took, !sample.ended));
    let mut n_left = samples.len();
    let mut longer = 1.0;
    for sample in &samples {
        if sample.ended {
            #[expect(clippy::cast_precision_loss, reason = "at most 256")]
            let share = 1.0 / n_left as f64;
            longer *= 1.0 - share;
        }
        // Rounding must not make one more of a whole number.
        if longer <= TAIL + 1e-9 {
            return sample.took;
        }
        n_left -= 1;
    }
    samples.last().map_or(Duration::ZERO, |sample| sample.took)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn ended(took: u64) -> Sample {
        Sample { took: ms(took), ended: true }
    }

    fn given_up(after: u64) -> Sample {
        Sample { took: ms(after), ended: false }
    }

    fn recent() -> Recent {
        Recent::new(Lateness { least: ms(50), times: 2.0 })
    }

    #[test]
    fn nothing_is_late_before_32_times_are_known() {
        let recent = recent();
        for _ in 0..31 {
            recent.ended(ms(100));
            assert_eq!(recent.late(), None);
        }
        recent.ended(ms(100));
        assert_eq!(recent.late(), Some(ms(200)));
    }

    #[test]
    fn late_is_never_less_than_the_least() {
        let recent = recent();
        (0..32).for_each(|_| recent.ended(ms(1)));
        assert_eq!(recent.late(), Some(ms(50)));
    }

    #[test]
    fn one_in_50_does_not_move_it_and_one_in_10_does() {
        for (every, late) in [(50, ms(50)), (10, ms(2000))] {
            let recent = recent();
            for n in 0..SAMPLES_MAX {
                recent.ended(ms(if n % every == 0 { 1000 } else { 20 }));
            }
            assert_eq!(recent.late(), Some(late), "one in {every}");
        }
    }

    #[test]
    fn it_forgets() {
        let recent = recent();
        (0..SAMPLES_MAX).for_each(|_| recent.ended(ms(1000)));
        (0..SAMPLES_MAX).for_each(|_| recent.ended(ms(100)));
        assert_eq!(recent.late(), Some(ms(200)));
    }

    #[test]
    fn what_was_given_up_early_teaches_nothing_of_speed() {
        // Half of the requests were cancelled after 5 ms; the others tell how long answers take.
        let samples = (0..100).map(|n| if n % 2 == 0 { given_up(5) } else { ended(100) });
        assert_eq!(usual(samples.collect()), ms(100));
    }

    #[test]
    fn what_lost_weighs_on_the_side_of_the_slow() {
        // One in ten was given up after 60 ms, and one in fifty was not and took a second: of
        // those that wait for 60 ms, all take a second.
        let sample = |n: u64| match n % 50 {
            0..5 => given_up(60),
            5 => ended(1000),
            _ => ended(20),
        };
        assert_eq!(usual((0..250).map(sample).collect()), ms(1000));
        let lost_left_out = (0..250).filter(|n| n % 50 >= 5).map(sample);
        assert_eq!(usual(lost_left_out.collect()), ms(20), "what it must not be");
    }

    proptest! {
        #[test]
        fn without_any_given_up_it_is_the_95th_percentile(
            times in proptest::collection::vec(0_u64..10_000, SAMPLES_MIN..=SAMPLES_MAX),
        ) {
            let mut sorted = times.clone();
            sorted.sort_unstable();
            let place = (times.len() * 95).div_ceil(100) - 1;
            prop_assert_eq!(usual(times.into_iter().map(ended).collect()), ms(sorted[place]));
        }

        #[test]
        fn giving_up_never_makes_it_less_than_waiting_would_show(
            times in proptest::collection::vec((1_u64..1000, any::<bool>()), 1..=SAMPLES_MAX),
        ) {
            // As if each that was given up had been answered at that very moment.
            let at_once = times.iter().map(|&(took, _)| ended(took)).collect();
            let known = times.iter().map(|&(took, is_ended)| Sample { took: ms(took), ended: is_ended });
            prop_assert!(usual(known.collect()) >= usual(at_once));
        }
    }
}
