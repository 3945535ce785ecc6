//! The bucket, and its twin: the same tree on a read-only file system of the kernel's own (tmpfs). What a
//! call gives there is what it has to give here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::calls::path;
use crate::support::simulator::Simulator;
use crate::support::simulator::content::content;

pub(super) const BUCKET: &str = "myfiles";

/// What nobody changes.
pub(super) const STILL: &str = "still/";

/// The size that no memory holds, of an object beside the tree.
pub(super) const HUGE_BYTES: u64 = 5 << 40;
pub(super) const HUGE: &str = "huge";

/// The day S3 opened, and so for each file a time of its own.
const MODIFIED: u64 = 1_142_300_000;

/// Numbers that are the same for the same seed.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64, thread: u64) -> Self {
        Self(seed.wrapping_mul(1_000_003).wrapping_add(thread))
    }

    pub(super) fn roll(&mut self) -> u64 {
        self.0 = xxhash_rust::xxh3::xxh3_64(&self.0.to_le_bytes());
        self.0
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end as u64).expect("below end")
    }

    pub(super) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Any of these, alone and together.
    pub(super) fn some(&mut self, flags: &[i32], share: usize) -> i32 {
        flags.iter().filter(|_| self.one_in(share)).fold(0, |all, flag| all | flag)
    }

    /// A place in or about a file of `size` bytes: its middle, its end, what lies behind it, and what is no
    /// place at all.
    pub(super) fn offset(&mut self, size: u64) -> i64 {
        let end = size.cast_signed();
        let near = i64::try_from(self.below(9000)).expect("small");
        match self.below(16) {
            0 => self.pick(&[i64::MAX, i64::MIN, -1, i64::MAX - 4095, 1 << 62, 1 << 32, -4096]),
            1 => self.roll().cast_signed(),
            2 => end,
            3 => end + near,
            4 | 5 => end - near,
            6 => end - 1,
            7 => near,
            8 => 0,
            9 => (near % 64) << 17,
            _ => (self.roll() % (size + 1)).cast_signed(),
        }
    }

    /// How much is asked for.
    pub(super) fn len(&mut self) -> usize {
        match self.below(12) {
            0 => 0,
            1 => 1,
            2 => 8 << 20,
            3 => 1 << 20,
            4 => (128 << 10) + 1,
            5 => self.below(3 << 20),
            6 => 4096,
            _ => self.below(70_000),
        }
    }
}

fn still_files() -> BTreeMap<String, u64> {
    let sizes = [
        ("empty", 0),
        ("one", 1),
        ("page-less", 4095),
        ("page", 4096),
        ("page-more", 4097),
        ("part", 128 << 10),
        ("part-more", (128 << 10) + 1),
        ("dir/odd", 300_000),
        ("dir/middle", (1 << 20) + 5),
        ("dir/sub/large", (9 << 20) + 123),
        ("dir/sub/deep/er", 17),
        // Around the place of `a/` in the order of keys.
        ("a-x", 3),
        ("a.txt", 4),
        ("a/inside", 5),
        ("a0", 6),
        ("name with spaces", 7),
        ("%41%2F", 8),
        ("e\u{301}\u{1f4a9}", 9),
        ("...", 10),
        ("-rf", 11),
        ("back\\slash", 12),
        ("quote'\"$(x)`", 13),
        ("*?[a]", 14),
    ];
    let mut files: BTreeMap<_, _> =
        sizes.into_iter().map(|(name, size)| (name.to_owned(), size)).collect();
    files.insert("n".repeat(255), 15);
    files.insert(format!("{}leaf", "d/".repeat(30)), 16);
    // More than a page of a listing.
    files.extend((0..1300).map(|number| (format!("many/{number:05}"), number % 7)));
    files
}

/// Both.
pub(super) struct Ground {
    pub(super) simulator: Simulator,
    twin: TempDir,
    pub(super) files: BTreeMap<String, u64>,
    /// Without the root, without a last slash.
    pub(super) directories: BTreeSet<String>,
}

impl Ground {
    pub(super) fn new() -> Self {
        let simulator = Simulator::builder().bucket(BUCKET).start();
        let ground = Self {
            simulator,
            twin: tempfile::tempdir().expect("a directory"),
            files: still_files(),
            directories: BTreeSet::new(),
        };
        ground.filled()
    }

    fn filled(mut self) -> Self {
        let twin = self.twin();
        fs::create_dir(&twin).expect("a directory");
        mount(&["-t", "tmpfs", "-o", "size=128m,nosuid,nodev,mode=555", "twin"], &twin);
        for (index, (name, size)) in self.files.iter().enumerate() {
            let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(MODIFIED + index as u64);
            let bytes = content(name, *size, 0..*size);
            let file = twin.join(name);
            fs::create_dir_all(file.parent().expect("a parent")).expect("directories");
            fs::write(&file, &bytes).expect("room");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).expect("ours");
            File::open(&file).and_then(|file| file.set_modified(modified)).expect("ours");
            self.simulator.put_at(BUCKET, &format!("{STILL}{name}"), bytes, modified);
            for (end, _) in name.match_indices('/') {
                let directory = &name[..end];
                if self.directories.insert(directory.to_owned()) {
                    let mode = fs::Permissions::from_mode(0o555);
                    fs::set_permissions(twin.join(directory), mode).expect("ours");
                }
            }
        }
        mount(&["-o", "remount,ro"], &twin);
        self.simulator.put_synthetic(BUCKET, HUGE, HUGE_BYTES);
        self
    }

    pub(super) fn twin(&self) -> PathBuf {
        self.twin.path().join("twin")
    }

    /// The names in a directory of the tree, and whether each is a directory.
    pub(super) fn names_in(&self, directory: &str) -> BTreeSet<(String, bool)> {
        let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        let own = |name: &String| {
            let rest = name.strip_prefix(&prefix)?;
            (!rest.contains('/')).then(|| rest.to_owned())
        };
        let files = self.files.keys().filter_map(own).map(|name| (name, false));
        files.chain(self.directories.iter().filter_map(own).map(|name| (name, true))).collect()
    }

    /// A path below the root, of something or of nothing, straight or crooked.
    pub(super) fn path(&self, dice: &mut Dice) -> CString {
        let mut text = self.straight(dice).into_bytes();
        for _ in 0..dice.below(3) {
            if dice.one_in(3) {
                text = bent(text, dice);
            }
        }
        if leads_out(&text) { path(&b"dir"[..]) } else { path(text) }
    }

    /// The path of a file, a directory or nothing.
    pub(super) fn straight(&self, dice: &mut Dice) -> String {
        match dice.below(8) {
            0 => ".".to_owned(),
            1 | 2 => {
                let at = dice.below(self.directories.len());
                self.directories.iter().nth(at).expect("below its length").clone()
            }
            3 => dice.pick(&["missing", "dir/missing", "a/missing/too", "dir/sub/"]).to_owned(),
            4 => format!("many/{:05}", dice.below(1400)),
            _ => self.file(dice).0,
        }
    }

    /// A file of other than tiny ones in a row.
    pub(super) fn file(&self, dice: &mut Dice) -> (String, u64) {
        let others = self.files.iter().filter(|(name, _)| !name.starts_with("many/"));
        let others: Vec<_> = others.collect();
        let (name, size) = others[dice.below(others.len())];
        (name.clone(), *size)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.twin()).status();
    }
}

fn mount(words: &[&str], place: &std::path::Path) {
    let status = Command::new("mount").args(words).arg(place).status();
    assert!(status.is_ok_and(|status| status.success()), "mount {words:?}");
}

/// The mount has more beside the tree than the twin; and nothing else of this machine is to be touched.
fn leads_out(text: &[u8]) -> bool {
    let mut depth = 0;
    let mut is_out = text.starts_with(b"/");
    for name in text.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => depth -= 1,
            _ => depth += 1,
        }
        is_out |= depth < 0;
    }
    is_out
}

/// The same place said in another way, or a place that is not there, or elsewhere.
fn bent(mut text: Vec<u8>, dice: &mut Dice) -> Vec<u8> {
    let slash = text.iter().position(|byte| *byte == b'/');
    match (dice.below(12), slash) {
        (0, _) => text.push(b'/'),
        (1, _) => text.extend(b"/."),
        (2, Some(at)) => drop(text.splice(at..at, *b"//./")),
        (3, _) => drop(text.splice(0..0, *b"dir/sub/../../")),
        (4, _) => text.extend(b"/more"),
        (5, _) => text.push(0xff),
        (6, _) => text.make_ascii_uppercase(),
        (7, _) => text.clear(),
        (8, _) => {
            // FUSE itself takes names of up to 1,024 bytes.
            let len = dice.pick(&[255, 256, 300, 1024, 1025, 3000]);
            text = vec![b'x'; len];
        }
        (9, _) => {
            // PATH_MAX is 4,096 with the NUL.
            let len = dice.pick(&[4094, 4095, 4096, 5000]);
            while text.len() + 2 <= len {
                text.splice(0..0, *b"./");
            }
        }
        (10, _) => drop(text.splice(0..0, *b"missing/../")),
        _ => text.extend(b"/../"),
    }
    text
}
