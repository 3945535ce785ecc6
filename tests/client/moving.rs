//! What changes in the bucket while it is read: a file is one version of its object, whichever that was at
//! some moment of the call, or ESTALE; a name is old for its time to live and not longer.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::calls::{Ended, Map, mapped, open, path, pread, summed};
use super::ground::{BUCKET, Dice, Ground};
use super::steps::Seen;
use crate::support::directory::getdents_all;
use crate::support::mounted::sleep;
use crate::support::simulator::content::content;

/// Of names, present and absent.
pub(super) const TTL: &str = "500ms";
const TTL_TIME: Duration = Duration::from_millis(500);

/// The kernel's clock counts from when it took the answer, on a machine that does other things, too.
const SLACK: Duration = Duration::from_secs(2);

/// Of this one everything is asked.
const DIRECTORY: &str = "moving";
/// Of this one only whether a name is there: opens and listings would tell more, and hide what is old.
const LOOKED_AT: &str = "looked-at";

/// In each of the two.
const N_KEYS: usize = 8;

/// One of the keys: those that are only looked at come last.
fn key(number: usize) -> String {
    let directory = if number < N_KEYS { DIRECTORY } else { LOOKED_AT };
    format!("{directory}/{number:02}")
}

/// How many stay open over several steps.
const OPEN_MAX: usize = 6;

type Bytes = Arc<Vec<u8>>;

struct Change {
    begin: Instant,
    end: Instant,
    /// `None`: deleted.
    state: Option<Bytes>,
}

/// All that the keys ever were.
pub(super) struct History(Vec<Mutex<Vec<Change>>>);

impl History {
    pub(super) fn new(ground: &Ground, seed: u64) -> Self {
        let history = Self((0..2 * N_KEYS).map(|_| Mutex::default()).collect());
        let mut dice = Dice::new(seed, 1000);
        (0..2 * N_KEYS).for_each(|number| history.change(ground, &mut dice, number));
        // So that the directories are there all the time.
        for directory in [DIRECTORY, LOOKED_AT] {
            ground.simulator.put(BUCKET, &format!("{directory}/always"), "x");
        }
        history
    }

    fn change(&self, ground: &Ground, dice: &mut Dice, number: usize) {
        let key = key(number);
        let mut changes = self.0[number].lock().expect("no panic");
        let size = match changes.last().and_then(|change| change.state.as_ref()) {
            // So that the size does not tell it.
            Some(bytes) if dice.one_in(2) => bytes.len() as u64,
            _ => {
                let most = dice.pick(&[3 << 20, 9000, 9000]);
                1 + dice.below(most) as u64
            }
        };
        let is_deleted = dice.one_in(4) && !changes.is_empty();
        let bytes = content(&format!("{key} {}", changes.len()), size, 0..size);
        let begin = Instant::now();
        let state = (!is_deleted).then(|| {
            ground.simulator.put(BUCKET, &key, bytes.clone());
            Arc::new(bytes)
        });
        if state.is_none() {
            ground.simulator.delete(BUCKET, &key);
        }
        changes.push(Change { begin, end: Instant::now(), state });
    }

    /// Changes one after the other until the end.
    pub(super) fn go_on(&self, ground: &Ground, seed: u64, done: &AtomicBool) {
        let mut dice = Dice::new(seed, 1001);
        while !done.load(Ordering::Relaxed) {
            let number = dice.below(2 * N_KEYS);
            self.change(ground, &mut dice, number);
            sleep(Duration::from_millis(dice.below(40) as u64));
        }
    }

    /// What key `number` was at some moment between the two.
    fn between(&self, number: usize, from: Instant, to: Instant) -> Vec<Option<Bytes>> {
        let changes = self.0[number].lock().expect("no panic");
        let ends = changes[1..].iter().map(|change| Some(change.end)).chain([None]);
        let lived = changes.iter().zip(ends);
        let was =
            lived.filter(|(change, end)| change.begin <= to && end.is_none_or(|end| end >= from));
        was.map(|(change, _)| change.state.clone()).collect()
    }
}

impl History {
    /// Which version of key `number` is so, and when it was current, for who looks for a defect.
    fn told(&self, number: usize, since: Instant, is_so: impl Fn(&Bytes) -> bool) -> String {
        let changes = self.0[number].lock().expect("no panic");
        let after = |time: Instant| match time.checked_duration_since(since) {
            Some(after) => format!("{after:?} after"),
            None => format!("{:?} before", since - time),
        };
        let lines = changes.iter().rev().take(8).rev().map(|change| {
            let is_it = change.state.as_ref().is_some_and(&is_so);
            let size = change.state.as_ref().map(|bytes| bytes.len());
            let mark = if is_it { ", this one" } else { "" };
            format!("{size:?} from {} to {}{mark}", after(change.begin), after(change.end))
        });
        lines.collect::<Vec<_>>().join("; ")
    }
}

struct Moving {
    fd: OwnedFd,
    number: usize,
    opened: Instant,
    /// What it can be, by what was seen of it.
    candidates: Vec<Bytes>,
}

/// One thread that looks at what changes.
pub(super) struct Watcher<'a> {
    history: &'a History,
    seen: &'a Seen,
    dice: Dice,
    mount: PathBuf,
    open: Vec<Moving>,
    place: String,
}

impl<'a> Watcher<'a> {
    pub(super) fn new(
        history: &'a History,
        mount: &std::path::Path,
        seen: &'a Seen,
        (seed, thread): (u64, u64),
    ) -> Self {
        let dice = Dice::new(seed, 2000 + thread);
        let mount = mount.to_owned();
        Self { history, seen, dice, mount, open: Vec::new(), place: String::new() }
    }

    pub(super) fn step(&mut self, place: String) {
        self.place = place;
        self.seen.moved.fetch_add(1, Ordering::Relaxed);
        match self.dice.below(9) {
            0..=2 => self.look(),
            3 | 4 => self.open(),
            5 | 6 => self.read(),
            7 => self.map(),
            _ => self.list(),
        }
    }

    /// A name may be as old as its time to live.
    fn look(&mut self) {
        let number = self.dice.below(2 * N_KEYS);
        let name = self.mount.join(key(number));
        let begin = Instant::now();
        let answer = std::fs::metadata(&name).map(|found| found.len());
        let was = self.history.between(number, begin - TTL_TIME - SLACK, Instant::now());
        let place = format!("{}: stat of {number:02} gave {answer:?}", self.place);
        match answer.map_err(|err| err.raw_os_error()) {
            Ok(size) => {
                let sizes = was.iter().flatten().map(|bytes| bytes.len() as u64);
                let sizes: Vec<_> = sizes.collect();
                assert!(sizes.contains(&size), "{place}, and was {sizes:?}");
            }
            Err(Some(libc::ENOENT)) => assert!(was.contains(&None), "{place}, and was there"),
            Err(Some(libc::ESTALE)) => self.stale(was.len() > 1, &place),
            Err(_) => panic!("{place}"),
        }
    }

    /// An open asks the bucket.
    fn open(&mut self) {
        let number = self.dice.below(N_KEYS);
        let name = self.mount.join(key(number));
        let shown = path(name.as_os_str().as_encoded_bytes());
        let direct = self.dice.pick(&[0, 0, libc::O_DIRECT]);
        let opened = Instant::now();
        let answer = open(libc::AT_FDCWD, &shown, direct, 0);
        let now = Instant::now();
        let place = format!("{}: open of {number:02} gave {answer:?}", self.place);
        match answer {
            Ok(fd) => {
                let file = File::from(fd);
                let size = file.metadata().expect("it is open").len();
                let mut candidates: Vec<_> =
                    self.history.between(number, opened, now).into_iter().flatten().collect();
                candidates.retain(|bytes| bytes.len() as u64 == size);
                assert!(!candidates.is_empty(), "{place} of {size} bytes, which it was not then");
                if self.open.len() == OPEN_MAX {
                    let at = self.dice.below(OPEN_MAX);
                    self.open.swap_remove(at);
                }
                self.open.push(Moving { fd: file.into(), number, opened, candidates });
            }
            // Absence may be as old as any name.
            Err(libc::ENOENT) => {
                let was = self.history.between(number, opened - TTL_TIME - SLACK, now);
                assert!(was.contains(&None), "{place}, and was there");
            }
            Err(libc::ESTALE) => {
                let was = self.history.between(number, opened - TTL_TIME - SLACK, now);
                self.stale(was.len() > 1, &place);
            }
            Err(_) => panic!("{place}"),
        }
    }

    fn read(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let at = self.dice.below(self.open.len());
        let size = self.open[at].candidates[0].len();
        let (offset, len) = (self.dice.below(size + 1), self.dice.len());
        let file = &self.open[at];
        let given = pread(file.fd.as_raw_fd(), len, offset.cast_signed() as i64);
        let (number, opened) = (file.number, file.opened);
        let place = format!("{}: {len} at {offset} of {number:02}", self.place);
        match given {
            Ok((_, bytes)) => {
                self.seen.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                let wanted = (offset + len).min(size) - offset;
                let end = offset + bytes.len();
                let is_so = |whole: &Bytes| {
                    whole.len() == size && whole.get(offset..end) == Some(&bytes[..])
                };
                self.open[at].candidates.retain(is_so);
                let told = || self.history.told(number, opened, is_so);
                let is_one = !self.open[at].candidates.is_empty();
                assert!(is_one, "{place}: {} bytes of no version: {}", bytes.len(), told());
                if bytes.len() < wanted {
                    // The rest would have been ESTALE, and will be; but no bytes at all is the end.
                    assert!(!bytes.is_empty(), "{place}: the end of the file, before its end");
                    let was = self.history.between(number, opened, Instant::now());
                    self.stale(was.len() > 1, &place);
                }
            }
            Err(libc::ESTALE) => {
                let is_changed = self.history.between(number, opened, Instant::now()).len() > 1;
                self.stale(is_changed, &place);
            }
            Err(errno) => panic!("{place}: {}", std::io::Error::from_raw_os_error(errno)),
        }
    }

    /// What cannot be had any more is a signal here, and never another version.
    fn map(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let at = self.dice.below(self.open.len());
        let file = &self.open[at];
        let size = file.candidates[0].len();
        let start = self.dice.below(size);
        let touched = start..size.min(start + 20_000);
        let map = Map {
            len: size,
            offset: 0,
            protection: libc::PROT_READ,
            flags: libc::MAP_PRIVATE,
            touched: touched.clone(),
        };
        let (ended, sum) = mapped(file.fd.as_raw_fd(), &map);
        let place = format!("{}: mapping of {:02}: {ended:?}", self.place, file.number);
        match ended {
            Ended::Exit(0) => {
                let of = |whole: &Bytes| {
                    whole[touched.clone()].iter().fold(0, |sum, byte| summed(sum, *byte)) == sum
                };
                self.open[at].candidates.retain(of);
                assert!(!self.open[at].candidates.is_empty(), "{place}: of no version");
            }
            Ended::Signal(libc::SIGBUS) => {
                let was = self.history.between(file.number, file.opened, Instant::now());
                self.stale(was.len() > 1, &place);
            }
            _ => panic!("{place}"),
        }
    }

    fn list(&mut self) {
        let begin = Instant::now();
        let answer = File::open(self.mount.join(DIRECTORY))
            .and_then(|directory| getdents_all(&directory, self.dice.pick(&[700, 4096, 32 << 10])));
        let entries = answer.unwrap_or_else(|err| panic!("{}: listing: {err}", self.place));
        let now = Instant::now();
        let names: BTreeSet<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names.len(), entries.len(), "{}: it names one twice", self.place);
        for number in 0..N_KEYS {
            let was = self.history.between(number, begin - TTL_TIME - SLACK, now);
            let is_there = names.contains(format!("{number:02}").as_str());
            let was_so = was.iter().any(|state| state.is_some() == is_there);
            assert!(was_so, "{}: {number:02} is listed: {is_there}", self.place);
        }
        assert!(names.contains("always"), "{}", self.place);
        self.seen.listed.fetch_add(entries.len() as u64, Ordering::Relaxed);
    }

    fn stale(&self, is_changed: bool, place: &str) {
        assert!(is_changed, "{place}: it has not changed");
        self.seen.stale.fetch_add(1, Ordering::Relaxed);
    }
}
