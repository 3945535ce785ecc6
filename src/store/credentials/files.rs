//! The files that credentials come from: where they are, who else can read them, and whether what
//! they hold has changed.

use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use xxhash_rust::xxh3::xxh3_64;

/// The files that the default chain reads. Filled by `config.rs`, the reader of the environment.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CredentialFiles {
    /// `AWS_CONFIG_FILE`, else `~/.aws/config`.
    pub config_file: Option<PathBuf>,
    /// `AWS_SHARED_CREDENTIALS_FILE`, else `~/.aws/credentials`.
    pub credentials_file: Option<PathBuf>,
    /// `AWS_WEB_IDENTITY_TOKEN_FILE`.
    pub web_identity_token_file: Option<PathBuf>,
}

impl CredentialFiles {
    /// From the variables that the AWS SDKs read; `variable` is `std::env::var_os` but in tests.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name| variable(name).filter(|text| !text.is_empty()).map(PathBuf::from);
        let home = path("HOME");
        let below_home = |rest| home.as_ref().map(|home: &PathBuf| home.join(rest));
        Self {
            config_file: path("AWS_CONFIG_FILE").or_else(|| below_home(".aws/config")),
            credentials_file: path("AWS_SHARED_CREDENTIALS_FILE")
                .or_else(|| below_home(".aws/credentials")),
            web_identity_token_file: path("AWS_WEB_IDENTITY_TOKEN_FILE"),
        }
    }

    /// The file that exists to hold keys, to be checked by [`readable_by_others`]. Not the config
    /// file, which is readable on many machines and seldom has keys, nor the token that a cluster
    /// mounts.
    pub fn key_files(&self) -> Vec<PathBuf> {
        self.credentials_file.iter().cloned().collect()
    }

    /// All files, whether they exist or not.
    pub fn all(&self) -> Vec<PathBuf> {
        [&self.config_file, &self.credentials_file, &self.web_identity_token_file]
            .into_iter()
            .filter_map(Clone::clone)
            .collect()
    }
}

/// Those of `paths` that group or others may read, write or execute. For the warning at startup,
/// [`readable_warning`]. A missing file is not readable.
pub fn readable_by_others(paths: &[PathBuf]) -> Vec<PathBuf> {
    let open = |path: &&PathBuf| {
        std::fs::metadata(path)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o077 != 0)
    };
    paths.iter().filter(open).cloned().collect()
}

/// What to tell the user of a file from [`readable_by_others`].
pub fn readable_warning(path: &Path) -> String {
    let path = path.display();
    format!("other users of this machine can read {path}, which may hold keys: chmod 600 {path}")
}

/// A larger file is not read to see whether it has changed; its date must tell.
const READ_MAX_BYTES: u64 = 1 << 20;

/// A file whose date is this close to the time of a look may be written again within the same tick
/// of its clock, so that the next look reads it again. FAT has ticks of 2 s.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// What a file looked like. Two looks are equal when the file held the same: a `touch` is no
/// change, and a rewrite within one tick of the clock is.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// `None`: it could not be read, as when it is missing.
    file: Option<SeenFile>,
}

#[derive(Clone, Debug)]
struct SeenFile {
    modified: Option<SystemTime>,
    inode: u64,
    bytes: u64,
    /// Of what it holds; of its date and inode where it is too large.
    hash: u64,
    /// The date alone tells whether it was written since.
    settled: bool,
}

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        let hash = |seen: &Self| seen.file.as_ref().map(|file| file.hash);
        hash(self) == hash(other)
    }
}

/// Looks at `files`. Of those that look as they did at the `last` look only the date is asked for.
pub(super) fn look(files: &[PathBuf], last: &[Seen]) -> Vec<Seen> {
    files.iter().enumerate().map(|(place, path)| Seen::at(path, last.get(place))).collect()
}

impl Seen {
    fn at(path: &Path, last: Option<&Self>) -> Self {
        let Ok(found) = std::fs::metadata(path) else { return Self { file: None } };
        let last = last.and_then(|last| last.file.as_ref());
        if let Some(last) = last.filter(|last| last.settled && last.is_as(&found)) {
            return Self { file: Some(last.clone()) };
        }
        let modified = found.modified().ok();
        let age = modified.and_then(|modified| SystemTime::now().duration_since(modified).ok());
        let hash = if found.is_file() && found.len() <= READ_MAX_BYTES {
            let Ok(content) = std::fs::read(path) else { return Self { file: None } };
            xxh3_64(&content)
        } else {
            xxh3_64(format!("{modified:?} {} {}", found.ino(), found.len()).as_bytes())
        };
        let settled = age.is_some_and(|age| age > SETTLED_AFTER);
        let (inode, bytes) = (found.ino(), found.len());
        Self { file: Some(SeenFile { modified, inode, bytes, hash, settled }) }
    }
}

impl SeenFile {
    fn is_as(&self, found: &Metadata) -> bool {
        self.modified == found.modified().ok()
            && self.inode == found.ino()
            && self.bytes == found.len()
    }
}
