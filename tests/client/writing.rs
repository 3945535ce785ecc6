//! What writes: each call fails as on any read-only file system, and with what the kernel says first.

use super::calls::{Arg, Buffer, Number, Path, ROOM, Room, absolute, call, path, plain};
use super::steps::Client;

impl Client<'_> {
    pub(super) fn write(&mut self) {
        match self.dice.below(4) {
            0 => self.write_open(),
            1 => self.rename(),
            2 => self.make(),
            _ => self.change(),
        }
    }

    /// Through a descriptor, which is open for reading at most.
    fn write_open(&mut self) {
        let Some((fds, size, _)) = self.any_open() else { return };
        let (offset, len) = (self.dice.offset(size), self.dice.below(9000));
        let which = self.dice.below(9);
        let mode = self.dice.pick(&[0, 1, 2, 3, 8, 16, 32, 64, 99]);
        let outcome = self.both(("write", which, offset, len, mode), Some(fds), |side| {
            let fd = || Number(side.fd.into());
            let mut bytes = vec![0; len];
            let times = path("");
            plain(match which {
                0 => call(libc::SYS_write, [fd(), Buffer(&mut bytes)]),
                1 => call(libc::SYS_pwrite64, [fd(), Buffer(&mut bytes), Number(offset)]),
                2 => call(libc::SYS_ftruncate, [fd(), Number(offset)]),
                3 => {
                    let len = len.cast_signed() as i64;
                    call(libc::SYS_fallocate, [fd(), Number(mode), Number(offset), Number(len)])
                }
                4 => call(libc::SYS_fchmod, [fd(), Number(0o777)]),
                5 => call(libc::SYS_fchown, [fd(), Number(7), Number(7)]),
                6 => call(
                    libc::SYS_utimensat,
                    [fd(), Path(&times), Number(0), Number(libc::AT_EMPTY_PATH.into())],
                ),
                7 => call(
                    libc::SYS_fsetxattr,
                    [fd(), Path(c"user.a"), Buffer(&mut bytes), Number(mode % 3)],
                ),
                _ => call(libc::SYS_fremovexattr, [fd(), Path(c"user.a")]),
            })
        });
        assert!(outcome.is_err(), "{}: nothing can be written", self.place);
        // What was never written is always safe on the disk.
        let sync = self.dice.pick(&[libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_syncfs]);
        let _ = self
            .both(("sync", sync), Some(fds), |side| plain(call(sync, [Number(side.fd.into())])));
    }

    fn rename(&mut self) {
        let (from, to) = (self.any_path(), self.any_path());
        let flags = self.dice.pick(&[0, 0, 1, 2, 4, 3, 5, 1 << 20]);
        let is_link = self.dice.one_in(3);
        let outcome = self.both(("rename", &from, &to, flags, is_link), None, |side| {
            let root = || Number(side.root.into());
            let number = if is_link { libc::SYS_linkat } else { libc::SYS_renameat2 };
            plain(call(number, [root(), Path(&from), root(), Path(&to), Number(flags)]))
        });
        assert!(outcome.is_err(), "{}: nothing can be moved", self.place);
    }

    fn make(&mut self) {
        let name = self.any_path();
        let which = self.dice.below(3);
        let kinds = [libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFCHR, libc::S_IFDIR];
        let mode = i64::from(self.dice.pick(&kinds) | 0o644);
        let outcome = self.both(("make", which, &name, mode), None, |side| {
            let root = || Number(side.root.into());
            plain(match which {
                0 => call(libc::SYS_mkdirat, [root(), Path(&name), Number(mode & 0o7777)]),
                1 => call(libc::SYS_mknodat, [root(), Path(&name), Number(mode), Number(0)]),
                _ => call(libc::SYS_symlinkat, [Path(c"target"), root(), Path(&name)]),
            })
        });
        assert!(outcome.is_err(), "{}: nothing can be made", self.place);
    }

    fn change(&mut self) {
        let name = self.any_path();
        let which = self.dice.below(6);
        let number = self.dice.pick(&[0, 0x100, 0x200, 0o4777, -1, i64::MAX]);
        let outcome = self.both(("change", which, &name, number), None, |side| {
            let root = || Number(side.root.into());
            let mut times = [0; ROOM];
            let seconds = if number == 0 { [0; 8] } else { 1_i64.to_ne_bytes() };
            times[..8].copy_from_slice(&seconds);
            times[8..16].copy_from_slice(&number.to_ne_bytes());
            let long = || absolute(side.root, &name);
            plain(match which {
                0 => call(libc::SYS_unlinkat, [root(), Path(&name), Number(number)]),
                1 => call(libc::SYS_fchmodat, [root(), Path(&name), Number(number & 0o7777)]),
                2 => {
                    let owner: [Arg<'_>; 5] =
                        [root(), Path(&name), Number(7), Number(-1), Number(number & 0xffff)];
                    call(libc::SYS_fchownat, owner)
                }
                3 => call(
                    libc::SYS_utimensat,
                    [root(), Path(&name), Room(&mut times), Number(number & 0x100)],
                ),
                4 => call(libc::SYS_truncate, [Path(&long()), Number(number)]),
                _ => call(libc::SYS_removexattr, [Path(&long()), Path(c"user.a")]),
            })
        });
        assert!(outcome.is_err(), "{}: nothing can be changed", self.place);
    }
}
