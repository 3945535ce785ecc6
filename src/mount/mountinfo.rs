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
pub struct DeviceNumber {
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

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) device: DeviceNumber,
    pub(crate) mount_point: PathBuf,
    /// With its subtype, as `fuse.s3mount`.
    pub(crate) fs_type: String,
    pub(crate) source: String,
}

impl Entry {
    pub(crate) fn is_fuse(&self) -> bool {
        self.fs_type == "fuse" || self.fs_type.starts_with("fuse.")
    }
}

/// What is mounted at `dir`, an absolute path without links: the uppermost, which hides the others.
pub(crate) fn top_at(dir: &Path) -> io::Result<Option<Entry>> {
    // The kernel lists the mounts in the order of mounting.
    Ok(read()?.into_iter().rfind(|entry| entry.mount_point == dir))
}

fn read() -> io::Result<Vec<Entry>> {
    // Paths may be of any bytes.
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`, proc_pid_mountinfo(5).
fn parse_line(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let mount_point = unescape(fields.nth(1)?);
    let mut after_optional = fields.skip_while(|field| *field != b"-").skip(1);
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    Some(Entry {
        device: DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? },
        mount_point: OsString::from_vec(mount_point).into(),
        fs_type: text(after_optional.next()?),
        source: text(after_optional.next()?),
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
        let expected = Entry {
            device: DeviceNumber { major: device.0, minor: device.1 },
            mount_point: mount_point.into(),
            fs_type: fs_type.to_owned(),
            source: source.to_owned(),
        };
        assert_eq!(parse_line(line.as_bytes()), Some(expected));
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
