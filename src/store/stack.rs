//! The store of a mount, put together: S3, counted; then hedged, retried and resumed; then limited; and let go
//! of when the machine sleeps.

use std::sync::Arc;
use std::time::SystemTime;

use xxhash_rust::xxh3::xxh3_64;

use super::ObjectStore;
use super::aws::AwsStore;
use super::credentials::CredentialFiles;
use super::hedge::HedgedStore;
use super::limit::{LimitConfig, LimitedStore};
use super::meter::MeteredStore;
use super::quiet::QuietStore;
use super::reach::Reach;
use super::retry::{RetryConfig, RetryStore};
use super::throttle::Throttle;
use crate::config::BucketConfig;
use crate::error::StoreError;
use crate::metrics::Metrics;

/// Reads the settings, finds credentials and wraps the bucket; sends no request to it: the first
/// one, a LIST, proves bucket, region and permission, under [`RetryConfig::start`]. Fails as
/// [`AwsStore::connect`] does.
pub async fn connect(
    config: &BucketConfig,
    files: &CredentialFiles,
    metrics: Arc<Metrics>,
    limits: LimitConfig,
    reach: Arc<Reach>,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let bucket = AwsStore::connect(config, files, Arc::clone(&reach)).await?;
    Ok(wrap(Arc::new(bucket), metrics, limits, reach, seed(&config.bucket)))
}

/// The wrappers of every mount around `bucket`. The meter is innermost, so that each request counts,
/// hedges and tries too. The hedge is below the retries, whose deadlines hold for both of its requests
/// and who do not use it for what has failed once; and it is below the limit, so that a request and
/// its hedge share one place, and the hedge does not wait behind the request that it is for.
/// The limit is outside of that, so that waiting for a turn does not use up the time of a try, and a
/// request that is being retried keeps its place. Outermost is what lets go of all of it before the machine
/// sleeps.
pub fn wrap(
    bucket: Arc<dyn ObjectStore>,
    metrics: Arc<Metrics>,
    limits: LimitConfig,
    reach: Arc<Reach>,
    seed: u64,
) -> Arc<dyn ObjectStore> {
    let throttle: Arc<Throttle> = Arc::default();
    let quiet = Arc::clone(reach.quiet());
    let metered: Arc<dyn ObjectStore> = Arc::new(MeteredStore::new(bucket, Arc::clone(&metrics)));
    let (inner, counters) = (Arc::clone(&metered), Arc::clone(&metrics));
    let hedged = Arc::new(HedgedStore::new(inner, counters, Arc::clone(&throttle)));
    let (start, serve) = (RetryConfig::start(), RetryConfig::serve());
    let retried = RetryStore::new(metered, start, serve, Arc::clone(&metrics), seed)
        .with_first(hedged)
        .telling(reach, Arc::clone(&throttle));
    let limited = LimitedStore::new(Arc::new(retried), limits, metrics, throttle);
    Arc::new(QuietStore::new(Arc::new(limited), quiet))
}

/// Of the jitter: different for each mount, also for many that a cluster starts at once.
fn seed(bucket: &str) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    xxh3_64(format!("{bucket} {} {}", std::process::id(), now.as_nanos()).as_bytes())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::TryStreamExt;

    use super::*;
    use crate::error::StoreErrorKind;
    use crate::store::fake::{FakeStore, Fault};
    use crate::store::{Condition, GetRequest, ListRequest, Priority};

    /// The same faults for each run: one call in so many meets one.
    fn plan(fake: &FakeStore, n_calls: usize) {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for call in 0..n_calls {
            state = xxh3_64(&state.to_le_bytes());
            let fault = match state % 100 {
                0..5 => Fault::Cut(state / 100 % 200_000),
                5..10 => Fault::Fail(StoreErrorKind::Throttled),
                10..12 => Fault::Fail(StoreErrorKind::Unreachable),
                _ => continue,
            };
            fake.fault(call, fault);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn cut_bodies_throttles_and_resets_at_their_usual_rates_are_invisible() {
        let fake = FakeStore::new();
        let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        fake.put("a", content.clone());
        plan(&fake, 5_000);
        let metrics = Arc::new(Metrics::default());
        let store = wrap(
            Arc::new(fake),
            Arc::clone(&metrics),
            LimitConfig::for_memory(u64::MAX),
            Arc::default(),
            7,
        );
        for _ in 0..300 {
            let request = GetRequest {
                key: "a".into(),
                range: None,
                condition: Condition::Any,
                priority: Priority::Demand,
            };
            let body = store.get(request).await.unwrap().body;
            let chunks: Vec<Bytes> = body.try_collect().await.unwrap();
            assert!(chunks.concat() == content);
            store.head("a").await.unwrap();
            store.list(ListRequest::directory("")).await.unwrap();
        }
        assert!(metrics.n_retries() > 30 && metrics.n_resumes() > 5, "{metrics:?}");
        assert_eq!(metrics.n_in_flight(), 0);
    }
}
