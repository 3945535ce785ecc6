//! What a server that refuses requests for being too many (503 SlowDown, 429) is asked: the rate of
//! sending falls by a share when one in four is refused, and rises by steps of equal size. As no more may be in flight
//! than may be sent in a second, that number falls and rises with it. What is refused now and then, by a
//! server that serves all others, is left to the pauses of the retries.
//!
//! Invariant: each try is sent in its turn, those of the retries, too; hedges and what nobody waits for yet
//! stop first.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// The rate falls to so much of what was answered in the last second.
const LOWERED_TO: f64 = 0.8;

/// A step of the rate in each second, as a part of what it was lowered to.
const STEP: f64 = 1.0 / 16.0;

/// Below this names would wait for longer than they have.
const RATE_MIN: f64 = 4.0;

/// So many of those answered in a second are refused, and one in so many, before the rate falls.
const REFUSED_MIN: f64 = 4.0;
const REFUSED_SHARE: f64 = 0.25;

/// Without a refusal for so long, nothing is held back any more. Where as much is asked for as is sent, the
/// rate has risen by more than half by then, and would have been refused.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(20);

/// Timers fire up to a millisecond late, and without catching up that would be lost with each request.
const CATCH_UP: Duration = Duration::from_millis(20);

const SECOND: Duration = Duration::from_secs(1);

/// How fast requests are sent.
#[derive(Default)]
pub struct Throttle {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` while nothing is held back.
    limit: Option<Limit>,
    served: Count,
    refused: Count,
}

struct Limit {
    /// Requests in a second.
    rate: f64,
    /// What is added in each second.
    step: f64,
    /// When the next may be sent.
    next: Instant,
    /// When it was lowered: refusals of what was sent before say nothing new.
    lowered: Instant,
    raised: Instant,
    refused: Instant,
}

/// How many in the last second, about: those of this one, and the share of the one before that is not
/// longer ago.
#[derive(Default)]
struct Count {
    /// When this one began.
    begun: Option<Instant>,
    now: f64,
    before: f64,
}

impl Throttle {
    /// Waits until a request may be sent.
    pub(super) async fn turn(&self) {
        let at = {
            let mut state = self.state.lock();
            let now = Instant::now();
            let Some(limit) = state.limit(now) else { return };
            let at = limit.next.max(now.checked_sub(CATCH_UP).unwrap_or(now));
            limit.next = at + Duration::from_secs_f64(1.0 / limit.rate);
            at
        };
        sleep_until(at).await;
    }

    /// A request was not refused.
    pub(super) fn served(&self) {
        self.state.lock().served.add(Instant::now());
    }

    /// A request that was sent at `sent` was refused.
    pub(super) fn refused(&self, sent: Instant) {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.refused.add(now);
        let (refused, served) = (state.refused.last_second(now), state.served.last_second(now));
        let is_much = refused >= REFUSED_MIN && refused >= REFUSED_SHARE * (refused + served);
        let rate = match state.limit(now) {
            Some(limit) => {
                limit.refused = now;
                let is_new = sent >= limit.lowered && now >= limit.lowered + SECOND;
                (is_much && is_new).then(|| LOWERED_TO * limit.rate.min(served))
            }
            None => is_much.then_some(LOWERED_TO * served),
        };
        if let Some(rate) = rate {
            let rate = rate.max(RATE_MIN);
            let step = (rate * STEP).max(1.0);
            tracing::debug!("S3 refuses requests: {rate:.0} are sent in a second");
            let next = state.limit.as_ref().map_or(now, |limit| limit.next);
            state.limit = Some(Limit { rate, step, next, lowered: now, raised: now, refused: now });
        }
    }

    /// Nothing was served for long, and is again: what was refused meanwhile was not too much.
    pub(super) fn forget(&self) {
        self.state.lock().limit = None;
    }

    /// How many requests may be in flight while requests are held back: as many as are sent in a second.
    pub(super) fn places(&self) -> Option<usize> {
        let mut state = self.state.lock();
        let limit = state.limit(Instant::now())?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at least 4, and what is too much for it is cut"
        )]
        let places = limit.rate as usize;
        Some(places)
    }

    /// Whether requests are held back.
    pub(super) fn is_on(&self) -> bool {
        self.state.lock().limit(Instant::now()).is_some()
    }
}

impl State {
    /// What holds now: raised by the time that has passed, or forgotten.
    fn limit(&mut self, now: Instant) -> Option<&mut Limit> {
        let is_over =
            |limit: &mut Limit| now.saturating_duration_since(limit.refused) >= FORGOTTEN_AFTER;
        if self.limit.as_mut().is_some_and(is_over) {
            self.limit = None;
        }
        let limit = self.limit.as_mut()?;
        let age = now.saturating_duration_since(limit.raised);
        if age >= SECOND {
            let steps = age.as_secs();
            limit.rate += limit.step * f64::from(u32::try_from(steps).unwrap_or(u32::MAX));
            limit.raised += Duration::from_secs(steps);
        }
        Some(limit)
    }
}

impl Count {
    fn add(&mut self, now: Instant) {
        self.turn_to(now);
        self.now += 1.0;
    }

    fn last_second(&mut self, now: Instant) -> f64 {
        self.turn_to(now);
        let age = self.begun.map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun));
        self.now + self.before * (1.0 - age.as_secs_f64()).max(0.0)
    }

    fn turn_to(&mut self, now: Instant) {
        let begun = *self.begun.get_or_insert(now);
        let age = now.saturating_duration_since(begun);
        if age >= SECOND {
            self.before = if age < 2 * SECOND { self.now } else { 0.0 };
            self.now = 0.0;
            self.begun = Some(begun + Duration::from_secs(age.as_secs()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that serves so many requests in each second, and refuses the others.
    struct Server {
        rate: f64,
        tokens: f64,
        since: Instant,
    }

    impl Server {
        fn new(rate: f64) -> Self {
            Self { rate, tokens: rate, since: Instant::now() }
        }

        fn serves(&mut self) -> bool {
            let now = Instant::now();
            self.tokens += (now - self.since).as_secs_f64() * self.rate;
            (self.tokens, self.since) = (self.tokens.min(self.rate), now);
            let serves = self.tokens >= 1.0;
            self.tokens -= if serves { 1.0 } else { 0.0 };
            serves
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_server_refuses_falls_to_a_few() {
        let (throttle, mut server) = (Throttle::default(), Server::new(40.0));
        let (mut served, mut refused) = (0, 0);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            throttle.turn().await;
            let sent = Instant::now();
            tokio::time::sleep(Duration::from_millis(2)).await;
            if server.serves() {
                throttle.served();
                served += 1;
            } else {
                throttle.refused(sent);
                refused += 1;
            }
        }
        // Without it 500 a second are sent, and 460 of them refused.
        assert!(served > 60 * 30, "{served} served, {refused} refused");
        assert!(refused * 8 < served, "{served} served, {refused} refused");
    }

    #[tokio::test(start_paused = true)]
    async fn places_fall_by_a_share_rise_by_steps_and_are_free_again_later() {
        let throttle = Throttle::default();
        assert_eq!(throttle.places(), None);
        let refuse = |n_served: u32, n_refused: u32| {
            (0..n_served).for_each(|_| throttle.served());
            (0..n_refused).for_each(|_| throttle.refused(Instant::now()));
            throttle.places()
        };
        assert_eq!(refuse(50, 3), None, "now and then");
        assert_eq!(refuse(0, 13), None, "one in five");
        assert_eq!(refuse(0, 4), Some(40));
        assert_eq!(refuse(0, 50), Some(40), "what was sent at once falls once");
        let second = Duration::from_secs(1);
        let mut rising = Vec::new();
        for _ in 0..4 {
            tokio::time::advance(second).await;
            rising.push(throttle.places().unwrap());
        }
        assert_eq!(rising, [42, 45, 47, 50]);
        assert_eq!(refuse(30, 30), Some(24));
        tokio::time::advance(FORGOTTEN_AFTER - second).await;
        assert!(throttle.is_on());
        tokio::time::advance(second).await;
        assert!(!throttle.is_on() && throttle.places().is_none());
        assert_eq!(refuse(0, 10), Some(4));
        throttle.forget();
        assert!(!throttle.is_on());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_refuses_everything_is_asked_four_times_a_second() {
        let throttle = Throttle::default();
        (0..10).for_each(|_| throttle.refused(Instant::now()));
        let start = Instant::now();
        for _ in 0..9 {
            throttle.turn().await;
            throttle.refused(Instant::now());
        }
        let took = start.elapsed().as_secs_f64();
        assert!((1.5..2.1).contains(&took), "{took}");
    }
}
