//! The only user of fuser, beside `mount`: turns kernel requests into calls of [`crate::fs`] and
//! its answers into replies. Thin: no rule of the file system is decided here.

mod adapter;
mod caller;
mod dispatch;
mod entries;
mod kernel;
pub mod notify;
#[cfg(all(test, not(feature = "shuttle")))]
mod raw;
mod report;

pub use self::adapter::Adapter;
pub use self::kernel::set_read_ahead;
