//! The words that all layers share: keys, versions, inode numbers.
//! Invariant: plain values, no I/O, no clock, nothing of fuser or of the AWS SDK.

mod etag;
mod rank;

use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

pub use self::etag::{ETag, Packing};
use self::rank::{RANK_BITS, rank};

/// A FUSE inode number. One number is one object version, or one directory, for the whole mount.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Ino(pub u64);

impl Ino {
    /// `FUSE_ROOT_ID`, linux/fuse.h.
    pub const ROOT: Self = Self(1);

    /// 0 means "no entry" to the kernel and 1 is the root: neither may come out of a hash.
    fn from_hash(hash: u64) -> Self {
        Self(if hash < 2 { hash + 2 } else { hash })
    }

    /// The number of a version, whose key is given in two pieces.
    pub fn of_version(key: [&str; 2], etag: Option<&ETag>, size: u64, modified: i64) -> Self {
        let key_bytes = key[0].len() + key[1].len();
        // No field may run into the next: the length stands before the key, and the tag comes last.
        let mut text = Vec::with_capacity(key_bytes + 64);
        text.extend_from_slice(&(key_bytes as u64).to_le_bytes());
        text.extend_from_slice(key[0].as_bytes());
        text.extend_from_slice(key[1].as_bytes());
        text.extend_from_slice(&size.to_le_bytes());
        text.extend_from_slice(&modified.to_le_bytes());
        let packing = etag.map(|etag| etag.pack(&mut text));
        // No text ends so, which is UTF-8.
        text.extend((packing == Some(Packing::Digest)).then_some(0xff));
        Self::from_hash(xxh3_64(&text))
    }

    /// The number of a directory, from its whole prefix, in a hash domain of its own. Those of siblings go
    /// up with their names, but for one place where they begin anew: programs that open the
    /// subdirectories of one in the order of their numbers (`cp -r`; from 10,000 entries on fts, so `du`
    /// and `grep -r`) come by them in the order of keys.
    pub fn of_directory(prefix: &str) -> Self {
        const DIRECTORY_DOMAIN: u64 = 0x6469_7265_6374_6f72;
        let hash = |text: &str| xxh3_64_with_seed(text.as_bytes(), DIRECTORY_DOMAIN);
        let path = prefix.trim_end_matches('/');
        let (parent, name) = path.split_at(path.rfind('/').map_or(0, |slash| slash + 1));
        let among_siblings = rank(name) << (u64::BITS - RANK_BITS) | hash(prefix) >> RANK_BITS;
        Self::from_hash(hash(parent).wrapping_add(among_siblings))
    }

    /// The next number to try when this one already means something else.
    #[must_use]
    pub fn moved(self) -> Self {
        Self::from_hash(self.0.wrapping_add(1))
    }
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What tells one version of a key from another.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Version {
    /// `None` where the listing of a server has no ETag.
    pub etag: Option<ETag>,
    /// Bytes.
    pub size: u64,
    /// LastModified in whole seconds since 1970: a HEAD has no more than that. [`Self::UNDATED`]
    /// where the answer of a server has none.
    pub modified: i64,
}

impl Version {
    /// S3 has no objects of that age.
    pub const UNDATED: i64 = 0;

    pub fn is_dated(&self) -> bool {
        self.modified != Self::UNDATED
    }

    /// Whether an answer that carries `other` may be about this version. A missing ETag on one
    /// side is no difference, nor is a missing date; then the rest decides.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let etags = match (&self.etag, &other.etag) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        let dates = self.modified == other.modified || !(self.is_dated() && other.is_dated());
        etags && self.size == other.size && dates
    }
}

impl Version {
    /// Whether both are the same bytes: the same ETag and size, whatever the date, as the same
    /// content uploaded again keeps its ETag; without ETags the date has to agree, too.
    pub fn has_the_bytes_of(&self, other: &Self) -> bool {
        match (&self.etag, &other.etag) {
            (Some(a), Some(b)) => a == b && self.size == other.size,
            _ => self.agrees_with(other),
        }
    }
}

/// One version of one object.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Object {
    /// The whole key in the bucket, the mount's prefix included.
    pub key: Arc<str>,
    pub version: Version,
}

impl Object {
    /// The directory that it lies in, and its name there.
    pub fn place(&self) -> (DirPath, &str) {
        let (dir, name) = self.key.split_at(self.key.rfind('/').map_or(0, |slash| slash + 1));
        (DirPath::new(dir), name)
    }

    /// The inode number of this version, before any collision: a pure function of key and version,
    /// so it is the same after a remount.
    pub fn ino(&self) -> Ino {
        let Version { etag, size, modified } = &self.version;
        Ino::of_version(["", &self.key], etag.as_ref(), *size, *modified)
    }
}

/// The whole prefix of a directory: empty, or ending in `/`. The mount's own prefix included.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct DirPath(Arc<str>);

impl DirPath {
    /// # Panics
    /// When `prefix` is neither empty nor ends in `/`.
    pub fn new(prefix: &str) -> Self {
        assert!(prefix.is_empty() || prefix.ends_with('/'), "a directory's prefix ends in /");
        Self(prefix.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory `name` below this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self(format!("{}{name}/", self.0).into())
    }

    /// The key of the object `name` in this directory.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.0)
    }

    /// The directory that holds this one; the bucket's top is its own parent.
    #[must_use]
    pub fn parent(&self) -> Self {
        let trimmed = self.0.strip_suffix('/').unwrap_or("");
        Self(trimmed.rfind('/').map_or("", |slash| &trimmed[..=slash]).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str, etag: Option<&str>, size: u64, modified: i64) -> Object {
        let version = Version { etag: etag.map(ETag::new), size, modified };
        Object { key: key.into(), version }
    }

    #[test]
    fn each_part_of_a_version_changes_the_inode_number() {
        let base = object("a", Some("e"), 1, 2).ino();
        for other in [
            object("b", Some("e"), 1, 2),
            object("a", Some("f"), 1, 2),
            object("a", None, 1, 2),
            object("a", Some("e"), 3, 2),
            object("a", Some("e"), 1, 3),
        ] {
            assert_ne!(base, other.ino(), "{other:?}");
        }
        assert_eq!(base, object("a", Some("\"e\""), 1, 2).ino(), "quotes are no difference");
    }

    #[test]
    fn a_directory_and_an_object_of_one_key_have_different_numbers() {
        assert_ne!(Ino::of_directory("a/"), object("a/", None, 0, 0).ino());
    }

    #[test]
    fn a_parent_is_the_prefix_before() {
        assert_eq!(DirPath::new("a/b/").parent(), DirPath::new("a/"));
        assert_eq!(DirPath::new("a/").parent(), DirPath::new(""));
        assert_eq!(DirPath::new("").parent(), DirPath::new(""));
    }

    #[test]
    fn a_missing_etag_or_date_is_no_difference() {
        let with = object("a", Some("e"), 1, 2).version;
        assert!(with.agrees_with(&object("a", None, 1, 2).version));
        assert!(!with.agrees_with(&object("a", Some("f"), 1, 2).version));
        assert!(!with.agrees_with(&object("a", None, 2, 2).version));
        let undated = object("a", Some("e"), 1, Version::UNDATED).version;
        assert!(with.agrees_with(&undated) && undated.agrees_with(&with), "nor a missing date");
        assert!(!with.agrees_with(&object("a", Some("e"), 1, 3).version));
    }
}
