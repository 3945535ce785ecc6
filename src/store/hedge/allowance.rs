//! How many requests may be sent beside the ordinary ones.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::Priority;

/// Ordinary requests that pay for one more: 5 %.
const PRICE: u64 = 20;

/// What can be saved: a server that answers well for an hour and then not at all is not asked by
/// more than so many at once.
const SAVED_MAX: u64 = 4 * PRICE;

/// Begins with nothing, so that at any time no more than 5 % of what was sent was extra.
#[derive(Default)]
pub(super) struct Allowance(AtomicU64);

impl Allowance {
    /// An ordinary request goes out.
    pub(super) fn earn(&self) {
        self.update(|saved| Some((saved + 1).min(SAVED_MAX)));
    }

    /// Pays for one more, or does not. What is asked for ahead leaves one to those who wait already.
    pub(super) fn spend(&self, priority: Priority) -> bool {
        let left = match priority {
            Priority::Open | Priority::Demand => 0,
            Priority::Ahead => PRICE,
        };
        self.update(|saved| saved.checked_sub(PRICE).filter(|rest| *rest >= left))
    }

    pub(super) fn lose(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn update(&self, step: impl Fn(u64) -> Option<u64>) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_requests_pay_for_one_and_no_more_than_four_are_saved() {
        let allowance = Allowance::default();
        (0..19).for_each(|_| allowance.earn());
        assert!(!allowance.spend(Priority::Demand));
        allowance.earn();
        assert!(!allowance.spend(Priority::Ahead));
        assert!(allowance.spend(Priority::Demand) && !allowance.spend(Priority::Demand));
        (0..10_000).for_each(|_| allowance.earn());
        let spent = |priority| (0..100).filter(|_| allowance.spend(priority)).count();
        assert_eq!((spent(Priority::Ahead), spent(Priority::Demand)), (3, 1));
    }
}
