//! A store that lets go of everything when the machine goes to sleep: of what is under way when nobody is
//! waited for any more, and of what is asked for ahead of everybody from the beginning. So no layer above,
//! and nothing that goes on behind, has to know of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream};

use super::{Body, GetAnswer, GetRequest, Head, ListPage, ListRequest, ObjectStore, Priority};
use crate::awake::Quiet;
use crate::error::StoreError;

/// Outside of all that waits and repeats.
pub(super) struct QuietStore {
    inner: Arc<dyn ObjectStore>,
    quiet: Arc<Quiet>,
}

impl QuietStore {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, quiet: Arc<Quiet>) -> Self {
        Self { inner, quiet }
    }

    /// What `asked` comes to, if that is waited for.
    async fn unless_asleep<T>(
        &self,
        asked: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        tokio::select! {
            biased;
            () = self.quiet.over() => Err(StoreError::asleep()),
            answer = asked => answer,
        }
    }
}

impl ObjectStore for QuietStore {
    fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Head, StoreError>> {
        self.unless_asleep(self.inner.head(key)).boxed()
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<ListPage, StoreError>> {
        self.unless_asleep(self.inner.list(request)).boxed()
    }

    fn get(&self, request: GetRequest) -> BoxFuture<'_, Result<GetAnswer, StoreError>> {
        async move {
            if request.priority == Priority::Ahead && self.quiet.has_begun() {
                return Err(StoreError::asleep());
            }
            let answer = self.unless_asleep(self.inner.get(request)).await?;
            let quiet = Arc::clone(&self.quiet);
            let body = QuietBody {
                body: Some(answer.body),
                over: async move { quiet.over().await }.boxed(),
            };
            Ok(GetAnswer { body: Box::pin(body), ..answer })
        }
        .boxed()
    }
}

struct QuietBody {
    /// `None` when it was let go, and with it its connection.
    body: Option<Body>,
    over: BoxFuture<'static, ()>,
}

impl Stream for QuietBody {
    type Item = Result<Bytes, StoreError>;

    fn poll_next(self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        if this.over.poll_unpin(ctx).is_ready() {
            this.body = None;
            return Poll::Ready(Some(Err(StoreError::asleep())));
        }
        body.as_mut().poll_next(ctx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::StreamExt;

    use super::*;
    use crate::error::StoreErrorKind;
    use crate::store::Condition;
    use crate::store::fake::{FakeStore, Fault};

    const TIME: Duration = Duration::from_secs(2);

    fn get(priority: Priority) -> GetRequest {
        GetRequest { key: "a".into(), range: None, condition: Condition::Any, priority }
    }

    fn store(fake: FakeStore) -> (Arc<QuietStore>, Arc<Quiet>) {
        let quiet: Arc<Quiet> = Arc::default();
        (Arc::new(QuietStore::new(Arc::new(fake), Arc::clone(&quiet))), quiet)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_is_let_go_when_nothing_is_waited_for_any_more() {
        let fake = FakeStore::new();
        fake.put("a", vec![7; 200_000]);
        fake.fault(0, Fault::Stall);
        fake.fault(1, Fault::StallBody(100_000));
        let (store, quiet) = store(fake.clone());
        let stalled = tokio::spawn({
            let store = Arc::clone(&store);
            async move { store.list(ListRequest::directory("")).await.map(drop) }
        });
        tokio::task::yield_now().await;
        let mut body = store.get(get(Priority::Ahead)).await.unwrap().body;
        let mut n_bytes = 0;
        while n_bytes < 65_536 {
            n_bytes += body.next().await.unwrap().unwrap().len();
        }
        quiet.begin(TIME);
        tokio::time::sleep(TIME / 2).await;
        assert!(!stalled.is_finished(), "somebody may wait for it");
        let err = stalled.await.unwrap().unwrap_err();
        assert_eq!(err.kind(), StoreErrorKind::Asleep);
        let broken = loop {
            match body.next().await {
                Some(Ok(_)) => {}
                end => break end,
            }
        };
        assert!(matches!(broken, Some(Err(err)) if err.kind() == StoreErrorKind::Asleep));
        assert!(body.next().await.is_none());
        quiet.end();
        assert!(store.head("a").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_asked_for_ahead_and_in_the_end_nothing_at_all() {
        let fake = FakeStore::new();
        fake.put("a", "x");
        let (store, quiet) = store(fake.clone());
        quiet.begin(TIME);
        assert!(store.get(get(Priority::Ahead)).await.is_err());
        assert!(store.get(get(Priority::Demand)).await.is_ok(), "somebody waits for it");
        assert!(store.head("a").await.is_ok());
        tokio::time::sleep(TIME).await;
        fake.take_calls();
        assert!(store.head("a").await.is_err());
        assert!(store.get(get(Priority::Demand)).await.is_err());
        assert!(store.list(ListRequest::directory("")).await.is_err());
        assert_eq!(fake.take_calls(), []);
    }
}
