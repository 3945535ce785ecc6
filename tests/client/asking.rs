//! What asks about files, and what hangs on them without reading: attributes, rights, locks, notices.

use std::os::fd::{AsRawFd, RawFd};

use super::calls::{Buffer, Number, Outcome, Path, ROOM, Room, absolute, call, path, plain};
use super::steps::Client;

/// Calls that take a path, or nothing but a descriptor.
const AT_FLAGS: [i32; 5] = [
    libc::AT_SYMLINK_NOFOLLOW,
    libc::AT_EMPTY_PATH,
    libc::AT_NO_AUTOMOUNT,
    libc::AT_STATX_FORCE_SYNC,
    libc::AT_STATX_DONT_SYNC,
];

impl Client<'_> {
    /// statx(2), with any mask; and newfstatat(2), which says the same.
    pub(super) fn look(&mut self) {
        let name = self.any_path();
        let flags = self.dice.some(&AT_FLAGS, 5) | self.dice.pick(&[0, 0, 0, 0, 1 << 20]);
        let all = i64::from(libc::STATX_BASIC_STATS);
        let other = self.dice.roll() & 0xffff;
        let mask = self.dice.pick(&[all, all, 0xfff, other.cast_signed(), 1 << 31]);
        let _ = self.both(("statx", &name, flags, mask), None, |side| {
            let mut room = [0; ROOM];
            let arguments = [
                Number(side.root.into()),
                Path(&name),
                Number(flags.into()),
                Number(mask),
                Room(&mut room),
            ];
            plain(call(libc::SYS_statx, arguments)).map(|(number, _)| (number, told(&room, mask)))
        });
        let Some((fds, _, _)) = self.any_open() else { return };
        let _ = self.both("fstat", Some(fds), |side| {
            let mut room = [0; ROOM];
            let empty = path("");
            let arguments = [
                Number(side.fd.into()),
                Path(&empty),
                Number(libc::AT_EMPTY_PATH.into()),
                Number(all),
                Room(&mut room),
            ];
            plain(call(libc::SYS_statx, arguments)).map(|(number, _)| (number, told(&room, all)))
        });
    }

    pub(super) fn access(&mut self) {
        let name = self.any_path();
        let mode = self.dice.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 8, -1]);
        let odd = [libc::AT_EACCESS, libc::AT_SYMLINK_NOFOLLOW, libc::AT_EMPTY_PATH];
        let flags = self.dice.some(&odd, 4) | self.dice.pick(&[0, 0, 0, 0, 1 << 20]);
        let _ = self.both(("faccessat2", &name, mode, flags), None, |side| {
            let arguments =
                [Number(side.root.into()), Path(&name), Number(mode), Number(flags.into())];
            plain(call(libc::SYS_faccessat2, arguments))
        });
        let len = self.dice.pick(&[0_usize, 1, 4096]);
        let _ = self.both(("readlink", &name, len), None, |side| {
            let mut bytes = vec![0; len];
            let arguments = [Number(side.root.into()), Path(&name), Buffer(&mut bytes)];
            plain(call(libc::SYS_readlinkat, arguments))
        });
    }

    /// Which there are is the file system's own affair; here there are none.
    pub(super) fn attributes(&mut self) {
        let Some((fds, _, _)) = self.any_open() else { return };
        let long = "u".repeat(self.dice.pick(&[255, 256, 4000]));
        let names = ["user.a", "user.", "", "trusted.x", "system.posix_acl_access", "nonsense"];
        let name = match self.dice.below(8) {
            0 => path(long),
            1 => path(&b"user.\xff\xfe"[..]),
            at => path(names[at - 2]),
        };
        let len = self.dice.pick(&[0_usize, 1, 4096, 70_000]);
        let fd = Number(fds.0.into());
        let mut bytes = vec![0; len];
        let given = call(libc::SYS_fgetxattr, [fd, Path(&name), Buffer(&mut bytes)]);
        let usual = [libc::ENODATA, libc::EOPNOTSUPP, libc::ERANGE, libc::EBADF, libc::EPERM];
        // EPERM: attributes of the administrator, asked for by somebody else.
        let is_usual = given.is_err_and(|errno| usual.contains(&errno));
        assert!(is_usual, "{}: getxattr {name:?} of {len} gave {given:?}", self.place);
        let listed = call(libc::SYS_flistxattr, [Number(fds.0.into()), Buffer(&mut bytes)]);
        assert!(matches!(listed, Ok(0) | Err(libc::EBADF)), "{}: {listed:?}", self.place);
        self.count(&plain(given));
    }

    pub(super) fn advise(&mut self) {
        let Some((fds, size)) = self.any_file() else { return };
        let (offset, len) = (self.dice.offset(size), self.dice.len().cast_signed() as i64);
        let len = if self.dice.one_in(10) { -len } else { len };
        // Mostly the pages are let go of, so that there is something to ask for.
        let advice = self.dice.pick(&[0, 1, 2, 3, 4, 4, 4, 5, 6, -1]);
        let _ = self.both(("fadvise", offset, len, advice), Some(fds), |side| {
            let arguments = [Number(side.fd.into()), Number(offset), Number(len), Number(advice)];
            plain(call(libc::SYS_fadvise64, arguments))
        });
        if self.dice.one_in(3) {
            let whole = [Number(fds.0.into()), Number(0), Number(0), Number(4)];
            call(libc::SYS_fadvise64, whole).expect("pages may be let go of");
        }
        // In memory there is nothing to be read ahead.
        let arguments = [Number(fds.0.into()), Number(offset), Number(len)];
        let given = call(libc::SYS_readahead, arguments);
        let place = &self.place;
        assert!(matches!(given, Ok(0) | Err(libc::EINVAL)), "{place}: readahead: {given:?}");
        self.count(&plain(given));
    }

    /// ioctl(2) with any number, and fcntl(2).
    pub(super) fn control(&mut self) {
        let Some((fds, _, _)) = self.any_open() else { return };
        let word = self.dice.roll().cast_signed();
        // FS_IOC_GETFLAGS, FS_IOC_FSGETXATTR, FIGETBSZ, FICLONE, TCGETS, FIEMAP; not FIFREEZE, which would
        // stop a file system of this machine.
        let known = [0x8008_6601, 0x801c_581f, 2, 0x4004_9409, 0x5401, 0xc020_660b];
        let number = match self.dice.below(3) {
            0 => self.dice.pick(&known),
            _ => i64::from(u32::try_from(word & 0xffff_ffff).expect("32 bits")),
        };
        if number >> 8 & 0xff == i64::from(b'X') && number & 0xff != 0x1f {
            return;
        }
        let mut room = [0; ROOM];
        let arguments = [Number(fds.0.into()), Number(number), Room(&mut room)];
        let given = call(libc::SYS_ioctl, arguments);
        // What is none of ours is no error of a device or of this program.
        let strange = [libc::EIO, libc::ENOSYS, libc::EINTR, libc::EAGAIN, libc::ESTALE];
        let is_strange = given.is_err_and(|errno| strange.contains(&errno));
        assert!(!is_strange, "{}: ioctl {number:#x} gave {given:?}", self.place);
        self.count(&plain(given));
        // F_DUPFD_CLOEXEC, leases, signals and directory notices aside, which live on.
        let command = self.dice.pick(&[1, 3, 11, 1025, 1032, 2000]);
        let _ = self.both(("fcntl", command), Some(fds), |side| {
            let arguments = [Number(side.fd.into()), Number(command), Number(0)];
            // Flags tell in which way it was opened, beside what was asked for.
            plain(call(libc::SYS_fcntl, arguments).map(|_| 0))
        });
    }

    /// flock(2), and locks of ranges; another client may hold one.
    pub(super) fn lock(&mut self) {
        let Some((fds, size, _)) = self.any_open() else { return };
        let held = |outcome: Outcome| match outcome {
            Err(libc::EWOULDBLOCK | libc::EACCES) => Ok((0, Vec::new())),
            outcome => outcome,
        };
        let how = self.dice.pick(&[libc::LOCK_SH, libc::LOCK_EX, libc::LOCK_UN, 64]);
        let _ = self.both(("flock", how), Some(fds), |side| {
            let arguments = [Number(side.fd.into()), Number((how | libc::LOCK_NB).into())];
            held(plain(call(libc::SYS_flock, arguments)))
        });
        let command = self.dice.pick(&[libc::F_SETLK, libc::F_GETLK, libc::F_OFD_SETLK]);
        let kind = self.dice.pick(&[libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK, 77]);
        let start = self.dice.offset(size);
        let _ = self.both(("fcntl", command, kind, start), Some(fds), |side| {
            let mut room = [0; ROOM];
            // struct flock: kind and whence, then where it begins and how long it is.
            room[..2].copy_from_slice(&i16::try_from(kind).expect("small").to_ne_bytes());
            room[8..16].copy_from_slice(&start.to_ne_bytes());
            room[16..24].copy_from_slice(&1_i64.to_ne_bytes());
            let arguments = [Number(side.fd.into()), Number(command.into()), Room(&mut room)];
            held(plain(call(libc::SYS_fcntl, arguments)))
        });
    }

    /// poll(2), epoll(7) and inotify(7).
    pub(super) fn wait_for(&mut self) {
        let Some((fds, _, _)) = self.any_open() else { return };
        let events = u16::try_from(self.dice.roll() & 0x3fff).expect("14 bits");
        let _ = self.both(("poll", events), Some(fds), |side| {
            let mut room = [0; ROOM];
            room[..4].copy_from_slice(&side.fd.to_ne_bytes());
            room[4..6].copy_from_slice(&events.to_ne_bytes());
            let mut poll = || call(libc::SYS_poll, [Room(&mut room), Number(1), Number(0)]);
            // Without anything to tell, poll(2) tells of a signal, on any file system.
            let n = std::iter::repeat_with(&mut poll).find(|n| *n != Err(libc::EINTR));
            plain(n.expect("it is repeated")).map(|(n, _)| (n, room[6..8].to_vec()))
        });
        let epoll = call(libc::SYS_epoll_create1, [Number(libc::EPOLL_CLOEXEC.into())]);
        let epoll = owned(epoll.expect("a descriptor"));
        let mut room = [0; ROOM];
        room[0] = 1;
        let added = call(
            libc::SYS_epoll_ctl,
            [Number(epoll.as_raw_fd().into()), Number(1), Number(fds.0.into()), Room(&mut room)],
        );
        // A directory or a place cannot be waited for; a file can, and is always ready.
        let is_usual = matches!(added, Ok(0) | Err(libc::EPERM | libc::EBADF));
        assert!(is_usual, "{}: epoll_ctl gave {added:?}", self.place);
        if added.is_ok() {
            let ready = call(
                libc::SYS_epoll_wait,
                [Number(epoll.as_raw_fd().into()), Room(&mut room), Number(1), Number(0)],
            );
            assert_eq!(ready, Ok(1), "{}", self.place);
        }
        let name = self.any_path();
        let mask = self.dice.pick(&[0xfff, 0, 0x2, 1 << 20, i64::from(libc::IN_ONLYDIR) | 1]);
        let _ = self.both(("inotify_add_watch", &name, mask), None, |side| {
            let notices = call(libc::SYS_inotify_init1, [Number(libc::IN_CLOEXEC.into())]);
            let notices = owned(notices.expect("a descriptor"));
            let long = absolute(side.root, &name);
            let arguments = [Number(notices.as_raw_fd().into()), Path(&long), Number(mask)];
            // What is too long only with what stands before it.
            match plain(call(libc::SYS_inotify_add_watch, arguments)) {
                Ok(_) | Err(libc::ENAMETOOLONG) => Ok((0, Vec::new())),
                outcome => outcome,
            }
        });
    }

    /// Numbers in place of names: this mount gives none that outlive it.
    pub(super) fn handles(&mut self) {
        let name = self.any_path();
        let mut room = [0; ROOM];
        room[..4].copy_from_slice(&128_u32.to_ne_bytes());
        let mut mount = [0; ROOM];
        let arguments = [
            Number(self.ours.as_raw_fd().into()),
            Path(&name),
            Room(&mut room),
            Room(&mut mount),
            Number(self.dice.pick(&[0, 0, 0x200, 1])),
        ];
        let given = call(libc::SYS_name_to_handle_at, arguments);
        let strange = [libc::EIO, libc::ENOSYS, libc::EINTR];
        assert!(!given.is_err_and(|errno| strange.contains(&errno)), "{}: {given:?}", self.place);
        // As it was told, or invented.
        if given.is_err() || self.dice.one_in(2) {
            let len = self.dice.pick(&[0_u32, 8, 12, 16, 128, 4096]);
            let kind = self.dice.pick(&[0_u32, 1, 2, 0x81, 0xff, 0x1_0000]);
            room[..4].copy_from_slice(&len.to_ne_bytes());
            room[4..8].copy_from_slice(&kind.to_ne_bytes());
            for at in 0..4 {
                room[8 + at * 8..16 + at * 8].copy_from_slice(&self.dice.roll().to_ne_bytes());
            }
        }
        let arguments = [Number(self.ours.as_raw_fd().into()), Room(&mut room), Number(0)];
        let opened = call(libc::SYS_open_by_handle_at, arguments);
        match opened {
            Ok(fd) => drop(owned(fd)),
            Err(errno) => assert!(!strange.contains(&errno), "{}: {opened:?}", self.place),
        }
        self.count(&plain(opened));
    }

    pub(super) fn file_system(&mut self) {
        let name = self.any_path();
        let mut room = [0; ROOM];
        let outcome = self.both(("statfs", &name), None, |side| {
            let (long, mut room) = (absolute(side.root, &name), [0; ROOM]);
            // The numbers are the file system's own affair.
            plain(call(libc::SYS_statfs, [Path(&long), Room(&mut room)]))
        });
        if outcome.is_ok() {
            let Some((fds, _, _)) = self.any_open() else { return };
            let given = call(libc::SYS_fstatfs, [Number(fds.0.into()), Room(&mut room)]);
            assert_eq!(given, Ok(0), "{}", self.place);
            let number = |at: usize| {
                u64::from_ne_bytes(room[at * 8..at * 8 + 8].try_into().expect("8 bytes"))
            };
            // Installers refuse to work with a size of 0.
            assert!([0, 1, 2, 3, 4].iter().all(|at| number(*at) > 0), "{}", self.place);
        }
    }
}

fn owned(fd: i64) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    let fd: RawFd = fd.try_into().expect("a descriptor");
    // SAFETY: new, and nobody else's.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) }
}

/// What both sides say of a file in struct statx: rights, owner and kind, and of a file its size, its links
/// and its time. What nobody asked for is not compared.
fn told(room: &[u8; ROOM], asked: i64) -> Vec<u8> {
    let mask = i64::from(u32::from_ne_bytes(room[..4].try_into().expect("4 bytes"))) & asked;
    let mode = u16::from_ne_bytes([room[28], room[29]]);
    let is_file = u32::from(mode) & libc::S_IFMT == libc::S_IFREG;
    let mut told = Vec::new();
    let fields = [
        (libc::STATX_TYPE | libc::STATX_MODE, 28..30, true),
        (libc::STATX_UID, 20..24, true),
        (libc::STATX_GID, 24..28, true),
        (libc::STATX_NLINK, 16..20, is_file),
        (libc::STATX_SIZE, 40..48, is_file),
        (libc::STATX_MTIME, 112..124, is_file),
    ];
    for (bit, place, counts) in fields {
        if mask & i64::from(bit) == i64::from(bit) && counts {
            told.extend(&room[place]);
        }
    }
    told
}
