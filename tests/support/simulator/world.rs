//! Everything the server knows, and what a test may do to it while it runs.
//!
//! Lock order: there is none to keep. No method holds two of the locks at once, and hooks run
//! without any.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use sha2::{Digest, Sha256};

use super::access::{Credential, Credentials};
use super::body::Pace;
use super::bucket::{Bucket, Object};
use super::call::Kind;
use super::checksum::Checksum;
use super::hooks::{Held, Hooks};
use super::iam::Document;
use super::issuer::{Issuer, Session};
use super::log::{Counts, Log, LogEntry};
use super::policy::{Action, Denied, Rule};
use super::quirks::{Quirk, Quirks, Switches};
use super::shaping::{Shaper, Shaping};

/// The state of a simulator. Methods that name a bucket or an object panic if it is not there: a
/// test that asks for it is wrong.
pub(crate) struct World {
    pub(crate) buckets: RwLock<BTreeMap<String, Bucket>>,
    pub(crate) credentials: RwLock<Credentials>,
    pub(crate) issuer: Issuer,
    pub(crate) shaper: Mutex<Shaper>,
    /// What all answers come through, where shaping says so.
    pub(crate) line: Pace,
    pub(crate) hooks: Hooks,
    quirks: Switches,
    pub(crate) log: Arc<Log>,
    pub(crate) started: SystemTime,
    default_region: String,
    next_upload: AtomicU64,
    /// GETs by key whose body has one bit that is not the object's.
    corruptions: Mutex<BTreeMap<String, u64>>,
}

impl World {
    pub(crate) fn new(default_region: &str) -> Self {
        Self {
            buckets: RwLock::default(),
            credentials: RwLock::default(),
            issuer: Issuer::default(),
            shaper: Mutex::default(),
            line: Pace::default(),
            hooks: Hooks::default(),
            quirks: Switches::default(),
            log: Arc::default(),
            started: SystemTime::now(),
            default_region: default_region.to_owned(),
            next_upload: AtomicU64::new(1),
            corruptions: Mutex::default(),
        }
    }

    // What is not quite S3.

    pub(crate) fn set_quirk(&self, quirk: Quirk) {
        self.quirks.switch_on(quirk);
    }

    pub(crate) fn has_quirk(&self, quirk: Quirk) -> bool {
        self.quirks().has(quirk)
    }

    pub(crate) fn quirks(&self) -> Quirks {
        self.quirks.get()
    }

    // Buckets and objects.

    pub(crate) fn create_bucket(&self, bucket: &str) {
        self.create_bucket_in(bucket, &self.default_region);
    }

    pub(crate) fn create_bucket_in(&self, bucket: &str, region: &str) {
        self.buckets.write().insert(bucket.to_owned(), Bucket::new(region));
    }

    /// Stores an object with the present time and returns its ETag, without quotes.
    pub(crate) fn put(&self, bucket: &str, key: &str, bytes: impl Into<Bytes>) -> String {
        self.put_at(bucket, key, bytes, SystemTime::now())
    }

    pub(crate) fn put_at(
        &self,
        bucket: &str,
        key: &str,
        bytes: impl Into<Bytes>,
        modified: SystemTime,
    ) -> String {
        let object = Object::real(bytes.into(), modified);
        self.with_bucket(bucket, |bucket| bucket.put(key, object).etag.to_string())
    }

    /// Stores an object of this size whose bytes are computed; see `content`. Put again, the
    /// object has other bytes and another ETag.
    pub(crate) fn put_synthetic(&self, bucket: &str, key: &str, size: u64) -> String {
        self.with_bucket(bucket, |bucket| {
            let generation = bucket.get(key).map_or(0, |old| old.generation + 1);
            let object = Object::synthetic(key, size, generation, SystemTime::now());
            bucket.put(key, object).etag.to_string()
        })
    }

    /// So many synthetic objects of one size, `PREFIX000000`, `PREFIX000001` and so on.
    pub(crate) fn put_tree(&self, bucket: &str, prefix: &str, count: u64, size: u64) {
        let modified = SystemTime::now();
        self.with_bucket(bucket, |bucket| {
            for number in 0..count {
                let key = format!("{prefix}{number:06}");
                bucket.put(&key, Object::synthetic(&key, size, 0, modified));
            }
        });
    }

    /// So many synthetic objects of one size, each with a UUID of version 4 behind the prefix.
    pub(crate) fn put_uuids(&self, bucket: &str, prefix: &str, count: u64, size: u64) {
        let modified = SystemTime::now();
        self.with_bucket(bucket, |bucket| {
            for number in 0..count {
                let hash = xxhash_rust::xxh3::xxh3_128(&number.to_le_bytes());
                let version = hash & !(0xf << 76) | 4 << 76;
                let hex = format!("{version:032x}");
                let groups = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
                let key = format!("{prefix}{}", groups.join("-"));
                bucket.put(&key, Object::synthetic(&key, size, 0, modified));
            }
        });
    }

    /// So many directories, `PREFIXd00000/` and so on, each of so many synthetic objects of one size,
    /// `part-00000.parquet` and so on.
    pub(crate) fn put_forest(
        &self,
        bucket: &str,
        prefix: &str,
        n_directories: u64,
        n_files: u64,
        size: u64,
    ) {
        let modified = SystemTime::now();
        self.with_bucket(bucket, |bucket| {
            for directory in 0..n_directories {
                for file in 0..n_files {
                    let key = format!("{prefix}d{directory:05}/part-{file:05}.parquet");
                    bucket.put(&key, Object::synthetic(&key, size, 0, modified));
                }
            }
        });
    }

    /// Whether there was something to delete.
    pub(crate) fn delete(&self, bucket: &str, key: &str) -> bool {
        self.with_bucket(bucket, |bucket| bucket.delete(key))
    }

    /// Moves an object into the archive: listed, but not to be read.
    pub(crate) fn archive(&self, bucket: &str, key: &str) {
        self.with_bucket(bucket, |bucket| {
            let object = bucket.objects.get_mut(key.as_bytes()).expect("the object exists");
            object.archived = true;
        });
    }

    /// The object is encrypted with a key of KMS: reading it needs `kms:Decrypt` for its ARN, where a
    /// policy was attached; HEAD does not.
    pub(crate) fn encrypt(&self, bucket: &str, key: &str, kms_key: &str) {
        self.with_bucket(bucket, |bucket| {
            let object = bucket.objects.get_mut(key.as_bytes()).expect("the object exists");
            object.kms_key = Some(kms_key.into());
        });
    }

    /// Gives the object another checksum than CRC64NVME.
    pub(crate) fn set_checksum(&self, bucket: &str, key: &str, checksum: Checksum) {
        self.with_bucket(bucket, |bucket| {
            let object = bucket.objects.get_mut(key.as_bytes()).expect("it is there");
            object.checksum = checksum;
        });
    }

    pub(crate) fn keys(&self, bucket: &str) -> Vec<String> {
        let keys = |bucket: &mut Bucket| bucket.objects.keys().map(|key| key.to_vec()).collect();
        let keys: Vec<Vec<u8>> = self.with_bucket(bucket, keys);
        keys.into_iter().map(|key| String::from_utf8(key).expect("keys are strings")).collect()
    }

    pub(crate) fn object_size(&self, bucket: &str, key: &str) -> u64 {
        self.object(bucket, key).size()
    }

    pub(crate) fn object_bytes(&self, bucket: &str, key: &str) -> Vec<u8> {
        let object = self.object(bucket, key);
        object.content.bytes(0..object.size())
    }

    /// The bytes that the server would give now for this range.
    pub(crate) fn range_bytes(&self, bucket: &str, key: &str, range: Range<u64>) -> Vec<u8> {
        self.object(bucket, key).content.bytes(range)
    }

    /// Of the whole object, in hexadecimal.
    pub(crate) fn sha256(&self, bucket: &str, key: &str) -> String {
        let object = self.object(bucket, key);
        let mut hash = Sha256::new();
        let mut position = 0;
        while position < object.size() {
            let slice = object.content.slice(position, object.size());
            position += slice.len() as u64;
            hash.update(slice);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Without quotes.
    pub(crate) fn etag(&self, bucket: &str, key: &str) -> String {
        self.object(bucket, key).etag.to_string()
    }

    pub(crate) fn version_id(&self, bucket: &str, key: &str) -> String {
        self.object(bucket, key).version_id()
    }

    /// From now on, replaced and deleted objects of the bucket stay readable by version.
    pub(crate) fn set_versioned(&self, bucket: &str, versioned: bool) {
        self.with_bucket(bucket, |bucket| bucket.versioned = versioned);
    }

    // Who may do what.

    pub(crate) fn add_credentials(&self, access_key: &str, secret_key: &str) {
        self.credentials.write().insert(access_key.to_owned(), Credential::new(secret_key));
    }

    /// Temporary ones: requests must carry the token, and get `ExpiredToken` after the end.
    pub(crate) fn add_session(&self, session: &Session) {
        let Session { access_key, secret_key, token, ends } = session;
        let credential = Credential {
            token: Some(token.clone()),
            ends: Some(*ends),
            ..Credential::new(secret_key)
        };
        self.credentials.write().insert(access_key.clone(), credential);
    }

    /// The holder of the key may do what this policy of IAM allows, and nothing else.
    pub(crate) fn attach_policy(&self, access_key: &str, policy: Document) {
        let mut credentials = self.credentials.write();
        let credential = credentials.get_mut(access_key).expect("the key is known");
        credential.policy = Some(Arc::new(policy));
    }

    /// Whether there is such an access key, and it has not ended.
    pub(crate) fn knows(&self, access_key: &str) -> bool {
        self.credentials.read().get(access_key).is_some_and(|credential| !credential.is_over())
    }

    /// Requests with this key get `ExpiredToken`.
    pub(crate) fn expire_credentials(&self, access_key: &str) {
        let mut credentials = self.credentials.write();
        let credential = credentials.get_mut(access_key).expect("the key is known");
        credential.ends = Some(SystemTime::UNIX_EPOCH);
    }

    /// Requests with this key get `InvalidAccessKeyId`.
    pub(crate) fn remove_credentials(&self, access_key: &str) {
        self.credentials.write().remove(access_key);
    }

    /// Denies an action on the keys, or listings of the prefixes, that begin so; "" is all.
    pub(crate) fn deny(&self, bucket: &str, action: Action, prefix: &str) {
        let denied = Denied::Below(prefix.to_owned());
        self.with_bucket(bucket, |bucket| bucket.policy.rules.push(Rule { action, denied }));
    }

    /// Denies an action on everything else, as a policy with a condition on `s3:prefix` does.
    pub(crate) fn deny_outside(&self, bucket: &str, action: Action, prefix: &str) {
        let denied = Denied::Outside(prefix.to_owned());
        self.with_bucket(bucket, |bucket| bucket.policy.rules.push(Rule { action, denied }));
    }

    /// Takes back every `deny`.
    pub(crate) fn allow_all(&self, bucket: &str) {
        self.with_bucket(bucket, |bucket| bucket.policy.rules.clear());
    }

    /// Whether unsigned requests are answered; not at first.
    pub(crate) fn set_anonymous(&self, bucket: &str, anonymous: bool) {
        self.with_bucket(bucket, |bucket| bucket.policy.anonymous = anonymous);
    }

    pub(crate) fn set_requester_pays(&self, bucket: &str, requester_pays: bool) {
        self.with_bucket(bucket, |bucket| bucket.policy.requester_pays = requester_pays);
    }

    /// Gives so many entries on a page of a listing, also to a client that asks for more: a server may.
    pub(crate) fn set_page_entries(&self, bucket: &str, n_max: usize) {
        self.with_bucket(bucket, |bucket| bucket.page_entries_max = n_max);
    }

    // How it behaves, and what happens when.

    /// Changes the shaping in force; requests under way keep what they drew.
    pub(crate) fn shape(&self, change: impl FnOnce(&mut Shaping)) {
        let mut shaper = self.shaper.lock();
        let mut shaping = shaper.shaping().clone();
        change(&mut shaping);
        shaper.set(shaping);
    }

    /// Does something before the answer to the next such request is computed. `subject` is the
    /// key, or the prefix of a listing.
    pub(crate) fn before(
        &self,
        kind: Kind,
        subject: &str,
        action: impl FnOnce(&Self) + Send + 'static,
    ) {
        self.before_nth(kind, subject, 1, action);
    }

    /// As `before`, for the `nth` such request from now on; the next one is number 1.
    pub(crate) fn before_nth(
        &self,
        kind: Kind,
        subject: &str,
        nth: u64,
        action: impl FnOnce(&Self) + Send + 'static,
    ) {
        self.hooks.before(kind, subject, nth, Box::new(action));
    }

    /// Does something once so many bytes of the body of the next GET of this key have been sent.
    /// That body keeps its old bytes to the end, as on S3.
    pub(crate) fn during_get(
        &self,
        key: &str,
        after_bytes: u64,
        action: impl FnOnce(&Self) + Send + 'static,
    ) {
        self.hooks.during(key, after_bytes, Box::new(action));
    }

    /// Keeps back the answer to the next such request until the returned value is dropped.
    pub(crate) fn hold(&self, kind: Kind, subject: &str) -> Held {
        self.hooks.hold(kind, subject)
    }

    /// The bodies of the next `n_gets` GETs of this key have a bit that is not the object's. In memory: not
    /// for large objects.
    pub(crate) fn corrupt(&self, key: &str, n_gets: u64) {
        self.corruptions.lock().insert(key.to_owned(), n_gets);
    }

    /// Whether this GET is one of them.
    pub(crate) fn corrupts(&self, key: &str) -> bool {
        let mut corruptions = self.corruptions.lock();
        let Some(left) = corruptions.get_mut(key).filter(|left| **left > 0) else { return false };
        *left -= 1;
        true
    }

    // What happened.

    pub(crate) fn counts(&self) -> Counts {
        self.log.counts()
    }

    /// The counts without hedges: how many of those there are depends on what else the machine does.
    pub(crate) fn counts_unhedged(&self) -> Counts {
        self.log.counts_unhedged()
    }

    /// Every request since the start or the last reset, in the order of arrival.
    pub(crate) fn log(&self) -> Vec<LogEntry> {
        self.log.entries()
    }

    /// Sets log and counts to nothing.
    pub(crate) fn reset_log(&self) {
        self.log.reset();
    }

    pub(crate) fn new_upload_id(&self) -> String {
        format!("upload-{:08}", self.next_upload.fetch_add(1, Ordering::Relaxed))
    }

    fn with_bucket<T>(&self, bucket: &str, act: impl FnOnce(&mut Bucket) -> T) -> T {
        let mut buckets = self.buckets.write();
        act(buckets.get_mut(bucket).unwrap_or_else(|| panic!("no bucket {bucket}")))
    }

    fn object(&self, bucket: &str, key: &str) -> Object {
        let find = |bucket: &mut Bucket| bucket.get(key).cloned();
        self.with_bucket(bucket, find).unwrap_or_else(|| panic!("no object {key} in {bucket}"))
    }
}
