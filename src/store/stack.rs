//! The store of a mount, put together: S3, counted; then retried and resumed; then limited.

use std::sync::Arc;
use std::time::SystemTime;

use xxhash_rust::xxh3::xxh3_64;

use super::ObjectStore;
use super::aws::AwsStore;
use super::credentials::Environment;
use super::limit::{LimitConfig, LimitedStore};
use super::meter::MeteredStore;
use super::retry::{RetryConfig, RetryStore};
use crate::config::BucketConfig;
use crate::error::StoreError;
use crate::metrics::Metrics;

/// Reads the settings, finds credentials and wraps the bucket; sends no request to it: the first
/// one, a LIST, proves bucket, region and permission, under [`RetryConfig::start`]. Fails as
/// [`AwsStore::connect`] does.
pub async fn connect(
    config: &BucketConfig,
    environment: &Environment,
    metrics: Arc<Metrics>,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let bucket = AwsStore::connect(config, environment).await?;
    Ok(wrap(Arc::new(bucket), metrics, seed(&config.bucket)))
}

/// The wrappers of every mount around `bucket`. The meter is innermost, so that each try counts;
/// the limit outermost, so that waiting for a turn does not use up the time of a try, and a
/// request that is being retried keeps its place.
pub fn wrap(
    bucket: Arc<dyn ObjectStore>,
    metrics: Arc<Metrics>,
    seed: u64,
) -> Arc<dyn ObjectStore> {
    let metered = Arc::new(MeteredStore::new(bucket, Arc::clone(&metrics)));
    let (start, serve) = (RetryConfig::start(), RetryConfig::serve());
    let retried = Arc::new(RetryStore::new(metered, start, serve, metrics, seed));
    Arc::new(LimitedStore::new(retried, LimitConfig::default()))
}

/// Of the jitter: different for each mount, also for many that a cluster starts at once.
fn seed(bucket: &str) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    xxh3_64(format!("{bucket} {} {}", std::process::id(), now.as_nanos()).as_bytes())
}
