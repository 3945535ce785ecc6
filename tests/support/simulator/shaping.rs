//! How the simulator behaves worse than memory: latency, bandwidth, slow answers and faults.
//!
//! Every choice is drawn from the seed and from the number of the request, so that a run with the
//! same requests in the same order has the same faults. Nothing here waits or sends; it decides.

use std::time::{Duration, Instant};

use super::call::{Call, Kind};
use super::content::mix;

#[derive(Clone, Debug)]
pub(crate) struct Shaping {
    /// Until the first byte of the answer to GET and HEAD.
    pub(crate) latency_get: Duration,
    /// Until the first byte of a page of a listing.
    pub(crate) latency_list: Duration,
    /// Bytes per second of bodies, on each connection; none: as fast as the machine.
    pub(crate) bandwidth_per_connection: Option<u64>,
    /// Bytes per second of all answers together, on all connections; none: as fast as the machine.
    pub(crate) line: Option<u64>,
    /// Answers that begin later by `slow_by`.
    pub(crate) slow: Share,
    pub(crate) slow_by: Duration,
    /// Answers that are `error` instead.
    pub(crate) errors: Share,
    pub(crate) error: InjectedError,
    /// Requests in a second; those beyond are answered 503, whatever `errors` says.
    pub(crate) requests_per_second: Option<u32>,
    /// Connections reset (TCP RST) instead of an answer.
    pub(crate) resets: Share,
    /// Requests that are never answered, on a connection that stays open.
    pub(crate) silent: Share,
    /// Bodies in whose middle the connection is closed.
    pub(crate) cuts: Share,
    /// Bodies that are longer end after so many bytes, with the connection.
    pub(crate) cut_after: Option<u64>,
    /// Bodies that stop in their middle.
    pub(crate) stalls: Share,
    /// How long they do; `None` is for ever.
    pub(crate) stall_for: Option<Duration>,
    /// Which requests `slow` and the faults choose from and count.
    pub(crate) scope: Scope,
    pub(crate) seed: u64,
}

/// Which of the requests in scope.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Share {
    #[default]
    None,
    All,
    /// The first so many since the shaping was set.
    First(u64),
    /// Exactly the last of every so many.
    OneIn(u64),
    /// Each with this probability.
    Fraction(f64),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum InjectedError {
    /// 503, what S3 says when a prefix gets too many requests.
    #[default]
    SlowDown,
    /// 500.
    InternalError,
}

#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) kinds: Vec<Kind>,
    /// Of the key, or of the prefix of a listing.
    pub(crate) prefix: String,
}

/// Reading; a test that fills a bucket is not disturbed.
impl Default for Scope {
    fn default() -> Self {
        Self { kinds: vec![Kind::List, Kind::Head, Kind::Get], prefix: String::new() }
    }
}

impl Default for Shaping {
    fn default() -> Self {
        Self {
            latency_get: Duration::ZERO,
            latency_list: Duration::ZERO,
            bandwidth_per_connection: None,
            line: None,
            slow: Share::None,
            slow_by: Duration::ZERO,
            errors: Share::None,
            error: InjectedError::SlowDown,
            requests_per_second: None,
            resets: Share::None,
            silent: Share::None,
            cuts: Share::None,
            cut_after: None,
            stalls: Share::None,
            stall_for: None,
            scope: Scope::default(),
            seed: 1,
        }
    }
}

impl Shaping {
    /// S3 as seen from the same region, in round numbers: the standard case of the benchmarks.
    pub(crate) fn far() -> Self {
        Self {
            latency_get: Duration::from_millis(20),
            latency_list: Duration::from_millis(60),
            bandwidth_per_connection: Some(90_000_000),
            ..Self::default()
        }
    }
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fate {
    pub(crate) delay: Duration,
    pub(crate) outcome: Outcome,
    pub(crate) bandwidth: Option<u64>,
    pub(crate) line: Option<u64>,
    pub(crate) stall_for: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outcome {
    Serve,
    /// Served, but the body breaks off after this fraction of it.
    Cut(f64),
    /// Served, but the body breaks off after so many bytes, if it has more.
    CutAfter(u64),
    /// Served, but the body stops after this fraction of it.
    Stall(f64),
    Error(InjectedError),
    Reset,
    Silence,
}

impl Outcome {
    /// The name in the log; none for a request that was served as it should be.
    pub(crate) fn fault(self) -> Option<&'static str> {
        match self {
            Self::Serve => None,
            Self::Cut(_) | Self::CutAfter(_) => Some("cut"),
            Self::Stall(_) => Some("stall"),
            Self::Error(_) => Some("error"),
            Self::Reset => Some("reset"),
            Self::Silence => Some("silence"),
        }
    }
}

/// The shaping in force and how many requests it has seen.
#[derive(Debug, Default)]
pub(crate) struct Shaper {
    shaping: Shaping,
    n_in_scope: u64,
    quota: Option<Quota>,
}

/// What is left of `requests_per_second`: at most what one second brings.
#[derive(Debug)]
struct Quota {
    left: f64,
    since: Instant,
}

impl Shaper {
    pub(crate) fn shaping(&self) -> &Shaping {
        &self.shaping
    }

    /// Counting begins anew, so that `First` and `OneIn` mean the requests from now on.
    pub(crate) fn set(&mut self, shaping: Shaping) {
        *self = Self { shaping, n_in_scope: 0, quota: None };
    }

    pub(crate) fn draw(&mut self, call: &Call) -> Fate {
        let shaping = &self.shaping;
        let latency = match call.kind {
            Kind::Get | Kind::Head => shaping.latency_get,
            Kind::List => shaping.latency_list,
            Kind::Put | Kind::Delete | Kind::Other => Duration::ZERO,
        };
        let (bandwidth, line) = (shaping.bandwidth_per_connection, shaping.line);
        let stall_for = shaping.stall_for;
        let scope = &shaping.scope;
        if !scope.kinds.contains(&call.kind) || !call.subject().starts_with(&scope.prefix) {
            let outcome = Outcome::Serve;
            return Fate { delay: latency, outcome, bandwidth, line, stall_for };
        }
        self.n_in_scope += 1;
        let dice = Dice { seed: self.shaping.seed, number: self.n_in_scope };
        let slow = if dice.hits(shaping.slow, 1) { shaping.slow_by } else { Duration::ZERO };
        let outcome = match self.is_too_many() {
            true => Outcome::Error(InjectedError::SlowDown),
            false => self.shaping.outcome(dice, call.kind),
        };
        Fate { delay: latency + slow, outcome, bandwidth, line, stall_for }
    }
}

impl Shaper {
    /// Counts a request. The one choice that time makes.
    fn is_too_many(&mut self) -> bool {
        let Some(rate) = self.shaping.requests_per_second.map(f64::from) else { return false };
        let now = Instant::now();
        let quota = self.quota.get_or_insert(Quota { left: rate, since: now });
        quota.left = (quota.left + (now - quota.since).as_secs_f64() * rate).min(rate);
        quota.since = now;
        let is_too_many = quota.left < 1.0;
        quota.left -= if is_too_many { 0.0 } else { 1.0 };
        is_too_many
    }
}

impl Shaping {
    /// The first fault that hits; each has a column of the dice to itself, so that turning one on
    /// does not move the others.
    fn outcome(&self, dice: Dice, kind: Kind) -> Outcome {
        if dice.hits(self.resets, 2) {
            return Outcome::Reset;
        }
        if dice.hits(self.silent, 3) {
            return Outcome::Silence;
        }
        if dice.hits(self.errors, 4) {
            return Outcome::Error(self.error);
        }
        // The answer to HEAD has no middle.
        if kind != Kind::Head && dice.hits(self.cuts, 5) {
            return Outcome::Cut(dice.roll(6));
        }
        if let Some(bytes) = self.cut_after.filter(|_| kind == Kind::Get) {
            return Outcome::CutAfter(bytes);
        }
        if kind != Kind::Head && dice.hits(self.stalls, 7) {
            return Outcome::Stall(dice.roll(8));
        }
        Outcome::Serve
    }
}

#[derive(Clone, Copy)]
struct Dice {
    seed: u64,
    number: u64,
}

impl Dice {
    fn hits(self, share: Share, column: u64) -> bool {
        match share {
            Share::None => false,
            Share::All => true,
            Share::First(count) => self.number <= count,
            Share::OneIn(every) => self.number.is_multiple_of(every),
            Share::Fraction(fraction) => self.roll(column) < fraction,
        }
    }

    /// Evenly from 0 up to 1.
    fn roll(self, column: u64) -> f64 {
        let bits = mix(mix(self.seed).wrapping_add(mix(self.number)).wrapping_add(column)) >> 11;
        #[expect(clippy::cast_precision_loss, reason = "53 bits are what an f64 holds")]
        let numerator = bits as f64;
        numerator / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(key: &str) -> Call {
        Call::parse(&http::Request::get(format!("/bucket/{key}")).body(()).unwrap())
    }

    /// The same seed gives the same faults.
    #[test]
    fn faults_are_reproducible() {
        let shaping = Shaping { cuts: Share::Fraction(0.3), ..Shaping::default() };
        let run = || {
            let mut shaper = Shaper::default();
            shaper.set(shaping.clone());
            (0..100).map(|_| shaper.draw(&get("a"))).collect::<Vec<_>>()
        };
        assert_eq!(run(), run());
        let n_cut = run().iter().filter(|fate| matches!(fate.outcome, Outcome::Cut(_))).count();
        assert!((15..45).contains(&n_cut), "{n_cut} of 100 at 30 %");
    }

    /// Requests out of scope are neither hit nor counted.
    #[test]
    fn scope_chooses_by_kind_and_prefix() {
        let mut shaper = Shaper::default();
        let scope = Scope { kinds: vec![Kind::Get], prefix: "bad/".into() };
        shaper.set(Shaping { errors: Share::OneIn(2), scope, ..Shaping::default() });
        let outcomes = ["bad/1", "good", "bad/2", "good"].map(|key| shaper.draw(&get(key)).outcome);
        let error = Outcome::Error(InjectedError::SlowDown);
        assert_eq!(outcomes, [Outcome::Serve, Outcome::Serve, error, Outcome::Serve]);
    }
}
