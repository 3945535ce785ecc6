//! Buckets and objects as plain values: what is stored, without HTTP.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_smithy_checksums::ChecksumAlgorithm;
use bytes::Bytes;
use http::HeaderMap;
use md5::{Digest, Md5};

use super::checksum::Checksum;
use super::content::{Content, Synthetic};
use super::policy::Policy;

/// Keys as bytes: S3 lists in the order of the bytes of UTF-8, and a prefix has an exact successor.
pub(crate) type Objects = BTreeMap<Box<[u8]>, Object>;

#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) content: Content,
    pub(crate) etag: Tag,
    /// Seconds since 1970: S3 keeps no fractions.
    pub(crate) modified: u64,
    /// How often this key was replaced since the server started.
    pub(crate) generation: u64,
    /// The number behind `x-amz-version-id`; given to every object, shown in versioned buckets.
    pub(crate) version: u64,
    /// In the archive: listed and found by HEAD, but GET is refused.
    pub(crate) archived: bool,
    /// The ARN of the key of KMS that it is encrypted with.
    pub(crate) kms_key: Option<Arc<str>>,
    pub(crate) checksum: Checksum,
    /// Content-Type, `x-amz-meta-*` and their like, as they came with the PUT.
    pub(crate) headers: Option<Arc<HeaderMap>>,
}

impl Object {
    pub(crate) fn real(bytes: Bytes, modified: SystemTime) -> Self {
        let etag = Tag::of(&bytes);
        Self::new(Content::Real(bytes), etag, modified)
    }

    pub(crate) fn synthetic(key: &str, size: u64, generation: u64, modified: SystemTime) -> Self {
        let (synthetic, digest) = Synthetic::new(key, size, generation);
        // Of one part: a plain tag would be the MD5 of the bytes to clients that check it, as rclone.
        let object = Self::new(Content::Synthetic(synthetic), Tag { digest, parts: 1 }, modified);
        Self { generation, ..object }
    }

    pub(crate) fn new(content: Content, etag: Tag, modified: SystemTime) -> Self {
        let modified = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self {
            content,
            etag,
            modified,
            generation: 0,
            version: 0,
            archived: false,
            kms_key: None,
            checksum: Checksum::Whole(ChecksumAlgorithm::Crc64Nvme),
            headers: None,
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.content.size()
    }

    pub(crate) fn last_modified(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.modified)
    }

    /// As long as those of S3, and as meaningless to a client.
    pub(crate) fn version_id(&self) -> String {
        version_id(self.version)
    }

    pub(crate) fn storage_class(&self) -> &'static str {
        if self.archived { "GLACIER" } else { "STANDARD" }
    }
}

fn version_id(version: u64) -> String {
    format!("{version:032x}")
}

/// An entity tag: 32 hexadecimal digits, and the number of parts after a multipart upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) digest: [u8; 16],
    /// 0: uploaded in one piece.
    pub(crate) parts: u16,
}

impl Tag {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { digest: Md5::digest(bytes).into(), parts: 0 }
    }

    /// Without the quotes.
    pub(crate) fn append_to(self, text: &mut String) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for byte in self.digest {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        if self.parts > 0 {
            text.push('-');
            text.push_str(&self.parts.to_string());
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(40);
        self.append_to(&mut text);
        formatter.write_str(&text)
    }
}

/// A multipart upload that is not complete yet.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    pub(crate) key: String,
    pub(crate) headers: Option<Arc<HeaderMap>>,
    pub(crate) parts: BTreeMap<i32, (Tag, Bytes)>,
}

#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) region: String,
    pub(crate) policy: Policy,
    pub(crate) versioned: bool,
    pub(crate) objects: Objects,
    /// What was replaced or deleted while the bucket was versioned.
    pub(crate) history: HashMap<Box<[u8]>, Vec<Object>>,
    pub(crate) uploads: HashMap<String, Upload>,
    /// Entries on a page of a listing, where a server gives fewer than it was asked for.
    pub(crate) page_entries_max: usize,
    next_version: u64,
}

impl Bucket {
    pub(crate) fn new(region: &str) -> Self {
        Self {
            region: region.to_owned(),
            policy: Policy::default(),
            versioned: false,
            objects: Objects::new(),
            history: HashMap::new(),
            uploads: HashMap::new(),
            page_entries_max: usize::MAX,
            next_version: 1,
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Object> {
        self.objects.get(key.as_bytes())
    }

    /// The current object if it has this version, else the one in the history.
    pub(crate) fn get_version(&self, key: &str, id: &str) -> Option<&Object> {
        let history = self.history.get(key.as_bytes()).into_iter().flatten();
        self.get(key).into_iter().chain(history).find(|object| {
            let shown = if self.versioned { object.version_id() } else { "null".to_owned() };
            shown == id
        })
    }

    /// Whether the newest version of the key is a delete marker.
    pub(crate) fn has_marker(&self, key: &str) -> bool {
        self.get(key).is_none() && self.history.contains_key(key.as_bytes())
    }

    /// Stores the object as the newest version of its key and returns it as stored.
    pub(crate) fn put(&mut self, key: &str, mut object: Object) -> &Object {
        let key: Box<[u8]> = key.as_bytes().into();
        object.version = self.next_version;
        self.next_version += 1;
        if let Some(old) = self.objects.remove(&key) {
            object.generation = old.generation + 1;
            self.retire(&key, old);
        }
        self.objects.entry(key).or_insert(object)
    }

    pub(crate) fn delete(&mut self, key: &str) -> bool {
        let Some(old) = self.objects.remove(key.as_bytes()) else { return false };
        self.retire(key.as_bytes(), old);
        true
    }

    pub(crate) fn delete_version(&mut self, key: &str, id: &str) {
        if self.get(key).is_some_and(|object| object.version_id() == id) {
            self.objects.remove(key.as_bytes());
        }
        if let Some(history) = self.history.get_mut(key.as_bytes()) {
            history.retain(|object| object.version_id() != id);
        }
    }

    fn retire(&mut self, key: &[u8], old: Object) {
        if self.versioned {
            self.history.entry(key.into()).or_default().push(old);
        }
    }
}
