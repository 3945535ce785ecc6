//! How many bytes the tree holds: a sum that each holder gives back when it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The sum of all weights.
#[derive(Clone, Default)]
pub(super) struct Scales(Arc<AtomicU64>);

impl Scales {
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn weight(&self, bytes: usize) -> Weight {
        let mut weight = Weight { scales: self.clone(), bytes: 0 };
        weight.add(bytes);
        weight
    }
}

/// What one holder has put on the scales.
pub(super) struct Weight {
    scales: Scales,
    bytes: u64,
}

impl Weight {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.scales.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn remove(&mut self, bytes: usize) {
        let bytes = (bytes as u64).min(self.bytes);
        self.bytes -= bytes;
        self.scales.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.scales.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
