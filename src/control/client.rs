//! The other end: which mount a path is in, and asking that mount. No file system of ours is touched on
//! the way, as its process may hang or be dead.

use std::io;
use std::path::{Component, Path};

use serde_json::Value;

use super::connection::{self, NoConnection, SILENCE_MAX};
use super::place::{self, ReadLink};
use super::process::Servers;
use super::protocol::{Answer, RefusalKind, Request};
use crate::config::effective_user;
use crate::error::one_line;
use crate::mount::{StartError, StartErrorKind};
use crate::mountinfo::{Entry, Table};

/// A path in a mount.
#[derive(Debug)]
pub(super) struct Target {
    mount: Entry,
    /// Names from the mount's root on, joined by `/`.
    pub(super) path: String,
}

impl Target {
    /// Where `path` is. It need not exist.
    pub(super) fn find(path: &Path) -> Result<Self, StartError> {
        Self::find_in(&place::table()?, &place::absolute(path)?, &place::read_link)
    }

    fn find_in(table: &Table, path: &Path, read_link: ReadLink<'_>) -> Result<Self, StartError> {
        let resolved = place::resolved(table, path, read_link)?;
        let Some(mount) = place::ours(table, &resolved) else {
            return Err(wrong(format!(
                "{} is not in a mount of s3mount; name a path below a directory that `s3mount \
                 list` shows",
                path.display()
            )));
        };
        let inside = resolved.strip_prefix(&mount.mount_point).unwrap_or(Path::new(""));
        // A part of a mount may be mounted elsewhere (mount --bind).
        let whole = mount.root.join(inside);
        let names: Option<Vec<&str>> = whole
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .map(|part| part.as_os_str().to_str())
            .collect();
        let names = names.ok_or_else(|| {
            wrong(format!("{} is not written in UTF-8, as every key is", path.display()))
        })?;
        Ok(Self { path: names.join("/"), mount: mount.clone() })
    }

    /// Has the mount do what is asked, and gives its answer.
    pub(super) async fn ask(&self, request: &Request) -> Result<Value, StartError> {
        let stream = connection::open(&self.mount, SILENCE_MAX).await;
        let stream = stream.map_err(|err| self.not_connected(err))?;
        let answer = connection::converse(stream, request, SILENCE_MAX).await;
        let shown = self.mount.mount_point.display();
        match answer {
            Ok(Answer::Result(result)) => Ok(result),
            Ok(Answer::Refused(refusal)) => Err(self.refused(refusal.kind, &refusal.message)),
            Ok(Answer::GoesOn) => Err(other(format!("{shown}: the mount said too much"))),
            Err(err) => Err(other(match err.kind() {
                io::ErrorKind::TimedOut => format!(
                    "the mount on {shown} gave no answer for {} s; look into its log",
                    SILENCE_MAX.as_secs()
                ),
                io::ErrorKind::InvalidData => format!(
                    "the mount on {shown} gave an answer that makes no sense; mount again with \
                     this version of s3mount"
                ),
                _ => format!("the mount on {shown} ended before it answered"),
            })),
        }
    }

    fn refused(&self, kind: RefusalKind, message: &str) -> StartError {
        let shown = self.mount.mount_point.display();
        match kind {
            RefusalKind::Denied => self.not_allowed(),
            RefusalKind::Version => other(format!(
                "the mount on {shown} is of another version of s3mount ({}); mount again",
                one_line(message)
            )),
            RefusalKind::Malformed | RefusalKind::Ended => {
                other(format!("the mount on {shown} refused: {}", one_line(message)))
            }
        }
    }

    fn not_connected(&self, err: NoConnection) -> StartError {
        let (shown, source) = (self.mount.mount_point.display(), one_line(&self.mount.source));
        match err {
            NoConnection::Silent => {
                other(format!("the mount on {shown} takes no connection; look into its log"))
            }
            NoConnection::Dead(_) if Servers::look().pid(self.mount.device).is_none() => {
                wrong(format!(
                    "the s3mount of {source} on {shown} has ended without unmounting; unmount it, and \
                 mount again"
                ))
            }
            _ if !is_mine(&self.mount) => self.not_allowed(),
            // Of the first a dead socket was left by another mount of this number.
            NoConnection::Dead(places) | NoConnection::Absent(places) => {
                let places: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
                wrong(format!(
                    "the s3mount of {source} on {shown} has no control socket in {}; set the \
                     XDG_RUNTIME_DIR that it was mounted with, or mount again with one",
                    places.join(", ")
                ))
            }
        }
    }

    fn not_allowed(&self) -> StartError {
        let sentence = format!(
            "{} was mounted by {}: only that user and root may command it; use sudo, or ask them",
            self.mount.mount_point.display(),
            owner(&self.mount)
        );
        StartError::new(StartErrorKind::Denied, sentence)
    }
}

/// Whether who asks may command the mount.
pub(super) fn is_mine(mount: &Entry) -> bool {
    let (uid, _) = effective_user();
    uid == 0 || mount.owner.is_none_or(|owner| owner == uid)
}

/// Who mounted it, in words.
pub(super) fn owner(mount: &Entry) -> String {
    match mount.owner {
        None => "another user".to_owned(),
        Some(0) => "root".to_owned(),
        Some(uid) => format!("the user {uid}"),
    }
}

fn wrong(sentence: String) -> StartError {
    StartError::new(StartErrorKind::MountPoint, sentence)
}

fn other(sentence: String) -> StartError {
    StartError::new(StartErrorKind::Other, sentence)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn links(path: &Path) -> Option<PathBuf> {
        let target = match path.to_str()? {
            "/home/u/data" => "/mnt/s3/data",
            "/home/u/up" => "../v",
            "/home/u/loop" => "loop",
            // A link in the mount would be asked for.
            "/mnt/s3/data" => panic!("the mount was touched"),
            _ => return None,
        };
        Some(target.into())
    }

    #[track_caller]
    fn check(path: &str, expected: Result<(&str, &str), &str>) {
        let table = Table::of(&[
            "1 0 0:1 / / rw - ext4 r rw",
            "2 1 0:50 / /mnt/s3 ro - fuse.s3mount s3://b ro,user_id=7",
            "3 1 0:50 /a/b /view ro - fuse.s3mount s3://b ro,user_id=7",
            "4 2 0:60 / /mnt/s3/over rw - tmpfs t rw",
        ]);
        let found = Target::find_in(&table, Path::new(path), &links);
        let found = found.map_err(|err| err.to_string());
        match (&found, expected) {
            (Ok(target), Ok((on, inside))) => {
                assert_eq!((target.mount.mount_point.to_str(), &*target.path), (Some(on), inside));
            }
            (Err(sentence), Err(part)) => assert!(sentence.contains(part), "{sentence}"),
            _ => panic!("{found:?}"),
        }
    }

    #[test]
    fn a_path_is_found_by_the_mount_table_and_by_links_outside() {
        check("/mnt/s3", Ok(("/mnt/s3", "")));
        check("/mnt/s3/a/./b c/", Ok(("/mnt/s3", "a/b c")));
        check("/mnt/s3/a/../../s3/x", Ok(("/mnt/s3", "x")));
        check("/home/u/data/x", Ok(("/mnt/s3", "data/x")));
        check("/home/u/up/../../mnt/s3/y", Ok(("/mnt/s3", "y")));
        check("/view/c", Ok(("/view", "a/b/c")));
        check("/view", Ok(("/view", "a/b")));
        check("/home/u", Err("not in a mount"));
        check("/mnt/s3/over/x", Err("not in a mount"));
        check("/home/u/loop", Err("too many"));
    }
}
