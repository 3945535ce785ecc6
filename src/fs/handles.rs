//! Open files and directories, by the numbers that the kernel uses for them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::error::FsError;

/// A file handle, fuse_open_out.fh.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Handle(pub u64);

/// The handles of one kind. Numbers are never used twice.
pub(super) struct Handles<T> {
    next: AtomicU64,
    open: RwLock<HashMap<Handle, Arc<T>>>,
}

impl<T> Handles<T> {
    pub(super) fn new() -> Self {
        Self { next: AtomicU64::new(1), open: RwLock::new(HashMap::new()) }
    }

    pub(super) fn insert(&self, value: T) -> Handle {
        let handle = self.reserve();
        self.put(handle, value);
        handle
    }

    /// A number for [`Handles::put`].
    pub(super) fn reserve(&self) -> Handle {
        Handle(self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn put(&self, handle: Handle, value: T) {
        self.open.write().insert(handle, Arc::new(value));
    }

    pub(super) fn get(&self, handle: Handle) -> Result<Arc<T>, FsError> {
        self.open.read().get(&handle).map(Arc::clone).ok_or(FsError::BadHandle)
    }

    /// Whether one of them is so.
    pub(super) fn any(&self, is_so: impl Fn(&T) -> bool) -> bool {
        self.open.read().values().any(|open| is_so(open))
    }

    pub(super) fn len(&self) -> usize {
        self.open.read().len()
    }

    pub(super) fn remove(&self, handle: Handle) -> Option<Arc<T>> {
        self.open.write().remove(&handle)
    }
}
