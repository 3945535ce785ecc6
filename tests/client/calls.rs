//! System calls as they are, with the errno as the error: libraries check arguments first, and do not
//! let nonsense through.

use std::ffi::{CStr, CString};
use std::io::Error;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::{Duration, Instant};

use crate::support::mounted::sleep;

/// An argument of a system call.
pub(super) enum Arg<'a> {
    Number(i64),
    Path(&'a CStr),
    /// Two arguments: where it begins, and how long it is.
    Buffer(&'a mut [u8]),
    /// Only where it begins: what the call writes or reads there is never longer.
    Room(&'a mut [u8; ROOM]),
}

/// More than any structure of a call here, and than an ioctl can say of itself (14 bits).
pub(super) const ROOM: usize = 16 << 10;

pub(super) use Arg::{Buffer, Number, Path, Room};

/// What a call gave and what it wrote, or its errno.
pub(super) type Outcome = Result<(i64, Vec<u8>), i32>;

/// The call gave this number and wrote nothing that matters.
pub(super) fn plain(number: Result<i64, i32>) -> Outcome {
    number.map(|number| (number, Vec::new()))
}

/// syscall(2).
pub(super) fn call<const N: usize>(
    number: libc::c_long,
    arguments: [Arg<'_>; N],
) -> Result<i64, i32> {
    let mut words = Vec::with_capacity(6);
    for argument in arguments {
        match argument {
            Number(number) => words.push(number),
            Path(path) => words.push(path.as_ptr() as i64),
            Room(room) => words.push(room.as_mut_ptr() as i64),
            Buffer(bytes) => {
                words.extend([bytes.as_mut_ptr() as i64, bytes.len().cast_signed() as i64]);
            }
        }
    }
    words.resize(6, 0);
    let [first, second, third, fourth, fifth, sixth] = words[..] else { panic!("six at most") };
    // SAFETY: each pointer comes from a borrow that outlives the call, and the call is told how long
    // what it points to is, or needs less.
    let answer = unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) };
    if answer == -1 { Err(errno()) } else { Ok(answer) }
}

fn errno() -> i32 {
    Error::last_os_error().raw_os_error().expect("a call has failed")
}

/// A path without NUL, which no call can be given.
pub(super) fn path(bytes: impl Into<Vec<u8>>) -> CString {
    CString::new(bytes).expect("no NUL")
}

/// A path for calls that take no directory to begin at.
pub(super) fn absolute(root: RawFd, name: &CStr) -> CString {
    path([format!("/proc/self/fd/{root}/").as_bytes(), name.to_bytes()].concat())
}

pub(super) fn open(root: RawFd, path: &CStr, flags: i32, mode: u32) -> Result<OwnedFd, i32> {
    let flags = flags | libc::O_CLOEXEC;
    let arguments =
        [Number(root.into()), Path(path), Number(flags.into()), Number(i64::from(mode))];
    let fd = call(libc::SYS_openat, arguments)?;
    // SAFETY: new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor")) })
}

/// pread64(2) into a buffer of this length.
pub(super) fn pread(fd: RawFd, len: usize, offset: i64) -> Outcome {
    let mut bytes = vec![0xa5; len];
    let n = call(libc::SYS_pread64, [Number(fd.into()), Buffer(&mut bytes), Number(offset)])?;
    Ok((n, written(bytes, n)))
}

/// read(2), or what else takes a descriptor and a buffer and gives the length.
pub(super) fn read_by(number: libc::c_long, fd: RawFd, len: usize) -> Outcome {
    let mut bytes = vec![0xa5; len];
    let n = call(number, [Number(fd.into()), Buffer(&mut bytes)])?;
    Ok((n, written(bytes, n)))
}

/// What a call has written; it has not touched the rest.
fn written(mut bytes: Vec<u8>, n: i64) -> Vec<u8> {
    let n = usize::try_from(n).expect("a length");
    assert!(bytes[n..].iter().all(|byte| *byte == 0xa5), "it wrote more than it said");
    bytes.truncate(n);
    bytes
}

/// preadv2(2), with `flags`.
pub(super) fn preadv(fd: RawFd, lens: &[usize], offset: i64, flags: i32) -> Outcome {
    let mut bytes = vec![0xa5; lens.iter().sum()];
    let mut rest = &mut bytes[..];
    let mut pieces = Vec::new();
    for len in lens {
        let (piece, after) = std::mem::take(&mut rest).split_at_mut(*len);
        pieces.push(libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: *len });
        rest = after;
    }
    let n_pieces = pieces.len().cast_signed() as i64;
    let (low, high) = (offset, 0_i64);
    let start = pieces.as_ptr();
    // SAFETY: the pieces lie in `bytes`, apart from each other, and outlive the call.
    let n = unsafe {
        libc::syscall(
            libc::SYS_preadv2,
            i64::from(fd),
            start,
            n_pieces,
            low,
            high,
            i64::from(flags),
        )
    };
    if n == -1 {
        return Err(errno());
    }
    Ok((n, written(bytes, n)))
}

/// What a child of this process came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    Exit(i32),
    Signal(i32),
    /// It was not gone after this; the child is left to itself.
    Never(Duration),
}

/// A child that runs `body`, which must neither allocate nor lock, and ends with what that gives.
pub(super) struct Child(libc::pid_t);

impl Child {
    pub(super) fn new(body: impl FnOnce() -> i32) -> Self {
        // SAFETY: the child only runs `body`, which makes system calls on memory that was there before,
        // and leaves without any handler of this process.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "a process: {}", Error::last_os_error());
        if pid == 0 {
            // SAFETY: constants, and a structure that lives as long as the call. The handler of
            // the Rust runtime would take locks that another thread may have held at the fork.
            unsafe {
                let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
                libc::signal(libc::SIGBUS, libc::SIG_DFL);
                libc::signal(libc::SIGSEGV, libc::SIG_DFL);
                libc::_exit(body());
            }
        }
        Self(pid)
    }

    pub(super) fn kill(&self) {
        // SAFETY: a child that was not waited for yet.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
    }

    /// Waits so long at most.
    pub(super) fn end(&self, patience: Duration) -> Ended {
        let start = Instant::now();
        loop {
            let mut status = 0;
            // SAFETY: the status is written to a local.
            match unsafe { libc::waitpid(self.0, &raw mut status, libc::WNOHANG) } {
                0 if start.elapsed() < patience => sleep(Duration::from_millis(1)),
                0 => return Ended::Never(patience),
                pid => {
                    assert_eq!(pid, self.0, "{}", Error::last_os_error());
                    return if libc::WIFSIGNALED(status) {
                        Ended::Signal(libc::WTERMSIG(status))
                    } else {
                        Ended::Exit(libc::WEXITSTATUS(status))
                    };
                }
            }
        }
    }
}

/// Longer than any answer takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// Memory that children share with this process.
pub(super) struct Shared {
    start: *mut u64,
    len: usize,
}

impl Shared {
    pub(super) fn new(len: usize) -> Self {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: new memory, of nobody else.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
        assert!(start != libc::MAP_FAILED, "{}", Error::last_os_error());
        Self { start: start.cast(), len }
    }

    pub(super) fn first_word(&self) -> u64 {
        // SAFETY: mapped, aligned, and the child that wrote it has ended.
        unsafe { self.start.read_volatile() }
    }

    /// For a child: pread64(2) into it.
    pub(super) fn pread(&self, fd: RawFd, offset: i64) -> isize {
        // SAFETY: mapped in this length; nobody reads what is written.
        unsafe { libc::pread(fd, self.start.cast(), self.len, offset) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this very length.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// How a file is mapped and what of it is touched, all in bytes.
#[derive(Clone, Debug)]
pub(super) struct Map {
    pub(super) len: usize,
    pub(super) offset: i64,
    pub(super) protection: i32,
    pub(super) flags: i32,
    pub(super) touched: std::ops::Range<usize>,
}

/// Maps `fd` in a child, which touches what it is told. Gives how the child ended (with an errno if it could
/// not map) and the sum of what it saw.
pub(super) fn mapped(fd: RawFd, map: &Map) -> (Ended, u64) {
    let shared = Shared::new(4096);
    let child = Child::new(|| {
        // SAFETY: new memory; each byte that is touched lies in it, and where it has none the process is
        // meant to die.
        unsafe {
            let start =
                libc::mmap(ptr::null_mut(), map.len, map.protection, map.flags, fd, map.offset);
            if start == libc::MAP_FAILED {
                return *libc::__errno_location();
            }
            let bytes = start.cast::<u8>();
            let mut sum = 0;
            let mut at = map.touched.start;
            while at < map.touched.end {
                sum = summed(sum, bytes.add(at).read_volatile());
                at += 1;
            }
            shared.start.write_volatile(sum);
        }
        0
    });
    (child.end(PATIENCE), shared.first_word())
}

/// The sum of one byte more.
pub(super) fn summed(sum: u64, byte: u8) -> u64 {
    (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
}

/// A descriptor of an anonymous file.
pub(super) fn memory_file() -> OwnedFd {
    let fd = call(libc::SYS_memfd_create, [Path(c"sink"), Number(0)]).expect("a file");
    // SAFETY: new, and nobody else's.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor")) }
}

/// Both ends of a pipe, and how much it takes.
pub(super) fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: two descriptors are written to an array of two, and are nobody else's.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK), 0);
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    }
}

/// All that is in `fd`, an anonymous file.
pub(super) fn content(fd: &OwnedFd) -> Vec<u8> {
    let len = call(libc::SYS_lseek, [Number(fd.as_raw_fd().into()), Number(0), Number(2)]);
    let len = usize::try_from(len.expect("a length")).expect("a length");
    pread(fd.as_raw_fd(), len, 0).expect("its bytes").1
}

/// Gives up all rights of this thread alone: the library's setuid(2) is for all threads.
pub(super) fn become_nobody() {
    const NOBODY: i64 = 65_534;
    let all = || [Number(NOBODY), Number(NOBODY), Number(NOBODY)];
    call(libc::SYS_setgroups, [Number(0), Number(0)]).expect("root");
    call(libc::SYS_setresgid, all()).expect("root");
    call(libc::SYS_setresuid, all()).expect("root");
}

/// A signal that does nothing, but for interrupting whatever waits and can be interrupted.
pub(super) fn be_interruptible() {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: a zeroed structure is one without flags, SA_RESTART too, and with an empty mask.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, ptr::null_mut()), 0);
    }
}

/// The number of this thread.
pub(super) fn thread_id() -> i64 {
    call(libc::SYS_gettid, []).expect("always")
}

/// Interrupts a thread of this process; one that has gone is none.
pub(super) fn interrupt(thread: i64) {
    let pid = i64::from(std::process::id());
    let _ = call(libc::SYS_tgkill, [Number(pid), Number(thread), Number(libc::SIGUSR1.into())]);
}
