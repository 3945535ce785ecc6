//! The S3 client of one mount: region, endpoint, credentials, TLS and HTTP, from what was typed and
//! from what aws-config finds.

use std::path::Path;
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::{AppName, BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::config::interceptors::BeforeSerializationInterceptorContextRef;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, ConfigBag, IdentityCache, Intercept, RequestChecksumCalculation,
    ResponseChecksumValidation, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::BoxError;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder as HttpBuilder, Connector};
use aws_smithy_runtime_api::http::NonUtf8HeaderHandling;
use aws_types::service_config::ServiceConfigKey;
use futures_util::FutureExt;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::guard::Guard;
use super::profiles::{missing_profile, missing_profile_sentence, no_credentials};
use super::transport::chain as causes;
use crate::config::BucketConfig;
use crate::config::endpoint::takes_path_style;
use crate::error::{Cause, StoreError, StoreErrorKind};
use crate::store::credentials::{BuildChain, CredentialFiles, ReloadingCredentials};

/// What a store makes its clients from.
pub(super) struct Setup {
    /// All but the region.
    pub(super) builder: Builder,
    pub(super) connect_anew: ConnectAnew,
    /// Where to begin; the bucket's redirect corrects it.
    pub(super) region: String,
    /// `None` with `--no-sign-request`.
    pub(super) credentials: Option<ReloadingCredentials>,
    /// `None`: the one that the SDK resolves for the region.
    pub(super) endpoint_url: Option<String>,
}

/// Makes an HTTP client that has no connections yet.
pub(super) type ConnectAnew = Box<dyn Fn() -> SharedHttpClient + Send + Sync>;

/// S3's own default, and what MinIO and others expect where nothing is said.
const REGION_ASSUMED: &str = "us-east-1";

/// Below the 20 s after which S3 closes an idle connection, so that we seldom send into one that
/// is closing.
const POOL_IDLE: Duration = Duration::from_secs(18);

/// For one connection, TLS included; the SDK's default is 3.1 s. A lost SYN is repeated after 1
/// and 3 s.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(3100);

/// A credential_process or an SSO refresh may take its time, at the start only.
const FIRST_CREDENTIALS: Duration = Duration::from_secs(30);

/// Reads the settings and loads the first credentials. Fails with `NoCredentials`, or with `Other`
/// where the CA bundle can not be used.
pub(super) async fn set_up(
    config: &BucketConfig,
    files: &CredentialFiles,
) -> Result<Setup, StoreError> {
    let tls = tls_context(config.ca_bundle.as_deref())?;
    let region = region(config).await;
    let credentials = config.sign_requests.then(|| {
        let chain = chain(config, &region, http_client(tls.clone()));
        ReloadingCredentials::new(chain, files.all())
    });
    assemble(config, tls, region, credentials).await
}

/// The rest of [`set_up`], from where the environment is no longer asked for keys.
pub(super) async fn assemble(
    config: &BucketConfig,
    tls: TlsContext,
    region: String,
    credentials: Option<ReloadingCredentials>,
) -> Result<Setup, StoreError> {
    let loader = loader(config, &region);
    let sdk = match &credentials {
        Some(credentials) => loader.credentials_provider(credentials.clone()).load().await,
        None => loader.no_credentials().load().await,
    };
    let endpoint_url = config.endpoint_url.clone().or_else(|| configured_endpoint(&sdk));
    // Without TLS the system's roots need not be read, which takes longer than the rest.
    let tls = if endpoint_url.as_deref().is_some_and(|url| url.starts_with("http://")) {
        trusting(TrustStore::empty())?
    } else {
        tls
    };
    let builder = Builder::from(&sdk)
        .http_client(http_client(tls.clone()))
        .force_path_style(
            config.force_path_style || endpoint_url.as_deref().is_some_and(takes_path_style),
        )
        .use_arn_region(true)
        .interceptor(Lenient)
        .interceptor(Guard);
    if let Some(credentials) = &credentials {
        first_credentials(config, credentials).await?;
    }
    let connect_anew = Box::new(move || http_client(tls.clone()));
    Ok(Setup { builder, connect_anew, region, credentials, endpoint_url })
}

/// Before the first request, outside its deadline, so that "none found" is told as such.
async fn first_credentials(
    config: &BucketConfig,
    credentials: &ReloadingCredentials,
) -> Result<(), StoreError> {
    let reason = match tokio::time::timeout(FIRST_CREDENTIALS, credentials.load()).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(err)) => causes(&err),
        Err(_) => format!("none came within {} s", FIRST_CREDENTIALS.as_secs()),
    };
    let profile = config.profile.as_deref();
    let message = match missing_profile(profile).await {
        Some(reason) => missing_profile_sentence(&reason, &config.credential_files),
        None => no_credentials(profile, &config.credential_files, &reason),
    };
    Err(StoreError::new(StoreErrorKind::NoCredentials, message))
}

/// What all SDK clients of the mount have in common. The SDK's retries and stall protection are off
/// because the wrappers own time; checksums are left to `checksum.rs`, because S3-compatible servers
/// send those of whole objects with parts of them (MinIO issue 17105, Ceph issue 61901).
fn loader(config: &BucketConfig, region: &str) -> ConfigLoader {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(Region::new(region.to_owned()))
        .app_name(AppName::new("s3mount").expect("a valid name"))
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .identity_cache(IdentityCache::no_cache());
    if let Some(profile) = &config.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(url) = &config.endpoint_url {
        loader = loader.endpoint_url(url);
    }
    loader
}

/// The option, the environment, the profile. Instance metadata is not asked: off EC2 that costs
/// seconds, and the bucket's redirect knows better.
async fn region(config: &BucketConfig) -> String {
    if let Some(region) = &config.region {
        return region.clone();
    }
    let mut profile = ProfileFileRegionProvider::builder();
    if let Some(name) = &config.profile {
        profile = profile.profile_name(name);
    }
    let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(profile.build());
    chain.region().await.map_or_else(|| REGION_ASSUMED.to_owned(), |region| region.to_string())
}

/// The default chain; with `--profile` that profile alone, as the AWS CLI has it (keys in the
/// environment would win over the profile that was asked for).
fn chain(config: &BucketConfig, region: &str, http: SharedHttpClient) -> BuildChain {
    let region = Region::new(region.to_owned());
    let profile = config.profile.clone();
    Box::new(move || {
        let (region, http, profile) = (region.clone(), http.clone(), profile.clone());
        async move {
            if let Some(profile) = profile {
                let provider = ProviderConfig::default()
                    .with_behavior_version(Some(BehaviorVersion::v2026_01_12()))
                    .with_http_client(http)
                    .with_region(Some(region));
                let profile = ProfileFileCredentialsProvider::builder().profile_name(profile);
                return SharedCredentialsProvider::new(profile.configure(&provider).build());
            }
            let loader = aws_config::defaults(BehaviorVersion::v2026_01_12());
            let sdk = loader.http_client(http).region(region).load().await;
            sdk.credentials_provider().expect("the loader was not told to have none")
        }
        .boxed()
    })
}

/// `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` or the profile's `endpoint_url`, as the SDK's S3
/// client finds it.
pub(super) fn configured_endpoint(sdk: &SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id("S3")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .expect("all three are set");
    let own = sdk.service_config().and_then(|services| services.load_config(key));
    let url = own.or_else(|| sdk.endpoint_url().map(str::to_owned));
    // To the SDK an empty variable is an address.
    url.filter(|url| !url.is_empty())
}

/// The pool has no bound of its own: [`crate::store::limit`] has. `HTTPS_PROXY` and `NO_PROXY` are
/// honoured.
fn http_client(tls: TlsContext) -> SharedHttpClient {
    HttpBuilder::new().build_with_connector_fn(move |settings, components| {
        let mut builder = Connector::builder()
            .pool_idle_timeout(POOL_IDLE)
            .enable_tcp_nodelay(true)
            .proxy_config(ProxyConfig::from_env());
        builder.set_connector_settings(settings.cloned());
        builder.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        builder.tls_provider(Provider::rustls(CryptoMode::Ring)).tls_context(tls.clone()).build()
    })
}

/// The system's roots, or those in the file that `AWS_CA_BUNDLE` names.
pub(super) fn tls_context(ca_bundle: Option<&Path>) -> Result<TlsContext, StoreError> {
    let Some(path) = ca_bundle else { return trusting(TrustStore::default()) };
    let fail = |reason: &str| {
        let message = format!(
            "{}, which AWS_CA_BUNDLE names, {reason}; name a PEM file of the authorities to trust, \
             or unset the variable",
            path.display()
        );
        StoreError::new(StoreErrorKind::Other, message).with_cause(Cause::Configuration)
    };
    // A file of DER is no UTF-8, and no PEM either way.
    let text = std::fs::read(path).map_err(|err| fail(&format!("cannot be read ({err})")))?;
    let text = String::from_utf8_lossy(&text);
    let (certificates, n_refused) = usable_certificates(&text);
    if certificates.is_empty() {
        let reason = match text.is_empty() {
            true => "is empty",
            false => "has no certificate in PEM that can be used",
        };
        return Err(fail(reason));
    }
    if n_refused > 0 {
        tracing::warn!("AWS_CA_BUNDLE {}: {n_refused} certificates left out", path.display());
    }
    let store = certificates.iter().fold(TrustStore::empty(), |store, certificate| {
        store.with_pem_certificate(certificate.as_bytes())
    });
    trusting(store)
}

fn trusting(store: TrustStore) -> Result<TlsContext, StoreError> {
    TlsContext::builder()
        .with_trust_store(store)
        .build()
        .map_err(|err| StoreError::new(StoreErrorKind::Other, causes(&err)))
}

/// The certificates of a PEM file that rustls takes, and how many it does not: the HTTP client
/// panics on one that it can not read.
fn usable_certificates(pem: &str) -> (Vec<&str>, usize) {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let (mut usable, mut n_refused, mut rest) = (Vec::new(), 0, pem);
    while let Some(begin) = rest.find(BEGIN) {
        rest = &rest[begin..];
        let Some(end) = rest.find(END) else { break };
        let (block, after) = rest.split_at(end + END.len());
        rest = after;
        let parsed = CertificateDer::from_pem_slice(block.as_bytes());
        let taken = parsed.is_ok_and(|der| rustls::RootCertStore::empty().add(der).is_ok());
        if taken {
            usable.push(block);
        } else {
            n_refused += 1;
        }
    }
    (usable, n_refused)
}

/// Objects may carry user metadata that is not UTF-8; it must not make them unreadable.
#[derive(Debug)]
struct Lenient;

impl Intercept for Lenient {
    fn name(&self) -> &'static str {
        "Lenient"
    }

    fn read_before_execution(
        &self,
        _ctx: &BeforeSerializationInterceptorContextRef<'_>,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        bag.interceptor_state().store_put(NonUtf8HeaderHandling::Skip);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_keeps_what_can_be_used() {
        let good = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let bundle = format!("# roots\n{good}{bad}{good}");
        let (usable, n_refused) = usable_certificates(&bundle);
        assert_eq!((usable.len(), n_refused), (2, 1));
    }

    #[test]
    fn a_bundle_without_a_certificate_is_an_error_that_names_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let err = tls_context(Some(file.path())).map(drop).unwrap_err();
        assert!(err.message().contains(&*file.path().to_string_lossy()), "{err}");
        let missing = tls_context(Some(Path::new("/nonexistent"))).map(drop).unwrap_err();
        assert!(missing.message().contains("/nonexistent"), "{missing}");
    }
}
