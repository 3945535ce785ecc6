//! A directory as programs in C have it: getdents64(2) with any room, and the stream of opendir(3) with
//! its positions.

use std::ffi::{CStr, CString, c_long};
use std::fs::File;
use std::io::{self, Error};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;

/// One entry as the kernel writes it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Dirent {
    pub(crate) ino: u64,
    /// Where the next entry is.
    pub(crate) next: i64,
    pub(crate) kind: u8,
    pub(crate) name: String,
}

/// linux/dirent.h, `struct linux_dirent64`: what stands before the name.
const NAME_AT: usize = 19;

/// What getdents64(2) needs for an entry of this name.
pub(crate) fn room_for(name: &str) -> usize {
    (NAME_AT + name.len() + 1).next_multiple_of(8)
}

/// The entries that one call of getdents64(2) with so much room gives; none at the end.
pub(crate) fn getdents(directory: &File, room: usize) -> io::Result<Vec<Dirent>> {
    let mut buffer = vec![0_u8; room];
    let (fd, start) = (directory.as_raw_fd(), buffer.as_mut_ptr());
    // SAFETY: the kernel writes at most `room` bytes to the start of the buffer.
    let n_bytes = unsafe { libc::syscall(libc::SYS_getdents64, fd, start, room) };
    let Ok(n_bytes) = usize::try_from(n_bytes) else { return Err(Error::last_os_error()) };
    let mut rest = &buffer[..n_bytes];
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let number = |at: usize| u64::from_ne_bytes(rest[at..at + 8].try_into().expect("8 bytes"));
        let len = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
        let name = CStr::from_bytes_until_nul(&rest[NAME_AT..len]).expect("a name ends");
        entries.push(Dirent {
            ino: number(0),
            next: number(8).cast_signed(),
            kind: rest[18],
            name: name.to_str().expect("UTF-8").to_owned(),
        });
        rest = &rest[len..];
    }
    Ok(entries)
}

/// All entries from where the directory stands, taken with so much room at a time.
pub(crate) fn getdents_all(directory: &File, room: usize) -> io::Result<Vec<Dirent>> {
    let mut entries = Vec::new();
    loop {
        let some = getdents(directory, room)?;
        if some.is_empty() {
            return Ok(entries);
        }
        entries.extend(some);
    }
}

/// lseek(2) from the start.
pub(crate) fn lseek(directory: &File, offset: i64) -> io::Result<i64> {
    // SAFETY: the descriptor is open.
    match unsafe { libc::lseek(directory.as_raw_fd(), offset, libc::SEEK_SET) } {
        -1 => Err(Error::last_os_error()),
        offset => Ok(offset),
    }
}

/// Has the kernel give up the pages that it keeps of the directory, as it may at any time.
pub(crate) fn drop_pages(directory: &File) {
    // SAFETY: the descriptor is open.
    let result =
        unsafe { libc::posix_fadvise(directory.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(result, 0);
}

/// openat(2) for reading, with further flags.
pub(crate) fn openat(directory: &File, path: &str, flags: i32) -> io::Result<File> {
    let path = CString::new(path).expect("no zeros");
    // SAFETY: a string with its zero, which outlives the call.
    match unsafe { libc::openat(directory.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC) } {
        -1 => Err(Error::last_os_error()),
        // SAFETY: nobody else has it.
        fd => Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) })),
    }
}

/// What opendir(3) gives.
pub(crate) struct Stream(NonNull<libc::DIR>);

impl Stream {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.to_str().expect("UTF-8")).expect("no zeros");
        // SAFETY: a string with its zero, which outlives the call.
        let stream = unsafe { libc::opendir(path.as_ptr()) };
        NonNull::new(stream).map(Self).ok_or_else(Error::last_os_error)
    }

    /// readdir(3); `None` is the end.
    pub(crate) fn read(&mut self) -> io::Result<Option<String>> {
        // SAFETY: errno is the thread's own; the stream is open, and the entry is valid until its next use.
        unsafe {
            *libc::__errno_location() = 0;
            let Some(entry) = libc::readdir(self.0.as_ptr()).as_ref() else {
                return match *libc::__errno_location() {
                    0 => Ok(None),
                    errno => Err(Error::from_raw_os_error(errno)),
                };
            };
            let name = CStr::from_ptr(entry.d_name.as_ptr());
            Ok(Some(name.to_str().expect("UTF-8").to_owned()))
        }
    }

    /// All names from here on.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<String>> {
        std::iter::from_fn(|| self.read().transpose()).collect()
    }

    pub(crate) fn tell(&mut self) -> c_long {
        // SAFETY: the stream is open.
        unsafe { telldir(self.0.as_ptr()) }
    }

    pub(crate) fn seek(&mut self, position: c_long) {
        // SAFETY: the stream is open.
        unsafe { seekdir(self.0.as_ptr(), position) };
    }

    pub(crate) fn rewind(&mut self) {
        // SAFETY: the stream is open.
        unsafe { libc::rewinddir(self.0.as_ptr()) };
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the stream is open, and not used after this.
        unsafe { libc::closedir(self.0.as_ptr()) };
    }
}

// Not in the `libc` crate for Linux.
unsafe extern "C" {
    fn telldir(stream: *mut libc::DIR) -> c_long;
    fn seekdir(stream: *mut libc::DIR, position: c_long);
}
