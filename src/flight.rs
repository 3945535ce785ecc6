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

/// All flights of one kind, by question.
pub(crate) struct Flights<K, T> {
    flying: Mutex<HashMap<K, Arc<Flight<T>>>>,
    /// What waiters get when a flight is dropped without an answer.
    abandoned: T,
}

/// What [`Flights::board`] found.
pub(crate) enum Boarded<K: Eq + Hash, T: Clone> {
    /// The question is on its way already.
    Joined(Arc<Flight<T>>),
    /// It is on its way from now on: the caller asks it, and lands it.
    Started(Arc<Flight<T>>, Landing<K, T>),
}

impl<K: Eq + Hash + Clone, T: Clone> Flights<K, T> {
    pub(crate) fn new(abandoned: T) -> Arc<Self> {
        Arc::new(Self { flying: Mutex::new(HashMap::new()), abandoned })
    }

    /// Joins the flight of `key`, or starts one.
    pub(crate) fn board(self: &Arc<Self>, key: &K) -> Boarded<K, T> {
        let mut flying = self.flying.lock();
        if let Some(flight) = flying.get(key) {
            return Boarded::Joined(Arc::clone(flight));
        }
        let flight = Flight::new();
        flying.insert(key.clone(), Arc::clone(&flight));
        let landing = Landing {
            flights: Arc::clone(self),
            flight: Arc::clone(&flight),
            key: key.clone(),
            landed: false,
        };
        Boarded::Started(flight, landing)
    }
}

/// The duty to answer.
pub(crate) struct Landing<K: Eq + Hash, T: Clone> {
    flights: Arc<Flights<K, T>>,
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
        let flown = self.flights.flying.lock().remove(&self.key);
        drop(flown);
        self.flight.land(answer);
    }
}

impl<K: Eq + Hash, T: Clone> Drop for Landing<K, T> {
    fn drop(&mut self) {
        if !self.landed {
            let abandoned = self.flights.abandoned.clone();
            self.finish(abandoned);
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_asker_joins_the_first() {
        let flights = Flights::<u8, u32>::new(0);
        let Boarded::Started(_, landing) = flights.board(&1) else { panic!("first must start") };
        let Boarded::Joined(flight) = flights.board(&1) else { panic!("second must join") };
        landing.land(7);
        assert_eq!(flight.wait().await, 7);
        assert!(matches!(flights.board(&1), Boarded::Started(..)), "landed flights are over");
    }

    #[tokio::test]
    async fn a_panic_in_the_asking_task_reaches_the_waiters_as_an_answer() {
        let flights = Flights::<u8, u32>::new(99);
        let Boarded::Started(flight, landing) = flights.board(&1) else { panic!("must start") };
        let task = tokio::spawn(async move {
            let _landing = landing;
            panic!("planned");
        });
        assert_eq!(flight.wait().await, 99);
        assert!(task.await.is_err());
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
                            (Arc::clone(&flights), Arc::clone(&asking), Arc::clone(&answers));
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
        flights: &Arc<Flights<u8, usize>>,
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
