//! When the kernel remembers more than there is memory for: which inodes it is asked to let go.
//!
//! Names and inodes together have half of the budget. From [`HIGH`] of that on, the listings used longest
//! ago are dropped and the inodes used longest ago are asked back, down to [`LOW`]; the kernel answers
//! with forgets, and keeps what is in use.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::inodes::Inodes;
use crate::object::Ino;

/// Eighths of what names and inodes may hold.
const HIGH: u64 = 7;
const LOW: u64 = 5;

/// An entry and its inode, as far as the one cannot be dropped without the other.
const ENTRY_BYTES: u64 = 100;

/// The kernel's forgets come meanwhile: their effect is to be seen before it is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// What is going on.
#[derive(Default)]
pub(super) struct Pressure {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The thread was told, or is at it.
    is_on: bool,
    /// When it was over the last time.
    ended: Option<Instant>,
    /// The inodes that are asked back in this round.
    round: Option<Round>,
    /// How many times as many are asked back as should be enough: those used longest ago may be those
    /// that the kernel cannot let go.
    factor: usize,
    /// How many there were before the last round, and how many were wanted.
    before: (usize, usize),
}

struct Round {
    /// Those used last then or before.
    used: u32,
    next_part: usize,
    found: Vec<Ino>,
}

impl Pressure {
    /// Whether `held` of `max` bytes is so much that the thread is to be told now.
    pub(super) fn rises(&self, held: u64, max: u64) -> bool {
        if held <= max / 8 * HIGH {
            return false;
        }
        let mut state = self.state.lock();
        let has_paused = state.ended.is_none_or(|ended| ended.elapsed() >= PAUSE);
        let is_due = !state.is_on && has_paused;
        state.is_on |= is_due;
        is_due
    }

    /// The thread could not be told.
    pub(super) fn put_off(&self) {
        self.state.lock().is_on = false;
    }

    /// To what the listings are to be reduced, when a round begins. `None` in the middle of one.
    pub(super) fn begin(&self, max: u64) -> Option<u64> {
        self.state.lock().round.is_none().then_some(max / 8 * LOW)
    }

    /// The next inodes to ask back, at most `n_max`; none ends the round. `excess` is by how many bytes
    /// too much is held.
    pub(super) fn next(&self, inodes: &Inodes, excess: u64, n_max: usize) -> Vec<Ino> {
        let mut state = self.state.lock();
        if state.round.is_none() {
            inodes.leave_sparse();
            let n_inodes = inodes.len();
            let (n_before, n_wanted) = state.before;
            let n_gone = n_before.saturating_sub(n_inodes);
            state.factor = if n_gone < n_wanted / 2 { state.factor.max(1) * 2 } else { 1 };
            let n_wanted = usize::try_from(excess / ENTRY_BYTES).unwrap_or(usize::MAX);
            state.before = (n_inodes, n_wanted);
            let n_asked = n_wanted.saturating_mul(state.factor).min(n_inodes);
            let used = inodes.used_before(n_asked);
            state.round = Some(Round { used, next_part: 0, found: Vec::new() });
        }
        let Some(round) = &mut state.round else { return Vec::new() };
        while round.found.is_empty()
            && let Some(found) = inodes.idle_in(round.next_part, round.used)
        {
            round.found = found;
            round.next_part += 1;
        }
        let at = round.found.len().saturating_sub(n_max);
        let next = round.found.split_off(at);
        if next.is_empty() {
            state.round = None;
            state.is_on = false;
            state.ended = Some(Instant::now());
        }
        next
    }
}
