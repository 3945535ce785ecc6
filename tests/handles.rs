//! An open directory: what it shows from one read to the next, and after the program has moved in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::directory::{
    Dirent, Stream, drop_pages, getdents, getdents_all, lseek, openat, room_for,
};
use crate::support::mounted::{Mounted, sleep};
use crate::support::simulator::call::Kind;
use crate::support::simulator::policy::Action;
use crate::support::simulator::shaping::Share;
use crate::support::simulator::{Simulator, World};

/// Each open and each rewind shows the bucket as it is.
const CURRENT: [&str; 4] = ["--metadata-ttl", "0", "--negative-ttl", "0"];

/// As [`CURRENT`], but what was asked for is kept.
const KEPT: [&str; 2] = ["--metadata-ttl", "60s"];

/// What was asked for is kept, but not for long.
const SHORT: [&str; 4] = ["--metadata-ttl", "500ms", "--negative-ttl", "0"];

/// [`SHORT`] is over after this; the kernel counts in ticks and rounds up.
const SHORT_TIME: Duration = Duration::from_millis(600);

fn simulator() -> Simulator {
    Simulator::builder().bucket("myfiles").start()
}

fn put(simulator: &Simulator, names: impl IntoIterator<Item = String>) {
    for name in names {
        simulator.put("myfiles", &format!("d/{name}"), "x");
    }
}

fn numbers(n_names: usize) -> impl Iterator<Item = String> {
    (0..n_names).map(|number| format!("{number:05}"))
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|err| err.raw_os_error())
}

/// Their names without `.` and `..`.
fn names(entries: impl IntoIterator<Item = Dirent>) -> Vec<String> {
    let names = entries.into_iter().map(|entry| entry.name);
    names.filter(|name| !matches!(name.as_str(), "." | "..")).collect()
}

fn all_names(path: &Path) -> Vec<String> {
    names(getdents_all(&File::open(path).expect("a directory"), 32 << 10).expect("its entries"))
}

/// The same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = xxhash_rust::xxh3::xxh3_64(&self.0.to_le_bytes());
        usize::try_from(self.0 % end as u64).expect("below end")
    }
}

/// A program that goes back or ahead in a directory it has open (seekdir(3)) finds the same entries at
/// the same places, whatever has happened in the bucket; after rewinddir(3) it finds what is there then.
#[test]
fn places_in_an_open_directory_stay_what_they_are() {
    let simulator = simulator();
    simulator.shape(|shape| shape.latency_list = Duration::from_millis(20));
    put(&simulator, numbers(20_000));
    let mounted = Mounted::new(&simulator, "myfiles", &CURRENT);
    let mut stream = Stream::open(&mounted.join("d")).unwrap();
    let mut places = Vec::new();
    loop {
        let place = stream.tell();
        let name = stream.read().unwrap();
        let ends = name.is_none();
        places.push((place, name));
        if ends {
            break;
        }
    }
    let unique: BTreeSet<_> = places.iter().map(|(place, _)| place).collect();
    assert_eq!((places.len(), unique.len()), (20_003, 20_003));
    for number in (0..20_000).step_by(3) {
        simulator.delete("myfiles", &format!("d/{number:05}"));
        simulator.put("myfiles", &format!("d/{number:05}-new"), "x");
    }
    let mut dice = Dice(1);
    let ends = [places.len() - 1, 0, places.len() - 2];
    for at in ends.into_iter().chain((0..300).map(|_| dice.below(20_003))) {
        // The beginning is a new moment, as a seek to it is what rewinddir(3) does.
        if at == 0 {
            continue;
        }
        stream.seek(places[at].0);
        for (place, name) in places[at..].iter().take(1 + at % 3) {
            assert_eq!(stream.tell(), *place);
            assert_eq!(stream.read().unwrap(), *name, "entry {at}");
        }
    }
    stream.rewind();
    let after = stream.rest().unwrap();
    let expected = numbers(20_000).enumerate().map(|(number, name)| match number % 3 {
        0 => format!("{name}-new"),
        _ => name,
    });
    let expected: Vec<_> = [".".to_owned(), "..".to_owned()].into_iter().chain(expected).collect();
    assert!(after == expected, "{} entries", after.len());
    assert_eq!(stream.read().unwrap(), None, "the end stays the end");
}

/// getdents64(2) gives each entry once whatever room a program has for it, also names of 255 bytes in
/// any language; where the room is less than one entry needs it is EINVAL, and nothing is passed over.
#[test]
fn any_room_for_entries_is_enough_or_an_error() {
    let simulator = simulator();
    let long = |number: usize| format!("{number:03}{}", "n".repeat(252));
    let greek = |number: usize| format!("{number:03}{}", "\u{3bb}".repeat(126));
    let short = (0..2_300).map(|number| format!("{number:04}"));
    put(&simulator, short.chain((0..60).map(|number| long(number * 16))));
    put(&simulator, (0..60).map(|number| greek(number * 16 + 5)));
    simulator.put("myfiles", &format!("d/{}/inside", "d".repeat(255)), "x");
    let mounted = Mounted::new(&simulator, "myfiles", &KEPT);
    let open = || File::open(mounted.join("d")).unwrap();
    let expected = getdents_all(&open(), 1 << 20).unwrap();
    assert_eq!(names(expected.clone()).len(), 2_300 + 60 + 60 + 1);
    assert_eq!(expected.iter().filter(|entry| entry.name.len() == 255).count(), 121);
    for room in [280, 4096, 32 << 10, 128 << 10] {
        assert!(getdents_all(&open(), room).unwrap() == expected, "{room} bytes");
    }
    // Room for exactly one entry, and for no entry before that.
    let directory = open();
    for entry in &expected {
        let room = room_for(&entry.name);
        assert_eq!(errno(getdents(&directory, room - 8)), Some(libc::EINVAL), "{}", entry.name);
        assert_eq!(getdents(&directory, room).unwrap(), std::slice::from_ref(entry));
    }
    assert_eq!(getdents(&directory, 24).unwrap(), []);
}

/// Programs that share one open directory, as after dup(2) or fork(2), share their place in it: each
/// entry comes to one of them.
#[test]
fn readers_of_one_handle_share_its_place() {
    let simulator = simulator();
    put(&simulator, numbers(6_000));
    let mounted = Mounted::new(&simulator, "myfiles", &CURRENT);
    let directory = File::open(mounted.join("d")).unwrap();
    let shared: Vec<_> = std::thread::scope(|scope| {
        let reader = |room| {
            let same = directory.try_clone().unwrap();
            scope.spawn(move || getdents_all(&same, room).unwrap())
        };
        let readers = [reader(280), reader(4096)];
        readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect()
    });
    let shared = names(shared);
    assert_eq!(shared.len(), 6_000, "none to both");
    assert_eq!(BTreeSet::from_iter(shared), numbers(6_000).collect::<BTreeSet<_>>());

    let directory = File::open(mounted.join("d")).unwrap();
    let mut listed = names(getdents(&directory, 4096).unwrap());
    let n_before = listed.len();
    // os.listdir(FD) reads on from where it is, and rewinds at its end. Python's own standard input may
    // not be a directory.
    let script = "import os; print('\\n'.join(os.listdir(3)))";
    let child = Command::new("sh")
        .args(["-c", "exec python3 -c \"$0\" 3<&0 </dev/null", script])
        .stdin(Stdio::from(directory.try_clone().unwrap()))
        .output()
        .unwrap();
    listed.extend(String::from_utf8(child.stdout).unwrap().lines().map(str::to_owned));
    assert!(n_before > 10 && listed == numbers(6_000).collect::<Vec<_>>());
    assert_eq!(names(getdents_all(&directory, 4096).unwrap()).len(), 6_000, "from the beginning");
}

/// Two handles of one directory that were opened at different times show each what was there then,
/// however their reads alternate.
#[test]
fn handles_of_different_age_do_not_mix() {
    for options in [&CURRENT[..], &SHORT] {
        // Either both go on in turn, or the newer one goes ahead to the end.
        for n_ahead in [1, usize::MAX] {
            handles_of_different_age(options, n_ahead);
        }
    }
}

fn handles_of_different_age(options: &[&str], n_ahead: usize) {
    let simulator = simulator();
    put(&simulator, numbers(3_000));
    let mounted = Mounted::new(&simulator, "myfiles", options);
    let read = |directory: &File, shown: &mut Vec<String>| {
        let some = names(getdents(directory, 4096).expect("entries"));
        shown.extend(some.iter().cloned());
        !some.is_empty()
    };
    let older = File::open(mounted.join("d")).expect("a directory");
    let (mut before, mut again) = (Vec::new(), Vec::new());
    while read(&older, &mut before) {}
    for number in 0..3_000 {
        let key = format!("d/{number:05}");
        if number % 2 == 0 {
            simulator.delete("myfiles", &key);
        }
        simulator.put("myfiles", &format!("{key}-new"), "x");
    }
    sleep(SHORT_TIME);
    let newer = File::open(mounted.join("d")).expect("a directory");
    let mut after = Vec::new();
    // Behind `.` and `..`: the beginning would be a new moment.
    lseek(&older, 2).expect("a place");
    loop {
        let ahead = (0..n_ahead).take_while(|_| read(&newer, &mut after)).count();
        let more = [read(&older, &mut again), ahead > 0];
        if more == [false, false] {
            break;
        }
    }
    assert!(before == numbers(3_000).collect::<Vec<_>>());
    assert!(again == before, "{} entries", again.len());
    let is_there = |name: &String| name.len() > 5 || name.as_bytes()[4] % 2 == 1;
    let new = numbers(3_000).flat_map(|name| [format!("{name}-new"), name]).filter(is_there);
    assert_eq!(after.len(), 4_500);
    assert_eq!(BTreeSet::from_iter(after), new.collect::<BTreeSet<_>>());
}

/// A directory that is read again within its time is read from the kernel's memory, by a new handle or
/// after rewinddir(3): s3mount is asked to open it, and nothing else.
#[test]
fn a_directory_within_its_time_is_in_the_kernel() {
    let simulator = simulator();
    put(&simulator, numbers(3_000));
    let mounted = Mounted::new(&simulator, "myfiles", &KEPT);
    // The first one may be told less of the times: the listing is not complete when it begins.
    assert_eq!(all_names(&mounted.join("d")).len(), 3_000);
    assert_eq!(all_names(&mounted.join("d")).len(), 3_000);
    let directory = File::open(mounted.join("d")).unwrap();
    for rewound in [false, true] {
        // Whoever asks s3mount now waits.
        mounted.signal(libc::SIGSTOP);
        let same = directory.try_clone().unwrap();
        let (sender, listed) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            lseek(&same, 0).unwrap();
            let _ = sender.send(names(getdents_all(&same, 4096).unwrap()));
        });
        let listed = listed.recv_timeout(Duration::from_secs(5));
        mounted.signal(libc::SIGCONT);
        reader.join().unwrap();
        assert!(listed.is_ok_and(|it| it == numbers(3_000).collect::<Vec<_>>()), "{rewound}");
    }
}

/// What is read from the kernel's memory is not older than what is read without it: after its time a new
/// name shows, also to a program that has kept the directory open and rewinds it.
#[test]
fn a_directory_in_the_kernel_has_its_time_too() {
    let simulator = simulator();
    put(&simulator, numbers(400));
    let mounted = Mounted::new(&simulator, "myfiles", &SHORT);
    let held = File::open(mounted.join("d")).unwrap();
    let partly = File::open(mounted.join("d")).unwrap();
    assert_eq!(names(getdents_all(&held, 4096).unwrap()).len(), 400);
    let mut n_there = 400;
    for round in 0..4 {
        // The kernel has all of it, or a part.
        names(getdents(&partly, 4096).unwrap());
        simulator.put("myfiles", &format!("d/new{round}"), "x");
        n_there += 1;
        sleep(SHORT_TIME);
        for directory in [&held, &partly] {
            lseek(directory, 0).unwrap();
        }
        assert_eq!(names(getdents_all(&held, 280).unwrap()).len(), n_there, "rewound");
        assert_eq!(all_names(&mounted.join("d")).len(), n_there, "opened anew");
    }
}

/// A program that rewinds a directory before its end, and again, gets each entry once each time, while
/// the bucket changes and the kernel gives up what it keeps.
#[test]
fn a_directory_that_is_rewound_half_way_does_not_mix() {
    let simulator = simulator();
    let mut dice = Dice(3);
    let mut there: BTreeSet<_> = numbers(1_500).collect();
    put(&simulator, there.iter().cloned());
    let mounted = Mounted::new(&simulator, "myfiles", &SHORT);
    let directory = File::open(mounted.join("d")).unwrap();
    for round in 0..8 {
        let (n_steps, room) = (dice.below(20), [512, 4096, 8192][dice.below(3)]);
        for _ in 0..n_steps {
            getdents(&directory, room).unwrap();
        }
        if round % 3 == 2 {
            drop_pages(&directory);
        }
        for _ in 0..100 {
            let name = format!("{:05}{}", dice.below(1_500), ["", "-new"][dice.below(2)]);
            if there.remove(&name) {
                simulator.delete("myfiles", &format!("d/{name}"));
            } else {
                put(&simulator, [name.clone()]);
                there.insert(name);
            }
        }
        sleep(SHORT_TIME);
        // The second time it may come from the kernel.
        for again in [false, true] {
            lseek(&directory, 0).unwrap();
            let mut listed = names(getdents(&directory, room).unwrap());
            if round % 3 == 1 {
                drop_pages(&directory);
            }
            listed.extend(names(getdents_all(&directory, room).unwrap()));
            assert!(listed.is_sorted_by_key(|name| format!("{name}/")), "round {round}, {again}");
            assert!(listed.len() == there.len(), "round {round}, {again}: {}", listed.len());
            assert!(listed.iter().all(|name| there.contains(name)), "round {round}, {again}");
        }
        lseek(&directory, 0).unwrap();
    }
}

/// Any offset to which a program moves an open directory is a place in it or its end.
#[test]
fn an_odd_offset_is_a_place_or_the_end() {
    let simulator = simulator();
    put(&simulator, numbers(1_500));
    let mounted = Mounted::new(&simulator, "myfiles", &KEPT);
    let directory = File::open(mounted.join("d")).unwrap();
    let expected = getdents_all(&directory, 4096).unwrap();
    assert_eq!(errno(lseek(&directory, -1)), Some(libc::EINVAL));
    assert_eq!(errno(lseek(&directory, i64::MIN)), Some(libc::EINVAL));
    let far = [1_502, 1_503, 99_999, i64::from(i32::MAX), 1 << 40, i64::MAX - 3, i64::MAX];
    for offset in [1, 2, 3, 999, 1_001, 1_500, 1_501].into_iter().chain(far) {
        assert_eq!(lseek(&directory, offset).unwrap(), offset);
        let rest = getdents_all(&directory, 4096).unwrap();
        let index = usize::try_from(offset).unwrap().min(expected.len());
        assert!(rest == expected[index..], "{offset}: {} entries", rest.len());
    }
    lseek(&directory, 0).unwrap();
    assert!(getdents_all(&directory, 4096).unwrap() == expected);
}

/// A directory that is held with O_PATH, or as working directory, is a place from which names are
/// opened and listed.
#[test]
fn a_directory_is_a_place_to_open_from() {
    let simulator = simulator();
    put(&simulator, ["f".to_owned(), "e/g".to_owned()]);
    let mounted = Mounted::new(&simulator, "myfiles", &CURRENT);
    let held = openat(&File::open("/").unwrap(), mounted.join("d").to_str().unwrap(), libc::O_PATH);
    let held = held.unwrap();
    assert_eq!(errno(getdents(&held, 4096)), Some(libc::EBADF));
    for (path, expected) in
        [(".", &["e", "f"][..]), ("e", &["g"]), ("e/..", &["e", "f"]), ("..", &["d"])]
    {
        let directory = openat(&held, path, libc::O_DIRECTORY).unwrap();
        assert_eq!(names(getdents_all(&directory, 4096).unwrap()), expected, "{path}");
    }
    assert_eq!(std::io::read_to_string(openat(&held, "e/../f", 0).unwrap()).unwrap(), "x");
    assert_eq!(errno(openat(&held, "missing", 0)), Some(libc::ENOENT));
    let script = "cd d && cat f && cd e && ls && cd .. && ls && cd .. && ls";
    let output = Command::new("sh").args(["-c", script]).current_dir(mounted.path()).output();
    assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), "xg\ne\nf\nd\n");
}

/// A directory that vanishes from the bucket while it is read is read to its end without an error, and
/// is ENOENT when it is rewound or opened again.
#[test]
fn a_directory_that_vanishes_is_read_to_its_end() {
    let simulator = simulator();
    simulator.set_page_entries("myfiles", 100);
    put(&simulator, numbers(1_000));
    let mounted = Mounted::new(&simulator, "myfiles", &CURRENT);
    let directory = File::open(mounted.join("d")).unwrap();
    let mut listed = names(getdents(&directory, 2048).unwrap());
    for name in numbers(1_000) {
        simulator.delete("myfiles", &format!("d/{name}"));
    }
    listed.extend(names(getdents_all(&directory, 2048).unwrap()));
    assert!((100..1_000).contains(&listed.len()), "{}: what was asked for before", listed.len());
    // Pages are asked for side by side, so what had been asked for need not be without gaps.
    assert!(listed.is_sorted_by(|a, b| a < b));
    let all: BTreeSet<String> = numbers(1_000).collect();
    assert!(listed.iter().all(|name| all.contains(name)));
    lseek(&directory, 0).unwrap();
    assert_eq!(errno(getdents(&directory, 2048)), Some(libc::ENOENT));
    assert_eq!(errno(File::open(mounted.join("d"))), Some(libc::ENOENT));
    put(&simulator, numbers(10));
    assert_eq!(all_names(&mounted.join("d")).len(), 10);
}

/// Where a part of a directory cannot be had, reading it is an error behind the entries before, never
/// the end; the next read of the same handle goes on from there, and no entry is lost or doubled.
#[test]
fn a_listing_that_fails_half_way_goes_on_from_there() {
    let throttle: fn(&World) = |world| world.shape(|shape| shape.errors = Share::All);
    let deny: fn(&World) = |world| world.deny("myfiles", Action::ListBucket, "");
    for (fail, expected) in [(throttle, libc::EIO), (deny, libc::EACCES)] {
        let simulator = simulator();
        simulator.set_page_entries("myfiles", 100);
        put(&simulator, numbers(4_000));
        let mounted = Mounted::new(&simulator, "myfiles", &[]);
        simulator.before_nth(Kind::List, "d/", 8, fail);
        let directory = File::open(mounted.join("d")).unwrap();
        let mut listed = Vec::new();
        let error = loop {
            match getdents(&directory, 4096) {
                Ok(some) => {
                    assert!(!some.is_empty(), "{expected}: shown as the end");
                    listed.extend(names(some));
                }
                Err(err) => break err.raw_os_error(),
            }
        };
        assert_eq!(error, Some(expected));
        assert!((100..4_000).contains(&listed.len()), "{}", listed.len());
        simulator.shape(|shape| shape.errors = Share::None);
        simulator.allow_all("myfiles");
        listed.extend(names(getdents_all(&directory, 4096).unwrap()));
        assert!(listed == numbers(4_000).collect::<Vec<_>>(), "{} entries", listed.len());
    }
}

/// Objects that come and go between any two pages of a listing, however long the pages are, make no
/// other name double or vanish.
#[test]
fn writes_between_pages_touch_no_other_name() {
    // Names that stay, entries on a page, and requests at the least.
    for (n_stays, page_entries, n_pages) in [(1_500, 1_000, 1), (6_000, 1_000, 6), (1_200, 40, 30)]
    {
        let simulator = simulator();
        simulator.set_page_entries("myfiles", page_entries);
        simulator.shape(|shape| shape.latency_list = Duration::from_millis(2));
        put(&simulator, numbers(n_stays));
        let mounted = Mounted::new(&simulator, "myfiles", &CURRENT);
        for round in 0..50 {
            let mut dice = Dice(round);
            // Before, behind and at the end of a name that stays, some with directories of that name.
            let tails = ["-", ".x", "/x", "~", "0"];
            let mut flips = BTreeSet::new();
            while flips.len() < 1_000 {
                let (number, tail) = (dice.below(n_stays), tails[dice.below(tails.len())]);
                flips.insert(format!("d/{number:05}{}{tail}", dice.below(100)));
            }
            let flips: Vec<_> = flips.into_iter().collect();
            let mut order: Vec<_> = (0..1_000).map(|at| (dice.below(1 << 30), at)).collect();
            order.sort_unstable();
            let order: Vec<_> = order.into_iter().map(|(_, at)| flips[at].clone()).collect();
            // One half goes, the other comes, in `n_pages` portions.
            order[..500].iter().for_each(|key| drop(simulator.put("myfiles", key, "x")));
            for (nth, keys) in (1..).zip(order.chunks(1_000_usize.div_ceil(n_pages))) {
                let keys = keys.to_vec();
                simulator.before_nth(Kind::List, "d/", nth, move |world| {
                    for key in keys {
                        if !world.delete("myfiles", &key) {
                            world.put("myfiles", &key, "x");
                        }
                    }
                });
            }
            let room = [280, 4096, 32 << 10, 1 << 20][dice.below(4)];
            let directory = File::open(mounted.join("d")).unwrap();
            let listed = names(getdents_all(&directory, room).unwrap());
            let unique: BTreeSet<_> = listed.iter().cloned().collect();
            assert_eq!(unique.len(), listed.len(), "round {round}: no name twice");
            let missing: Vec<_> = numbers(n_stays).filter(|name| !unique.contains(name)).collect();
            assert!(missing.is_empty(), "round {round}: {missing:?}");
            let came = order[500..].iter().filter(|key| simulator.delete("myfiles", key)).count();
            assert_eq!(came, 500, "round {round}: all was written meanwhile");
        }
    }
}

/// The inode numbers that reading a directory tells, also of `.` and `..`, are those of stat(2).
#[test]
fn inode_numbers_of_entries_are_those_of_stat() {
    let simulator = simulator();
    put(&simulator, numbers(1_200));
    put(&simulator, ["e/f/g".to_owned(), "e/h".to_owned()]);
    let mounted = Mounted::new(&simulator, "myfiles", &KEPT);
    let ino = |path: &str| fs::symlink_metadata(mounted.join(path)).unwrap().ino();
    for path in ["d", "d/e", "d/e/f"] {
        let entries = getdents_all(&File::open(mounted.join(path)).unwrap(), 32 << 10).unwrap();
        let told: BTreeMap<_, _> = entries.into_iter().map(|it| (it.name, it.ino)).collect();
        for (name, number) in &told {
            assert_eq!(ino(&format!("{path}/{name}")), *number, "{path}/{name}");
        }
        assert_eq!((told["."], told[".."]), (ino(path), ino(&format!("{path}/.."))));
    }
    for entry in fs::read_dir(mounted.path()).unwrap().map(Result::unwrap) {
        assert_eq!(entry.ino(), entry.metadata().unwrap().ino());
    }
    let number = ino("d/e").to_string();
    let found = Command::new("find").arg(mounted.path()).args(["-inum", &number]).output().unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    assert_eq!(found.trim(), mounted.join("d/e").to_str().unwrap());
    let listed = Command::new("ls").arg("-ai").arg(mounted.join("d/e")).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let listed: Vec<_> = listed.lines().map(str::trim_start).collect();
    let [here, above, f, h] = [ino("d/e"), ino("d"), ino("d/e/f"), ino("d/e/h")];
    assert_eq!(
        listed,
        [format!("{here} ."), format!("{above} .."), format!("{f} f"), format!("{h} h")]
    );
}
