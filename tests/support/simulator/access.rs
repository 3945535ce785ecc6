//! Who may ask: secrets for the signatures that s3s verifies, and everything that S3 looks at
//! between a good signature and the answer.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::host::{S3Host, VirtualHost};
use s3s::{S3Error, S3Result, s3_error};

use super::World;
use super::bucket::Bucket;
use super::call::{Call, bucket_of_host};
use super::policy::Action;

/// The account that every bucket belongs to.
pub(crate) const OWNER: &str = "111122223333";

/// What the server knows of one access key.
#[derive(Clone, Debug)]
pub(crate) enum Credential {
    Valid(String),
    /// Was valid once: answered with `ExpiredToken`.
    Expired,
}

pub(crate) type Credentials = HashMap<String, Credential>;

pub(crate) struct Authentication(pub(crate) Arc<World>);

#[async_trait::async_trait]
impl S3Auth for Authentication {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.0.credentials.read().get(access_key) {
            Some(Credential::Valid(secret)) => Ok(SecretKey::from(secret.as_str())),
            Some(Credential::Expired) => {
                Err(s3_error!(ExpiredToken, "The provided token has expired."))
            }
            None => Err(s3_error!(
                InvalidAccessKeyId,
                "The AWS Access Key Id you provided does not exist in our records."
            )),
        }
    }
}

/// For the calls that s3s dispatches; reads and listings ask `World::authorize` themselves.
pub(crate) struct Authorization(pub(crate) Arc<World>);

#[async_trait::async_trait]
impl S3Access for Authorization {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let signed = context.credentials().is_some();
        let call = context.extensions_mut().get::<Arc<Call>>().expect("set by the server");
        self.0.authorize(call, signed)
    }
}

/// `bucket.localhost` names a bucket; every other host is the server itself.
pub(crate) struct Hosts;

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        Ok(match bucket_of_host(host) {
            Some(bucket) => VirtualHost::new("localhost").with_bucket(bucket),
            None => VirtualHost::new(host),
        })
    }
}

impl World {
    /// In the order of S3: the bucket, its region, its owner, the policy.
    pub(crate) fn authorize(&self, call: &Call, signed: bool) -> S3Result<()> {
        let action = call.action();
        if matches!(action, Action::ListAllMyBuckets | Action::CreateBucket) {
            return if signed { Ok(()) } else { Err(denied()) };
        }
        let buckets = self.buckets.read();
        let bucket = buckets.get(&call.bucket).ok_or_else(no_such_bucket)?;
        // The location may be asked of any region: clients do so to find the right one.
        if action != Action::GetBucketLocation {
            check_region(bucket, call)?;
        }
        let policy = &bucket.policy;
        let wrong_owner = call.expected_owner.as_deref().is_some_and(|owner| owner != OWNER);
        if wrong_owner
            || !(signed || policy.anonymous)
            || (policy.requester_pays && !call.accepts_payment)
            || !policy.allows(action, call.subject())
        {
            let mut err = denied();
            err.set_headers(region_header(bucket));
            return Err(err);
        }
        Ok(())
    }
}

pub(crate) fn denied() -> S3Error {
    s3_error!(AccessDenied, "Access Denied")
}

pub(crate) fn no_such_bucket() -> S3Error {
    s3_error!(NoSuchBucket, "The specified bucket does not exist")
}

pub(crate) fn region_header(bucket: &Bucket) -> HeaderMap {
    let region = HeaderValue::from_str(&bucket.region).expect("regions are ASCII");
    HeaderMap::from_iter([(HeaderName::from_static("x-amz-bucket-region"), region)])
}

fn check_region(bucket: &Bucket, call: &Call) -> S3Result<()> {
    let fits = call.signed_region.as_ref().is_none_or(|region| *region == bucket.region);
    if fits {
        return Ok(());
    }
    let mut err = s3_error!(
        PermanentRedirect,
        "The bucket you are attempting to access must be addressed using the specified endpoint."
    );
    err.set_status_code(StatusCode::MOVED_PERMANENTLY);
    err.set_headers(region_header(bucket));
    Err(err)
}
