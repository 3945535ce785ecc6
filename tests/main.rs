//! The one test program: a single link instead of one per file.

#[expect(dead_code, reason = "the simulator offers more than today's tests use")]
mod support;

mod asleep;
mod changes;
mod client;
mod contract;
mod control;
mod credentials;
mod cursors;
mod direct;
mod documents;
mod extremes;
mod failures;
mod faults;
mod files;
mod freshness;
mod handles;
mod hostile;
mod hostile_reads;
mod integrity;
mod layers;
mod lifecycle;
mod limits;
mod line;
mod listings;
mod mapped;
mod memory;
mod notices;
mod ordinary;
mod policies;
mod programs;
mod quirks;
mod remount;
mod reopen;
mod rotation;
mod semantics;
mod simulator;
mod small;
mod umount;
mod walks;
