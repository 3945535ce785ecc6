//! The other end: which mount a path is in, and asking that mount.
//!
//! No file system of ours is touched on the way, as its process may hang or be dead: links are followed
//! outside of it only (inside there are none), and the mount table tells the rest.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::folder::{Folder, socket_name};
use super::protocol::{Answer, RefusalKind, Request};
use crate::config::{effective_user, runtime_dir};
use crate::error::one_line;
use crate::mount::{StartError, StartErrorKind};
use crate::mountinfo::{Entry, FS_TYPE, Table};

/// A path in a mount.
#[derive(Debug)]
pub(super) struct Target {
    mount: Entry,
    /// Names from the mount's root on, joined by `/`.
    pub(super) path: String,
}

/// The kernel's own bound (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// A mount that lives says so every 2 s.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// All answers together; far more than there is to say.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

impl Target {
    /// Where `path` is. It need not exist.
    pub(super) fn find(path: &Path) -> Result<Self, StartError> {
        let absolute = std::path::absolute(path)
            .map_err(|err| wrong(format!("{} cannot be looked for: {err}", path.display())))?;
        let table = Table::read()
            .map_err(|err| StartError::unexpected("cannot read /proc/self/mountinfo", &err))?;
        Self::find_in(&table, &absolute, &|link| std::fs::read_link(link).ok())
    }

    fn find_in(
        table: &Table,
        path: &Path,
        read_link: &dyn Fn(&Path) -> Option<PathBuf>,
    ) -> Result<Self, StartError> {
        let ours = |path: &Path| table.containing(path).filter(|entry| entry.fs_type == FS_TYPE);
        let resolved = resolve(path, &|path| match ours(path) {
            Some(_) => None,
            None => read_link(path),
        });
        let resolved = resolved
            .ok_or_else(|| wrong(format!("{} has too many symbolic links", path.display())))?;
        let Some(mount) = ours(&resolved) else {
            return Err(wrong(format!(
                "{} is not in a mount of s3mount; name a path below a directory that `mount -t \
                 {FS_TYPE}` lists",
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
        let stream = self.connect().await?;
        let answer = timeout_of(converse(stream, request)).await;
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

    async fn connect(&self) -> Result<UnixStream, StartError> {
        let (uid, _) = effective_user();
        let owner = self.mount.owner.unwrap_or(uid);
        // Whom the socket may belong to: who mounted, root, or whoever asks.
        let owners = [owner, 0, uid];
        let name = socket_name(self.mount.device);
        let places = Folder::candidates(runtime_dir().as_deref(), owner);
        let mut dead = false;
        for path in &places {
            let found = Folder::of_client(path, &owners);
            let connected = match &found {
                Ok(folder) => {
                    let connecting = UnixStream::connect(folder.join(&name));
                    timeout_of(connecting).await
                }
                Err(err) => Err(err.kind().into()),
            };
            match connected {
                Ok(stream) => {
                    let peer = stream.peer_cred().map(|peer| peer.uid());
                    if peer.is_ok_and(|peer| owners.contains(&peer)) {
                        return Ok(stream);
                    }
                }
                Err(err) if err.kind() == io::ErrorKind::TimedOut => {
                    return Err(self.silent());
                }
                Err(err) => dead |= err.kind() == io::ErrorKind::ConnectionRefused,
            }
        }
        let (shown, source) = (self.mount.mount_point.display(), one_line(&self.mount.source));
        Err(if dead {
            wrong(format!(
                "the s3mount of {source} on {shown} has ended without unmounting; unmount it, and \
                 mount again"
            ))
        } else if uid != owner && uid != 0 {
            self.not_allowed()
        } else {
            let places: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
            wrong(format!(
                "the s3mount of {source} on {shown} has no control socket in {}; set the \
                 XDG_RUNTIME_DIR that it was mounted with, or mount again with one",
                places.join(", ")
            ))
        })
    }

    fn not_allowed(&self) -> StartError {
        let shown = self.mount.mount_point.display();
        let owner = self.mount.owner.map_or("another user".to_owned(), |uid| match uid {
            0 => "root".to_owned(),
            uid => format!("the user {uid}"),
        });
        let sentence = format!(
            "{shown} was mounted by {owner}: only that user and root may command it; use sudo, or \
             ask them"
        );
        StartError::new(StartErrorKind::Denied, sentence)
    }

    fn silent(&self) -> StartError {
        let shown = self.mount.mount_point.display();
        other(format!("the mount on {shown} takes no connection; look into its log"))
    }
}

async fn timeout_of<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(SILENCE_MAX, work).await?
}

async fn converse(mut stream: UnixStream, request: &Request) -> io::Result<Answer> {
    stream.write_all(request.to_line().as_bytes()).await?;
    let mut reader = BufReader::new(stream.take(ANSWER_BYTES_MAX));
    loop {
        let mut line = Vec::new();
        if timeout_of(reader.read_until(b'\n', &mut line)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match Answer::from_line(&line) {
            Some(Answer::GoesOn) => {}
            Some(answer) => return Ok(answer),
            None => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// The absolute `path` without `.`, `..` and links; `None` where the links go round in circles.
fn resolve(path: &Path, read_link: &dyn Fn(&Path) -> Option<PathBuf>) -> Option<PathBuf> {
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

fn wrong(sentence: String) -> StartError {
    StartError::new(StartErrorKind::MountPoint, sentence)
}

fn other(sentence: String) -> StartError {
    StartError::new(StartErrorKind::Other, sentence)
}

#[cfg(test)]
mod tests {
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
