//! S3 through aws-sdk-s3: the only store that asks a server. It sends a request once (again where
//! the bucket's region or the credentials had to be learnt first), checks that the answer is what
//! was asked for, and turns every error into a kind. Time, retries and limits are the wrappers'.

mod answer;
mod connect;
mod denial;
mod document;
mod errors;
mod listing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Builder, Region};
use aws_sdk_s3::types::{EncodingType, RequestPayer};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use tokio::time::Instant;

use self::answer::{ExactBody, condition_kept, extent, if_match};
use self::document::{Document, TakeBody};
use self::errors::{Operation, transport};
use super::credentials::{CredentialFiles, ReloadingCredentials};
use super::{Condition, GetAnswer, GetRequest, Head, ListPage, ListRequest, ObjectStore, Priority};
use crate::config::BucketConfig;
use crate::error::{StoreError, StoreErrorKind};
use crate::metrics::RequestKind;
use crate::object::{ETag, Version};

/// One bucket.
pub struct AwsStore {
    bucket: String,
    profile: Option<String>,
    requester: Option<RequestPayer>,
    expected_bucket_owner: Option<String>,
    endpoint_url: Option<String>,
    /// All but the region.
    builder: Builder,
    credentials: Option<ReloadingCredentials>,
    live: RwLock<Arc<Live>>,
    /// A listing had keys that are left out, and that was said.
    warned: AtomicBool,
}

/// The client for the region that the bucket is believed to be in.
struct Live {
    client: Client,
    region: String,
    /// In words, for messages.
    endpoint: String,
}

impl AwsStore {
    /// Reads the settings and finds credentials; no request is sent to the bucket. Fails with
    /// `NoCredentials`, or with `Other` where `AWS_CA_BUNDLE` can not be used.
    pub async fn connect(
        config: &BucketConfig,
        files: &CredentialFiles,
    ) -> Result<Self, StoreError> {
        Ok(Self::new(config, connect::set_up(config, files).await?))
    }

    fn new(config: &BucketConfig, setup: connect::Setup) -> Self {
        let connect::Setup { builder, region, credentials, endpoint_url } = setup;
        let live = Live::new(&builder, region, endpoint_url.as_deref());
        Self {
            bucket: config.bucket.clone(),
            profile: config.profile.clone(),
            requester: config.requester_pays.then_some(RequestPayer::Requester),
            expected_bucket_owner: config.expected_bucket_owner.clone(),
            endpoint_url,
            builder,
            credentials,
            live: RwLock::new(Arc::new(live)),
            warned: AtomicBool::new(false),
        }
    }

    /// Sends, and sends once more where the answer says how: for the region that it names, or with
    /// fresh credentials.
    async fn send<T, F>(
        &self,
        kind: RequestKind,
        name: &str,
        versioned: bool,
        send: impl Fn(Arc<Live>) -> F + Send,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Failure>> + Send,
    {
        let (mut moved, mut refused) = (false, None);
        loop {
            let live = Arc::clone(&self.live.read());
            let generation = self.credentials.as_ref().map(ReloadingCredentials::generation);
            let failure = match send(Arc::clone(&live)).await {
                Ok(answer) => {
                    self.accepted(generation);
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            let operation = Operation {
                kind,
                name,
                versioned,
                region: &live.region,
                endpoint: &live.endpoint,
                bucket: &self.bucket,
                profile: self.profile.as_deref(),
            };
            let mut err = failure(&operation);
            if !moved && self.follow(&live, &err) {
                moved = true;
                continue;
            }
            if kind == RequestKind::Head && self.hides_its_reason(&err, generation) {
                err = self.reason(&live, name).await.map_or(err, |failure| failure(&operation));
            }
            if !is_of_credentials(&err) {
                if err.code().is_some() {
                    self.accepted(generation);
                }
                return Err(err);
            }
            let since = *refused.get_or_insert_with(Instant::now);
            if !self.renew(generation, since).await {
                return Err(err);
            }
            tracing::debug!("{err}; sent again");
        }
    }

    /// Goes to the region that the error names. False where that leads nowhere new.
    fn follow(&self, from: &Live, err: &StoreError) -> bool {
        let region = match (err.kind(), err.region()) {
            (StoreErrorKind::WrongRegion, Some(region)) if region != from.region => region,
            _ => return false,
        };
        let there = Live::new(&self.builder, region.to_owned(), self.endpoint_url.as_deref());
        let mut live = self.live.write();
        // Of many requests that learn it at once, one moves the store and all are repeated.
        if live.region == from.region {
            tracing::info!("the bucket {} is in the region {region}", self.bucket);
            *live = Arc::new(there);
        }
        true
    }

    /// The server looked at what was asked, and not at who asks.
    fn accepted(&self, generation: Option<u64>) {
        if let (Some(credentials), Some(generation)) = (&self.credentials, generation) {
            credentials.accepted(generation);
        }
    }

    async fn renew(&self, generation: Option<u64>, since: Instant) -> bool {
        match (&self.credentials, generation) {
            (Some(credentials), Some(generation)) => credentials.renew(generation, since).await,
            _ => false,
        }
    }

    /// Whether an answer to HEAD, which has no body to say so, may be meant for the credentials: 400
    /// is what an expired token gets, 403 a key that is not known. The latter is an ordinary
    /// answer, too, and taken for one as long as nothing speaks against the credentials.
    fn hides_its_reason(&self, err: &StoreError, generation: Option<u64>) -> bool {
        let (Some(credentials), Some(generation)) = (&self.credentials, generation) else {
            return false;
        };
        err.code().is_none()
            && match err.status() {
                Some(400) => err.kind() == StoreErrorKind::Other,
                Some(401 | 403) => credentials.is_doubtful(generation),
                _ => false,
            }
    }

    /// What a GET of one byte fails with, where HEAD has failed; `None` if it does not fail.
    async fn reason(&self, live: &Arc<Live>, key: &str) -> Option<Failure> {
        let request = GetRequest {
            key: key.into(),
            range: Some(0..1),
            condition: Condition::Any,
            priority: Priority::Demand,
        };
        self.get_object(Arc::clone(live), &request).await.err()
    }

    async fn head_object(&self, live: Arc<Live>, key: &str) -> Result<Head, Failure> {
        let request = live
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(key)
            .set_request_payer(self.requester.clone())
            .set_expected_bucket_owner(self.expected_bucket_owner.clone());
        let answer = request.send().await.map_err(|err| failure(move |o| o.sdk_error(&err)))?;
        let size = answer.content_length().and_then(|length| u64::try_from(length).ok());
        let size = size.ok_or_else(|| broken_rule("the answer has no Content-Length"))?;
        Ok(head(answer.e_tag(), size, answer.last_modified(), answer.version_id()))
    }

    async fn list_objects(
        &self,
        live: Arc<Live>,
        request: &ListRequest,
    ) -> Result<ListPage, Failure> {
        let start_after = match request.continuation {
            None => request.start_after.clone(),
            Some(_) => None,
        };
        let listing = live
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(&request.prefix)
            .set_delimiter(request.delimited.then(|| "/".to_owned()))
            .set_start_after(start_after)
            .set_continuation_token(request.continuation.clone())
            .max_keys(i32::from(request.keys_max))
            .encoding_type(EncodingType::Url)
            .set_request_payer(self.requester.clone())
            .set_expected_bucket_owner(self.expected_bucket_owner.clone());
        let body = TakeBody::default();
        let listing = listing.customize().interceptor(body.clone());
        listing.send().await.map_err(|err| failure(move |o| o.sdk_error(&err)))?;
        let body = body.taken().ok_or_else(|| broken_rule("the answer has no body"))?;
        let body = body.collect().await.map_err(|err| {
            let what = format!("the listing broke off ({})", transport(&err));
            failure(move |o| o.failed(StoreErrorKind::Unreachable, &what))
        })?;
        // Cut on its way, or not from S3 at all; only another try can tell.
        let document = Document::parse(&body.into_bytes()).map_err(|what| {
            let what = format!("the listing can not be read: {what}");
            failure(move |o| o.failed(StoreErrorKind::Unreachable, &what))
        })?;
        listing::page(request, document, &self.warned).map_err(broken_rule)
    }

    async fn get_object(
        &self,
        live: Arc<Live>,
        request: &GetRequest,
    ) -> Result<GetAnswer, Failure> {
        let mut get = live
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(&*request.key)
            .set_request_payer(self.requester.clone())
            .set_expected_bucket_owner(self.expected_bucket_owner.clone());
        if let Some(range) = &request.range {
            assert!(range.start < range.end, "the store contract: a range is not empty");
            get = get.range(format!("bytes={}-{}", range.start, range.end - 1));
        }
        get = match &request.condition {
            Condition::Any => get,
            Condition::Match(etag) => get.set_if_match(if_match(etag).map(str::to_owned)),
            Condition::NoneMatch(etag) => get.if_none_match(etag.as_str()),
            Condition::VersionId(id) => get.version_id(&**id),
        };
        let answer = get.send().await.map_err(|err| failure(move |o| o.sdk_error(&err)))?;
        let range = request.range.as_ref();
        let extent = extent(range, answer.content_range(), answer.content_length())
            .map_err(|what| failure(move |o| o.broken_rule(&what)))?;
        let head = head(answer.e_tag(), extent.size, answer.last_modified(), answer.version_id());
        condition_kept(&request.condition, &head).map_err(|kind| {
            failure(move |o| o.failed(kind, "the server ignored the condition, we did not"))
        })?;
        let body = ExactBody::new(answer.body, Arc::clone(&request.key), &extent);
        Ok(GetAnswer { head, range: extent.range, body: Box::pin(body) })
    }
}

impl ObjectStore for AwsStore {
    fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Head, StoreError>> {
        self.send(RequestKind::Head, key, false, |live| self.head_object(live, key)).boxed()
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<ListPage, StoreError>> {
        async move {
            let send = |live| self.list_objects(live, &request);
            self.send(RequestKind::List, &request.prefix, false, send).await
        }
        .boxed()
    }

    fn get(&self, request: GetRequest) -> BoxFuture<'_, Result<GetAnswer, StoreError>> {
        async move {
            let versioned = matches!(request.condition, Condition::VersionId(_));
            let send = |live| self.get_object(live, &request);
            self.send(RequestKind::Get, &request.key, versioned, send).await
        }
        .boxed()
    }
}

impl Live {
    fn new(builder: &Builder, region: String, endpoint_url: Option<&str>) -> Self {
        let config = builder.clone().region(Region::new(region.clone())).build();
        let endpoint = endpoint_url.map_or_else(|| format!("S3 in {region}"), str::to_owned);
        Self { client: Client::from_conf(config), region, endpoint }
    }
}

/// An error that still has to be told which request it is about.
type Failure = Box<dyn FnOnce(&Operation<'_>) -> StoreError + Send>;

fn failure(make: impl FnOnce(&Operation<'_>) -> StoreError + Send + 'static) -> Failure {
    Box::new(make)
}

fn broken_rule(what: &'static str) -> Failure {
    failure(move |operation| operation.broken_rule(what))
}

/// Whether other credentials might help: also after a 400 without any reason.
fn is_of_credentials(err: &StoreError) -> bool {
    match err.kind() {
        StoreErrorKind::BadCredentials | StoreErrorKind::NoCredentials => true,
        StoreErrorKind::Other => err.status() == Some(400) && err.code().is_none(),
        _ => false,
    }
}

fn head(
    etag: Option<&str>,
    size: u64,
    modified: Option<&aws_sdk_s3::primitives::DateTime>,
    version_id: Option<&str>,
) -> Head {
    let modified = modified.map_or(0, aws_sdk_s3::primitives::DateTime::secs);
    Head {
        version: Version { etag: etag.map(ETag::new), size, modified },
        // What S3 answers where versioning is suspended; it names no version for good.
        version_id: version_id.filter(|id| *id != "null").map(Into::into),
    }
}
