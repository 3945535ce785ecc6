//! What the kernel is told without having asked: a bounded queue, which one thread of `fuse` empties.
//!
//! To tell the kernel waits for locks of the kernel, and a request that we have yet to answer may hold
//! them. So nobody who answers requests, and nobody who holds a lock of ours, waits for a notice: either
//! the notice may be lost ([`Notices::try_relieve`]), or a task of its own waits.

use tokio::sync::{mpsc, oneshot};

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
}

/// Notices that wait. A full queue makes those wait who refresh whole trees.
const QUEUE_MAX: usize = 64;

impl Notices {
    /// The queue and its end, from which the thread takes.
    pub fn new() -> (Self, mpsc::Receiver<Queued>) {
        let (queue, taken) = mpsc::channel(QUEUE_MAX);
        (Self { queue }, taken)
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
