//! Who may ask: secrets for the signatures that s3s verifies, and everything that S3 looks at
//! between a good signature and the answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::host::{S3Host, VirtualHost};
use s3s::{S3Error, S3Result, s3_error};

use super::World;
use super::bucket::Bucket;
use super::call::{Call, Kind, bucket_of_host};
use super::iam::{Document, Question};
use super::policy::Action;

/// The account that every bucket belongs to.
pub(crate) const OWNER: &str = "111122223333";

/// What the server knows of one access key.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    pub(crate) secret: String,
    /// Of temporary credentials.
    pub(crate) token: Option<String>,
    /// From then on answered with `ExpiredToken`.
    pub(crate) ends: Option<SystemTime>,
    /// What the holder may do; everything if there is none.
    pub(crate) policy: Option<Arc<Document>>,
}

impl Credential {
    pub(crate) fn new(secret: &str) -> Self {
        Self { secret: secret.to_owned(), token: None, ends: None, policy: None }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.ends.is_some_and(|ends| ends <= SystemTime::now())
    }
}

pub(crate) type Credentials = HashMap<String, Credential>;

pub(crate) struct Authentication(pub(crate) Arc<World>);

#[async_trait::async_trait]
impl S3Auth for Authentication {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.0.credentials.read().get(access_key) {
            Some(credential) if credential.is_over() => {
                Err(s3_error!(ExpiredToken, "The provided token has expired."))
            }
            Some(credential) => Ok(SecretKey::from(credential.secret.as_str())),
            None => Err(unknown_key()),
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
    /// In the order of S3: the session, the bucket, its region, its owner, the policies.
    pub(crate) fn authorize(&self, call: &Call, signed: bool) -> S3Result<()> {
        if signed {
            self.check_session(call)?;
        }
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
        if let Err(mut err) = self.consult_policy(call) {
            err.set_headers(region_header(bucket));
            return Err(err);
        }
        Ok(())
    }

    /// The token is that of the access key.
    fn check_session(&self, call: &Call) -> S3Result<()> {
        let credentials = self.credentials.read();
        let expected = call.access_key.as_deref().and_then(|key| credentials.get(key));
        if expected.is_some_and(|expected| expected.token == call.session_token) {
            return Ok(());
        }
        match call.session_token {
            Some(_) => Err(s3_error!(
                InvalidToken,
                "The provided token is malformed or otherwise invalid."
            )),
            None => Err(unknown_key()),
        }
    }

    /// The policy of the one who asks, in the words of S3.
    fn consult_policy(&self, call: &Call) -> S3Result<()> {
        let Some(policy) = self.policy_of(call) else { return Ok(()) };
        let action = format!("s3:{:?}", call.action());
        let mut resource = format!("arn:aws:s3:::{}", call.bucket);
        let mut context = Vec::new();
        if call.kind == Kind::List {
            // S3 has the key in its context only if the request has the parameter.
            context.extend(call.parameter("prefix").map(|prefix| ("s3:prefix", prefix)));
            context.extend(call.delimiter().map(|delimiter| ("s3:delimiter", delimiter)));
        } else if !call.key.is_empty() {
            resource = format!("{resource}/{}", call.key);
        }
        let question = Question { action: &action, resource: &resource, context: &context };
        if policy.allows(&question) {
            return Ok(());
        }
        Err(not_authorized(call, &action, &format!("\"{resource}\"")))
    }

    /// Whether the one who asks may be told that the key is missing.
    pub(crate) fn tells_missing_keys(&self, call: &Call) -> bool {
        let Some(policy) = self.policy_of(call) else { return true };
        let resource = &*format!("arn:aws:s3:::{}", call.bucket);
        policy.allows(&Question { action: "s3:ListBucket", resource, context: &[] })
    }

    /// Whether the one who asks may use the key that an object is encrypted with.
    pub(crate) fn check_decryption(&self, call: &Call, kms_key: &str) -> S3Result<()> {
        let Some(policy) = self.policy_of(call) else { return Ok(()) };
        let (action, resource) = ("kms:Decrypt", kms_key);
        match policy.allows(&Question { action, resource, context: &[] }) {
            true => Ok(()),
            false => Err(not_authorized(call, action, resource)),
        }
    }

    fn policy_of(&self, call: &Call) -> Option<Arc<Document>> {
        let credentials = self.credentials.read();
        credentials.get(call.access_key.as_deref()?)?.policy.clone()
    }
}

/// In the words of S3 since 2024; the quotes around the ARN are missing where it is one of KMS.
fn not_authorized(call: &Call, action: &str, resource: &str) -> S3Error {
    let who = call.access_key.as_deref().unwrap_or("nobody");
    s3_error!(
        AccessDenied,
        "User: arn:aws:iam::{OWNER}:user/{who} is not authorized to perform: {action} on resource: \
         {resource} because no identity-based policy allows the {action} action"
    )
}

/// Also for a key of temporary credentials without their token.
fn unknown_key() -> S3Error {
    s3_error!(
        InvalidAccessKeyId,
        "The AWS Access Key Id you provided does not exist in our records."
    )
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
