//! One client: a thread that does anything in any order, on the mount and on its twin, and compares.

use std::ffi::CString;
use std::fmt::Debug;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::calls::{Number, Outcome, call, open, path, plain};
use super::ground::{Dice, Ground, STILL};
use crate::support::mounted::Mounted;

/// Open at the same time by one client.
const OPEN_MAX: usize = 24;

/// What all clients of a run came across, so that it can be told that they met what it is about.
#[derive(Default, Debug)]
pub(super) struct Seen {
    pub(super) calls: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) bus_errors: AtomicU64,
    pub(super) listed: AtomicU64,
    pub(super) moved: AtomicU64,
    pub(super) stale: AtomicU64,
    pub(super) killed: AtomicU64,
}

/// Where a call is made: the tree's root, and one of what is open.
#[derive(Clone, Copy)]
pub(super) struct Side {
    pub(super) root: RawFd,
    pub(super) fd: RawFd,
}

/// The same opened on both sides.
pub(super) struct Pair {
    pub(super) ours: OwnedFd,
    pub(super) twin: OwnedFd,
    /// The path, of a file of the tree.
    pub(super) size: u64,
    pub(super) is_directory: bool,
    /// Opened with O_PATH: it is a place, and nothing more.
    pub(super) is_place: bool,
}

pub(super) struct Client<'a> {
    pub(super) ground: &'a Ground,
    pub(super) seen: &'a Seen,
    pub(super) dice: Dice,
    pub(super) mount: &'a Path,
    pub(super) ours: OwnedFd,
    pub(super) twin: OwnedFd,
    pub(super) pairs: Vec<Pair>,
    /// What a failure is found again by.
    pub(super) place: String,
}

impl<'a> Client<'a> {
    pub(super) fn new(
        ground: &'a Ground,
        mounted: &Mounted,
        mount: &'a Path,
        seen: &'a Seen,
        (seed, thread): (u64, u64),
    ) -> Self {
        let root = |directory: &Path| {
            let name = path(directory.as_os_str().as_encoded_bytes());
            open(libc::AT_FDCWD, &name, libc::O_DIRECTORY | libc::O_PATH, 0).expect("a directory")
        };
        Self {
            ground,
            seen,
            dice: Dice::new(seed, thread),
            mount,
            ours: root(&mounted.join(STILL)),
            twin: root(&ground.twin()),
            pairs: Vec::new(),
            place: String::new(),
        }
    }

    pub(super) fn step(&mut self, place: String) {
        self.place = place;
        match self.dice.below(40) {
            0..=5 => self.open(),
            6 => self.close(),
            7..=11 => self.read_at(),
            12 | 13 => self.read_pieces(),
            14 | 15 => self.read_on(),
            16 => self.send(),
            17 | 18 => self.map(),
            19..=21 => self.list(),
            22 | 23 => self.look(),
            24 => self.access(),
            25 => self.attributes(),
            26 => self.advise(),
            27 => self.control(),
            28 => self.lock(),
            29 => self.wait_for(),
            30 => self.handles(),
            31 => self.file_system(),
            32 => self.huge(),
            _ => self.write(),
        }
    }

    /// Makes one call on both sides, which must come to the same.
    pub(super) fn both(
        &mut self,
        what: impl Debug,
        fds: Option<(RawFd, RawFd)>,
        make: impl Fn(Side) -> Outcome,
    ) -> Outcome {
        let (ours, twin) = fds.unwrap_or((-1, -1));
        let given = make(Side { root: self.ours.as_raw_fd(), fd: ours });
        let wanted = make(Side { root: self.twin.as_raw_fd(), fd: twin });
        assert!(given == wanted, "{}: {what:?} {}", self.place, differ(&given, &wanted));
        self.count(&given);
        given
    }

    pub(super) fn count(&self, outcome: &Outcome) {
        self.seen.calls.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok((_, bytes)) => self.seen.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed),
            Err(_) => self.seen.errors.fetch_add(1, Ordering::Relaxed),
        };
    }

    pub(super) fn any_path(&mut self) -> CString {
        self.ground.path(&mut self.dice)
    }

    /// What is open, any of it: descriptors, size, whether it is a directory.
    pub(super) fn any_open(&mut self) -> Option<((RawFd, RawFd), u64, bool)> {
        if self.pairs.is_empty() {
            return None;
        }
        let pair = &self.pairs[self.dice.below(self.pairs.len())];
        Some(((pair.ours.as_raw_fd(), pair.twin.as_raw_fd()), pair.size, pair.is_directory))
    }

    /// As [`Client::any_open`], of files that can be read.
    pub(super) fn any_file(&mut self) -> Option<((RawFd, RawFd), u64)> {
        let files: Vec<_> =
            self.pairs.iter().filter(|pair| !pair.is_directory && !pair.is_place).collect();
        let pair = files.get(self.dice.below(files.len().max(1)))?;
        Some(((pair.ours.as_raw_fd(), pair.twin.as_raw_fd()), pair.size))
    }

    fn open(&mut self) {
        use libc::{
            O_APPEND, O_CREAT, O_DIRECT, O_DIRECTORY, O_EXCL, O_NOATIME, O_NOFOLLOW, O_NONBLOCK,
            O_PATH, O_RDONLY, O_RDWR, O_SYNC, O_TMPFILE, O_TRUNC, O_WRONLY,
        };
        let odd = [
            O_APPEND,
            O_CREAT,
            O_DIRECT,
            O_DIRECTORY,
            O_EXCL,
            O_NOATIME,
            O_NOFOLLOW,
            O_NONBLOCK,
            O_PATH,
            O_SYNC,
            O_TMPFILE,
            O_TRUNC,
        ];
        let (name, flags) = match self.dice.below(6) {
            // So that there is something to read.
            0..=2 => {
                let name = path(self.ground.file(&mut self.dice).0);
                (name, self.dice.pick(&[O_RDONLY, O_RDONLY, O_DIRECT, O_NOATIME, O_NONBLOCK]))
            }
            3 => (self.any_path(), O_RDONLY),
            _ => {
                let access = self.dice.pick(&[O_RDONLY, O_RDONLY, O_WRONLY, O_RDWR, 3]);
                (self.any_path(), access | self.dice.some(&odd, 6))
            }
        };
        let resolve = self.dice.pick(&[0, 0, 0x01, 0x02, 0x04, 0x08, 0x10, 0x18, 0x40]);
        let is_second = self.dice.one_in(8);
        let make = |root: RawFd| {
            if is_second {
                open_second(root, &name, flags, resolve)
            } else {
                open(root, &name, flags, 0o640)
            }
        };
        let what = (&name, format!("{flags:o}"), is_second.then_some(resolve));
        let (ours, twin) = (make(self.ours.as_raw_fd()), make(self.twin.as_raw_fd()));
        let errnos = (ours.as_ref().err(), twin.as_ref().err());
        assert!(errnos.0 == errnos.1, "{}: open {what:?} gave {errnos:?}", self.place);
        self.count(&plain(ours.as_ref().map(|_| 0).map_err(|errno| *errno)));
        let (Ok(ours), Ok(twin)) = (ours, twin) else { return };
        let twin = File::from(twin);
        let status = twin.metadata().expect("it is open");
        if self.pairs.len() == OPEN_MAX {
            let at = self.dice.below(OPEN_MAX);
            self.pairs.swap_remove(at);
        }
        self.pairs.push(Pair {
            ours,
            twin: twin.into(),
            size: status.len(),
            is_directory: status.is_dir(),
            is_place: flags & O_PATH != 0,
        });
    }

    fn close(&mut self) {
        if !self.pairs.is_empty() {
            let at = self.dice.below(self.pairs.len());
            self.pairs.swap_remove(at);
        }
    }
}

/// openat2(2).
fn open_second(root: RawFd, name: &CString, flags: i32, resolve: u64) -> Result<OwnedFd, i32> {
    use std::os::fd::FromRawFd;

    use super::calls::{Buffer, Path};
    let makes = flags & (libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY) != 0;
    let words =
        [u64::from((flags | libc::O_CLOEXEC).cast_unsigned()), u64::from(makes) * 0o640, resolve];
    let mut how: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let arguments = [Number(root.into()), Path(name), Buffer(&mut how)];
    let fd = call(libc::SYS_openat2, arguments)?;
    // SAFETY: new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor")) })
}

/// In which way one outcome is not the other.
fn differ(given: &Outcome, wanted: &Outcome) -> String {
    let said = |outcome: &Outcome| match outcome {
        Ok((number, bytes)) => format!("{number} and {} bytes", bytes.len()),
        Err(errno) => std::io::Error::from_raw_os_error(*errno).to_string(),
    };
    let mut text = format!("gave {}, and should {}", said(given), said(wanted));
    if let (Ok((_, given)), Ok((_, wanted))) = (given, wanted) {
        let first = given.iter().zip(wanted).position(|(given, wanted)| given != wanted);
        text.push_str(&format!("; the first other byte is {first:?}"));
    }
    text
}
