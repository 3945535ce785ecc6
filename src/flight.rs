//! Single flight: one question on its way, many who wait for its answer.
//! The task that asks holds a [`Landing`]; whoever drops it without an answer (a panic, a cancelled
//! task) lands the flight with the answer for that case, so that no waiter hangs.
//! Invariant: a key is in [`Flights`] exactly while its flight has not landed.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;

use crate::error::FsError;
use crate::sync::Mutex;

/// One question on its way.
pub(crate) struct Flight<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    answer: Option<T>,
    wakers: Vec<Waker>,
}

impl<T: Clone> Flight<T> {
    fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { answer: None, wakers: Vec::new() }) })
    }

    /// Ready with a clone of the answer once the flight has landed.
    pub(crate) fn wait(self: &Arc<Self>) -> Wait<T> {
        Wait { flight: Arc::clone(self) }
    }

    fn land(&self, answer: T) {
        let wakers = {
            let mut state = self.state.lock();
            state.answer = Some(answer);
            std::mem::take(&mut state.wakers)
        };
        for waker in wakers {
            waker.wake();
        }
    }
}

/// See [`Flight::wait`].
pub(crate) struct Wait<T> {
    flight: Arc<Flight<T>>,
}

impl<T: Clone> Future for Wait<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<T> {
        let mut state = self.flight.state.lock();
        if let Some(answer) = &state.answer {
            return Poll::Ready(answer.clone());
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(ctx.waker())) {
            state.wakers.push(ctx.waker().clone());
        }
        Poll::Pending
    }
}

/// All flights of one kind, by question. Clones share them.
pub(crate) struct Flights<K, T> {
    shared: Arc<Shared<K, T>>,
}

struct Shared<K, T> {
    flying: Mutex<HashMap<K, Arc<Flight<T>>>>,
    /// What waiters get when a flight is dropped without an answer.
    abandoned: T,
}

impl<K, T> Clone for Flights<K, T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

/// What [`Flights::board`] found.
pub(crate) enum Boarded<K: Eq + Hash, T: Clone> {
    /// The question is on its way already.
    Joined(Arc<Flight<T>>),
    /// It is on its way from now on: the caller asks it, and lands it.
    Started(Arc<Flight<T>>, Landing<K, T>),
}

impl<K: Eq + Hash + Clone, T: Clone> Flights<K, T> {
    /// `abandoned` is the answer of a flight whose task ended without one.
    pub(crate) fn new(abandoned: T) -> Self {
        Self { shared: Arc::new(Shared { flying: Mutex::new(HashMap::new()), abandoned }) }
    }

    /// The flight of `key`, if there is one.
    pub(crate) fn joined(&self, key: &K) -> Option<Wait<T>> {
        let flying = self.shared.flying.lock();
        flying.get(key).map(|flight| flight.wait())
    }

    /// Joins the flight of `key`, or starts one.
    pub(crate) fn board(&self, key: &K) -> Boarded<K, T> {
        let mut flying = self.shared.flying.lock();
        if let Some(flight) = flying.get(key) {
            return Boarded::Joined(Arc::clone(flight));
        }
        let flight = Flight::new();
        flying.insert(key.clone(), Arc::clone(&flight));
        let landing = Landing {
            shared: Arc::clone(&self.shared),
            flight: Arc::clone(&flight),
            key: key.clone(),
            landed: false,
        };
        Boarded::Started(flight, landing)
    }
}

impl<K, V> Flights<K, Result<V, FsError>>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// As [`Flights::board`], with `work` as the task of a flight that is started. Work writes down
    /// what it learnt before it ends, so that who comes after the landing finds it in memory.
    pub(crate) fn join<F>(&self, runtime: &Handle, key: &K, work: F) -> Wait<Result<V, FsError>>
    where
        F: Future<Output = Result<V, FsError>> + Send + 'static,
    {
        match self.board(key) {
            Boarded::Joined(flight) => flight.wait(),
            Boarded::Started(flight, landing) => {
                runtime.spawn(async move {
                    // The whole duty moves in here, so that it lands also when this never runs.
                    let landing = landing;
                    let answer = work.await;
                    landing.land(answer);
                });
                flight.wait()
            }
        }
    }
}

/// The duty to answer.
pub(crate) struct Landing<K: Eq + Hash, T: Clone> {
    shared: Arc<Shared<K, T>>,
    flight: Arc<Flight<T>>,
    key: K,
    landed: bool,
}

impl<K: Eq + Hash, T: Clone> Landing<K, T> {
    /// Gives all waiters the answer; the next question of this key starts a new flight.
    pub(crate) fn land(mut self, answer: T) {
        self.finish(answer);
    }

    fn finish(&mut self, answer: T) {
        self.landed = true;
        // Off the table first: who boards after the answer must ask again.
        let flown = self.shared.flying.lock().remove(&self.key);
        drop(flown);
        self.flight.land(answer);
    }
}

impl<K: Eq + Hash, T: Clone> Drop for Landing<K, T> {
    fn drop(&mut self) {
        if !self.landed {
            let abandoned = self.shared.abandoned.clone();
            self.finish(abandoned);
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    fn flights() -> Flights<&'static str, Result<u32, FsError>> {
        Flights::new(Err(FsError::Abandoned))
    }

    async fn answer_after(ms: u64, runs: Arc<AtomicU32>) -> Result<u32, FsError> {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        Ok(runs.fetch_add(1, Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_is_asked_once_and_again_after_the_landing() {
        let (flights, runs) = (flights(), Arc::new(AtomicU32::new(0)));
        let join = || flights.join(&Handle::current(), &"q", answer_after(5, Arc::clone(&runs)));
        let (a, b) = tokio::join!(join(), join());
        assert_eq!((a.unwrap(), b.unwrap()), (0, 0));
        assert_eq!(join().await.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_gives_up_does_not_cancel_the_flight() {
        let (flights, runs) = (flights(), Arc::new(AtomicU32::new(0)));
        let join = || flights.join(&Handle::current(), &"q", answer_after(5, Arc::clone(&runs)));
        assert!(join().now_or_never().is_none(), "polled once, then dropped");
        assert_eq!(join().await.unwrap(), 0);
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_gives_every_waiter_an_error_and_the_next_call_works() {
        let flights = flights();
        let bad = || flights.join(&Handle::current(), &"q", async { panic!("planned") });
        let (a, b) = tokio::join!(bad(), bad());
        assert!(matches!((a, b), (Err(FsError::Abandoned), Err(FsError::Abandoned))));
        let good = flights.join(&Handle::current(), &"q", async { Ok(7) });
        assert_eq!(good.await.unwrap(), 7);
    }

    #[test]
    fn a_runtime_that_is_gone_gives_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        drop(runtime);
        let flights = flights();
        let flight = flights.join(&handle, &"q", async { Ok(7) });
        assert!(matches!(flight.now_or_never(), Some(Err(FsError::Abandoned))));
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod shuttle_models {
    use shuttle::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Two askers who each ask twice, whatever the schedule: never two questions at once, nobody
    /// hangs, and a question asked after an answer never gets that same answer again.
    #[test]
    fn shuttle_single_flight() {
        shuttle::check_random(
            || {
                let flights = Flights::<u8, usize>::new(usize::MAX);
                let asking = Arc::new(AtomicUsize::new(0));
                let answers = Arc::new(AtomicUsize::new(0));
                let askers: Vec<_> = (0..2)
                    .map(|_| {
                        let (flights, asking, answers) =
                            (flights.clone(), Arc::clone(&asking), Arc::clone(&answers));
                        shuttle::thread::spawn(move || {
                            let first = ask(&flights, &asking, &answers);
                            let second = ask(&flights, &asking, &answers);
                            assert!(second > first, "an answer from before the question");
                        })
                    })
                    .collect();
                for asker in askers {
                    asker.join().expect("no asker panics");
                }
            },
            5_000,
        );
    }

    fn ask(
        flights: &Flights<u8, usize>,
        asking: &Arc<AtomicUsize>,
        answers: &Arc<AtomicUsize>,
    ) -> usize {
        let flight = match flights.board(&1) {
            Boarded::Joined(flight) => flight,
            Boarded::Started(flight, landing) => {
                let (asking, answers) = (Arc::clone(asking), Arc::clone(answers));
                shuttle::thread::spawn(move || {
                    assert_eq!(asking.fetch_add(1, Ordering::SeqCst), 0, "one question at a time");
                    shuttle::thread::yield_now();
                    asking.fetch_sub(1, Ordering::SeqCst);
                    landing.land(answers.fetch_add(1, Ordering::SeqCst) + 1);
                });
                flight
            }
        };
        shuttle::future::block_on(flight.wait())
    }
}
