//! s3mount: an S3 bucket as an ordinary read-only directory.
//!
//! # For programs
//! [`Mount::builder`] mounts in the calling process, as the command `s3mount` does with the same
//! words; [`StartError::kind`] and [`UnmountError`] say why something did not come about. That is
//! the whole interface: all other modules are public for the
//! program and the tests alone, and change without notice.
//!
//! ```no_run
//! use s3mount::{Mount, StartErrorKind};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mount = match Mount::builder("myfiles/some/prefix", "/mnt/s3").memory(256 << 20).start() {
//!     Ok(mount) => mount,
//!     Err(err) if err.kind() == StartErrorKind::NotFound => return Ok(()),
//!     Err(err) => return Err(err.into()),
//! };
//! let text = std::fs::read_to_string(mount.dir().join("hello.txt"))?;
//! mount.unmount()?;
//! # let _ = text;
//! # Ok(())
//! # }
//! ```
//!
//! # The map
//! Modules in reading order; arrows point down only:
//! `cli` what was typed, `builder` what a program says; `config` what it means; `mount` the life of
//! a mount, which builds the object graph; `control` its socket, and the commands that talk to it; `fuse` kernel requests to calls; `fs` the file system in
//! plain values; `tree` the names; `data` the bytes; `store` the way to S3; `object`, `error` and
//! `metrics` the words and counters that all share; `flight` one question, many who wait; `awake` time
//! that counts; `log`
//! where the log goes; `mountinfo` what is mounted where.
//!
//! Lock order: fs handles < fs pressure < fs inodes < tree directories < one directory < one snapshot, and data
//! index < data budget < one part's flow. No lock is held across an await.

mod awake;
mod builder;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod config;
#[doc(hidden)]
pub mod control;
#[doc(hidden)]
pub mod data;
#[doc(hidden)]
pub mod error;
mod failpoint;
mod flight;
#[doc(hidden)]
pub mod fs;
#[doc(hidden)]
pub mod fuse;
#[cfg(all(any(test, fuzzing), not(feature = "shuttle")))]
#[doc(hidden)]
pub mod fuzzing;
#[doc(hidden)]
pub mod log;
#[doc(hidden)]
pub mod metrics;
#[doc(hidden)]
pub mod mount;
mod mountinfo;
#[doc(hidden)]
pub mod object;
#[doc(hidden)]
pub mod store;
mod sync;
#[doc(hidden)]
pub mod tree;

pub use builder::Builder;
pub use mount::{Mount, StartError, StartErrorKind, UnmountError};
