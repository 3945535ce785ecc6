//! s3mount: an S3 bucket as an ordinary read-only directory.
//!
//! Modules in reading order; arrows point down only:
//! `cli` what was typed; `config` what it means; `mount` the life of a mount, which builds the
//! object graph; `fuse` kernel requests to calls; `fs` the file system in plain values; `tree` the
//! names; `data` the bytes; `store` the way to S3; `object`, `error` and `metrics` the words and
//! counters that all share; `flight` one question, many who wait; `log` where the log goes.
//!
//! Lock order: fs handles < fs inodes < tree directories < one directory < one snapshot, and data
//! index < data budget < one part's flow. No lock is held across an await.

pub mod cli;
pub mod config;
pub mod data;
pub mod error;
mod failpoint;
mod flight;
pub mod fs;
pub mod fuse;
pub mod log;
pub mod metrics;
pub mod mount;
pub mod object;
pub mod store;
mod sync;
pub mod tree;
