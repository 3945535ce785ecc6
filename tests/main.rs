//! The one test program: a single link instead of one per file.

#[expect(dead_code, reason = "the simulator offers more than today's tests use")]
mod support;

mod changes;
mod credentials;
mod faults;
mod files;
mod layers;
mod lifecycle;
mod listings;
mod policies;
mod rotation;
mod semantics;
mod simulator;
