//! What a check stands on: a server, a client that writes to it, two mounts of a random prefix, and
//! a plot of its own below that prefix.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier};
use aws_smithy_http_client::Builder as HttpBuilder;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::runtime::{Builder as RuntimeBuilder, Runtime};

use super::checks::{Check, Planned};
use crate::support::mounted::{Ended, Mounted, bare_command};
use crate::support::servers::{Server, variable};

/// More is no faster with servers that are one process of Python.
const UPLOADS_AT_ONCE: usize = 16;

/// Of a multipart upload; the least that S3 takes is 5 MiB.
const PART_BYTES: usize = 8 << 20;

/// S3's own bound of DeleteObjects.
const DELETES_MAX: usize = 1_000;

/// Why a check did not pass.
#[derive(Clone, Debug)]
pub(super) enum Failed {
    Because(String),
    /// Only where the server is not ours: it would touch what we were not given.
    NotTried(&'static str),
}

/// So that `?` makes a failure of any error; for that it must not be an error itself.
impl<E: std::error::Error> From<E> for Failed {
    fn from(err: E) -> Self {
        Self::Because(err.to_string())
    }
}

pub(super) type Outcome<T = ()> = Result<T, Failed>;

/// Fails with these words.
pub(super) fn fail<T>(words: impl Display) -> Outcome<T> {
    Err(Failed::Because(words.to_string()))
}

/// Fails unless `right`.
pub(super) fn must(right: bool, words: impl Display) -> Outcome {
    if right { Ok(()) } else { fail(words) }
}

/// An object as a listing shows it.
pub(super) struct Listed {
    pub(super) key: String,
    pub(super) size: u64,
    pub(super) modified: i64,
    pub(super) etag: Option<String>,
}

pub(super) struct Ground {
    pub(super) server: Server,
    client: Client,
    runtime: Runtime,
    pub(super) bucket: String,
    /// All keys begin with it; it ends in `/`.
    prefix: String,
    /// Buckets that are the suite's own, to be deleted when they are empty.
    created: Mutex<Vec<String>>,
    /// Those of them that keep versions.
    versioned: Mutex<BTreeSet<String>>,
    stored: Mutex<BTreeSet<(String, String)>>,
    /// What could not be stored, by directory.
    refused: BTreeMap<&'static str, Failed>,
    mounts: Option<Mounts>,
}

struct Mounts {
    /// With the options that are the default.
    plain: Mounted,
    /// That looks again at every open and lookup.
    fresh: Mounted,
}

impl Ground {
    /// Stores what the checks need and mounts it. What the server refuses to store fails the checks
    /// that need it, and no other; a server without a bucket or a mount fails them all.
    pub(super) fn lay(server: Server, checks: &[Check]) -> Outcome<Self> {
        let runtime = RuntimeBuilder::new_multi_thread().worker_threads(2).enable_all().build();
        let client = client(&server);
        let random = random_word();
        let bucket = server.bucket.clone().unwrap_or_else(|| format!("s3mount-{random}"));
        let mut ground = Self {
            client,
            runtime: runtime.expect("threads"),
            bucket: bucket.clone(),
            prefix: format!("contract-{random}/"),
            created: Mutex::default(),
            versioned: Mutex::default(),
            stored: Mutex::default(),
            refused: BTreeMap::new(),
            mounts: None,
            server,
        };
        if ground.server.bucket.is_none() {
            ground.create_bucket(&bucket)?;
        }
        ground.refused = ground.store_all(checks);
        let plain = ground.mount("", &[]);
        let fresh = ["--metadata-ttl", "100ms", "--negative-ttl", "0", "--open-ttl", "0"];
        let fresh = ground.mount("", &fresh);
        match (plain, fresh) {
            (Ok(plain), Ok(fresh)) => ground.mounts = Some(Mounts { plain, fresh }),
            (Err(ended), _) | (_, Err(ended)) => {
                let _ = ground.clean_up();
                return fail(format!("nothing can be mounted: {}", ended.log.trim()));
            }
        }
        Ok(ground)
    }

    /// The part of it that belongs to a check.
    pub(super) fn plot(&self, directory: &'static str) -> Outcome<Plot<'_>> {
        match self.refused.get(directory) {
            None => Ok(Plot { ground: self, directory }),
            Some(failed) => Err(failed.clone()),
        }
    }

    /// What both mounts wrote to their terminals.
    pub(super) fn logs(&self) -> String {
        let mounts = self.mounts.as_ref().expect("laid");
        format!("{}{}", mounts.plain.log(), mounts.fresh.log())
    }

    /// Deletes everything that was stored, and looks whether it is gone. One bucket that stays does
    /// not keep the others.
    pub(super) fn clean_up(&self) -> Outcome {
        let stored = std::mem::take(&mut *self.stored.lock());
        let mut buckets = BTreeMap::<String, Vec<ObjectIdentifier>>::new();
        for (bucket, key) in stored {
            let object = ObjectIdentifier::builder().key(key).build()?;
            buckets.entry(bucket).or_default().push(object);
        }
        let emptied = buckets.into_iter().map(|(bucket, objects)| self.empty(&bucket, objects));
        let emptied: Vec<_> = emptied.collect();
        let created = std::mem::take(&mut *self.created.lock());
        let deleted = created.iter().map(|bucket| {
            let request = self.client.delete_bucket().bucket(bucket);
            self.wait(&format!("DeleteBucket {bucket}"), request.send()).map(drop)
        });
        let deleted: Vec<_> = deleted.collect();
        emptied.into_iter().chain(deleted).collect()
    }

    fn empty(&self, bucket: &str, objects: Vec<ObjectIdentifier>) -> Outcome {
        let objects = self.with_versions(bucket, objects)?;
        // XML cannot hold control characters, so such keys are deleted one by one.
        let (strange, objects): (Vec<_>, Vec<_>) =
            objects.into_iter().partition(|object| object.key().contains(char::is_control));
        for object in strange {
            let request = self.client.delete_object().bucket(bucket).key(object.key);
            let request = request.set_version_id(object.version_id);
            // It may never have been stored; the listing below tells.
            let _ = self.wait("DeleteObject", request.send());
        }
        for some in objects.chunks(DELETES_MAX) {
            let delete = Delete::builder().set_objects(Some(some.to_vec())).build()?;
            let request = self.client.delete_objects().bucket(bucket).delete(delete);
            self.wait("DeleteObjects", request.send())?;
        }
        let left = self.list(bucket, &self.prefix)?;
        must(left.is_empty(), format!("{} keys are left in {bucket}", left.len()))
    }

    /// In a bucket that keeps versions each of them has to be deleted by its id.
    fn with_versions(
        &self,
        bucket: &str,
        keys: Vec<ObjectIdentifier>,
    ) -> Outcome<Vec<ObjectIdentifier>> {
        if self.server.as_simulator().is_some() || !self.keeps_versions(bucket) {
            return Ok(keys);
        }
        let mut found = Vec::new();
        let (mut key_marker, mut version_marker) = (None, None);
        loop {
            let request = self.client.list_object_versions().bucket(bucket).prefix(&self.prefix);
            let request = request.set_key_marker(key_marker.take());
            let request = request.set_version_id_marker(version_marker.take());
            let page = self.wait("ListObjectVersions", request.send())?;
            let versions = page.versions().iter().map(|entry| (entry.key(), entry.version_id()));
            let markers =
                page.delete_markers().iter().map(|entry| (entry.key(), entry.version_id()));
            for (key, id) in versions.chain(markers) {
                let object = ObjectIdentifier::builder().key(key.unwrap_or_default());
                found.push(object.set_version_id(id.map(str::to_owned)).build()?);
            }
            if page.is_truncated() != Some(true) {
                return Ok(found);
            }
            (key_marker, version_marker) = (page.next_key_marker, page.next_version_id_marker);
        }
    }

    pub(super) fn keeps_versions(&self, bucket: &str) -> bool {
        // moto's own answer has another name for its root, which the SDK refuses.
        if self.versioned.lock().contains(bucket) {
            return true;
        }
        let request = self.client.get_bucket_versioning().bucket(bucket);
        let answer = self.wait("GetBucketVersioning", request.send());
        answer
            .is_ok_and(|answer| answer.status().is_some_and(|status| status.as_str() == "Enabled"))
    }

    /// A further bucket, where that is ours to create.
    pub(super) fn own_bucket(&self, word: &str) -> Outcome<String> {
        if self.server.bucket.is_some() {
            return Err(Failed::NotTried("it needs a bucket of its own"));
        }
        let bucket = format!("{}-{word}", self.bucket);
        self.create_bucket(&bucket)?;
        Ok(bucket)
    }

    pub(super) fn keep_versions(&self, bucket: &str) -> Outcome {
        use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
        if let Some(simulator) = self.server.as_simulator() {
            simulator.set_versioned(bucket, true);
            return Ok(());
        }
        let status = BucketVersioningStatus::Enabled;
        let versioning = VersioningConfiguration::builder().status(status).build();
        let request = self.client.put_bucket_versioning().bucket(bucket);
        let request = request.versioning_configuration(versioning).send();
        self.wait("PutBucketVersioning", request)?;
        self.versioned.lock().insert(bucket.to_owned());
        Ok(())
    }

    /// Lets everybody list and read a bucket.
    pub(super) fn make_public(&self, bucket: &str) -> Outcome {
        if let Some(simulator) = self.server.as_simulator() {
            simulator.set_anonymous(bucket, true);
            return Ok(());
        }
        let policy = format!(
            r#"{{"Version": "2012-10-17", "Statement": [{{"Effect": "Allow", "Principal": "*",
            "Action": ["s3:ListBucket", "s3:GetObject"],
            "Resource": ["arn:aws:s3:::{bucket}", "arn:aws:s3:::{bucket}/*"]}}]}}"#
        );
        // As on AWS, where nothing can be public before.
        let blocked = self.client.delete_public_access_block().bucket(bucket);
        self.wait("DeletePublicAccessBlock", blocked.send())?;
        let request = self.client.put_bucket_policy().bucket(bucket).policy(policy);
        self.wait("PutBucketPolicy", request.send()).map(drop)
    }

    /// The ETag of an object, as HEAD says it.
    pub(super) fn etag(&self, key: &str) -> Option<String> {
        let request = self.client.head_object().bucket(&self.bucket).key(key);
        self.wait("HeadObject", request.send()).ok()?.e_tag
    }

    pub(super) fn put(&self, bucket: &str, key: &str, bytes: impl Into<Bytes>) -> Outcome {
        let upload = self.upload(bucket.to_owned(), key.to_owned(), bytes.into());
        self.runtime.block_on(upload)
    }

    pub(super) fn delete(&self, bucket: &str, key: &str) -> Outcome {
        let request = self.client.delete_object().bucket(bucket).key(key);
        self.wait("DeleteObject", request.send()).map(drop)
    }

    /// All keys below a prefix, by whichever of the two calls the server has.
    pub(super) fn list(&self, bucket: &str, prefix: &str) -> Outcome<Vec<Listed>> {
        let newer = self.client.list_objects_v2().bucket(bucket).prefix(prefix);
        let objects = match self.wait("ListObjectsV2", newer.send()) {
            Ok(answer) => answer.contents.unwrap_or_default(),
            Err(_) => {
                let older = self.client.list_objects().bucket(bucket).prefix(prefix);
                self.wait("ListObjects", older.send())?.contents.unwrap_or_default()
            }
        };
        let listed = objects.into_iter().map(|object| Listed {
            size: object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
            modified: object.last_modified().map_or(0, DateTime::secs),
            etag: object.e_tag,
            key: object.key.unwrap_or_default(),
        });
        Ok(listed.collect())
    }

    /// A mount of the random prefix, or of a directory below it.
    pub(super) fn mount(&self, below: &str, options: &[&str]) -> Result<Mounted, Ended> {
        self.mount_with(&format!("{}/{}{below}", self.bucket, self.prefix), options, &[])
    }

    /// A mount of anything, with changes to the environment.
    pub(super) fn mount_with(
        &self,
        source: &str,
        options: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Mounted, Ended> {
        let mut program = bare_command();
        program.envs(self.server.environment()).envs(environment.iter().copied());
        let options: Vec<&str> =
            ["--force-path-style"].into_iter().chain(options.iter().copied()).collect();
        Mounted::try_start(program, source, &options)
    }

    fn create_bucket(&self, bucket: &str) -> Outcome {
        use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
        let region = self.server.region.as_str();
        // The first region must not be named, for historical reasons of S3.
        let configuration = (region != "us-east-1").then(|| {
            let place = BucketLocationConstraint::from(region);
            CreateBucketConfiguration::builder().location_constraint(place).build()
        });
        let request = self.client.create_bucket().bucket(bucket);
        let request = request.set_create_bucket_configuration(configuration);
        self.wait("CreateBucket", request.send())?;
        self.created.lock().push(bucket.to_owned());
        Ok(())
    }

    fn store_all(&self, checks: &[Check]) -> BTreeMap<&'static str, Failed> {
        let mut uploads = Vec::new();
        for check in checks {
            for Planned { name, content } in &check.objects {
                let key = format!("{}{}/{name}", self.prefix, check.directory);
                match self.server.as_simulator() {
                    // 2,500 requests of the SDK cost seconds, and one is as another.
                    Some(simulator) if check.is_large() => {
                        self.stored.lock().insert((self.bucket.clone(), key.clone()));
                        simulator.put(&self.bucket, &key, content.clone());
                    }
                    _ => uploads.push((check.directory, key, content.clone())),
                }
            }
        }
        let outcomes = stream::iter(uploads).map(|(directory, key, content)| async move {
            let upload = self.upload(self.bucket.clone(), key, content);
            (directory, upload.await)
        });
        let outcomes = outcomes.buffer_unordered(UPLOADS_AT_ONCE).collect::<Vec<_>>();
        let outcomes = self.runtime.block_on(outcomes);
        let failed = outcomes.into_iter().filter_map(|(name, done)| Some((name, done.err()?)));
        failed.collect()
    }

    async fn upload(&self, bucket: String, key: String, bytes: Bytes) -> Outcome {
        self.stored.lock().insert((bucket.clone(), key.clone()));
        if bytes.len() > 2 * PART_BYTES {
            return self.upload_in_parts(bucket, key, bytes).await;
        }
        let request = self.client.put_object().bucket(bucket).key(&key);
        let sent = request.body(ByteStream::from(bytes)).send().await;
        sent.map(drop).map_err(|err| refused("PutObject", &err))
    }

    async fn upload_in_parts(&self, bucket: String, key: String, bytes: Bytes) -> Outcome {
        let failed = "multipart upload";
        let request = self.client.create_multipart_upload().bucket(&bucket).key(&key);
        let created = request.send().await.map_err(|err| refused(failed, &err))?;
        let id = created.upload_id().unwrap_or_default();
        let mut done = CompletedMultipartUpload::builder();
        for (number, start) in (1..).zip((0..bytes.len()).step_by(PART_BYTES)) {
            let part = bytes.slice(start..bytes.len().min(start + PART_BYTES));
            let request = self.client.upload_part().bucket(&bucket).key(&key).upload_id(id);
            let request = request.part_number(number).body(ByteStream::from(part));
            let sent = request.send().await.map_err(|err| refused(failed, &err))?;
            let part = CompletedPart::builder().part_number(number);
            done = done.parts(part.set_e_tag(sent.e_tag).build());
        }
        let request = self.client.complete_multipart_upload().bucket(&bucket).key(&key);
        let request = request.upload_id(id).multipart_upload(done.build());
        match request.send().await {
            Ok(_) => Ok(()),
            // moto's answer has another name for its root, which the SDK refuses; the object is there.
            Err(err) if err.code().is_none() && is_success(&err) => Ok(()),
            Err(err) => Err(refused(failed, &err)),
        }
    }

    fn wait<T, E: std::error::Error>(
        &self,
        what: &str,
        request: impl Future<Output = Result<T, E>>,
    ) -> Outcome<T> {
        self.runtime.block_on(request).map_err(|err| refused(what, &err))
    }
}

/// A directory of the bucket, for one check.
pub(super) struct Plot<'a> {
    pub(super) ground: &'a Ground,
    directory: &'static str,
}

impl Plot<'_> {
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{}/{name}", self.ground.prefix, self.directory)
    }

    /// Where `name` is in the mount with the default options.
    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        let mounts = self.ground.mounts.as_ref().expect("laid");
        mounts.plain.join(self.directory).join(name)
    }

    /// Where `name` is in the mount that looks again each time.
    pub(super) fn fresh(&self, name: &str) -> PathBuf {
        let mounts = self.ground.mounts.as_ref().expect("laid");
        mounts.fresh.join(self.directory).join(name)
    }

    pub(super) fn put(&self, name: &str, bytes: impl Into<Bytes>) -> Outcome {
        self.ground.put(&self.ground.bucket, &self.key(name), bytes)
    }

    pub(super) fn delete(&self, name: &str) -> Outcome {
        self.ground.delete(&self.ground.bucket, &self.key(name))
    }

    pub(super) fn list(&self) -> Outcome<Vec<Listed>> {
        self.ground.list(&self.ground.bucket, &self.key(""))
    }

    /// A mount of what lies below `name` in it.
    pub(super) fn mount(&self, name: &str, options: &[&str]) -> Outcome<Mounted> {
        let below = format!("{}/{name}", self.directory);
        self.ground.mount(&below, options).or_else(|ended| fail(ended.log))
    }
}

fn client(server: &Server) -> Client {
    let trust = variable("AWS_CA_BUNDLE").map(|path| {
        let pem = std::fs::read(path).expect("AWS_CA_BUNDLE names a file");
        TrustStore::empty().with_pem_certificate(pem)
    });
    let tls = TlsContext::builder().with_trust_store(trust.unwrap_or_default()).build();
    let http = HttpBuilder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(tls.expect("a trust store"))
        .build_https();
    let Server { access_key, secret_key, session_token, .. } = server;
    let keys =
        Credentials::new(access_key, secret_key, session_token.clone(), None, "contract suite");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(&server.endpoint)
        .region(Region::new(server.region.clone()))
        .credentials_provider(keys)
        .http_client(http)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .force_path_style(true);
    Client::from_conf(config.build())
}

fn is_success<E>(err: &SdkError<E, HttpResponse>) -> bool {
    err.raw_response().is_some_and(|answer| answer.status().is_success())
}

fn refused<E: std::error::Error>(what: &str, err: &E) -> Failed {
    let words = DisplayErrorContext(err).to_string();
    Failed::Because(format!("{what}: {}", words.chars().take(300).collect::<String>()))
}

/// Other runs may use the same bucket.
fn random_word() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let seed = now.as_nanos() ^ u128::from(std::process::id()) << 64;
    let counter = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let hash = xxhash_rust::xxh3::xxh3_64_with_seed(&seed.to_le_bytes(), counter);
    format!("{:010x}", hash & 0xff_ffff_ffff)
}

/// Two grounds of one process may be laid at the same nanosecond.
static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
