//! S3 through aws-sdk-s3: the only store that asks a server. It sends a request once (again where
//! the bucket's region or the credentials had to be learnt first), checks that the answer is what
//! was asked for, and turns every error into a kind. Time, retries and limits are the wrappers'.
//! What is not quite S3 is found out and made up for in `requests`, `quirks` and `whole`; nobody
//! above hears of it.

mod answer;
mod checksum;
mod connect;
mod denial;
mod document;
mod errors;
mod guard;
mod listing;
mod notes;
mod parsers;
mod profiles;
mod quirks;
mod requests;
#[cfg(test)]
mod tests;
mod transport;
mod whole;
mod xml;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Builder, Region};
use aws_sdk_s3::types::RequestPayer;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use tokio::time::Instant;

use self::connect::ConnectAnew;
use self::errors::Operation;
use self::parsers::Parsers;
pub use self::profiles::{ProfileSettings, read_profile};
use self::quirks::Quirks;
use self::whole::Wholes;
use super::credentials::{CredentialFiles, ReloadingCredentials};
use super::reach::Reach;
use super::{GetAnswer, GetRequest, Head, ListPage, ListRequest, ObjectStore};
use crate::config::BucketConfig;
use crate::error::{StoreError, StoreErrorKind};
use crate::metrics::RequestKind;

/// One bucket.
pub struct AwsStore {
    bucket: String,
    profile: Option<String>,
    requester: Option<RequestPayer>,
    expected_bucket_owner: Option<String>,
    endpoint_url: Option<String>,
    /// Makes an HTTP client without connections.
    connect_anew: ConnectAnew,
    /// Which connections may still be used.
    reach: Arc<Reach>,
    credentials: Option<ReloadingCredentials>,
    live: RwLock<Arc<Live>>,
    /// A listing had keys that are left out, and that was said.
    warned: AtomicBool,
    quirks: Quirks,
    parsers: Parsers,
    /// Open bodies of a server that ignores Range.
    wholes: Arc<Wholes>,
    /// Whether a 403 to a HEAD was looked into.
    asked_of_head: AtomicBool,
}

/// The client for the region that the bucket is believed to be in.
struct Live {
    client: Client,
    /// All but the region.
    builder: Builder,
    /// None of its connections is older.
    connected: Instant,
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
        reach: Arc<Reach>,
    ) -> Result<Self, StoreError> {
        Ok(Self::new(config, connect::set_up(config, files).await?, reach))
    }

    fn new(config: &BucketConfig, setup: connect::Setup, reach: Arc<Reach>) -> Self {
        let connect::Setup { builder, connect_anew, region, credentials, endpoint_url } = setup;
        let live = Live::new(builder, Instant::now(), region, endpoint_url.as_deref());
        let quirks = Quirks::new(live.endpoint.clone());
        Self {
            bucket: config.bucket.clone(),
            profile: config.profile.clone(),
            requester: config.requester_pays.then_some(RequestPayer::Requester),
            expected_bucket_owner: config.expected_bucket_owner.clone(),
            endpoint_url,
            connect_anew,
            reach,
            credentials,
            live: RwLock::new(Arc::new(live)),
            warned: AtomicBool::new(false),
            quirks,
            parsers: Parsers::new(config.threads_max),
            wholes: Arc::default(),
            asked_of_head: AtomicBool::new(false),
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
            let live = self.trusted();
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

    /// The client, with other connections where those that it has are not trusted any more. What is under
    /// way on them goes on.
    fn trusted(&self) -> Arc<Live> {
        let live = Arc::clone(&self.live.read());
        if self.reach.trusts(live.connected) {
            return live;
        }
        let mut current = self.live.write();
        if !self.reach.trusts(current.connected) {
            tracing::debug!("the idle connections are closed");
            let (connected, http) = (Instant::now(), (self.connect_anew)());
            let (builder, region) = (current.builder.clone(), current.region.clone());
            let url = self.endpoint_url.as_deref();
            *current = Arc::new(Live::new(builder.http_client(http), connected, region, url));
        }
        Arc::clone(&current)
    }

    /// Goes to the region that the error names. False where that leads nowhere new.
    fn follow(&self, from: &Live, err: &StoreError) -> bool {
        let region = match (err.kind(), err.region()) {
            (StoreErrorKind::WrongRegion, Some(region)) if region != from.region => region,
            _ => return false,
        };
        let (builder, region, url) =
            (from.builder.clone(), region.to_owned(), self.endpoint_url.as_deref());
        let there = Live::new(builder, from.connected, region, url);
        let mut live = self.live.write();
        // Of many requests that learn it at once, one moves the store and all are repeated.
        if live.region == from.region {
            tracing::info!("the bucket {} is in the region {}", self.bucket, there.region);
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
}

impl ObjectStore for AwsStore {
    fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Head, StoreError>> {
        self.find(key).boxed()
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<ListPage, StoreError>> {
        async move { self.page(&request).await }.boxed()
    }

    fn get(&self, request: GetRequest) -> BoxFuture<'_, Result<GetAnswer, StoreError>> {
        async move { self.fetch(&request).await }.boxed()
    }
}

impl Live {
    fn new(
        builder: Builder,
        connected: Instant,
        region: String,
        endpoint_url: Option<&str>,
    ) -> Self {
        let config = builder.clone().region(Region::new(region.clone())).build();
        let endpoint = endpoint_url.map_or_else(|| format!("S3 in {region}"), str::to_owned);
        Self { client: Client::from_conf(config), builder, connected, region, endpoint }
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

/// What the page `xml` says to `request`, for fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) fn try_page(request: &ListRequest, xml: &[u8]) -> Result<ListPage, StoreError> {
    let wrong = |what: String| StoreError::new(StoreErrorKind::Corrupt, what);
    let document =
        document::Document::parse(xml).map_err(|_| wrong("it is no listing".to_owned()))?;
    let warned = std::sync::atomic::AtomicBool::new(true);
    listing::page(request, document, &warned).map_err(|what| wrong(what.to_owned()))
}
