//! Where a path leads, without touching a mount of ours, which may hang or be dead: links are followed
//! outside of it only (inside there are none), and the mount table tells the rest.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::mount::{StartError, StartErrorKind};
use crate::mountinfo::{Entry, FS_TYPE, Table};

/// The kernel's own bound (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Says where a link leads; `None` for what is none, or cannot be read.
pub(super) type ReadLink<'a> = &'a dyn Fn(&Path) -> Option<PathBuf>;

/// The mount table as it is now.
pub(super) fn table() -> Result<Table, StartError> {
    Table::read().map_err(|err| StartError::unexpected("cannot read /proc/self/mountinfo", &err))
}

/// What was typed, from the root on. Needs no file system.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, StartError> {
    std::path::absolute(path).map_err(|err| {
        let sentence = format!("{} cannot be looked for: {err}", path.display());
        StartError::new(StartErrorKind::MountPoint, sentence)
    })
}

/// The absolute `path` without `.`, `..` and links. It need not exist.
pub(super) fn resolved(
    table: &Table,
    path: &Path,
    read_link: ReadLink<'_>,
) -> Result<PathBuf, StartError> {
    let outside = |path: &Path| match ours(table, path) {
        Some(_) => None,
        None => read_link(path),
    };
    resolve(path, &outside).ok_or_else(|| {
        let sentence = format!("{} has too many symbolic links", path.display());
        StartError::new(StartErrorKind::MountPoint, sentence)
    })
}

/// The mount of ours that the path without links is in.
pub(super) fn ours<'a>(table: &'a Table, path: &Path) -> Option<&'a Entry> {
    table.containing(path).filter(|entry| entry.fs_type == FS_TYPE)
}

pub(super) fn read_link(path: &Path) -> Option<PathBuf> {
    std::fs::read_link(path).ok()
}

/// `None` where the links go round in circles.
fn resolve(path: &Path, read_link: ReadLink<'_>) -> Option<PathBuf> {
    let words = |path: &Path| -> Vec<OsString> {
        path.components().rev().map(|part| part.as_os_str().to_owned()).collect()
    };
    // The next at the end.
    let mut left = words(path);
    let (mut resolved, mut n_links) = (PathBuf::from("/"), 0);
    while let Some(word) = left.pop() {
        match &*word.to_string_lossy() {
            "." => {}
            ".." => {
                resolved.pop();
            }
            "/" => resolved = PathBuf::from("/"),
            _ => {
                let next = resolved.join(&word);
                match read_link(&next) {
                    Some(target) => {
                        n_links += 1;
                        left.extend(words(&target));
                    }
                    None => resolved = next,
                }
            }
        }
        if n_links > LINKS_MAX {
            return None;
        }
    }
    Some(resolved)
}
