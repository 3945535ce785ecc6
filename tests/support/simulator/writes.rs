//! Calls on buckets, PUT, DELETE and multipart uploads, through the typed interface of s3s: enough
//! for aws-cli and boto3 to fill a bucket and to empty it.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::HeaderMap;
use http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, EXPIRES,
};
use md5::{Digest, Md5};
use parking_lot::{MappedRwLockWriteGuard, RwLockWriteGuard};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, Bucket as BucketEntry,
    BucketLocationConstraint, CompleteMultipartUploadInput, CompleteMultipartUploadOutput,
    CreateBucketInput, CreateBucketOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteBucketInput, DeleteBucketOutput, DeleteObjectInput, DeleteObjectOutput,
    DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETag, GetBucketLocationInput,
    GetBucketLocationOutput, HeadBucketInput, HeadBucketOutput, ListBucketsInput,
    ListBucketsOutput, Owner, PutObjectInput, PutObjectOutput, StreamingBlob, Timestamp,
    UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::World;
use super::access::{OWNER, no_such_bucket, region_header};
use super::bucket::{Bucket, Object, Tag, Upload};
use super::call::text;
use super::content::Content;
use super::reads::matches;

pub(crate) struct Writes(pub(crate) Arc<World>);

impl Writes {
    fn bucket(&self, name: &str) -> S3Result<MappedRwLockWriteGuard<'_, Bucket>> {
        RwLockWriteGuard::try_map(self.0.buckets.write(), |buckets| buckets.get_mut(name))
            .map_err(|_| no_such_bucket())
    }
}

#[async_trait::async_trait]
impl S3 for Writes {
    async fn list_buckets(
        &self,
        _request: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let buckets = self.0.buckets.read();
        let entries = buckets.iter().map(|(name, bucket)| BucketEntry {
            bucket_region: Some(bucket.region.clone()),
            creation_date: Some(Timestamp::from(self.0.started)),
            name: Some(name.clone()),
        });
        let owner = Owner { display_name: Some("simulator".into()), id: Some(OWNER.into()) };
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(entries.collect()),
            owner: Some(owner),
            ..ListBucketsOutput::default()
        }))
    }

    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let region = request.region.as_ref().map_or("us-east-1", |region| region.as_str());
        let name = request.input.bucket;
        if self.0.buckets.read().contains_key(&name) {
            return Err(s3_error!(BucketAlreadyOwnedByYou, "You own this bucket already"));
        }
        self.0.create_bucket_in(&name, region);
        Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{name}")) }))
    }

    async fn delete_bucket(
        &self,
        request: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        let name = request.input.bucket;
        if !self.bucket(&name)?.objects.is_empty() {
            return Err(s3_error!(BucketNotEmpty, "The bucket you tried to delete is not empty"));
        }
        self.0.buckets.write().remove(&name);
        Ok(S3Response::new(DeleteBucketOutput {}))
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        let headers = region_header(&*self.bucket(&request.input.bucket)?);
        Ok(S3Response::with_headers(HeadBucketOutput::default(), headers))
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        let region = self.bucket(&request.input.bucket)?.region.clone();
        // The first region has no name here, for historical reasons of S3.
        let location_constraint =
            (region != "us-east-1").then(|| BucketLocationConstraint::from(region));
        Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
    }

    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let headers = kept_headers(&request.headers);
        let if_none_match = text(&request.headers, "if-none-match");
        let if_match = text(&request.headers, "if-match");
        let input = request.input;
        let bytes = collect(input.body).await?;
        check_md5(input.content_md5.as_deref(), &bytes)?;
        let mut object = Object::real(bytes, SystemTime::now());
        object.headers = headers;
        let mut bucket = self.bucket(&input.bucket)?;
        let etag = bucket.get(&input.key).map(|object| object.etag.to_string());
        let exists_unwanted = if_none_match.is_some() && etag.is_some();
        let differs = if_match.is_some_and(|tags| !etag.is_some_and(|etag| matches(&tags, &etag)));
        if exists_unwanted || differs {
            return Err(s3_error!(
                PreconditionFailed,
                "At least one of the pre-conditions you specified did not hold"
            ));
        }
        let versioned = bucket.versioned;
        let stored = bucket.put(&input.key, object);
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(quoted(stored.etag)),
            version_id: versioned.then(|| stored.version_id()),
            ..PutObjectOutput::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = request.input;
        let mut bucket = self.bucket(&input.bucket)?;
        delete(&mut bucket, &input.key, input.version_id.as_deref());
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = request.input;
        let mut bucket = self.bucket(&input.bucket)?;
        let mut deleted = Vec::new();
        for object in input.delete.objects {
            delete(&mut bucket, &object.key, object.version_id.as_deref());
            deleted.push(DeletedObject { key: Some(object.key), ..DeletedObject::default() });
        }
        if input.delete.quiet == Some(true) {
            deleted.clear();
        }
        let deleted = Some(deleted);
        Ok(S3Response::new(DeleteObjectsOutput { deleted, ..DeleteObjectsOutput::default() }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let headers = kept_headers(&request.headers);
        let input = request.input;
        let id = self.0.new_upload_id();
        let upload = Upload { key: input.key.clone(), headers, ..Upload::default() };
        self.bucket(&input.bucket)?.uploads.insert(id.clone(), upload);
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let input = request.input;
        let bytes = collect(input.body).await?;
        check_md5(input.content_md5.as_deref(), &bytes)?;
        let etag = Tag::of(&bytes);
        let mut bucket = self.bucket(&input.bucket)?;
        let upload = bucket.uploads.get_mut(&input.upload_id).ok_or_else(no_such_upload)?;
        upload.parts.insert(input.part_number, (etag, bytes));
        let e_tag = Some(quoted(etag));
        Ok(S3Response::new(UploadPartOutput { e_tag, ..UploadPartOutput::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let listed = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let mut bucket = self.bucket(&input.bucket)?;
        let upload = bucket.uploads.get(&input.upload_id).ok_or_else(no_such_upload)?;
        let mut tags = Md5::new();
        let mut bytes = Vec::new();
        for listed in &listed {
            let number = listed.part_number.unwrap_or_default();
            let (etag, part) = upload.parts.get(&number).ok_or_else(invalid_part)?;
            let named = listed.e_tag.as_ref().map(ETag::value);
            if named.is_some_and(|named| named != etag.to_string()) {
                return Err(invalid_part());
            }
            tags.update(etag.digest);
            bytes.extend_from_slice(part);
        }
        let parts = u16::try_from(listed.len()).map_err(|_| invalid_part())?;
        let etag = Tag { digest: tags.finalize().into(), parts };
        let mut object = Object::new(Content::Real(bytes.into()), etag, SystemTime::now());
        object.headers.clone_from(&upload.headers);
        bucket.uploads.remove(&input.upload_id);
        let versioned = bucket.versioned;
        let version_id = bucket.put(&input.key, object).version_id();
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(quoted(etag)),
            version_id: versioned.then_some(version_id),
            ..CompleteMultipartUploadOutput::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let mut bucket = self.bucket(&request.input.bucket)?;
        bucket.uploads.remove(&request.input.upload_id).ok_or_else(no_such_upload)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}

async fn collect(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let Some(mut body) = body else { return Ok(Bytes::new()) };
    let mut bytes = Vec::new();
    while let Some(chunk) = body.try_next().await.map_err(|err| {
        let mut refused = s3_error!(IncompleteBody, "The body could not be read: {err}");
        refused.set_source(err);
        refused
    })? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.into())
}

fn check_md5(expected: Option<&str>, bytes: &[u8]) -> S3Result<()> {
    let Some(expected) = expected else { return Ok(()) };
    if base64(&Tag::of(bytes).digest) == expected {
        return Ok(());
    }
    Err(s3_error!(BadDigest, "The Content-MD5 you specified did not match what we received."))
}

fn delete(bucket: &mut Bucket, key: &str, version_id: Option<&str>) {
    match version_id {
        Some(id) => bucket.delete_version(key, id),
        None => {
            bucket.delete(key);
        }
    }
}

/// What S3 stores with an object and gives back with it.
fn kept_headers(headers: &HeaderMap) -> Option<Arc<HeaderMap>> {
    let standard = [
        CACHE_CONTROL,
        CONTENT_DISPOSITION,
        CONTENT_ENCODING,
        CONTENT_LANGUAGE,
        CONTENT_TYPE,
        EXPIRES,
    ];
    let kept = headers.iter().filter(|(name, value)| {
        // This encoding belongs to the transfer of the upload, not to the object.
        *value != "aws-chunked"
            && (standard.contains(name) || name.as_str().starts_with("x-amz-meta-"))
    });
    let kept: HeaderMap = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    (!kept.is_empty()).then(|| Arc::new(kept))
}

fn quoted(tag: Tag) -> ETag {
    ETag::Strong(tag.to_string())
}

fn no_such_upload() -> s3s::S3Error {
    s3_error!(NoSuchUpload, "The specified multipart upload does not exist.")
}

fn invalid_part() -> s3s::S3Error {
    s3_error!(InvalidPart, "One or more of the specified parts could not be found.")
}

/// Only for Content-MD5, so a digest of 16 bytes; a crate would be more than this.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(24);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let value = usize::try_from(bits >> (18 - 6 * digit) & 63).expect("six bits");
            text.push(if digit <= chunk.len() { char::from(DIGITS[value]) } else { '=' });
        }
    }
    text
}
