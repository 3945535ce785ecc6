//! Which connections are used.

use std::time::Duration;

use super::server::Server;
use super::*;

#[tokio::test]
async fn connections_that_are_not_trusted_any_more_are_not_used() {
    let server = Server::start(|_| listing("")).await;
    let reach: Arc<Reach> = Arc::default();
    let url = format!("http://{}", server.address);
    let store = open_with(&config(&url), Arc::clone(&reach)).await;
    let silent = || {
        let err = StoreError::new(StoreErrorKind::TimedOut, "silent");
        reach.failed(Instant::now(), &err);
    };
    let connections = || server.seen().iter().map(|seen| seen.connection).collect::<Vec<_>>();
    let list = || store.list(ListRequest::directory(""));
    list().await.unwrap();
    list().await.unwrap();
    // A try that has just been sent makes no connection of its own time suspicious.
    tokio::time::sleep(Duration::from_millis(5)).await;
    silent();
    list().await.unwrap();
    list().await.unwrap();
    assert_eq!(connections(), [0, 0, 1, 1]);
}
