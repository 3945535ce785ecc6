//! s3mount: an S3 bucket as an ordinary read-only directory.
//!
//! Modules in reading order; arrows point down only:
//! `config` what a mount is to be; `fs` the file system in plain values;
//! `tree` the names; `data` the bytes; `store` the way to S3; `object` and `error` the words that
//! all share.
//!
//! Lock order: fs handles < fs inodes < tree directories < data index < data budget.
//! No lock is held across an await.

pub mod cli;
pub mod config;
pub mod error;
pub mod log;
pub mod mount;
pub mod object;
pub mod store;
