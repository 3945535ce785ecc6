//! Single flight: one question is on its way once, however many ask it.
//! Invariant: the work runs as a task of its own, so that a caller who gives up cancels nothing,
//! and every way it can end (answer, error, panic, runtime gone) reaches every waiter.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::error::FsError;

type Answer<V> = Option<Result<V, FsError>>;
type Running<K, V> = Arc<Mutex<HashMap<K, watch::Receiver<Answer<V>>>>>;

/// The questions on their way.
pub(super) struct Flights<K: Eq + Hash, V> {
    /// Invariant: a key is here exactly while its task has not ended.
    running: Running<K, V>,
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new() -> Self {
        Self { running: Arc::default() }
    }

    /// Joins the flight of `key`, or starts `work` as that flight. Work writes down what it learnt
    /// before it ends, so that who comes after the landing finds it in memory.
    pub(super) fn join<F>(&self, runtime: &Handle, key: K, work: F) -> Flight<V>
    where
        F: Future<Output = Result<V, FsError>> + Send + 'static,
    {
        let mut running = self.running.lock();
        if let Some(answer) = running.get(&key) {
            return Flight { answer: answer.clone() };
        }
        let (sender, answer) = watch::channel(None);
        running.insert(key.clone(), answer.clone());
        drop(running);
        let mut landing = Landing { running: Arc::clone(&self.running), key, result: None, sender };
        runtime.spawn(async move {
            // The whole struct moves in here, so that it lands also when the task never runs.
            let landing = &mut landing;
            landing.result = Some(work.await);
        });
        Flight { answer }
    }
}

/// A wait for the answer.
pub(super) struct Flight<V> {
    answer: watch::Receiver<Answer<V>>,
}

impl<V: Clone> Flight<V> {
    pub(super) async fn landed(mut self) -> Result<V, FsError> {
        match self.answer.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone().unwrap_or(Err(FsError::Abandoned)),
            // The sender is gone without an answer: the task panicked or was dropped.
            Err(_) => Err(FsError::Abandoned),
        }
    }
}

/// Ends the flight when dropped. First the key goes, so that a waiter who hears of the end and asks
/// again starts a new flight; then the answer goes out, or the sender is dropped without one.
struct Landing<K: Eq + Hash, V> {
    running: Running<K, V>,
    key: K,
    result: Answer<V>,
    sender: watch::Sender<Answer<V>>,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
        if let Some(result) = self.result.take() {
            self.sender.send_replace(Some(result));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    async fn answer_after(ms: u64, runs: Arc<AtomicU32>) -> Result<u32, FsError> {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        Ok(runs.fetch_add(1, Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_is_asked_once_and_again_after_the_landing() {
        let (flights, runs) = (Flights::new(), Arc::new(AtomicU32::new(0)));
        let join = || flights.join(&Handle::current(), "q", answer_after(5, Arc::clone(&runs)));
        let (a, b) = tokio::join!(join().landed(), join().landed());
        assert_eq!((a.unwrap(), b.unwrap()), (0, 0));
        assert_eq!(join().landed().await.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_gives_up_does_not_cancel_the_flight() {
        let (flights, runs) = (Flights::new(), Arc::new(AtomicU32::new(0)));
        let join = || flights.join(&Handle::current(), "q", answer_after(5, Arc::clone(&runs)));
        assert!(join().landed().now_or_never().is_none(), "polled once, then dropped");
        assert_eq!(join().landed().await.unwrap(), 0);
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_gives_every_waiter_an_error_and_the_next_call_works() {
        let flights = Flights::<&str, u32>::new();
        let bad = || flights.join(&Handle::current(), "q", async { panic!("planned") });
        let (a, b) = tokio::join!(bad().landed(), bad().landed());
        assert!(matches!((a, b), (Err(FsError::Abandoned), Err(FsError::Abandoned))));
        let good = flights.join(&Handle::current(), "q", async { Ok(7) });
        assert_eq!(good.landed().await.unwrap(), 7);
    }

    #[test]
    fn a_runtime_that_is_gone_gives_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        drop(runtime);
        let flights = Flights::<&str, u32>::new();
        let flight = flights.join(&handle, "q", async { Ok(7) });
        assert!(matches!(flight.landed().now_or_never(), Some(Err(FsError::Abandoned))));
    }
}
