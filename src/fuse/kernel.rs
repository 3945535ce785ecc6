//! What is agreed with the kernel: capabilities at INIT, and the read-ahead of the mount.

use std::io;
use std::time::Duration;

use fuser::{InitFlags, KernelConfig};

use crate::config::PageCache;

/// fuser's default is 16; the requests of the kernel's read-ahead count against it, and a window of
/// 1 MiB in pieces of 128 KiB is 8 of them for one stream.
const MAX_BACKGROUND: u16 = 128;

/// The longest read that the kernel sends: it counts pages by `max_write`, of which fuser agrees to so much at
/// INIT (linux/fs/fuse/inode.c, `process_init_reply`). The least budget has room for one such read.
pub(super) const READ_BYTES_MAX: u32 = 16 << 20;

/// What we ask for, one at a time: one bit that the kernel lacks would reject the whole set. The
/// list is closed, as fuser 0.18 also accepts capabilities that it cannot serve:
/// with io_uring the mount hangs, with idmapped mounts it answers EACCES.
///
/// Not FUSE_READDIRPLUS_AUTO: then only the first read of a directory has attributes, unless the program
/// looks at entries between its reads. Most that look at any read all names first (`du`, `cp -r`, `tar`),
/// and each look is a request of its own, which costs eight times what the attributes do.
const WANTED: [(InitFlags, &str); 4] = [
    (InitFlags::FUSE_PARALLEL_DIROPS, "parallel directory operations"),
    (InitFlags::FUSE_DO_READDIRPLUS, "readdirplus"),
    (InitFlags::FUSE_ASYNC_DIO, "asynchronous direct I/O"),
    (InitFlags::FUSE_NO_EXPORT_SUPPORT, "no NFS export"),
];

/// Where files are opened with FOPEN_DIRECT_IO, they can still be mapped by MAP_SHARED with this one (from
/// Linux 6.6 on); by MAP_PRIVATE they can without. Elsewhere it would do nothing.
const WANTED_BYPASSED: (InitFlags, &str) =
    (InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP, "shared mappings with --direct-io");

/// Asks for what is wanted; what this kernel lacks is done without, and said once.
pub(super) fn configure(config: &mut KernelConfig, page_cache: PageCache) {
    let bypassed = (page_cache == PageCache::Bypassed).then_some(WANTED_BYPASSED);
    for (flag, name) in WANTED.into_iter().chain(bypassed) {
        if config.add_capabilities(flag).is_err() {
            tracing::info!("this kernel's FUSE has no {name}; s3mount does without");
        }
    }
    // Both may only be too small, which these are not.
    let _ = config.set_max_background(MAX_BACKGROUND);
    let _ = config.set_congestion_threshold(MAX_BACKGROUND / 4 * 3);
}

/// How late an answer may be before the kernel aborts the connection (from Linux 6.14 on); `None`
/// where nobody has set that.
pub(super) fn request_timeout() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/sys/fs/fuse/max_request_timeout").ok()?;
    let seconds = text.trim().parse().ok().filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds))
}

/// Sets the kernel's read-ahead for the mount with this device number, in KiB.
///
/// # Errors
/// Without root, as the file belongs to root (sysfs, `/sys/class/bdi`).
pub fn set_read_ahead(major: u32, minor: u32, kib: u32) -> io::Result<()> {
    std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), kib.to_string())
}
