//! Who may send a request now. Two things are scarce: places, as each request has a connection, and the
//! line, on which what was asked for first comes first. So the order is made here: metadata, demand, ahead,
//! and among data who has the least on its way.
//!
//! Invariant: whoever could enter has entered. Demand never waits for what was asked for ahead; data
//! that has nothing on its way never waits for the line.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::metrics::Metrics;

/// What may be on its way before anything is known of the line: 0.4 s of 10 Mbit/s. The first
/// answers teach more.
const WINDOW_BYTES_START: u64 = 512 << 10;

/// Asked for ahead, and held back for so long by others: by now somebody may wait for it.
const AHEAD_WAIT_MAX: Duration = Duration::from_secs(1);

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
    /// Bytes of GETs that were let in and have not come. Each chunk counts, so without the lock.
    demand_owed: AtomicU64,
    ahead_owed: AtomicU64,
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
    /// Bytes of the GETs that are under way, as asked for; keys without any are not here.
    by_key: HashMap<Arc<str>, u64>,
    /// In order of arrival.
    waiting: Vec<Waiting>,
}

struct Waiting {
    class: Class,
    key: Arc<str>,
    bytes: u64,
    since: Instant,
    turn: oneshot::Sender<Permit>,
}

impl Gate {
    pub(super) fn new(requests_max: usize, metadata_reserve: usize, metrics: Arc<Metrics>) -> Self {
        assert!(metadata_reserve < requests_max, "data needs a place, too");
        Self {
            requests_max,
            data_max: requests_max - metadata_reserve,
            metrics,
            demand_owed: AtomicU64::new(0),
            ahead_owed: AtomicU64::new(0),
            line_is_waited_for: AtomicBool::new(false),
            whole_bytes: AtomicU64::new(WHOLE_BYTES_START),
            state: Mutex::default(),
        }
    }

    pub(super) async fn enter(gate: &Arc<Self>, asked: Asked) -> Permit {
        let bytes = asked.bytes.unwrap_or_else(|| gate.whole_bytes.load(Ordering::Relaxed));
        let (turn, answer) = oneshot::channel();
        let Asked { class, key, .. } = asked;
        let waiting = Waiting { class, key, bytes, since: Instant::now(), turn };
        gate.state.lock().waiting.push(waiting);
        gate.admit();
        answer.await.expect("a waiting request is answered before its sender is dropped")
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
        let free = state.n_metadata + state.n_data < self.requests_max;
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
        let demand = self.demand_owed.load(Ordering::Acquire);
        let owed = match class {
            Class::Metadata => return true,
            Class::Demand => demand,
            Class::Ahead => demand + self.ahead_owed.load(Ordering::Acquire),
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
        if class != Class::Metadata {
            *state.by_key.entry(Arc::clone(&key)).or_default() += bytes;
        }
        let permit = Permit { gate: Arc::clone(self), class, key, bytes, owed: bytes };
        permit.owed_in_gate().fetch_add(bytes, Ordering::AcqRel);
        permit
    }

    /// Gives a place back and lets in who may have it now.
    fn leave(self: &Arc<Self>, class: Class, key: &Arc<str>, bytes: u64) {
        {
            let mut state = self.state.lock();
            *state.count(class) -= 1;
            if class != Class::Metadata
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
    class: Class,
    key: Arc<str>,
    /// As asked for.
    bytes: u64,
    /// Those that have not come.
    owed: u64,
}

impl Permit {
    /// The body has so many bytes.
    pub(super) fn is(&mut self, bytes: u64, was_whole: bool) {
        if was_whole {
            let average = self.gate.whole_bytes.load(Ordering::Relaxed);
            // Two at once may count as one.
            self.gate.whole_bytes.store((average * 3 + bytes) / 4, Ordering::Relaxed);
        }
        self.owed_in_gate().fetch_add(bytes, Ordering::AcqRel);
        self.came(self.owed);
        self.owed = bytes;
    }

    /// So many of them have come.
    pub(super) fn came(&mut self, bytes: u64) {
        // A body that is longer than announced is refused elsewhere.
        let bytes = bytes.min(self.owed);
        self.owed -= bytes;
        self.owed_in_gate().fetch_sub(bytes, Ordering::AcqRel);
        // One that begins to wait right now is let in by the next chunk, or by what leaves.
        if self.gate.line_is_waited_for.load(Ordering::Acquire) {
            self.gate.admit();
        }
    }

    fn owed_in_gate(&self) -> &AtomicU64 {
        match self.class {
            // Metadata owes no bytes, whichever counts them.
            Class::Metadata | Class::Demand => &self.gate.demand_owed,
            Class::Ahead => &self.gate.ahead_owed,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.owed_in_gate().fetch_sub(self.owed, Ordering::AcqRel);
        self.gate.leave(self.class, &self.key, self.bytes);
    }
}
