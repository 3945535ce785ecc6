//! What is done where the system has no memory for a part, as a limit of the process is reached before the
//! budget is: what nobody waits for goes first, prefetch does without, and a reader who is alone and finds
//! none gets an error.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Data;
use super::budget::Permit;
use super::buffer::Chunk;
use crate::error::{FsError, NO_MEMORY_ADVICE};

/// What a part that is read ahead must leave to the system. Parts can do without memory; whatever else needs
/// some and gets none ends the process.
const HEADROOM_BYTES_AHEAD: usize = 16 << 20;

/// What a part that a reader waits for must leave: two threads with stacks of 2 MiB, and as much for
/// connections and names.
const HEADROOM_BYTES: usize = 8 << 20;

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

/// When it was last said.
#[derive(Default)]
pub(super) struct Scarcity {
    warned: Mutex<Option<Instant>>,
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
        loop {
            let gone = {
                let mut index = self.index.lock();
                let read = index.evict(bytes);
                if read.is_empty() { index.evict_unread(bytes) } else { read }
            };
            if gone.is_empty() {
                return Err(NoMemory);
            }
            self.let_go(gone);
            if let Some(chunk) = permit.take_chunk(HEADROOM_BYTES) {
                return Ok(chunk);
            }
            // Not all that has gone is free: some of it is being read, or its download has yet to end.
            bytes *= 2;
        }
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
