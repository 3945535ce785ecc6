//! A body that goes on where it broke. Invariant: what it yields is one version of the object, each
//! byte once and in order, exactly as many as its range has, or an error.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout_at};

use super::Engine;
use crate::error::{StoreError, StoreErrorKind};
use crate::store::rest::Rest;
use crate::store::{Body, GetAnswer, GetRequest};

/// `answer`, with a body that is resumed.
pub(super) fn resuming(engine: Arc<Engine>, request: &GetRequest, answer: GetAnswer) -> GetAnswer {
    let rest = Rest::of(request, &answer);
    let GetAnswer { head, range, body, checksum } = answer;
    let resumption = Resumption {
        engine,
        rest,
        body: Some(body),
        n_idle: 0,
        n_slow: 0,
        n_resumes: 0,
        progress: 0,
        pace: Pace::default(),
    };
    let body = stream::try_unfold(resumption, |mut resumption| async {
        let chunk = resumption.next().await?;
        Ok(chunk.map(|chunk| (chunk, resumption)))
    });
    // Of all the bytes, whichever connection brings them.
    GetAnswer { head, range, body: body.boxed(), checksum }
}

struct Resumption {
    engine: Arc<Engine>,
    rest: Rest,
    /// `None` between two of them, and while one is asked for its next bytes.
    body: Option<Body>,
    /// Resumptions since the last byte.
    n_idle: u32,
    /// Of a body that came too slowly, since it last came fast enough.
    n_slow: u32,
    /// Of bodies that brought too little; see `progress_bytes_min`.
    n_resumes: u32,
    /// What the body at hand has brought.
    progress: u64,
    pace: Pace,
}

/// What has come since a body was last found fast enough. The time between two questions for the
/// next bytes is the reader's own and does not count.
#[derive(Default)]
struct Pace {
    bytes: u64,
    waited: Duration,
}

impl Resumption {
    /// The next bytes; `None` after the last one.
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        while !self.rest.is_over() {
            let mut body = match self.body.take() {
                Some(body) => body,
                None => self.rest.body(self.engine.get_again(&self.rest.request()).await?)?,
            };
            let asked = Instant::now();
            let chunk = next_chunk(&self.engine, &mut body).await;
            self.pace.waited += asked.elapsed();
            if let Err(err) = &chunk
                && err.kind().is_transient()
            {
                self.engine.reach.failed(asked, err);
            }
            match chunk {
                Ok(Some(chunk)) => {
                    self.engine.reach.answered();
                    self.rest.take(chunk.len())?;
                    self.progress += chunk.len() as u64;
                    self.n_idle = 0;
                    // What a dripping body brought is kept.
                    if self.keeps_pace(chunk.len())? {
                        self.body = Some(body);
                    } else {
                        self.engine.metrics.resumed();
                    }
                    return Ok(Some(chunk));
                }
                Ok(None) => self.broke(self.rest.missing())?,
                Err(err) if err.kind().is_transient() => self.broke(err)?,
                Err(err) => return Err(err),
            }
            self.engine.metrics.resumed();
            self.engine.rest(self.engine.pause(self.n_idle)).await;
        }
        // The connection is free from here on, also while the reader keeps the stream.
        self.body = None;
        Ok(None)
    }

    /// Counts bytes that came. False where they were too few for their time, so that the rest is to
    /// be asked for anew; fails with `TimedOut` when that did not help.
    fn keeps_pace(&mut self, bytes: usize) -> Result<bool, StoreError> {
        let config = self.engine.config();
        self.pace.bytes += bytes as u64;
        if self.pace.bytes >= config.body_bytes_min {
            self.pace = Pace::default();
            self.n_slow = 0;
            return Ok(true);
        }
        if self.pace.waited < config.body_stall {
            return Ok(true);
        }
        let Pace { bytes, waited } = std::mem::take(&mut self.pace);
        self.n_slow += 1;
        let n_slow_max = config.idle_resumes_max;
        let message =
            format!("get {:?}: the body brought {bytes} bytes in {waited:.0?}", self.rest.key());
        let err = StoreError::new(StoreErrorKind::TimedOut, message);
        if self.n_slow > n_slow_max {
            return Err(err);
        }
        self.broke(err).map(|()| false)
    }

    /// Notes that the body is lost; gives `err` back when it will not be asked for again.
    fn broke(&mut self, err: StoreError) -> Result<(), StoreError> {
        let config = self.engine.config();
        self.n_idle += 1;
        let brought = std::mem::take(&mut self.progress);
        self.n_resumes += u32::from(brought < config.progress_bytes_min);
        if self.n_idle > config.idle_resumes_max || self.n_resumes > config.resumes_max {
            return Err(err);
        }
        tracing::debug!("{err}; resumed at byte {}", self.rest.position());
        Ok(())
    }
}

/// The next bytes of `body`, none of them empty. Fails with `TimedOut` where it stalls.
async fn next_chunk(engine: &Engine, body: &mut Body) -> Result<Option<Bytes>, StoreError> {
    let stall = engine.config().body_stall;
    let deadline = Instant::now() + stall;
    loop {
        let late = |message| StoreError::new(StoreErrorKind::TimedOut, message);
        let chunk = tokio::select! {
            biased;
            chunk = timeout_at(deadline, body.next()) => chunk.map_err(|_| {
                late(format!("the body brought no byte for {} s", stall.as_secs()))
            })?,
            () = engine.reach.slept() => {
                return Err(late("this machine slept while the body came in".to_owned()));
            }
        };
        match chunk.transpose()? {
            Some(empty) if empty.is_empty() => tokio::task::yield_now().await,
            chunk => return Ok(chunk),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;
    use tokio::time::sleep;

    use super::super::{RetryConfig, RetryStore};
    use super::*;
    use crate::metrics::Metrics;
    use crate::object::ETag;
    use crate::store::Condition;
    use crate::store::ObjectStore;
    use crate::store::Priority;
    use crate::store::fake::{Call, FakeStore, Fault};

    const SIZE: usize = 300_000;

    fn content() -> Vec<u8> {
        (0..SIZE).map(|n| u8::try_from(n % 251).unwrap()).collect()
    }

    fn setup(fake: FakeStore) -> (FakeStore, RetryStore, ETag) {
        let object = fake.put("a", content());
        let (start, serve) = (RetryConfig::start(), RetryConfig::serve());
        let metrics = Arc::new(Metrics::default());
        let store = RetryStore::new(Arc::new(fake.clone()), start, serve, metrics, 7);
        (fake, store, object.version.etag.unwrap())
    }

    fn request(condition: Condition) -> GetRequest {
        GetRequest { key: "a".into(), range: None, condition, priority: Priority::Demand }
    }

    async fn read(store: &RetryStore, request: GetRequest) -> Result<Vec<u8>, StoreError> {
        let chunks: Vec<Bytes> = store.get(request).await?.body.try_collect().await?;
        Ok(chunks.concat())
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_body_goes_on_at_the_byte_where_it_broke_pinned_to_its_version() {
        let (fake, store, etag) = setup(FakeStore::new());
        fake.fault(0, Fault::Cut(100_001));
        assert_eq!(read(&store, request(Condition::Any)).await.unwrap(), content());
        let resumed = GetRequest {
            key: "a".into(),
            range: Some(100_001..SIZE as u64),
            condition: Condition::Match(etag),
            priority: Priority::Demand,
        };
        assert_eq!(fake.take_calls()[1..], [Call::Get(resumed)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_goes_on_after_10_s() {
        let (fake, store, _) = setup(FakeStore::new());
        fake.fault(0, Fault::StallBody(5));
        let start = Instant::now();
        assert_eq!(read(&store, request(Condition::Any)).await.unwrap(), content());
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_asked_for_anew_and_given_up() {
        let (fake, store, _) = setup(FakeStore::new());
        (0..2).for_each(|_| fake.fault(0, Fault::Drip(Duration::from_secs(1))));
        assert_eq!(read(&store, request(Condition::Any)).await.unwrap(), content());
        assert_eq!(fake.take_calls().len(), 3);
        (0..100).for_each(|_| fake.fault(0, Fault::Drip(Duration::from_secs(1))));
        let start = Instant::now();
        let err = read(&store, request(Condition::Any)).await.unwrap_err();
        assert_eq!(err.kind(), StoreErrorKind::TimedOut);
        assert_eq!(fake.take_calls().len(), 5);
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_line_is_no_drip() {
        let (fake, store, _) = setup(FakeStore::new());
        fake.put("a", vec![7; 3000]);
        fake.fault(0, Fault::Drip(Duration::from_millis(9)));
        assert_eq!(read(&store, request(Condition::Any)).await.unwrap(), vec![7; 3000]);
        assert_eq!(fake.take_calls().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_pauses_is_no_stall() {
        let (fake, store, _) = setup(FakeStore::new());
        let mut body = store.get(request(Condition::Any)).await.unwrap().body;
        while body.try_next().await.unwrap().is_some() {
            sleep(Duration::from_secs(60)).await;
        }
        assert_eq!(fake.take_calls().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn progress_allows_more_resumptions_than_idling() {
        let (fake, store, _) = setup(FakeStore::new());
        (0..20).for_each(|_| fake.fault(0, Fault::Cut(10_000)));
        assert_eq!(read(&store, request(Condition::Any)).await.unwrap(), content());
        (0..20).for_each(|_| fake.fault(0, Fault::Cut(0)));
        fake.take_calls();
        let err = read(&store, request(Condition::Any)).await.unwrap_err();
        assert_eq!(err.kind(), StoreErrorKind::Unreachable);
        assert_eq!(fake.take_calls().len(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn resumptions_go_on_as_long_as_each_brings_much() {
        let (fake, store, _) = setup(FakeStore::new());
        let large: Vec<u8> =
            (0..8 << 20).map(|n: u32| n.wrapping_mul(77).to_be_bytes()[1]).collect();
        fake.put("a", large.clone());
        (0..1000).for_each(|n| fake.fault(n, Fault::Cut(64 << 10)));
        assert!(read(&store, request(Condition::Any)).await.unwrap() == large);
        assert_eq!(fake.take_calls().len(), 128);
    }

    #[tokio::test(start_paused = true)]
    async fn resumptions_end_although_each_brings_a_byte() {
        let (fake, store, _) = setup(FakeStore::new());
        (0..1000).for_each(|_| fake.fault(0, Fault::Cut(1)));
        let err = read(&store, request(Condition::Any)).await.unwrap_err();
        assert_eq!(err.kind(), StoreErrorKind::Unreachable);
        assert_eq!(fake.take_calls().len(), 65);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_never_continued_from_another_version() {
        for (other, is_same) in [(vec![9; SIZE], false), (content(), true)] {
            let (fake, store, _) = setup(FakeStore::new());
            fake.fault(0, Fault::Cut(70_000));
            let mut body = store.get(request(Condition::Any)).await.unwrap().body;
            body.try_next().await.unwrap();
            fake.put("a", other);
            let rest = body.try_collect::<Vec<_>>().await.map(drop).map_err(|err| err.kind());
            // The same content uploaded again has the same bytes, whatever its date.
            assert_eq!(rest, if is_same { Ok(()) } else { Err(StoreErrorKind::Changed) });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_version_goes_on_by_its_id() {
        let (fake, store, _) = setup(FakeStore::new().versioned());
        let id = fake_version_id(&store).await;
        fake.put("a", "newer");
        fake.take_calls();
        fake.fault(0, Fault::Cut(7));
        let bytes = read(&store, request(Condition::VersionId(Arc::clone(&id)))).await.unwrap();
        assert_eq!(bytes, content());
        let calls = fake.take_calls();
        assert!(
            matches!(&calls[1], Call::Get(GetRequest { condition: Condition::VersionId(again), .. }) if *again == id)
        );
    }

    async fn fake_version_id(store: &RetryStore) -> Arc<str> {
        store.head("a").await.unwrap().version_id.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_resumption_itself_is_retried() {
        let (fake, store, _) = setup(FakeStore::new());
        fake.fault(0, Fault::Cut(7));
        fake.fault(0, Fault::Fail(StoreErrorKind::Throttled));
        fake.fault(0, Fault::Fail(StoreErrorKind::Unreachable));
        assert_eq!(read(&store, request(Condition::Any)).await.unwrap(), content());
        assert_eq!(fake.take_calls().len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_object_has_an_empty_body() {
        let (fake, store, _) = setup(FakeStore::new());
        fake.put("a", "");
        assert_eq!(read(&store, request(Condition::Any)).await.unwrap(), b"");
    }
}
