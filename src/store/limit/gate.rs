//! Who may send a request now. Two things are scarce: places, as each request has a connection, and the
//! line, on which what was asked for first comes first. So the order is made here: metadata, demand, ahead,
//! and among data who has the least on its way.
//!
//! Invariant: whoever could enter has entered. Demand never waits for what was asked for ahead, nobody for
//! a body that stands still, and where nothing is on its way, one goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::metrics::Metrics;
use crate::store::throttle::Throttle;

/// What may be on its way before anything is known of the line: 0.4 s of 10 Mbit/s. The first
/// answers teach more.
const WINDOW_BYTES_START: u64 = 512 << 10;

/// Asked for ahead, and held back for so long by others: by now somebody may wait for it.
const AHEAD_WAIT_MAX: Duration = Duration::from_secs(1);

/// A request that brings less than this in this time is not what fills the line: nobody waits for it.
const MOVED_BYTES_MIN: u64 = 4 << 10;
const MOVED_WITHIN: Duration = Duration::from_secs(3);

/// What a GET without range is taken to bring before its answer says more, at first.
const WHOLE_BYTES_START: u64 = 64 << 10;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Class {
    Metadata,
    Demand,
    Ahead,
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) class: Class,
    /// Empty for metadata.
    pub(super) key: Arc<str>,
    /// Of its body; none where only the answer tells.
    pub(super) bytes: Option<u64>,
}

pub(super) struct Gate {
    requests_max: usize,
    data_max: usize,
    metrics: Arc<Metrics>,
    /// Takes places away while the server refuses requests.
    throttle: Arc<Throttle>,
    started: Instant,
    /// Somebody waits for the line rather than for a place, so that each chunk may let him in.
    line_is_waited_for: AtomicBool,
    /// The last answers to GETs without range had so many bytes, smoothed.
    whole_bytes: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    n_metadata: usize,
    n_data: usize,
    under_way: Vec<Arc<Flow>>,
    /// Bytes of these, as asked for; keys without any are not here.
    by_key: HashMap<Arc<str>, u64>,
    /// In order of arrival.
    waiting: Vec<Waiting>,
}

/// A GET that was let in. Each chunk counts, so without the lock.
struct Flow {
    /// What it was let in as.
    class: Class,
    /// Bytes that have not come.
    owed: AtomicU64,
    /// When it last moved, in milliseconds of the gate.
    moved: AtomicU64,
}

struct Waiting {
    class: Class,
    key: Arc<str>,
    bytes: u64,
    since: Instant,
    turn: oneshot::Sender<Permit>,
}

impl Gate {
    pub(super) fn new(
        requests_max: usize,
        metadata_reserve: usize,
        metrics: Arc<Metrics>,
        throttle: Arc<Throttle>,
    ) -> Self {
        assert!(metadata_reserve < requests_max, "data needs a place, too");
        Self {
            requests_max,
            data_max: requests_max - metadata_reserve,
            metrics,
            throttle,
            started: Instant::now(),
            line_is_waited_for: AtomicBool::new(false),
            whole_bytes: AtomicU64::new(WHOLE_BYTES_START),
            state: Mutex::default(),
        }
    }

    pub(super) async fn enter(gate: &Arc<Self>, asked: Asked) -> Permit {
        let bytes = asked.bytes.unwrap_or_else(|| gate.whole_bytes.load(Ordering::Relaxed));
        let (turn, mut answer) = oneshot::channel();
        let Asked { class, key, .. } = asked;
        let waiting = Waiting { class, key, bytes, since: Instant::now(), turn };
        gate.state.lock().waiting.push(waiting);
        gate.admit();
        loop {
            if let Ok(permit) = timeout(MOVED_WITHIN, &mut answer).await {
                return permit.expect("answered before its sender is dropped");
            }
            // Nothing tells that a body stands still.
            gate.admit();
        }
    }

    /// Lets in who may enter now.
    fn admit(self: &Arc<Self>) {
        let mut admitted = Vec::new();
        {
            let mut state = self.state.lock();
            let now = Instant::now();
            state.waiting.retain(|waiting| !waiting.turn.is_closed());
            let mut for_the_line = false;
            while let Some((index, class)) = state.first(now) {
                if !self.has_place(&state, class) {
                    break;
                }
                if !self.line_has_room(&state, class, index) {
                    for_the_line = true;
                    break;
                }
                let Waiting { key, bytes, turn, .. } = state.waiting.remove(index);
                admitted.push((turn, self.permit(&mut state, class, key, bytes)));
            }
            self.line_is_waited_for.store(for_the_line, Ordering::Release);
        }
        for (turn, permit) in admitted {
            // One that has given up since hands its permit back here, by the permit's own drop.
            drop(turn.send(permit));
        }
    }

    fn has_place(&self, state: &State, class: Class) -> bool {
        let n_in = state.n_metadata + state.n_data;
        if let Some(places) = self.throttle.places()
            && places < self.requests_max
        {
            return match class {
                Class::Metadata => n_in < places,
                Class::Demand => n_in < places && state.n_data < (places - 1).min(self.data_max),
                // What nobody waits for yet stops first.
                Class::Ahead => n_in == 0,
            };
        }
        let free = n_in < self.requests_max;
        match class {
            Class::Metadata => free,
            Class::Demand | Class::Ahead => free && state.n_data < self.data_max,
        }
    }

    fn line_has_room(&self, state: &State, class: Class, index: usize) -> bool {
        let Waiting { key, bytes, .. } = &state.waiting[index];
        let mut most = self.metrics.window_bytes().unwrap_or(WINDOW_BYTES_START);
        if state.n_metadata > 0 {
            // What the line brings during its delay is left, so that it stays full.
            most /= 2;
        }
        let now = self.millis();
        let owed: u64 = match class {
            Class::Metadata => return true,
            Class::Demand => {
                let demand = state.under_way.iter().filter(|flow| flow.class == Class::Demand);
                demand.map(|flow| flow.on_the_line(now)).sum()
            }
            Class::Ahead => state.under_way.iter().map(|flow| flow.on_the_line(now)).sum(),
        };
        if class == Class::Demand && !state.by_key.contains_key(key) {
            // A reader that comes beside one who has filled the line.
            most *= 2;
        }
        owed == 0 || owed.saturating_add(*bytes) <= most
    }

    fn permit(
        self: &Arc<Self>,
        state: &mut State,
        class: Class,
        key: Arc<str>,
        bytes: u64,
    ) -> Permit {
        *state.count(class) += 1;
        let (owed, moved) = (AtomicU64::new(bytes), AtomicU64::new(self.millis()));
        let flow = Arc::new(Flow { class, owed, moved });
        if class != Class::Metadata {
            *state.by_key.entry(Arc::clone(&key)).or_default() += bytes;
            state.under_way.push(Arc::clone(&flow));
        }
        Permit { gate: Arc::clone(self), flow, key, bytes, moved: 0 }
    }

    /// Gives a place back and lets in who may have it now.
    fn leave(self: &Arc<Self>, flow: &Arc<Flow>, key: &Arc<str>, bytes: u64) {
        {
            let mut state = self.state.lock();
            *state.count(flow.class) -= 1;
            state.under_way.retain(|other| !Arc::ptr_eq(other, flow));
            if flow.class != Class::Metadata
                && let Some(under_way) = state.by_key.get_mut(key)
            {
                *under_way -= bytes;
                if *under_way == 0 {
                    state.by_key.remove(key);
                }
            }
        }
        self.admit();
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Flow {
    /// What the line still has to carry for it, if it carries anything.
    fn on_the_line(&self, now: u64) -> u64 {
        let still = now.saturating_sub(self.moved.load(Ordering::Acquire));
        let moves = u128::from(still) < MOVED_WITHIN.as_millis();
        if moves { self.owed.load(Ordering::Acquire) } else { 0 }
    }
}

impl State {
    fn count(&mut self, class: Class) -> &mut usize {
        match class {
            Class::Metadata => &mut self.n_metadata,
            Class::Demand | Class::Ahead => &mut self.n_data,
        }
    }

    /// Who goes before all others that wait, and as what.
    fn first(&self, now: Instant) -> Option<(usize, Class)> {
        let rank = |waiting: &Waiting| match waiting.class {
            Class::Ahead if now - waiting.since >= AHEAD_WAIT_MAX => Class::Demand,
            class => class,
        };
        let under_way = |waiting: &Waiting| self.by_key.get(&waiting.key).copied().unwrap_or(0);
        let waiting = self.waiting.iter().enumerate();
        let first = waiting.min_by_key(|(_, waiting)| (rank(waiting), under_way(waiting)))?;
        Some((first.0, rank(first.1)))
    }
}

/// A place among the requests in flight, and on the line. Given back by Drop.
pub(super) struct Permit {
    gate: Arc<Gate>,
    flow: Arc<Flow>,
    key: Arc<str>,
    /// As asked for.
    bytes: u64,
    /// Bytes that have come since it was last noted that it moves.
    moved: u64,
}

impl Permit {
    /// The body has so many bytes.
    pub(super) fn is(&mut self, bytes: u64, was_whole: bool) {
        if was_whole {
            let average = self.gate.whole_bytes.load(Ordering::Relaxed);
            // Two at once may count as one.
            self.gate.whole_bytes.store((average * 3 + bytes) / 4, Ordering::Relaxed);
        }
        self.flow.owed.store(bytes, Ordering::Release);
        self.moved = MOVED_BYTES_MIN;
        self.came(0);
    }

    /// So many of them have come.
    pub(super) fn came(&mut self, bytes: u64) {
        // A body that is longer than announced is refused elsewhere.
        let owed = self.flow.owed.load(Ordering::Relaxed).saturating_sub(bytes);
        self.flow.owed.store(owed, Ordering::Release);
        self.moved += bytes;
        if self.moved >= MOVED_BYTES_MIN {
            self.moved = 0;
            self.flow.moved.store(self.gate.millis(), Ordering::Release);
        }
        // One that begins to wait right now is let in by the next chunk, or by what leaves.
        if self.gate.line_is_waited_for.load(Ordering::Acquire) {
            self.gate.admit();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.leave(&self.flow, &self.key, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;

    use futures_util::FutureExt;
    use tokio::task::unconstrained;
    use tokio::time::advance;

    use super::Class::{Ahead, Demand, Metadata};
    use super::*;

    const KIB: u64 = 1 << 10;

    type Entering = Pin<Box<dyn Future<Output = Permit>>>;

    /// With so many places, one of eight for metadata, and nothing known of the line.
    fn gate(requests_max: usize) -> Arc<Gate> {
        Arc::new(Gate::new(requests_max, requests_max / 8, Arc::default(), Arc::default()))
    }

    /// Asks, and looks once whether it is let in.
    fn enter(gate: &Arc<Gate>, class: Class, key: &str, kib: u64) -> Result<Permit, Entering> {
        let asked = Asked { class, key: key.into(), bytes: Some(kib * KIB) };
        let gate = Arc::clone(gate);
        // Tests look at many in one step, which is more than tokio lets a task do.
        let entering = unconstrained(async move { Gate::enter(&gate, asked).await });
        let mut entering: Entering = Box::pin(entering);
        entering.as_mut().now_or_never().ok_or(entering)
    }

    fn now(entering: &mut Result<Permit, Entering>) -> bool {
        if let Err(waiting) = entering
            && let Some(permit) = waiting.as_mut().now_or_never()
        {
            *entering = Ok(permit);
        }
        entering.is_ok()
    }

    fn owed(gate: &Gate) -> u64 {
        let flows = &gate.state.lock().under_way;
        flows.iter().map(|flow| flow.owed.load(Ordering::Relaxed)).sum()
    }

    /// How many of so many are let in at once.
    fn n_let_in(gate: &Arc<Gate>, class: Class, key: &str, kib: u64) -> usize {
        let entering: Vec<_> = (0..40).map(|_| enter(gate, class, key, kib)).collect();
        entering.iter().filter(|entering| entering.is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_on_its_way_than_the_line_brings_soon() {
        let unknown = gate(64);
        assert_eq!(n_let_in(&unknown, Ahead, "a", 128), 4);
        assert_eq!(n_let_in(&unknown, Demand, "a", 128), 4);
        let metrics = Arc::new(Metrics::default());
        metrics.first_byte_seen(Duration::from_millis(50));
        metrics.body_seen(128 * KIB, Duration::ZERO);
        metrics.line_brought(1 << 20, Duration::from_secs(1), Duration::ZERO);
        // 1 MiB/s for 0.2 s.
        let known = Arc::new(Gate::new(64, 8, metrics, Arc::default()));
        assert_eq!(n_let_in(&known, Ahead, "a", 64), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_makes_room_before_its_request_is_over() {
        let gate = gate(64);
        let mut first = enter(&gate, Ahead, "a", 512).ok().unwrap();
        let mut second = enter(&gate, Ahead, "a", 128);
        first.came(127 * KIB);
        assert!(!now(&mut second));
        first.came(KIB);
        assert!(now(&mut second));
        // What was given up will not come.
        let mut third = enter(&gate, Ahead, "a", 384);
        assert!(!now(&mut third));
        drop(first);
        assert!(now(&mut third));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_larger_than_all_that_may_be_on_its_way_goes_alone() {
        let gate = gate(64);
        let large = enter(&gate, Ahead, "a", 100_000);
        assert!(large.is_ok());
        let mut next = enter(&gate, Ahead, "b", 1);
        assert!(!now(&mut next));
        drop(large);
        assert!(now(&mut next));
    }

    #[tokio::test(start_paused = true)]
    async fn demand_does_not_wait_for_what_was_asked_for_ahead() {
        let gate = gate(64);
        let _ahead = enter(&gate, Ahead, "a", 512).ok().unwrap();
        assert!(enter(&gate, Demand, "b", 512).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_asked_for_ahead_while_demand_waits() {
        let gate = gate(64);
        let first = enter(&gate, Demand, "a", 512);
        let mut ahead = enter(&gate, Ahead, "b", 1);
        let mut demand = enter(&gate, Demand, "a", 512);
        drop(first);
        assert!(now(&mut demand) && !now(&mut ahead));
        drop(demand);
        assert!(now(&mut ahead));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_has_nothing_on_its_way_goes_beside_and_before_one_who_has() {
        let gate = gate(64);
        let first = enter(&gate, Demand, "a", 256);
        let _rest = enter(&gate, Demand, "a", 256);
        let mut same = enter(&gate, Demand, "a", 128);
        let fresh = enter(&gate, Demand, "b", 128);
        assert!(!now(&mut same) && fresh.is_ok());
        let mut second = enter(&gate, Demand, "c", 512);
        assert!(!now(&mut second), "not without end");
        drop(first);
        assert!(now(&mut second) && !now(&mut same));
    }

    #[tokio::test(start_paused = true)]
    async fn streams_get_the_line_in_turn() {
        let gate = gate(64);
        let mut first: Vec<_> = (0..8).map(|_| enter(&gate, Ahead, "a", 128)).collect();
        let mut second: Vec<_> = (0..8).map(|_| enter(&gate, Ahead, "b", 128)).collect();
        let n_in = |entering: &mut Vec<_>| {
            entering.iter_mut().filter_map(|it| now(it).then_some(())).count()
        };
        assert_eq!((n_in(&mut first), n_in(&mut second)), (4, 0));
        first.drain(..2);
        assert_eq!((n_in(&mut first), n_in(&mut second)), (2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_held_back_for_a_second_counts_as_demand() {
        let gate = gate(64);
        let mut first = enter(&gate, Demand, "a", 512).ok().unwrap();
        let mut ahead = enter(&gate, Ahead, "b", 512);
        let mut demand = enter(&gate, Demand, "a", 512);
        first.came(100 * KIB);
        assert!(!now(&mut ahead) && !now(&mut demand));
        advance(AHEAD_WAIT_MAX).await;
        first.came(1);
        assert!(now(&mut ahead) && !now(&mut demand), "it has nothing on its way");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_body_that_stands_still_or_drips() {
        let gate = gate(64);
        let still = enter(&gate, Demand, "a", 512);
        let mut drips = enter(&gate, Demand, "b", 512).ok().unwrap();
        let mut next = enter(&gate, Demand, "c", 512);
        assert!(!now(&mut next));
        for _ in 0..3 {
            advance(MOVED_WITHIN / 3).await;
            drips.came(1);
        }
        assert!(now(&mut next) && still.is_ok());
        // What goes on counts again.
        drips.came(MOVED_BYTES_MIN);
        assert!(enter(&gate, Demand, "b", 512).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_waits_looks_by_itself_whether_the_others_stand_still() {
        let gate = gate(64);
        let _still = enter(&gate, Demand, "a", 512);
        let start = Instant::now();
        let asked = Asked { class: Demand, key: "a".into(), bytes: Some(1) };
        let _permit = Gate::enter(&gate, asked).await;
        assert_eq!(start.elapsed(), MOVED_WITHIN);
    }

    #[tokio::test(start_paused = true)]
    async fn metadata_waits_for_a_place_alone_and_has_half_of_the_line_to_itself() {
        let gate = gate(8);
        let first = enter(&gate, Demand, "a", 512);
        let metadata = enter(&gate, Metadata, "", 0);
        assert!(metadata.is_ok());
        drop(first);
        assert_eq!(n_let_in(&gate, Ahead, "a", 128), 2);
        drop(metadata);
        assert_eq!(n_let_in(&gate, Ahead, "a", 128), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn where_the_server_refuses_places_are_fewer_and_names_and_readers_have_them() {
        let throttle: Arc<Throttle> = Arc::default();
        let gate = Arc::new(Gate::new(64, 8, Arc::default(), Arc::clone(&throttle)));
        (0..10).for_each(|_| throttle.served());
        (0..10).for_each(|_| throttle.refused(Instant::now()));
        assert_eq!(throttle.places(), Some(8));
        let readers: Vec<_> = (0..20).map(|n| enter(&gate, Demand, &n.to_string(), 1)).collect();
        assert_eq!(readers.iter().filter(|it| it.is_ok()).count(), 7, "one is left for names");
        assert!(enter(&gate, Metadata, "", 0).is_ok());
        assert!(enter(&gate, Ahead, "a", 1).is_err());
        drop(readers);
        assert!(enter(&gate, Ahead, "a", 1).is_ok(), "beside nothing else");
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_answer_says_counts_and_teaches_of_the_next_without_range() {
        let gate = gate(64);
        let whole = || Asked { class: Ahead, key: "a".into(), bytes: None };
        let mut first = Gate::enter(&gate, whole()).now_or_never().unwrap();
        assert_eq!(owed(&gate), WHOLE_BYTES_START);
        first.is(1000, true);
        assert_eq!(owed(&gate), 1000);
        let _second = Gate::enter(&gate, whole()).now_or_never().unwrap();
        let expected = (3 * WHOLE_BYTES_START + 1000) / 4;
        assert_eq!(owed(&gate), 1000 + expected);
        drop(first);
        assert_eq!(owed(&gate), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_comes_and_goes_nothing_is_left_behind() {
        let gate = gate(8);
        let mut state = 7_u64;
        let mut entering = Vec::new();
        for _ in 0..2000 {
            state = xxhash_rust::xxh3::xxh3_64(&state.to_le_bytes());
            let class = [Metadata, Demand, Ahead][usize::try_from(state % 3).unwrap()];
            let kib = if class == Metadata { 0 } else { state / 7 % 700 };
            entering.push(enter(
                &gate,
                class,
                ["a", "b", "c"][usize::try_from(state / 3 % 3).unwrap()],
                kib,
            ));
            if state.is_multiple_of(5) {
                let gone = usize::try_from(state / 11).unwrap() % entering.len();
                drop(entering.swap_remove(gone));
            }
            advance(Duration::from_millis(state % 50)).await;
        }
        // Each that waits gets its turn when those before it have gone.
        while !entering.is_empty() {
            let let_in = entering.iter_mut().position(now);
            let let_in = let_in.expect("one may always go");
            drop(entering.swap_remove(let_in));
        }
        let state = gate.state.lock();
        assert_eq!((state.n_metadata, state.n_data, state.by_key.len()), (0, 0, 0));
        assert_eq!(state.under_way.len(), 0);
    }
}
