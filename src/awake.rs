//! Time in which this process ran. One that was stopped, or frozen with its container, hears only
//! afterwards of answers that came meanwhile: by the clock alone, all that waited would fail at that
//! moment. (The clock itself stands still while the machine sleeps.)

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// No machine is so busy that a timer comes so late.
const LATE: Duration = Duration::from_secs(3);

/// Into how many pieces a deadline is cut: one of them is what is left, at least, to those who waited
/// when the process was frozen.
const STEPS: u32 = 4;

/// Ready when the process ran for so long.
pub(crate) async fn awake_for(time: Duration) {
    let step = time / STEPS;
    for _ in 0..STEPS {
        loop {
            let until = Instant::now() + step;
            sleep(step).await;
            if overslept(until).is_zero() {
                break;
            }
        }
    }
}

/// For how long the process did not run, if a timer for `until` has just come.
pub(crate) fn overslept(until: Instant) -> Duration {
    let late = Instant::now().saturating_duration_since(until);
    if late < LATE { Duration::ZERO } else { late }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_in_which_the_process_was_frozen_does_not_count() {
        let minute = Duration::from_secs(60);
        let waiting = tokio::spawn(awake_for(minute));
        for _ in 0..=STEPS {
            sleep(minute / 6).await;
            tokio::time::advance(minute * 60).await;
        }
        sleep(minute / STEPS).await;
        assert!(!waiting.is_finished());
        tokio::time::timeout(minute, waiting).await.expect("it comes to an end").unwrap();
        let start = Instant::now();
        awake_for(minute).await;
        assert_eq!(start.elapsed(), minute);
    }
}
