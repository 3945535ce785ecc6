//! How many requests may be sent beside the ordinary ones.

use std::sync::atomic::{AtomicU64, Ordering};

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

    /// Pays for one more, or does not.
    pub(super) fn spend(&self) -> bool {
        self.update(|saved| saved.checked_sub(PRICE))
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
        assert!(!allowance.spend());
        allowance.earn();
        assert!(allowance.spend() && !allowance.spend());
        (0..10_000).for_each(|_| allowance.earn());
        let n_spent = (0..100).filter(|_| allowance.spend()).count();
        assert_eq!(n_spent, 4);
    }
}
