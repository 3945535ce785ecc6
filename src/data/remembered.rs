//! What is remembered of files that nobody has open and of which no byte is here: the kernel may hold all of
//! their pages, so that the next open is to ask only whether they are current.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lru::LruCache;
use tokio::time::Instant;

use super::file::File;
use crate::object::Ino;

/// Invariant: a number is here only while the kernel remembers it, so that it means one version.
pub(super) struct Remembered {
    /// When the request was sent that last told that the version is the current one.
    validated: LruCache<Ino, Instant>,
    n_max: usize,
}

/// One of them, list links and hash slot included.
const FILE_BYTES: usize = size_of::<Ino>() + size_of::<Instant>() + 56;

impl Remembered {
    pub(super) fn new(bytes_max: u64) -> Self {
        let n_max = usize::try_from(bytes_max).unwrap_or(usize::MAX) / FILE_BYTES;
        Self { validated: LruCache::unbounded(), n_max }
    }

    /// Remembers a file that leaves. Not one without ETag, whose next open has to bring one.
    pub(super) fn note(&mut self, file: &File) {
        let Some(sent) = file.validated() else { return };
        if file.object.version.etag.is_none() || !file.opened.load(Ordering::Relaxed) {
            return;
        }
        self.validated.put(file.ino, sent);
        if self.validated.len() > self.n_max {
            self.validated.pop_lru();
        }
    }

    /// Gives a file that comes what was remembered of it.
    pub(super) fn restore(&mut self, file: Arc<File>) -> Arc<File> {
        if let Some(sent) = self.validated.pop(&file.ino) {
            file.validate(sent);
        }
        file
    }

    pub(super) fn forget(&mut self, ino: Ino) {
        self.validated.pop(&ino);
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.validated.len() * FILE_BYTES) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{ETag, Object, Version};

    fn file(number: u64, etag: Option<&str>) -> Arc<File> {
        let version = Version { etag: etag.map(ETag::new), size: 1, modified: 1 };
        File::new(Ino(number), Arc::new(Object { key: "key".into(), version }))
    }

    fn validated(number: u64) -> Arc<File> {
        let file = file(number, Some("etag"));
        file.validate(Instant::now());
        file
    }

    fn is_restored(remembered: &mut Remembered, number: u64) -> bool {
        let restored = remembered.restore(file(number, Some("etag")));
        restored.validated().is_some() && restored.opened.load(Ordering::Relaxed)
    }

    #[test]
    fn what_the_kernel_may_hold_is_remembered_until_it_forgets() {
        let mut remembered = Remembered::new(1 << 20);
        for number in 2..5 {
            remembered.note(&validated(number));
        }
        remembered.forget(Ino(3));
        assert!(is_restored(&mut remembered, 2) && is_restored(&mut remembered, 4));
        assert!(!is_restored(&mut remembered, 3));
        assert_eq!(remembered.bytes(), 0);
    }

    #[test]
    fn nothing_is_remembered_that_an_open_must_ask_for() {
        let mut remembered = Remembered::new(1 << 20);
        let (doubted, without_pages) = (validated(2), validated(3));
        doubted.doubt();
        without_pages.forget_pages();
        let without_etag = file(4, None);
        without_etag.validate(Instant::now());
        for file in [&doubted, &without_pages, &without_etag, &file(5, Some("etag"))] {
            remembered.note(file);
        }
        assert_eq!(remembered.bytes(), 0);
    }

    #[test]
    fn it_takes_no_more_than_it_may() {
        let mut remembered = Remembered::new(10 * FILE_BYTES as u64);
        for number in 2..100 {
            remembered.note(&validated(number));
        }
        assert_eq!(remembered.bytes(), 10 * FILE_BYTES as u64);
        assert!(is_restored(&mut remembered, 99) && !is_restored(&mut remembered, 2));
    }
}
