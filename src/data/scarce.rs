//! What is done where the system has no memory for a part, as a limit of the process is reached before the
//! budget is: what nobody waits for goes first, prefetch does without, and a reader who is alone and finds
//! none gets an error.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Data;
use super::budget::Permit;
use super::buffer::{Chunk, has};
use crate::error::{FsError, NO_MEMORY_ADVICE};

/// What a part that is read ahead must leave to the system. Parts can do without memory; whatever else needs
/// some and gets none ends the process.
const HEADROOM_BYTES_AHEAD: usize = 16 << 20;

/// What a part that a reader waits for must leave: two threads with stacks of 2 MiB, and as much for
/// connections and names.
const HEADROOM_BYTES: usize = 8 << 20;

/// As often as names have grown by this they are made room for.
const NAMES_STEP_BYTES: u64 = 1 << 20;

/// It is said once in this time.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// The system has no memory for a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NoMemory;

impl From<NoMemory> for FsError {
    fn from(NoMemory: NoMemory) -> Self {
        Self::NoMemory
    }
}

/// What is known of it.
#[derive(Default)]
pub(super) struct Scarcity {
    /// When it was last said.
    warned: Mutex<Option<Instant>>,
    /// What names held when they were last stated, in steps.
    names: AtomicU64,
}

impl Scarcity {
    fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut warned = self.warned.lock();
        let due = warned.is_none_or(|last| now - last >= WARNING_INTERVAL);
        if due {
            *warned = Some(now);
        }
        due
    }
}

impl Data {
    /// The memory of a part that is read ahead, as far as the system has some.
    pub(super) fn chunk_ahead(&self, permit: &Permit) -> Option<Chunk> {
        let chunk = permit.take_chunk(HEADROOM_BYTES_AHEAD);
        if chunk.is_none() {
            self.warn_of_scarcity();
        }
        chunk
    }

    /// The memory of a part that a reader waits for. Where the system has none, it takes that of parts
    /// that were read already, then of those that nobody has read yet, newest first.
    pub(super) fn chunk_for_reader(&self, permit: &Permit) -> Result<Chunk, NoMemory> {
        if let Some(chunk) = permit.take_chunk(HEADROOM_BYTES) {
            return Ok(chunk);
        }
        self.warn_of_scarcity();
        let mut bytes = permit.bytes() as u64;
        while self.give_up(bytes) {
            if let Some(chunk) = permit.take_chunk(HEADROOM_BYTES) {
                return Ok(chunk);
            }
            // Not all that has gone is free: some of it is being read, or its download has yet to end.
            bytes *= 2;
        }
        Err(NoMemory)
    }

    /// Names hold `bytes` now. They cannot be refused memory, so what they will need is not left to parts.
    pub(super) fn make_headroom(&self, bytes: u64) {
        let step = bytes / NAMES_STEP_BYTES;
        let has_grown = self.scarcity.names.swap(step, Ordering::Relaxed) < step;
        if !has_grown || has(HEADROOM_BYTES) {
            return;
        }
        self.warn_of_scarcity();
        let mut bytes = HEADROOM_BYTES as u64;
        loop {
            drop(self.budget.take_pool());
            if has(HEADROOM_BYTES) || !self.give_up(bytes) {
                return;
            }
            bytes *= 2;
        }
    }

    /// Lets go of parts that were read already, else of those that nobody has read yet. False where there is
    /// none.
    fn give_up(&self, bytes: u64) -> bool {
        let gone = {
            let mut index = self.index.lock();
            let read = index.evict(bytes);
            if read.is_empty() { index.evict_unread(bytes) } else { read }
        };
        let has_some = !gone.is_empty();
        self.let_go(gone);
        has_some
    }

    fn warn_of_scarcity(&self) {
        if self.scarcity.is_due() {
            tracing::warn!(
                "the system has no more memory for s3mount, which therefore keeps less, and reads less \
                 ahead, than it may by --memory, {} MiB; {NO_MEMORY_ADVICE}",
                self.budget.limit() >> 20
            );
        }
    }
}
