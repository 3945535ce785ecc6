//! The memory of a part: filled by one writer while readers take what is there already.
//! The one file with unsafe code for memory; it runs under Miri and shuttle.
//!
//! Invariants: bytes below the watermark are written and never change again until the buffer is
//! dropped; there is one [`Filler`] to a buffer, and only it moves the watermark, upwards.

use std::alloc::Layout;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use super::budget::Permit;
use crate::sync::{AtomicUsize, Ordering};

/// Chunks from this size on are mapped by themselves.
const MAPPED_BYTES_MIN: usize = 64 << 10;

/// Of x86-64, and of arm64 with pages of 4 KiB.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Memory that is not initialized and belongs to nobody yet.
pub(crate) struct Chunk {
    memory: NonNull<u8>,
    capacity: usize,
}

// SAFETY: a chunk owns its memory alone; a pointer to it may move between threads.
unsafe impl Send for Chunk {}

impl Chunk {
    /// `None` when the system has no memory for it and for `headroom` bytes beside it.
    ///
    /// # Panics
    /// When `capacity` is 0.
    pub(crate) fn allocate(capacity: usize, headroom: usize) -> Option<Self> {
        assert!(capacity > 0, "an empty part has no buffer");
        #[cfg(test)]
        system::take(capacity)?;
        let memory = if Self::is_mapped(capacity) {
            map(capacity)
        } else {
            // SAFETY: the layout's size is not zero.
            NonNull::new(unsafe { std::alloc::alloc(Self::layout(capacity)) })
        };
        let chunk = Self { memory: memory?, capacity };
        has(headroom).then_some(chunk)
    }

    /// Bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Large chunks are mappings of their own: in an allocator's arena they would leave holes that
    /// nothing gives back. Miri has the allocator alone.
    fn is_mapped(capacity: usize) -> bool {
        capacity >= MAPPED_BYTES_MIN && !cfg!(miri)
    }

    /// Page-aligned, as the kernel copies whole pages out of it.
    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, 4096).expect("part sizes are far below isize::MAX")
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        #[cfg(test)]
        system::give_back(self.capacity);
        if Self::is_mapped(self.capacity) {
            // SAFETY: mapped in `allocate` with this very length, and nobody else unmaps it.
            unsafe { libc::munmap(self.memory.as_ptr().cast(), self.capacity) };
        } else {
            // SAFETY: allocated in `allocate` with this very layout, and nobody else frees it.
            unsafe { std::alloc::dealloc(self.memory.as_ptr(), Self::layout(self.capacity)) }
        }
    }
}

/// Private anonymous memory; `None` when the system has none.
///
/// In huge pages where it holds some, as a stream touches all of it anyway: one page fault for 2 MiB
/// rather than 512, and the copy to the kernel looks up as many fewer pages.
fn map(capacity: usize) -> Option<NonNull<u8>> {
    let memory = map_anywhere(capacity)?;
    if capacity.is_multiple_of(HUGE_PAGE_BYTES) {
        // SAFETY: the mapping was just made with this very length. It is a wish, and may fail.
        unsafe { libc::madvise(memory.as_ptr(), capacity, libc::MADV_HUGEPAGE) };
    }
    Some(memory.cast())
}

/// Whether the system would give so much. Nobody touches it, so that it costs two calls and no page; limits
/// of addresses and of data count it all the same, as does strict overcommit.
pub(crate) fn has(headroom: usize) -> bool {
    if headroom == 0 || cfg!(miri) {
        return true;
    }
    map_anywhere(headroom).is_some_and(|memory| {
        // SAFETY: just mapped with this very length, and nobody else knows of it.
        unsafe { libc::munmap(memory.as_ptr(), headroom) };
        true
    })
}

fn map_anywhere(len: usize) -> Option<NonNull<libc::c_void>> {
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
    if memory == libc::MAP_FAILED { None } else { NonNull::new(memory) }
}

/// For tests: a system that has only so many bytes for the chunks of this thread.
#[cfg(test)]
pub(crate) mod system {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<i64> = const { Cell::new(i64::MAX) };
    }

    /// From now on, beside the chunks that there are; less than nothing where these are too much already.
    pub(crate) fn has(bytes: i64) {
        LEFT.set(bytes);
    }

    pub(super) fn take(bytes: usize) -> Option<()> {
        let left = LEFT.get() - i64::try_from(bytes).ok()?;
        (left >= 0).then(|| LEFT.set(left))
    }

    pub(super) fn give_back(bytes: usize) {
        LEFT.set(LEFT.get().saturating_add_unsigned(bytes as u64));
    }
}

/// A part's bytes. Readers share it; its memory goes back to the budget's pool at the last drop.
pub(crate) struct Buffer {
    /// `None` only while dropping.
    chunk: Option<Chunk>,
    /// Bytes from the start that are written.
    filled: AtomicUsize,
    /// How many bytes the buffer is to hold; at most the chunk's capacity.
    len: usize,
    permit: Permit,
}

// SAFETY: readers only see bytes below `filled`, which are written before the release store that
// their acquire load synchronizes with, and are not written again; the rest is touched by the one
// `Filler` only.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A buffer for `len` bytes in the chunk that `permit` is for, and the right to fill it.
    pub(crate) fn new(permit: Permit, chunk: Chunk, len: usize) -> (Arc<Self>, Filler) {
        assert!(len <= chunk.capacity(), "the permit covers the part");
        let filled = AtomicUsize::new(0);
        let buffer = Arc::new(Self { chunk: Some(chunk), filled, len, permit });
        let filler = Filler { buffer: Arc::clone(&buffer), at: 0 };
        (buffer, filler)
    }

    /// How many bytes can be read, from the start.
    pub(crate) fn filled(&self) -> usize {
        self.filled.load(Ordering::Acquire)
    }

    /// The bytes of `range`, if all of them have arrived.
    pub(crate) fn get(&self, range: Range<usize>) -> Option<&[u8]> {
        if range.start > range.end || range.end > self.filled() {
            return None;
        }
        let start = self.memory().wrapping_add(range.start);
        // SAFETY: `range` lies below the watermark, so within the chunk, and its bytes were written
        // before the watermark was raised (release, acquire) and never change while `self` lives.
        Some(unsafe { std::slice::from_raw_parts(start, range.end - range.start) })
    }

    fn memory(&self) -> *mut u8 {
        self.chunk.as_ref().expect("present until drop").memory.as_ptr()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(chunk) = self.chunk.take() {
            self.permit.give_back_chunk(chunk);
        }
    }
}

/// The one writer of a buffer.
pub(crate) struct Filler {
    buffer: Arc<Buffer>,
    at: usize,
}

impl Filler {
    /// Appends `bytes`; readers see them from then on.
    ///
    /// # Panics
    /// When they do not fit: the store's contract is exactly as many bytes as were asked for.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.stage(bytes);
        self.publish();
    }

    /// As [`Filler::append`], for bytes that readers do not see before [`Filler::publish`].
    pub(crate) fn stage(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.buffer.len - self.at, "the store contract");
        let target = self.buffer.memory().wrapping_add(self.at);
        // SAFETY: the target lies within the chunk (asserted above) and above the watermark, where
        // no reader looks; this is the only writer, and `bytes` is not part of the chunk, as all
        // that a caller can borrow of it lies below the watermark.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
        self.at += bytes.len();
    }

    /// Shows readers all that was staged.
    pub(crate) fn publish(&mut self) {
        self.buffer.filled.store(self.at, Ordering::Release);
    }

    /// Forgets what was staged: others take its place.
    pub(crate) fn rewind(&mut self) {
        self.at = self.buffer.filled.load(Ordering::Relaxed);
    }

    /// How many bytes are still missing.
    pub(crate) fn room(&self) -> usize {
        self.buffer.len - self.at
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use crate::data::budget::Budget;

    fn buffer(permit: Permit, len: usize) -> (Arc<Buffer>, Filler) {
        let chunk = permit.take_chunk(0).expect("memory");
        Buffer::new(permit, chunk, len)
    }

    #[test]
    fn a_reader_sees_what_was_appended_and_nothing_beyond() {
        let budget = Budget::new(1 << 20);
        let permit = budget.try_reserve(&[8192]).unwrap().pop().unwrap();
        let (buffer, mut filler) = buffer(permit, 6000);
        assert_eq!(buffer.get(0..1), None);
        filler.append(b"hello ");
        filler.append(b"world");
        assert_eq!(buffer.get(0..11), Some(&b"hello world"[..]));
        assert_eq!(buffer.get(6..12), None);
        assert_eq!(filler.room(), 6000 - 11);
    }

    #[test]
    fn what_is_staged_is_seen_when_it_is_published_and_can_be_replaced_until_then() {
        let budget = Budget::new(1 << 20);
        let permit = budget.try_reserve(&[4096]).unwrap().pop().unwrap();
        let (buffer, mut filler) = buffer(permit, 12);
        filler.append(b"hello ");
        filler.stage(b"wrong");
        assert_eq!((buffer.filled(), filler.room()), (6, 1));
        filler.rewind();
        assert_eq!(filler.room(), 6);
        filler.stage(b"world!");
        assert_eq!(buffer.get(0..7), None);
        filler.publish();
        assert_eq!(buffer.get(0..12), Some(&b"hello world!"[..]));
    }

    #[test]
    fn a_reader_on_another_thread_sees_whole_bytes_only() {
        let budget = Budget::new(1 << 20);
        let permit = budget.try_reserve(&[4096]).unwrap().pop().unwrap();
        let (buffer, mut filler) = buffer(permit, 1000);
        let reader = std::thread::spawn(move || {
            loop {
                let filled = buffer.filled();
                assert!(buffer.get(0..filled).unwrap().iter().all(|byte| *byte == 7));
                if filled == 1000 {
                    return;
                }
                std::thread::yield_now();
            }
        });
        for _ in 0..100 {
            filler.append(&[7; 10]);
        }
        reader.join().unwrap();
    }

    #[test]
    #[should_panic(expected = "the store contract")]
    fn more_bytes_than_asked_for_are_refused() {
        let budget = Budget::new(1 << 20);
        let permit = budget.try_reserve(&[4096]).unwrap().pop().unwrap();
        let (_buffer, mut filler) = buffer(permit, 3);
        filler.append(b"four");
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod shuttle_models {
    use super::*;
    use crate::data::budget::Budget;

    /// One writer, two readers: whatever the schedule, a reader finds below the watermark the bytes
    /// that were written, and the memory is back in the budget at the end.
    #[test]
    fn shuttle_buffer() {
        shuttle::check_random(
            || {
                let budget = Budget::new(1 << 20);
                let permit = budget.try_reserve(&[4096]).expect("room").pop().expect("one");
                let chunk = permit.take_chunk(0).expect("memory");
                let (buffer, mut filler) = Buffer::new(permit, chunk, 4);
                let readers: Vec<_> = (0..2)
                    .map(|_| {
                        let buffer = Arc::clone(&buffer);
                        shuttle::thread::spawn(move || {
                            for _ in 0..3 {
                                let filled = buffer.filled();
                                let bytes = buffer.get(0..filled).expect("below the watermark");
                                assert_eq!(bytes, &[1, 2, 3, 4][..filled]);
                            }
                        })
                    })
                    .collect();
                drop(buffer);
                for byte in 1..=4 {
                    filler.append(&[byte]);
                }
                drop(filler);
                for reader in readers {
                    reader.join().expect("no reader panics");
                }
                assert_eq!(budget.used(), 0);
            },
            2_000,
        );
    }
}
