//! What reads: each byte is that of the twin, and there are as many.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering;

use super::calls::{
    Ended, Map, Number, Outcome, ROOM, Room, call, content, mapped, memory_file, open, path, pipe,
    plain, pread, preadv, read_by,
};
use super::ground::{HUGE, HUGE_BYTES};
use super::steps::{Client, Side};
use crate::support::directory::{Dirent, getdents, lseek};

/// Behind what a file has, a mapping has nothing: it is a signal.
const PAGE: usize = 4096;

/// What a child touches byte by byte, at most.
const TOUCHED_MAX: usize = 100_000;

impl Client<'_> {
    pub(super) fn read_at(&mut self) {
        let Some((fds, size, _)) = self.any_open() else { return };
        let (offset, len) = (self.dice.offset(size), self.dice.len());
        let _ = self.both(("pread", offset, len), Some(fds), |side| pread(side.fd, len, offset));
    }

    pub(super) fn read_pieces(&mut self) {
        let Some((fds, size, _)) = self.any_open() else { return };
        let n_pieces = self.dice.pick(&[0, 1, 2, 3, 17, 1024, 1025]);
        let small = n_pieces > 17;
        let lens: Vec<usize> = (0..n_pieces)
            .map(|_| if small { self.dice.below(100) } else { self.dice.len() })
            .collect();
        let offset = if self.dice.one_in(4) { -1 } else { self.dice.offset(size) };
        // Whoever will not wait is told so here, as memory is never waited for there.
        let flags =
            self.dice.pick(&[0, 0, 0, libc::RWF_HIPRI, libc::RWF_DSYNC, libc::RWF_APPEND, 1 << 20]);
        let _ = self.both(("preadv2", &lens, offset, flags), Some(fds), |side| {
            preadv(side.fd, &lens, offset, flags)
        });
    }

    /// Moves in an open file and reads on from there.
    pub(super) fn read_on(&mut self) {
        let Some((fds, size, is_directory)) = self.any_open() else { return };
        // Where the entries of a directory are is the file system's own affair.
        if !is_directory {
            let (offset, whence) = (self.dice.offset(size), self.dice.below(7) as i64);
            let _ = self.both(("lseek", offset, whence), Some(fds), |side| {
                let arguments = [Number(side.fd.into()), Number(offset), Number(whence)];
                plain(call(libc::SYS_lseek, arguments))
            });
        }
        let len = self.dice.len();
        let _ = self.both(("read", len), Some(fds), |side| read_by(libc::SYS_read, side.fd, len));
    }

    /// Through the kernel alone: into another file, and into a pipe.
    pub(super) fn send(&mut self) {
        let Some((fds, size, _)) = self.any_open() else { return };
        let (offset, len) = (self.dice.offset(size), self.dice.len());
        let is_copy = self.dice.one_in(3);
        if is_copy && self.any_place_or_directory(fds.0) {
            return;
        }
        match (is_copy, self.dice.one_in(2)) {
            // To another kind of file system the kernel may say no.
            (true, _) => {
                let given = copied(fds.0, offset, len);
                if given != Err(libc::EXDEV) {
                    let wanted = pread(fds.1, len, offset);
                    assert_eq!(
                        given.is_err(),
                        wanted.is_err(),
                        "{}: copy {offset} {len}",
                        self.place
                    );
                    let same = given.as_ref().ok() == wanted.as_ref().ok();
                    assert!(same, "{}: copy of {len} at {offset}", self.place);
                }
                self.count(&given);
            }
            (false, true) => {
                let _ =
                    self.both(("sendfile", offset, len), Some(fds), |side| sent(side, offset, len));
            }
            (false, false) => {
                let len = len.min(PAGE * 16);
                let _ = self
                    .both(("splice", offset, len), Some(fds), |side| spliced(side, offset, len));
            }
        }
    }

    fn any_place_or_directory(&self, ours: RawFd) -> bool {
        let is = |pair: &&super::steps::Pair| pair.ours.as_raw_fd() == ours;
        self.pairs.iter().find(is).is_none_or(|pair| pair.is_directory || pair.is_place)
    }

    /// In a child, as what lies behind the end is a signal.
    pub(super) fn map(&mut self) {
        let Some((fds, size, is_directory)) = self.any_open() else { return };
        let n_pages = usize::try_from(size).expect("small").div_ceil(PAGE);
        let first = self.dice.below(n_pages + 2);
        let len = (1 + self.dice.below(40)) * PAGE - self.dice.pick(&[0, 0, 1, 4000]);
        let start = self.dice.below(len);
        let map = Map {
            len: if self.dice.one_in(30) { 0 } else { len },
            offset: (first * PAGE).cast_signed() as i64 + self.dice.pick(&[0, 0, 0, 0, 0, 0, 1]),
            protection: self.dice.pick(&[1, 1, 1, 1, 3, 5, 0]),
            flags: self.dice.pick(&[1, 2, 2, 2 | libc::MAP_POPULATE, 3, 0]),
            touched: start..len.min(start + TOUCHED_MAX),
        };
        if map.protection == 0 || map.len == 0 || is_directory {
            let map = Map { touched: 0..0, ..map.clone() };
            let _ = self.both(("mmap", &map), Some(fds), |side| mapping(side.fd, &map));
            return;
        }
        let outcome = self.both(("mmap", &map), Some(fds), |side| mapping(side.fd, &map));
        if outcome.is_ok_and(|(ended, _)| ended == i64::from(libc::SIGBUS)) {
            self.seen.bus_errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads a directory with any room, goes back in it, and to where nothing is.
    pub(super) fn list(&mut self) {
        let mut names: Vec<&String> = self.ground.directories.iter().collect();
        let (root, many) = (String::new(), "many".to_owned());
        names.extend([&root, &many, &root]);
        let name = names[self.dice.below(names.len())].clone();
        let wanted = self.ground.names_in(&name);
        let shown = path(if name.is_empty() { "." } else { &name });
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let directory = open(self.ours.as_raw_fd(), &shown, flags, 0);
        let directory =
            directory.unwrap_or_else(|errno| panic!("{}: {shown:?}: {errno}", self.place));
        let directory = File::from(directory);
        let entries = self.entries(&directory);
        self.check_entries(&name, &entries, &wanted);
        for _ in 0..self.dice.below(3) {
            match self.dice.below(3) {
                0 => {
                    let at = self.dice.below(entries.len());
                    lseek(&directory, entries[at].next).expect("a place that was told");
                    let room = self.dice.pick(&[300, 4096, 64 << 10]);
                    let next = getdents(&directory, room).expect("entries");
                    let place = &self.place;
                    assert_eq!(next.first(), entries.get(at + 1), "{place}: {name} behind {at}");
                    let behind = entries[at + 1..].iter().map(|entry| &entry.name);
                    let got = next.iter().map(|entry| &entry.name);
                    assert!(got.eq(behind.take(next.len())), "{place}: {name} behind {at}");
                }
                1 => self.nonsense(&directory, &wanted),
                _ => {
                    lseek(&directory, 0).expect("the beginning");
                    let again = self.entries(&directory);
                    self.check_entries(&name, &again, &wanted);
                }
            }
        }
    }

    /// A place that was never told: an error, or any of the entries.
    fn nonsense(&mut self, directory: &File, wanted: &BTreeSet<(String, bool)>) {
        let offset = match self.dice.below(3) {
            0 => self.dice.pick(&[i64::MAX, -1, i64::MIN, 1, 2, 3, 1 << 32, i64::from(u32::MAX)]),
            1 => self.dice.roll().cast_signed(),
            _ => i64::try_from(self.dice.below(5000)).expect("small"),
        };
        let answer = lseek(directory, offset).and_then(|_| getdents(directory, 4096));
        match answer {
            Ok(entries) => {
                let names = entries.iter().map(|entry| entry.name.as_str());
                let known: BTreeSet<_> =
                    wanted.iter().map(|(name, _)| name.as_str()).chain([".", ".."]).collect();
                for name in names {
                    assert!(known.contains(name), "{}: {name:?} at {offset}", self.place);
                }
            }
            Err(err) => {
                assert_eq!(err.raw_os_error(), Some(libc::EINVAL), "{}: {offset}", self.place);
            }
        }
        lseek(directory, 0).expect("the beginning");
    }

    fn entries(&mut self, directory: &File) -> Vec<Dirent> {
        let mut entries = Vec::new();
        let mut n_small = 0;
        loop {
            // Small ones again and again would take all day.
            let all = [24, 48, 300, 700, 4096, 32 << 10, 1 << 20];
            let room = self.dice.pick(if n_small < 20 { &all } else { &all[4..] });
            n_small += usize::from(room < 4096);
            match getdents(directory, room) {
                Ok(some) if some.is_empty() => break,
                Ok(some) => entries.extend(some),
                Err(err) if room < 300 => {
                    assert_eq!(err.raw_os_error(), Some(libc::EINVAL), "{}", self.place);
                }
                Err(err) => panic!("{}: getdents with {room}: {err}", self.place),
            }
        }
        self.seen.listed.fetch_add(entries.len() as u64, Ordering::Relaxed);
        entries
    }

    fn check_entries(
        &self,
        directory: &str,
        entries: &[Dirent],
        wanted: &BTreeSet<(String, bool)>,
    ) {
        let shown = entries.iter().map(|entry| (entry.name.clone(), entry.kind == libc::DT_DIR));
        let mut shown: Vec<_> = shown.collect();
        let dots = [(".".to_owned(), true), ("..".to_owned(), true)];
        assert!(shown.starts_with(&dots), "{}: {directory}: {:?}", self.place, shown.first());
        shown.drain(..2);
        let n_shown = shown.len();
        let shown = BTreeSet::from_iter(shown);
        assert_eq!(shown.len(), n_shown, "{}: {directory} names one twice", self.place);
        let lost: Vec<_> = wanted.difference(&shown).take(3).collect();
        let strange: Vec<_> = shown.difference(wanted).take(3).collect();
        let same = lost.is_empty() && strange.is_empty();
        assert!(same, "{}: {directory} lacks {lost:?} and has {strange:?}", self.place);
    }

    /// Where offsets are larger than any file of the twin can be.
    pub(super) fn huge(&mut self) {
        let name = path(self.mount.join(HUGE).as_os_str().as_encoded_bytes());
        let file = open(libc::AT_FDCWD, &name, libc::O_RDONLY, 0);
        let file = file.unwrap_or_else(|errno| panic!("{}: {name:?}: {errno}", self.place));
        for _ in 0..3 {
            let (offset, len) = (self.dice.offset(HUGE_BYTES), self.dice.below(200_000));
            let given = pread(file.as_raw_fd(), len, offset);
            let place = format!("{}: {len} at {offset} of {name:?}", self.place);
            match u64::try_from(offset) {
                Err(_) => assert_eq!(given, Err(libc::EINVAL), "{place}"),
                // The kernel adds both, and looks whether that is still a number.
                Ok(_) if offset.checked_add(len.cast_signed() as i64).is_none() => {
                    assert!(matches!(given, Err(libc::EINVAL | libc::EOVERFLOW)), "{place}");
                }
                Ok(offset) => {
                    let start = offset.min(HUGE_BYTES);
                    let end = (start + len as u64).min(HUGE_BYTES);
                    let all = &self.ground.simulator;
                    let wanted = all.range_bytes(super::ground::BUCKET, HUGE, start..end);
                    let (_, bytes) =
                        given.as_ref().unwrap_or_else(|errno| panic!("{place}: {errno}"));
                    assert!(*bytes == wanted, "{place} gave {} bytes", bytes.len());
                }
            }
            self.count(&given);
        }
    }
}

/// How a child ended which mapped it, and what it saw.
fn mapping(fd: RawFd, map: &Map) -> Outcome {
    let (ended, sum) = mapped(fd, map);
    let bytes = sum.to_ne_bytes().to_vec();
    match ended {
        Ended::Exit(0) => Ok((0, bytes)),
        Ended::Exit(errno) => Err(errno),
        Ended::Signal(signal) => Ok((signal.into(), Vec::new())),
        Ended::Never(patience) => panic!("a child that maps is not gone after {patience:?}"),
    }
}

/// What goes through a pipe may be interrupted between two pieces, on any file system (linux/fs/splice.c,
/// `splice_from_pipe_next`).
fn unless_interrupted(answer: Result<i64, i32>) -> Result<Option<i64>, i32> {
    match answer {
        Err(libc::EINTR) => Ok(None),
        answer => answer.map(Some),
    }
}

/// sendfile(2) into an anonymous file, until all is sent.
fn sent(side: Side, offset: i64, len: usize) -> Outcome {
    let sink = memory_file();
    let mut room = [0; ROOM];
    room[..8].copy_from_slice(&offset.to_ne_bytes());
    let mut left = len.cast_signed() as i64;
    loop {
        let fds = [Number(sink.as_raw_fd().into()), Number(side.fd.into())];
        let [to, from] = fds;
        let sent = call(libc::SYS_sendfile, [to, from, Room(&mut room), Number(left)]);
        let Some(n) = unless_interrupted(sent)? else { continue };
        left -= n;
        if n == 0 || left == 0 {
            return Ok((len.cast_signed() as i64 - left, content(&sink)));
        }
    }
}

/// splice(2) through a pipe, once.
fn spliced(side: Side, offset: i64, len: usize) -> Outcome {
    let (reader, writer) = pipe();
    let mut room = [0; ROOM];
    room[..8].copy_from_slice(&offset.to_ne_bytes());
    let mut all = Vec::new();
    // What one call gives depends on the pages that are there already.
    while all.len() < len {
        let spliced = call(
            libc::SYS_splice,
            [
                Number(side.fd.into()),
                Room(&mut room),
                Number(writer.as_raw_fd().into()),
                Number(0),
                Number((len - all.len()).cast_signed() as i64),
                Number(0),
            ],
        );
        let Some(n) = unless_interrupted(spliced)? else { continue };
        if n == 0 {
            break;
        }
        all.extend(read_by(libc::SYS_read, reader.as_raw_fd(), len)?.1);
    }
    Ok((all.len().cast_signed() as i64, all))
}

/// copy_file_range(2) into a file of another file system.
fn copied(fd: RawFd, offset: i64, len: usize) -> Outcome {
    let sink = memory_file();
    let mut room = [0; ROOM];
    room[..8].copy_from_slice(&offset.to_ne_bytes());
    let mut left = len.cast_signed() as i64;
    loop {
        let copied = call(
            libc::SYS_copy_file_range,
            [
                Number(fd.into()),
                Room(&mut room),
                Number(sink.as_raw_fd().into()),
                Number(0),
                Number(left),
                Number(0),
            ],
        );
        let Some(n) = unless_interrupted(copied)? else { continue };
        left -= n;
        if n == 0 || left == 0 {
            let bytes = content(&sink);
            return Ok((bytes.len().cast_signed() as i64, bytes));
        }
    }
}
