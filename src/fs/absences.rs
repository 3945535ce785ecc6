//! The names that the kernel was told do not exist, for as long as it may believe that: nobody else
//! knows them, and it cannot be asked for them when they are to be forgotten.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::object::Ino;

/// One of them costs about this much: table entry, time, a name of usual length.
pub(super) const ABSENCE_BYTES: u64 = 120;

/// All of them.
#[derive(Default)]
pub(super) struct Absences {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    names: HashMap<Ino, HashMap<Box<str>, Instant>>,
    n_names: usize,
    /// Not before this time the table is gone through for those that are over.
    next_sweep: Option<Instant>,
}

/// Beyond, the kernel is not to remember an absence, and asks each time; that costs no request.
const NAMES_MAX: usize = 1 << 16;

/// A full table is gone through no more often.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

impl Absences {
    /// Whether the kernel may be told that `name` is absent from `parent` for so long.
    pub(super) fn note(&self, parent: Ino, name: &str, valid_for: Duration) -> bool {
        let now = Instant::now();
        let mut table = self.table.lock();
        if table.n_names >= NAMES_MAX {
            table.sweep(now);
        }
        if table.n_names >= NAMES_MAX {
            return false;
        }
        let before = table.names.entry(parent).or_default().insert(name.into(), now + valid_for);
        table.n_names += usize::from(before.is_none());
        true
    }

    /// The names in `parent` of which it was told, which it is not to believe any more.
    pub(super) fn take(&self, parent: Ino) -> Vec<Box<str>> {
        let mut table = self.table.lock();
        let names = table.names.remove(&parent).unwrap_or_default();
        table.n_names -= names.len();
        drop(table);
        names.into_keys().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.table.lock().n_names
    }
}

impl Table {
    fn sweep(&mut self, now: Instant) {
        if self.next_sweep.is_some_and(|next| now < next) {
            return;
        }
        self.next_sweep = Some(now + SWEEP_PAUSE);
        self.names.retain(|_, names| {
            names.retain(|_, until| now < *until);
            !names.is_empty()
        });
        self.n_names = self.names.values().map(HashMap::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn names_are_remembered_until_the_kernel_has_forgotten_them() {
        let absences = Absences::default();
        for index in 0..NAMES_MAX {
            let seconds = if index < 10 { 3600 } else { 1 };
            assert!(absences.note(Ino(7), &index.to_string(), Duration::from_secs(seconds)));
        }
        assert!(!absences.note(Ino(8), "x", Duration::from_secs(1)), "there is a bound");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(absences.note(Ino(8), "x", Duration::from_secs(1)));
        assert_eq!(absences.len(), 11);
        assert_eq!(absences.take(Ino(7)).len(), 10);
        assert_eq!((absences.take(Ino(7)).len(), absences.len()), (0, 1));
    }
}
