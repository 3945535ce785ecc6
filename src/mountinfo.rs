//! /proc/self/mountinfo: what is mounted where, without asking the file systems, which may be dead
//! or hang.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// As the kernel prints it. Each FUSE mount has a number of its own while it lives; afterwards the
/// number is given to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DeviceNumber {
    pub major: u32,
    pub minor: u32,
}

impl DeviceNumber {
    /// `st_dev` of stat(2).
    pub(crate) fn from_stat(device: u64) -> Self {
        Self { major: libc::major(device), minor: libc::minor(device) }
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What mounts of ours are called in mount tables.
pub(crate) const FS_TYPE: &str = "fuse.s3mount";

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// Nobody else's while it is mounted.
    pub(crate) id: u64,
    /// The mount that it is in.
    pub(crate) parent: u64,
    pub(crate) device: DeviceNumber,
    /// What of the file system is shown: `/` is all.
    pub(crate) root: PathBuf,
    pub(crate) mount_point: PathBuf,
    /// With its subtype, as `fuse.s3mount`.
    pub(crate) fs_type: String,
    pub(crate) source: String,
    /// Who mounted a FUSE file system.
    pub(crate) owner: Option<u32>,
}

impl Entry {
    pub(crate) fn is_fuse(&self) -> bool {
        self.fs_type == "fuse" || self.fs_type.starts_with("fuse.")
    }
}

/// The mounts as they lie in each other.
#[derive(Clone, Debug)]
pub(crate) struct Table(Vec<Entry>);

impl Table {
    pub(crate) fn read() -> io::Result<Self> {
        Ok(Self(read()?))
    }

    #[cfg(test)]
    pub(crate) fn of(lines: &[&str]) -> Self {
        Self(lines.iter().filter_map(|line| parse_line(line.as_bytes())).collect())
    }

    /// Those of ours, in the order of mounting.
    pub(crate) fn ours(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(|entry| entry.fs_type == FS_TYPE)
    }

    pub(crate) fn by_id(&self, id: u64) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.id == id)
    }

    /// What is mounted in or upon it.
    pub(crate) fn children(&self, id: u64) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(move |entry| entry.parent == id && entry.id != id)
    }

    /// How many mounts it lies in and upon.
    pub(crate) fn depth(&self, entry: &Entry) -> usize {
        let above = |entry: &&Entry| self.by_id(entry.parent).filter(|it| it.id != entry.id);
        // A table that is read while it changes may have a circle.
        std::iter::successors(Some(entry), above).take(self.0.len()).count()
    }

    /// The mount that `path` is in, an absolute path without links, as the kernel finds it: from the
    /// top down, and at each step to what lies uppermost there.
    pub(crate) fn containing(&self, path: &Path) -> Option<&Entry> {
        let mut steps: Vec<&Path> = path.ancestors().collect();
        steps.reverse();
        let mut found: Option<&Entry> = None;
        for step in steps {
            while let Some(next) = self.on(found, step) {
                found = Some(next);
            }
        }
        found
    }

    /// What is mounted at `point` upon `below`; before the first nothing is known of what lies on
    /// what. The uppermost of all may have itself below it (proc_pid_mountinfo(5)).
    fn on(&self, below: Option<&Entry>, point: &Path) -> Option<&Entry> {
        self.0.iter().rfind(|entry| {
            let is_on = |below: &Entry| below.id == entry.parent && below.id != entry.id;
            entry.mount_point == point && below.is_none_or(is_on)
        })
    }
}

/// What is mounted at `dir`, an absolute path without links: the uppermost, which hides the others.
pub(crate) fn top_at(dir: &Path) -> io::Result<Option<Entry>> {
    // The kernel lists the mounts in the order of mounting.
    Ok(read()?.into_iter().rfind(|entry| entry.mount_point == dir))
}

/// How many file systems are mounted upon each other at `dir`.
pub(crate) fn n_at(dir: &Path) -> io::Result<usize> {
    Ok(read()?.iter().filter(|entry| entry.mount_point == dir).count())
}

fn read() -> io::Result<Vec<Entry>> {
    // Paths may be of any bytes.
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`, proc_pid_mountinfo(5).
fn parse_line(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    let device = std::str::from_utf8(fields.next()?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let mut path = || Some(PathBuf::from(OsString::from_vec(unescape(fields.next()?))));
    let (root, mount_point) = (path()?, path()?);
    let mut after_optional = fields.skip_while(|field| *field != b"-").skip(1);
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    let (fs_type, source) = (text(after_optional.next()?), text(after_optional.next()?));
    // The last field, after a source of any words.
    let options = text(line.rsplit(|byte| *byte == b' ').next()?);
    let owner = options.split(',').find_map(|option| option.strip_prefix("user_id=")?.parse().ok());
    Some(Entry {
        id,
        parent,
        device: DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? },
        root,
        mount_point,
        fs_type,
        source,
        owner,
    })
}

/// Space, tab, newline, `#` and backslash are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let code = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, device: (u32, u32), mount_point: &str, fs_type: &str, source: &str) {
        let found = parse_line(line.as_bytes()).expect(line);
        assert_eq!(found.device, DeviceNumber { major: device.0, minor: device.1 });
        assert_eq!(found.mount_point, Path::new(mount_point));
        assert_eq!((&*found.fs_type, &*found.source), (fs_type, source));
    }

    #[test]
    fn who_mounted_and_what_is_shown_is_told() {
        let line =
            br"52 24 0:50 /a\040b /mnt ro,nosuid - fuse.s3mount s3://b ro,user_id=7,group_id=8";
        let found = parse_line(line).unwrap();
        assert_eq!((found.id, found.parent, found.owner), (52, 24, Some(7)));
        assert_eq!(found.root, Path::new("/a b"));
    }

    #[test]
    fn a_path_is_in_what_lies_uppermost_from_the_top_down() {
        let table = Table::of(&[
            // Mounted before the root, as by an initramfs.
            "2 9 0:2 / /run rw - tmpfs t rw",
            "9 9 0:9 / / rw - ext4 r rw",
            "20 9 0:20 / /m/a rw - fuse.s3mount deep rw",
            "21 9 0:21 / /m rw - tmpfs hides rw",
            "22 21 0:22 / /m/b rw - fuse.s3mount one rw",
            "23 22 0:23 / /m/b rw - fuse.s3mount two rw",
        ]);
        let source = |path: &str| table.containing(Path::new(path)).map(|it| it.source.as_str());
        assert_eq!(source("/"), Some("r"));
        assert_eq!(source("/run/x"), Some("t"));
        assert_eq!(source("/m/a/x"), Some("hides"));
        assert_eq!(source("/m/b/x/y"), Some("two"));
        assert_eq!(source("/m/bb"), Some("hides"));
    }

    #[test]
    fn a_line_has_any_number_of_optional_fields() {
        check("36 35 98:0 /a /b rw master:1 x:2 - ext3 /dev/r rw", (98, 0), "/b", "ext3", "/dev/r");
        check(
            "52 24 0:50 / /mnt/s3 ro - fuse.s3mount s3://b ro",
            (0, 50),
            "/mnt/s3",
            "fuse.s3mount",
            "s3://b",
        );
    }

    #[test]
    fn escapes_are_undone() {
        check(
            r"1 2 0:7 / /m/a\040b\134040\011 ro - fuse x\043y ro",
            (0, 7),
            "/m/a b\\040\t",
            "fuse",
            "x#y",
        );
        assert_eq!(unescape(br"\9\04"), br"\9\04", "what is no escape is left alone");
    }

    #[test]
    fn a_line_that_is_cut_is_no_mount() {
        for line in ["", "1 2", "1 2 0:7 / /m ro", "1 2 0:7 / /m ro - fuse", "1 2 x / /m ro - a b"]
        {
            assert_eq!(parse_line(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(top_at(Path::new("/")).unwrap().is_some());
        assert_eq!(top_at(Path::new("/no/such/mount")).unwrap(), None);
    }
}
