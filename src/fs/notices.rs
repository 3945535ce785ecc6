//! What the kernel is told without having asked: a bounded queue, which one thread of `fuse` empties.
//!
//! To tell the kernel waits for locks of the kernel, and a request that we have yet to answer may hold
//! them. So nobody who answers requests, and nobody who holds a lock of ours, waits for a notice: either
//! the notice may be lost ([`Notices::try_relieve`]), or a task of its own waits.

use std::fmt;

use tokio::sync::{mpsc, oneshot};

use crate::data::ReadBytes;
use crate::object::Ino;

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    pub parent: Ino,
    pub name: Box<str>,
}

/// One thing to tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// What these names mean, absence included, is to be asked again at the next use. Nobody who uses
    /// them now is disturbed: open files go on, and a process that stands in the directory keeps it.
    Expire(Vec<Place>),
    /// The pages of a file, or the cached listing of a directory, are not to be used again.
    DropPages(Ino),
    /// The kernel remembers more inodes than there is memory for: those used longest ago are to go.
    Relieve,
}

/// Bytes of a file for the page cache.
pub struct Pages {
    pub ino: Ino,
    pub offset: u64,
    pub bytes: ReadBytes,
    /// Whether the kernel took them.
    pub told: oneshot::Sender<bool>,
}

/// A notice in the queue.
#[derive(Debug)]
pub struct Queued {
    pub notice: Notice,
    /// Dropped once the kernel has been told.
    pub told: Option<oneshot::Sender<()>>,
}

/// Where notices are queued. Clones share the queue; the thread ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Notices {
    queue: mpsc::Sender<Queued>,
    /// To give pages waits for those that are being read, so they have a thread of their own.
    pages: mpsc::Sender<Pages>,
}

/// The other ends, from which the threads take.
#[derive(Debug)]
pub struct Queues {
    pub notices: mpsc::Receiver<Queued>,
    pub pages: mpsc::Receiver<Pages>,
}

/// Notices that wait. A full queue makes those wait who refresh whole trees.
const QUEUE_MAX: usize = 64;

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {} at {}", self.bytes.as_ref().len(), self.ino, self.offset)
    }
}

impl Notices {
    /// The queues and their ends.
    pub fn new() -> (Self, Queues) {
        let (queue, notices) = mpsc::channel(QUEUE_MAX);
        let (pages, taken) = mpsc::channel(1);
        (Self { queue, pages }, Queues { notices, pages: taken })
    }

    /// Gives bytes of a file to the page cache. Says whether the kernel took them: not so where it has
    /// forgotten the file, and when the mount has ended. Not to be awaited by what answers a request.
    pub async fn store(&self, ino: Ino, offset: u64, bytes: ReadBytes) -> bool {
        let (told, heard) = oneshot::channel();
        let pages = Pages { ino, offset, bytes, told };
        self.pages.send(pages).await.is_ok() && heard.await.unwrap_or(false)
    }

    /// What these names mean is asked again at their next use. Comes back when the kernel has been
    /// told, or when the mount has ended. Not to be awaited by what answers a request of the kernel.
    pub async fn expire(&self, places: Vec<Place>) {
        self.tell(Notice::Expire(places)).await;
    }

    /// As [`Notices::expire`], for the pages of a file or the cached listing of a directory.
    pub async fn drop_pages(&self, ino: Ino) {
        self.tell(Notice::DropPages(ino)).await;
    }

    /// Has the thread look which inodes the kernel could let go. False when the queue is full, which
    /// the next one who notices the pressure makes good.
    pub fn try_relieve(&self) -> bool {
        self.queue.try_send(Queued { notice: Notice::Relieve, told: None }).is_ok()
    }

    async fn tell(&self, notice: Notice) {
        let (told, heard) = oneshot::channel();
        if self.queue.send(Queued { notice, told: Some(told) }).await.is_ok() {
            // An error is the drop that says so.
            let _ = heard.await;
        }
    }
}
