//! How many bytes the tree holds: a sum that each holder gives back when it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The sum of all weights.
#[derive(Clone)]
pub(super) struct Scales(Arc<Sum>);

struct Sum {
    bytes: AtomicU64,
    began: Instant,
}

impl Default for Scales {
    fn default() -> Self {
        Self(Arc::new(Sum { bytes: AtomicU64::new(0), began: Instant::now() }))
    }
}

impl Scales {
    /// What is used longer ago than something else is so by this: fine enough for a walk of a
    /// million names in a few seconds.
    const TICK: Duration = Duration::from_millis(50);

    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// The time, in ticks, that things are stamped with when they are used. It lasts for six years;
    /// from then on, all are of one age.
    pub(super) fn tick(&self) -> u32 {
        let ticks = self.0.began.elapsed().as_millis() / Self::TICK.as_millis();
        u32::try_from(ticks).unwrap_or(u32::MAX)
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

    pub(super) fn scales(&self) -> &Scales {
        &self.scales
    }

    pub(super) fn tick(&self) -> u32 {
        self.scales.tick()
    }

    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.scales.0.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn remove(&mut self, bytes: usize) {
        let bytes = (bytes as u64).min(self.bytes);
        self.bytes -= bytes;
        self.scales.0.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.scales.0.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
