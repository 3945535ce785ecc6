//! The threads that tell the kernel what it did not ask for (`fs/notices.rs`), written to the
//! descriptor of the mount by ourselves: fuser has no call for the notices that leave those alone
//! who use a name.
//!
//! - `FUSE_NOTIFY_PRUNE` (Linux 6.18, protocol 7.45) names inodes; the kernel lets go of those that
//!   nobody uses, and skips the others: open files, mapped ones, and the directories above what is left.
//! - `FUSE_NOTIFY_INVAL_ENTRY` with `FUSE_EXPIRE_ONLY` (Linux 6.2) ends the time of a name, and leaves
//!   it where it is. An older kernel takes the flag for padding, and unhashes the name whoever uses it: a
//!   working directory then has no path any more. Without the flag all kernels do so. They let go of the
//!   inode, too, so where they cannot prune, files that are not open are named for that.
//!
//! linux/fs/fuse/dev.c, `fuse_notify`; an unknown notice is EINVAL.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::thread;

use tokio::sync::mpsc;

use crate::fs::{FileSystem, Notice, Pages, Place, Queued, Queues};
use crate::object::Ino;

/// linux/fuse.h, `enum fuse_notify_code`.
const INVAL_INODE: i32 = 2;
const INVAL_ENTRY: i32 = 3;
const STORE: i32 = 4;
const PRUNE: i32 = 9;

/// linux/fuse.h, `struct fuse_notify_inval_entry_out`.
const EXPIRE_ONLY: u32 = 1;

/// `struct fuse_out_header`: length, code, and 0 where an answer has the number of its request.
const HEADER_BYTES: u32 = 16;

/// Inodes in one notice: the kernel takes 512 at a time out of it, and other notices come between.
const INODES_MAX: usize = 512;

/// Bytes in one `FUSE_NOTIFY_STORE`: between two of them a page that is waited for is free.
const STORE_BYTES_MAX: usize = 1 << 20;

/// Whom the thread asks which inodes are to go.
pub trait Relief: Send + Sync {
    /// The next inodes, those used longest ago first; none when enough have gone or none can. Called
    /// until it gives none.
    fn next(&self, n_max: usize) -> Vec<Ino>;

    /// Where the file `ino` is, unless it is open: for kernels that know names only.
    fn place_of(&self, ino: Ino) -> Option<Place>;
}

/// Weak, so that the thread does not keep alive what ends it.
impl Relief for Weak<FileSystem> {
    fn next(&self, n_max: usize) -> Vec<Ino> {
        self.upgrade().map_or_else(Vec::new, |fs| fs.idle_inodes(n_max))
    }

    fn place_of(&self, ino: Ino) -> Option<Place> {
        self.upgrade()?.place_of(ino)
    }
}

/// How the kernel is asked to let go of inodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asking {
    /// By their numbers, until it is found not to understand that.
    ByNumber,
    /// By the names of files, as kernels before 6.18 want it.
    ByName,
}

/// Starts the threads. They end when the queues have no sender any more. `device` is a duplicate of the
/// mount's descriptor.
///
/// # Errors
/// Where no thread can be started.
pub fn start(
    device: OwnedFd,
    queues: Queues,
    relief: Arc<dyn Relief>,
    asking: Asking,
) -> io::Result<()> {
    let kernel = Kernel { device: device.into(), asking };
    let Queues { notices, pages } = queues;
    let device = kernel.device.try_clone()?;
    let thread = |name: &str| thread::Builder::new().name(name.to_owned());
    thread("pages").spawn(move || give(&device, pages))?;
    thread("notify").spawn(move || serve(kernel, notices, &*relief)).map(drop)
}

/// Gives pages to the kernel. It waits there for the lock of each, and whoever reads a page has it.
fn give(device: &File, mut queue: mpsc::Receiver<Pages>) {
    while let Some(Pages { ino, offset, bytes, told }) = queue.blocking_recv() {
        let pieces = bytes.as_ref().chunks(STORE_BYTES_MAX).zip(0_u64..);
        let answer = pieces.into_iter().try_for_each(|(piece, index)| {
            store(device, ino, offset + index * STORE_BYTES_MAX as u64, piece)
        });
        let took = answer.is_ok();
        note(answer);
        drop(bytes);
        // Whoever gave them may be gone.
        let _ = told.send(took);
    }
}

/// `struct fuse_notify_store_out` and the bytes.
fn store(mut device: &File, ino: Ino, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let len = u32::try_from(bytes.len()).expect("pieces are bounded");
    let mut head = Vec::with_capacity(40);
    head.extend((HEADER_BYTES + 24 + len).to_ne_bytes());
    head.extend(STORE.to_ne_bytes());
    head.extend(0_u64.to_ne_bytes());
    head.extend(ino.0.to_ne_bytes());
    head.extend(offset.to_ne_bytes());
    head.extend(len.to_ne_bytes());
    head.extend([0; 4]);
    // All of it in one write, as the device wants it.
    device.write_vectored(&[IoSlice::new(&head), IoSlice::new(bytes)]).map(drop)
}

fn serve(mut kernel: Kernel, mut queue: mpsc::Receiver<Queued>, relief: &dyn Relief) {
    while let Some(Queued { notice, told }) = queue.blocking_recv() {
        match notice {
            Notice::Expire(places) => places.iter().for_each(|place| kernel.expire(place)),
            Notice::DropPages(ino) => kernel.drop_pages(ino),
            Notice::Relieve => loop {
                let inodes = relief.next(INODES_MAX);
                if inodes.is_empty() {
                    break;
                }
                kernel.let_go(&inodes, relief);
            },
        }
        drop(told);
    }
}

struct Kernel {
    device: File,
    asking: Asking,
}

impl Kernel {
    fn let_go(&mut self, inodes: &[Ino], relief: &dyn Relief) {
        if self.asking == Asking::ByNumber {
            match self.write(PRUNE, &prune(inodes)) {
                Err(err) if err.raw_os_error() == Some(libc::EINVAL) => {
                    tracing::info!(
                        "this kernel's FUSE cannot be asked to forget inodes; s3mount names files"
                    );
                    self.asking = Asking::ByName;
                }
                answer => return note(answer),
            }
        }
        for place in inodes.iter().filter_map(|ino| relief.place_of(*ino)) {
            note(self.write(INVAL_ENTRY, &entry(&place, 0)));
        }
    }

    fn expire(&mut self, place: &Place) {
        note(self.write(INVAL_ENTRY, &entry(place, EXPIRE_ONLY)));
    }

    fn drop_pages(&mut self, ino: Ino) {
        note(self.write(INVAL_INODE, &all_pages(ino)));
    }

    fn write(&mut self, code: i32, body: &[u8]) -> io::Result<()> {
        self.device.write_all(&message(code, body))
    }
}

/// ENOENT: the kernel has forgotten it by itself, or never knew it. ENODEV and ENOTCONN: unmounted.
fn note(answer: io::Result<()>) {
    if let Err(err) = answer {
        tracing::debug!("a notice to the kernel: {err}");
    }
}

/// One notice: all of it in one write, as the device wants it.
fn message(code: i32, body: &[u8]) -> Vec<u8> {
    let len = HEADER_BYTES + u32::try_from(body.len()).expect("names and batches are bounded");
    let mut message = Vec::with_capacity(len as usize);
    message.extend(len.to_ne_bytes());
    message.extend(code.to_ne_bytes());
    message.extend(0_u64.to_ne_bytes());
    message.extend(body);
    message
}

/// `struct fuse_notify_prune_out` and the inodes.
fn prune(inodes: &[Ino]) -> Vec<u8> {
    let n_inodes = u32::try_from(inodes.len()).expect("batches are bounded");
    let mut body = Vec::with_capacity(16 + 8 * inodes.len());
    body.extend(n_inodes.to_ne_bytes());
    body.extend([0; 12]);
    body.extend(inodes.iter().flat_map(|ino| ino.0.to_ne_bytes()));
    body
}

/// `struct fuse_notify_inval_entry_out` and the name, which ends in NUL.
fn entry(place: &Place, flags: u32) -> Vec<u8> {
    let name_bytes = u32::try_from(place.name.len()).expect("names are bounded");
    let mut body = Vec::with_capacity(17 + place.name.len());
    body.extend(place.parent.0.to_ne_bytes());
    body.extend(name_bytes.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(place.name.as_bytes());
    body.push(0);
    body
}

/// `struct fuse_notify_inval_inode_out`: from the first byte on, and no end.
fn all_pages(ino: Ino) -> Vec<u8> {
    [ino.0, 0, 0].into_iter().flat_map(u64::to_ne_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_laid_out_as_the_kernel_has_them() {
        let pruned = message(PRUNE, &prune(&[Ino(7), Ino(8)]));
        assert_eq!(pruned.len(), 16 + 16 + 2 * 8);
        assert_eq!(pruned[..8], [48, 0, 0, 0, 9, 0, 0, 0], "length, code; little endian");
        assert_eq!((pruned[16], pruned[32], pruned[40]), (2, 7, 8));
        let place = Place { parent: Ino(5), name: "ab".into() };
        let expired = message(INVAL_ENTRY, &entry(&place, EXPIRE_ONLY));
        assert_eq!(expired[16..], [5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, b'a', b'b', 0]);
    }
}
