//! The system calls that std has no safe words for, each behind a function that is safe to call.
//! Invariant: with `data/buffer.rs` the only file with unsafe code; nothing here decides anything.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_ulong};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// Which of the two processes a fork returned in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fork {
    /// With the child's process id.
    Parent(libc::pid_t),
    Child,
}

/// Refuses where the process has a second thread: its locks would stay locked in the child.
pub(crate) fn fork() -> io::Result<Fork> {
    let n_threads = std::fs::read_dir("/proc/self/task")?.count();
    if n_threads != 1 {
        return Err(io::Error::other(format!("fork with {n_threads} threads")));
    }
    // SAFETY: no other thread exists, so the child may go on as any process may.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Sets a variable of the environment. Refuses where the process has a second thread, which may be
/// reading it.
pub(crate) fn set_variable(name: &str, value: &OsStr) -> io::Result<()> {
    let n_threads = std::fs::read_dir("/proc/self/task")?.count();
    if n_threads != 1 {
        return Err(io::Error::other(format!("{name} cannot be set with {n_threads} threads")));
    }
    // SAFETY: no other thread exists.
    unsafe { std::env::set_var(name, value) };
    Ok(())
}

/// Waits for a child's end.
pub(crate) fn wait(pid: libc::pid_t) -> io::Result<ExitStatus> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    while let Err(err) = check(unsafe { libc::waitpid(pid, &raw mut status, 0) }) {
        if err.kind() != io::ErrorKind::Interrupted {
            return Err(err);
        }
    }
    Ok(ExitStatus::from_raw(status))
}

/// How a child ended; `None` while it lives.
pub(crate) fn try_wait(pid: libc::pid_t) -> io::Result<Option<ExitStatus>> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let ended = check(unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) })?;
    Ok((ended == pid).then(|| ExitStatus::from_raw(status)))
}

/// Signals that wait to be read instead of doing what they do (signalfd(2)).
pub(crate) struct HeldSignals {
    queue: OwnedFd,
    mask_before: libc::sigset_t,
}

impl HeldSignals {
    /// For this thread and those that it starts; a program that is started has none held. A child's
    /// end is among the signals: were it ignored, as whoever started us may have it, nobody would be
    /// told how a child ended.
    pub(crate) fn hold(signals: &[c_int]) -> io::Result<Self> {
        // SAFETY: the sets are plain memory, which sigemptyset makes valid, and outlive the calls.
        unsafe {
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            let mut held = std::mem::zeroed();
            let mut mask_before = std::mem::zeroed();
            libc::sigemptyset(&raw mut held);
            for signal in signals {
                check(libc::sigaddset(&raw mut held, *signal))?;
            }
            check(libc::sigprocmask(libc::SIG_BLOCK, &raw const held, &raw mut mask_before))?;
            let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
            let queue = check(libc::signalfd(-1, &raw const held, flags))?;
            Ok(Self { queue: OwnedFd::from_raw_fd(queue), mask_before })
        }
    }

    /// The next one that waits.
    pub(crate) fn next(&self) -> Option<c_int> {
        // SAFETY: plain numbers, for which all zeros are valid.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        let size = size_of_val(&info);
        // SAFETY: `info` has room for `size` bytes and outlives the call.
        let n = unsafe { libc::read(self.queue.as_raw_fd(), (&raw mut info).cast(), size) };
        (n == size.cast_signed()).then(|| info.ssi_signo.cast_signed())
    }

    /// Signals do again what they did before.
    pub(crate) fn release(self) -> io::Result<()> {
        let mask = &raw const self.mask_before;
        // SAFETY: the mask was filled in by the kernel and outlives the call.
        check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) }).map(drop)
    }
}

impl AsFd for HeldSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// Waits until one of `fds` can be read from, or has ended, or the time is over. False where none can,
/// as after a signal.
pub(crate) fn wait_readable(fds: &[BorrowedFd<'_>], time: Option<Duration>) -> io::Result<bool> {
    let asked =
        |fd: &BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut fds: Vec<libc::pollfd> = fds.iter().map(asked).collect();
    // Rounded up: a rest of less than a millisecond would be polled for again and again.
    let millis = time.map_or(-1, |time| {
        c_int::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
    });
    // SAFETY: the list is as long as is said and outlives the call.
    let result = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, millis) };
    match check(result) {
        Err(err) if err.kind() != io::ErrorKind::Interrupted => Err(err),
        result => Ok(result.is_ok_and(|n_ready| n_ready > 0)),
    }
}

/// How many descriptors this process may have open.
pub(crate) fn open_files_max() -> io::Result<u64> {
    open_file_limits().map(|limits| limits.rlim_cur)
}

/// Raises that to what the process may have at most, but not beyond `enough`.
pub(crate) fn raise_open_files(enough: u64) -> io::Result<()> {
    let before = open_file_limits()?;
    let raised = before.rlim_max.min(enough);
    if raised <= before.rlim_cur {
        return Ok(());
    }
    let limits = libc::rlimit { rlim_cur: raised, ..before };
    // SAFETY: `limits` outlives the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits) }).map(drop)
}

fn open_file_limits() -> io::Result<libc::rlimit> {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limits` outlives the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits) })?;
    Ok(limits)
}

/// A handle of the process, which stays that of this one when the number is given to another. It can be
/// read from when the process has ended (pidfd_open(2)).
pub(crate) fn open_process(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers, and gives a descriptor of nobody else.
    unsafe {
        let number = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        Ok(OwnedFd::from_raw_fd(check_long(number)?))
    }
}

/// Sends a signal to the process that [`open_process`] opened.
pub(crate) fn signal_process(process: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: takes numbers, and a pointer that may be null.
    check_long(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, no_info, 0)
    })
    .map(drop)
}

/// A session of its own: no terminal, and no signals from one.
pub(crate) fn new_session() -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::setsid() }).map(drop)
}

/// Whether this process gets SIGTERM when its parent ends.
pub(crate) fn end_with_parent(on: bool) -> io::Result<()> {
    let signal = if on { libc::SIGTERM } else { 0 };
    // SAFETY: PR_SET_PDEATHSIG takes a number.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as c_ulong) }).map(drop)
}

/// Makes standard input (0), output (1) or error (2) mean what `file` means.
pub(crate) fn replace_standard(file: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    assert!((0..=2).contains(&number), "only the standard descriptors belong to nobody");
    // SAFETY: nothing in Rust owns the descriptors 0 to 2, and `file` is open.
    check(unsafe { libc::dup2(file.as_raw_fd(), number) }).map(drop)
}

/// Takes over a descriptor that the process was started with. The caller has made sure that
/// `number` was open then, so that nothing of ours has it. The number itself is free afterwards,
/// or the other end would never see the descriptor closed.
pub(crate) fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers; a number that is not open is an error.
    let copy = check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) })?;
    if number > 2 {
        // SAFETY: inherited, so no value of this process owns it.
        unsafe { libc::close(number) };
    }
    // SAFETY: fresh from the kernel and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

pub(crate) fn mount(
    source: &str,
    dir: &Path,
    fs_type: &str,
    flags: c_ulong,
    data: &str,
) -> io::Result<()> {
    let (source, fs_type, data) =
        (CString::new(source)?, CString::new(fs_type)?, CString::new(data)?);
    let dir = CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: four strings with their terminating zeros, which outlive the call.
    check(unsafe {
        libc::mount(source.as_ptr(), dir.as_ptr(), fs_type.as_ptr(), flags, data.as_ptr().cast())
    })
    .map(drop)
}

/// Mounts a FUSE file system on `dir` beneath what is mounted there, by the successors of mount(2)
/// (fsopen(2), fsconfig(2), fsmount(2), move_mount(2)). Options without a value are flags; `flags` are
/// those of mount(2).
pub(crate) fn mount_beneath(
    dir: &Path,
    options: &[(&'static str, Option<String>)],
    flags: c_ulong,
) -> io::Result<()> {
    const SET_FLAG: c_int = 0; // linux/mount.h, enum fsconfig_command
    const SET_STRING: c_int = 1;
    const CREATE: c_int = 6;
    const CLOSE_ON_EXEC: c_int = 1; // FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
    const EMPTY_PATH: c_int = 0x04; // MOVE_MOUNT_F_EMPTY_PATH
    const BENEATH: c_int = 0x200; // MOVE_MOUNT_BENEATH
    // The old flags and the attributes of a mount agree in these numbers, but for noatime.
    let same = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let mut attributes = flags & same as c_ulong;
    if flags & libc::MS_NOATIME as c_ulong != 0 {
        attributes |= 0x10; // MOUNT_ATTR_NOATIME
    }
    let dir = CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: takes a string with its terminating zero, and gives a descriptor of nobody else.
    let context = unsafe {
        let number = libc::syscall(libc::SYS_fsopen, c"fuse".as_ptr(), CLOSE_ON_EXEC);
        OwnedFd::from_raw_fd(check_long(number)?)
    };
    let configure = |command: c_int, name: *const c_char, value: *const c_char| {
        // SAFETY: the strings, where there are any, end in zeros and outlive the call.
        check_long(unsafe {
            libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, name, value, 0)
        })
    };
    for (name, value) in options {
        let name = CString::new(*name)?;
        match value {
            Some(value) => {
                let value = CString::new(value.as_str())?;
                configure(SET_STRING, name.as_ptr(), value.as_ptr())?;
            }
            None => {
                configure(SET_FLAG, name.as_ptr(), std::ptr::null())?;
            }
        }
    }
    configure(CREATE, std::ptr::null(), std::ptr::null())?;
    // SAFETY: numbers, a string with its terminating zero, and a descriptor of nobody else. What is not
    // moved is gone with its descriptor.
    unsafe {
        let context = context.as_raw_fd();
        let number = libc::syscall(libc::SYS_fsmount, context, CLOSE_ON_EXEC, attributes);
        let mount = OwnedFd::from_raw_fd(check_long(number)?);
        let (from, nothing, flags) = (mount.as_raw_fd(), c"".as_ptr(), EMPTY_PATH | BENEATH);
        let (here, to) = (libc::AT_FDCWD, dir.as_ptr());
        let moved = libc::syscall(libc::SYS_move_mount, from, nothing, here, to, flags);
        check_long(moved).map(drop)
    }
}

/// umount2(2) with `flags`; symbolic links are not followed.
pub(crate) fn unmount(dir: &Path, flags: c_int) -> io::Result<()> {
    let dir = CString::new(dir.as_os_str().as_bytes())?;
    let flags = libc::UMOUNT_NOFOLLOW | flags;
    // SAFETY: a string with its terminating zero, which outlives the call.
    check(unsafe { libc::umount2(dir.as_ptr(), flags) }).map(drop)
}

/// Asks the file system at `dir` for its sizes, which no kernel answers from a cache: attributes of a
/// mount whose process is dead are known for as long as it had said.
pub(crate) fn ask_sizes(dir: &Path) -> io::Result<()> {
    let dir = CString::new(dir.as_os_str().as_bytes())?;
    let mut sizes = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: a string with its terminating zero and room for the answer, which outlive the call.
    check(unsafe { libc::statfs(dir.as_ptr(), sizes.as_mut_ptr()) }).map(drop)
}

/// Lets the program that `command` starts have `fd` under the same number.
pub(crate) fn inherit(command: &mut Command, fd: &OwnedFd) {
    let number = fd.as_raw_fd();
    // SAFETY: between fork and exec only fcntl is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || check(libc::fcntl(number, libc::F_SETFD, 0)).map(drop));
    }
}

/// Receives one descriptor (SCM_RIGHTS). `UnexpectedEof` where the other end closed without one.
pub(crate) fn receive_fd(socket: &UnixStream) -> io::Result<OwnedFd> {
    /// Aligned for `cmsghdr`, with room for one descriptor (24 bytes) and to spare.
    #[repr(C, align(8))]
    struct Control([u8; 64]);

    let mut byte = [0_u8; 1];
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    // SAFETY: all zeros are a valid msghdr: null pointers with lengths of zero.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;

    let received = loop {
        // SAFETY: `message` points at `part` and `control`, which outlive the call.
        match unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) }
        {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return Err(io::Error::last_os_error()),
            received => break received,
        }
    };
    // SAFETY: the kernel filled `message` in; CMSG_FIRSTHDR gives null or a header inside `control`.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    let Some(header) = header.filter(|_| received > 0) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    if header.cmsg_level != libc::SOL_SOCKET || header.cmsg_type != libc::SCM_RIGHTS {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: a message of SCM_RIGHTS carries at least one descriptor, which is ours from now on.
    Ok(unsafe {
        let data: *const RawFd = libc::CMSG_DATA(std::ptr::from_ref(header)).cast();
        OwnedFd::from_raw_fd(data.read_unaligned())
    })
}

/// One line to syslog(3), as "s3mount" among the daemons.
pub(crate) fn system_log(severity: c_int, line: &CStr) {
    /// Kept by the C library for the whole process.
    const IDENT: &CStr = c"s3mount";
    const FORMAT: *const c_char = c"%s".as_ptr();
    static OPENED: std::sync::Once = std::sync::Once::new();
    // SAFETY: the name is static; the one format takes the one string that is given.
    unsafe {
        OPENED.call_once(|| libc::openlog(IDENT.as_ptr(), libc::LOG_PID, libc::LOG_DAEMON));
        libc::syslog(severity, FORMAT, line.as_ptr());
    }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// What syscall(2) gives: a descriptor, or 0.
fn check_long(result: libc::c_long) -> io::Result<c_int> {
    check(c_int::try_from(result).map_err(io::Error::other)?)
}

/// Keeps the allocator small: by default glibc has an arena for each thread, and each keeps what the
/// busiest moment of its thread left there (mallopt(3), M_ARENA_MAX, M_MMAP_THRESHOLD). The buffers
/// of connections, up to half a MiB, are below the threshold: mapped anew each time, they would cost
/// a page fault for each 4 KiB. To be called before the first thread.
pub(crate) fn tame_allocator() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [(libc::M_MMAP_THRESHOLD, 4 << 20), (libc::M_ARENA_MAX, 2)] {
        // SAFETY: mallopt takes plain numbers, and no other thread allocates yet.
        unsafe { libc::mallopt(parameter, value) };
    }
}
