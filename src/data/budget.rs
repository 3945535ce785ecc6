//! The byte budget of the mount: what is in flight, what is cached, and metadata, together.
//!
//! Rules: all parts of one request are reserved in one step, so a holder never waits for
//! more; demand waits in order of arrival, prefetch only tries and never passes waiting demand;
//! metadata never waits. Demand for which the system had no memory waits until others hold less
//! than then. Freed memory of a part is kept for the next part of its size, within the
//! budget: fresh memory costs a page fault for each 4 KiB.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::buffer::Chunk;
use crate::sync::Mutex;

/// Free chunks kept for reuse, at most: enough for a stream whose parts come and go, small enough
/// to be no burden on an idle mount.
const POOL_BYTES_MAX: u64 = 32 << 20;

/// Chunks smaller than this come from the allocator each time: it keeps small blocks by itself.
const POOLED_BYTES_MIN: usize = 64 << 10;

/// The budget. Clones share it.
#[derive(Clone)]
pub(crate) struct Budget {
    shared: Arc<Shared>,
}

struct Shared {
    limit: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Reserved by permits.
    used: u64,
    /// Held by names and inodes.
    metadata: u64,
    /// Free chunks, those given back longest ago first: when parts have grown, the small chunks leave.
    /// Their sum is `pooled`.
    pool: VecDeque<Chunk>,
    pooled: u64,
    /// Demand in order of arrival. Invariant: whoever is granted is no longer here.
    queue: VecDeque<Waiting>,
    next_ticket: u64,
}

struct Waiting {
    ticket: u64,
    want: Want,
    waker: Option<Waker>,
}

/// What one request waits for.
#[derive(Clone, Copy)]
struct Want {
    bytes: u64,
    /// What all permits may hold with these bytes, beside the budget's own limit. Who is alone has not to
    /// keep to it.
    used_max: u64,
}

/// The right to hold one chunk. Given back by Drop.
pub(crate) struct Permit {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { shared: Arc::new(Shared { limit, state: Mutex::default() }) }
    }

    /// Bytes.
    pub(crate) fn limit(&self) -> u64 {
        self.shared.limit
    }

    /// Bytes that permits hold.
    pub(crate) fn used(&self) -> u64 {
        self.shared.state.lock().used
    }

    /// Bytes that are neither held by permits nor by metadata.
    pub(crate) fn free(&self) -> u64 {
        let state = self.shared.state.lock();
        self.shared.limit.saturating_sub(state.used + self.shared.counted(&state))
    }

    /// Whether demand waits; then evicting helps somebody.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.shared.state.lock().queue.is_empty()
    }

    /// Bytes that are missing for the first in the queue.
    pub(crate) fn missing(&self) -> u64 {
        let state = self.shared.state.lock();
        let want = state.queue.front().map_or(Want::of(&[], u64::MAX), |first| first.want);
        let used = state.used + want.bytes;
        let over = (used + self.shared.counted(&state)).saturating_sub(self.shared.limit);
        over.max(used.saturating_sub(want.used_max))
    }

    /// Metadata never waits: the sum is stated, and parts make room.
    pub(crate) fn set_metadata(&self, bytes: u64) {
        let freed = {
            let mut state = self.shared.state.lock();
            state.metadata = bytes;
            self.shared.trim(&mut state)
        };
        self.shared.wake_first();
        drop(freed);
    }

    /// Bytes that are kept for reuse.
    #[cfg(test)]
    pub(crate) fn pooled(&self) -> u64 {
        self.shared.state.lock().pooled
    }

    /// The memory that is kept for reuse: to be dropped, not under a lock.
    pub(crate) fn take_pool(&self) -> impl Send + use<> {
        self.shared.state.lock().take_pool()
    }

    /// One permit for each size, all or none, at once or not at all; not past waiting demand.
    pub(crate) fn try_reserve(&self, sizes: &[usize]) -> Option<Vec<Permit>> {
        let freed = {
            let mut state = self.shared.state.lock();
            if !state.queue.is_empty() || !self.shared.fits(&state, Want::of(sizes, u64::MAX)) {
                return None;
            }
            self.shared.grant(&mut state, total(sizes))
        };
        drop(freed);
        Some(self.permits(sizes))
    }

    /// One permit for each size, all in one step, in order of arrival: when there is room, and when all
    /// permits with these hold at most `used_max`, or there are no others.
    ///
    /// # Panics
    /// When they can never fit.
    pub(crate) fn reserve<'a>(&'a self, sizes: &'a [usize], used_max: u64) -> Reserve<'a> {
        let want = Want::of(sizes, used_max);
        assert!(want.bytes <= self.shared.limit, "one request is smaller than the least budget");
        Reserve { budget: self, sizes, want, ticket: None }
    }

    fn permits(&self, sizes: &[usize]) -> Vec<Permit> {
        let permit = |bytes: &usize| Permit { shared: Arc::clone(&self.shared), bytes: *bytes };
        sizes.iter().map(permit).collect()
    }
}

fn total(sizes: &[usize]) -> u64 {
    sizes.iter().map(|size| *size as u64).sum()
}

impl Want {
    fn of(sizes: &[usize], used_max: u64) -> Self {
        Self { bytes: total(sizes), used_max }
    }
}

impl Shared {
    /// Metadata beyond half the budget is an overrun, and does not starve the bytes.
    fn counted(&self, state: &State) -> u64 {
        state.metadata.min(self.limit / 2)
    }

    fn fits(&self, state: &State, want: Want) -> bool {
        let used = state.used + want.bytes;
        used + self.counted(state) <= self.limit && (used <= want.used_max || state.used == 0)
    }

    /// Counts `bytes` as used. Returns pooled chunks to be freed outside the lock.
    fn grant(&self, state: &mut State, bytes: u64) -> Vec<Chunk> {
        state.used += bytes;
        self.trim(state)
    }

    /// Takes chunks out of the pool until all fits together.
    fn trim(&self, state: &mut State) -> Vec<Chunk> {
        let held = state.used + state.metadata;
        let pool_max = self.limit.saturating_sub(held).min(POOL_BYTES_MAX);
        state.unpool_bytes(state.pooled.saturating_sub(pool_max))
    }

    /// Lets the first in the queue look again.
    fn wake_first(&self) {
        let waker = {
            let mut state = self.state.lock();
            let fits = match state.queue.front() {
                Some(first) => self.fits(&state, first.want),
                None => false,
            };
            if fits { state.queue.front_mut().and_then(|first| first.waker.take()) } else { None }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// See [`Budget::reserve`]. Dropped while it waits, it leaves the queue.
pub(crate) struct Reserve<'a> {
    budget: &'a Budget,
    sizes: &'a [usize],
    want: Want,
    /// The place in the queue, once it has one.
    ticket: Option<u64>,
}

impl Future for Reserve<'_> {
    type Output = Vec<Permit>;

    fn poll(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Vec<Permit>> {
        let (shared, want) = (&self.budget.shared, self.want);
        let freed = {
            let mut state = shared.state.lock();
            let first = match self.ticket {
                None => state.queue.is_empty(),
                Some(ticket) => state.queue.front().is_some_and(|first| first.ticket == ticket),
            };
            if !(first && shared.fits(&state, want)) {
                let ticket = state.enqueue(self.ticket, want, ctx.waker());
                drop(state);
                self.ticket = Some(ticket);
                return Poll::Pending;
            }
            if self.ticket.is_some() {
                state.queue.pop_front();
            }
            shared.grant(&mut state, want.bytes)
        };
        drop(freed);
        let permits = self.budget.permits(self.sizes);
        self.ticket = None;
        // There may be room for the next one, too.
        self.budget.shared.wake_first();
        Poll::Ready(permits)
    }
}

impl State {
    fn unpool(&mut self, index: usize) -> Option<Chunk> {
        let chunk = self.pool.remove(index)?;
        self.pooled -= chunk.capacity() as u64;
        Some(chunk)
    }

    /// Takes at least `bytes` out of the pool, or all of it.
    fn unpool_bytes(&mut self, bytes: u64) -> Vec<Chunk> {
        let (mut gone, mut freed) = (Vec::new(), 0);
        while freed < bytes
            && let Some(chunk) = self.unpool(0)
        {
            freed += chunk.capacity() as u64;
            gone.push(chunk);
        }
        gone
    }

    /// All of it, to be dropped outside the lock.
    fn take_pool(&mut self) -> VecDeque<Chunk> {
        self.pooled = 0;
        std::mem::take(&mut self.pool)
    }

    /// Keeps the place of `ticket`, or takes the last one.
    fn enqueue(&mut self, ticket: Option<u64>, want: Want, waker: &Waker) -> u64 {
        let found = self.queue.iter_mut().find(|waiting| Some(waiting.ticket) == ticket);
        if let Some(waiting) = found {
            waiting.waker = Some(waker.clone());
            return waiting.ticket;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.queue.push_back(Waiting { ticket, want, waker: Some(waker.clone()) });
        ticket
    }
}

impl Drop for Reserve<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.budget.shared.state.lock().queue.retain(|waiting| waiting.ticket != ticket);
            self.budget.shared.wake_first();
        }
    }
}

impl Permit {
    /// Bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory of the permit's size, recycled where there is some. Where there is none of it, parts have
    /// another size now, and as much of the rest is given back to the system; all of the rest, where the
    /// system has no memory. `None` where that does not help. What is new leaves the system `headroom` bytes.
    pub(crate) fn take_chunk(&self, headroom: usize) -> Option<Chunk> {
        let (recycled, freed) = {
            let mut state = self.shared.state.lock();
            match state.pool.iter().rposition(|chunk| chunk.capacity() == self.bytes) {
                Some(index) => (state.unpool(index), Vec::new()),
                None => (None, state.unpool_bytes(self.bytes as u64)),
            }
        };
        drop(freed);
        recycled.or_else(|| Chunk::allocate(self.bytes, headroom)).or_else(|| {
            let pool = self.shared.state.lock().take_pool();
            drop(pool);
            Chunk::allocate(self.bytes, headroom)
        })
    }

    /// Keeps the memory for the next part of its size. The drop of the permit, which follows, bounds
    /// the pool.
    pub(crate) fn give_back_chunk(&self, chunk: Chunk) {
        if chunk.capacity() >= POOLED_BYTES_MIN {
            let mut state = self.shared.state.lock();
            state.pooled += chunk.capacity() as u64;
            state.pool.push_back(chunk);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let freed = {
            let mut state = self.shared.state.lock();
            state.used -= self.bytes as u64;
            self.shared.trim(&mut state)
        };
        drop(freed);
        self.shared.wake_first();
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use futures_util::FutureExt;

    use super::super::buffer::system;
    use super::*;

    #[test]
    fn a_request_gets_all_or_waits_for_all() {
        let budget = Budget::new(100);
        let held = budget.try_reserve(&[40, 40]).unwrap();
        assert!(budget.try_reserve(&[10, 20]).is_none());
        assert!(budget.reserve(&[10, 20], u64::MAX).now_or_never().is_none());
        drop(held);
        assert_eq!(budget.reserve(&[10, 20], u64::MAX).now_or_never().unwrap().len(), 2);
        assert_eq!(budget.used(), 0, "dropped permits are given back");
    }

    #[tokio::test]
    async fn demand_is_served_in_order_and_prefetch_does_not_pass_it() {
        let budget = Budget::new(100);
        let held = budget.try_reserve(&[90]).unwrap();
        let big = [50];
        let mut first = Box::pin(budget.reserve(&big, u64::MAX));
        assert!((&mut first).now_or_never().is_none());
        assert!(budget.try_reserve(&[5]).is_none(), "5 would fit, but demand waits");
        assert!(budget.reserve(&[5], u64::MAX).now_or_never().is_none(), "no overtaking");
        drop(held);
        assert_eq!(first.await.len(), 1);
    }

    #[tokio::test]
    async fn one_who_gives_up_lets_the_next_one_through() {
        let budget = Budget::new(100);
        let held = budget.try_reserve(&[60]).unwrap();
        let mut big = Box::pin(budget.reserve(&[90], u64::MAX));
        assert!((&mut big).now_or_never().is_none());
        let task = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(&[30], u64::MAX).await.len() }
        });
        tokio::task::yield_now().await;
        drop(big);
        assert_eq!(task.await.unwrap(), 1);
        drop(held);
    }

    #[test]
    fn chunks_of_a_size_that_is_gone_leave_the_pool_first() {
        let budget = Budget::new(1 << 30);
        for size in [1 << 20; 40].into_iter().chain([4 << 20; 8]) {
            let permit = budget.try_reserve(&[size]).unwrap().pop().unwrap();
            let chunk = Chunk::allocate(size, 0).unwrap();
            permit.give_back_chunk(chunk);
        }
        let state = budget.shared.state.lock();
        assert!(state.pooled <= POOL_BYTES_MAX);
        assert!(state.pool.iter().all(|chunk| chunk.capacity() == 4 << 20));
    }

    #[test]
    fn chunks_of_another_size_leave_the_pool_for_what_is_new() {
        let budget = Budget::new(1 << 30);
        for _ in 0..8 {
            let permit = budget.try_reserve(&[1 << 20]).unwrap().pop().unwrap();
            permit.give_back_chunk(Chunk::allocate(1 << 20, 0).unwrap());
        }
        let permit = budget.try_reserve(&[4 << 20]).unwrap().pop().unwrap();
        let chunk = permit.take_chunk(0).unwrap();
        assert_eq!(budget.shared.state.lock().pooled, 4 << 20);
        permit.give_back_chunk(chunk);
    }

    #[test]
    fn who_waits_until_others_hold_less_waits_no_longer_than_until_there_are_none() {
        let budget = Budget::new(100);
        let mut held = budget.try_reserve(&[10, 10, 10]).unwrap();
        let mut within = Box::pin(budget.reserve(&[10], 30));
        assert!((&mut within).now_or_never().is_none(), "there would be room for it");
        assert_eq!(budget.missing(), 10);
        assert!(budget.try_reserve(&[1]).is_none(), "prefetch does not pass it");
        held.pop();
        assert_eq!(within.now_or_never().unwrap().len(), 1);
        let mut alone = Box::pin(budget.reserve(&[10], 0));
        held.pop();
        assert!((&mut alone).now_or_never().is_none());
        held.pop();
        assert_eq!(alone.now_or_never().unwrap().len(), 1);
    }

    #[test]
    fn the_pool_goes_back_to_a_system_that_has_no_more() {
        let budget = Budget::new(1 << 30);
        let mut permits = budget.try_reserve(&[1 << 20; 8]).unwrap();
        permits.drain(..).for_each(|permit| {
            permit.give_back_chunk(Chunk::allocate(1 << 20, 0).unwrap());
        });
        // The limit was lowered below what is held.
        system::has(-(3 << 20));
        let permit = budget.try_reserve(&[512 << 10]).unwrap().pop().unwrap();
        assert!(permit.take_chunk(0).is_some());
        assert_eq!(budget.pooled(), 0);
        let large = budget.try_reserve(&[8 << 20]).unwrap().pop().unwrap();
        assert!(large.take_chunk(0).is_none());
    }

    #[test]
    fn freed_memory_is_used_again_and_counts_until_then() {
        let budget = Budget::new(1 << 20);
        let permit = budget.try_reserve(&[512 << 10]).unwrap().pop().unwrap();
        let chunk = permit.take_chunk(0).unwrap();
        permit.give_back_chunk(chunk);
        drop(permit);
        assert_eq!(budget.shared.state.lock().pooled, 512 << 10);
        let big = budget.try_reserve(&[1 << 20]).unwrap();
        assert_eq!(budget.shared.state.lock().pooled, 0, "the pool makes room");
        drop(big);
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod shuttle_models {
    use super::*;

    /// Four requests that fit only two at a time, one of which gives up half-way and one of which has to be
    /// alone: the limit is never passed, all others are served, and all is given back.
    #[test]
    fn shuttle_budget() {
        shuttle::check_random(
            || {
                let budget = Budget::new(100);
                let tasks: Vec<_> = (0..4)
                    .map(|number| {
                        let budget = budget.clone();
                        shuttle::thread::spawn(move || {
                            let sizes = [20, 25];
                            if number == 3 {
                                let mut reserve = Box::pin(budget.reserve(&sizes, u64::MAX));
                                let mut ctx = Context::from_waker(Waker::noop());
                                let _ = reserve.as_mut().poll(&mut ctx);
                                return;
                            }
                            let (used_max, bound) =
                                if number == 2 { (0, 45) } else { (u64::MAX, 100) };
                            let permits =
                                shuttle::future::block_on(budget.reserve(&sizes, used_max));
                            assert!(number == 2 || budget.used() <= bound);
                            shuttle::thread::yield_now();
                            drop(permits);
                        })
                    })
                    .collect();
                for task in tasks {
                    task.join().expect("no task panics");
                }
                assert_eq!(budget.used(), 0);
                assert!(!budget.is_waited_for());
            },
            2_000,
        );
    }
}
