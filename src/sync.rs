//! The locks and atomics of the parts that are model-checked: parking_lot and std in the program,
//! shuttle's under the feature `shuttle`, with one interface.

pub(crate) use imp::{AtomicU64, AtomicUsize, Mutex, Ordering};

#[cfg(not(feature = "shuttle"))]
mod imp {
    pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    pub(crate) use parking_lot::Mutex;
}

#[cfg(feature = "shuttle")]
mod imp {
    pub(crate) use shuttle::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    /// shuttle's mutex with the interface of parking_lot's: it does not poison.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }
}
