//! Who may take a page of a listing apart: that holds a worker for about half a millisecond, and the
//! pages of a large directory come sixteen at a time.

use tokio::sync::Semaphore;
use tokio::task::yield_now;

/// Turns to parse. Invariant: one fewer than there are workers, so that one is left for those who
/// wait for bytes; where there is a single worker, one.
pub(super) struct Parsers(Semaphore);

impl Parsers {
    pub(super) fn new(n_workers: usize) -> Self {
        Self(Semaphore::new(n_workers.saturating_sub(1).max(1)))
    }

    /// What `parse` gives, in its turn.
    pub(super) async fn run<T>(&self, parse: impl FnOnce() -> T) -> T {
        let _turn = self.0.acquire().await.expect("it is never closed");
        // Whoever gave the turn back woke this task, to be the next of its worker. What has become
        // ready meanwhile goes first: it would otherwise wait for all pages that have come, one
        // after another, where there is no other worker.
        yield_now().await;
        parse()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// The most that parse at one time, with so many workers and 16 pages.
    fn most(n_workers: usize) -> usize {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(n_workers)
            .build()
            .expect("threads");
        runtime.block_on(async {
            let parsers = Arc::new(Parsers::new(n_workers));
            let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let pages = (0..16).map(|_| {
                let (parsers, now, most) =
                    (Arc::clone(&parsers), Arc::clone(&now), Arc::clone(&most));
                tokio::spawn(async move {
                    let parse = || {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        let end = std::time::Instant::now() + std::time::Duration::from_millis(5);
                        while std::time::Instant::now() < end {}
                        now.fetch_sub(1, Ordering::SeqCst);
                    };
                    parsers.run(parse).await;
                })
            });
            for page in pages.collect::<Vec<_>>() {
                page.await.expect("no panic");
            }
            most.load(Ordering::SeqCst)
        })
    }

    #[test]
    fn a_worker_is_left_for_others() {
        assert_eq!((most(1), most(2)), (1, 1));
        assert!(most(4) <= 3);
    }

    // Such a runtime has one worker, on which a task that is woken by another is its next.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn with_a_single_worker_others_come_between_two_pages() {
        let n_before_other = tokio::spawn(async {
            let (parsers, n_parsed) = (Arc::new(Parsers::new(1)), Arc::new(AtomicUsize::new(0)));
            let turn = parsers.0.acquire().await.expect("it is open");
            for _ in 0..16 {
                let (parsers, n_parsed) = (Arc::clone(&parsers), Arc::clone(&n_parsed));
                tokio::spawn(async move {
                    parsers.run(|| n_parsed.fetch_add(1, Ordering::SeqCst)).await;
                });
            }
            // All wait for their turn when something else becomes ready, and then a page is done.
            yield_now().await;
            let other = tokio::spawn(async move { n_parsed.load(Ordering::SeqCst) });
            drop(turn);
            other.await.expect("no panic")
        });
        let n_before_other = n_before_other.await.expect("no panic");
        assert!(n_before_other <= 1, "{n_before_other} pages went before it");
    }
}
