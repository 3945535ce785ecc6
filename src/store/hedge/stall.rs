//! A body that brings nothing for much longer than usual is asked for again, from the byte where it
//! stands and pinned to its version; whichever connection brings the next bytes goes on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::{Engine, Line};
use crate::error::StoreError;
use crate::store::rest::Rest;
use crate::store::{Body, GetAnswer, GetRequest};

/// `answer`, with a body that is watched.
pub(super) fn watched(engine: Arc<Engine>, request: &GetRequest, answer: GetAnswer) -> GetAnswer {
    let rest = Rest::of(request, &answer);
    let GetAnswer { head, range, body, checksum } = answer;
    let silence = Silence::new(Arc::clone(&engine));
    let watched = Watched { engine, rest, body, silence };
    let body = stream::try_unfold(watched, |mut watched| async {
        let chunk = watched.next().await?;
        Ok(chunk.map(|chunk| (chunk, watched)))
    });
    GetAnswer { head, range, body: body.boxed(), checksum }
}

struct Watched {
    engine: Arc<Engine>,
    rest: Rest,
    body: Body,
    silence: Silence,
}

impl Watched {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.rest.is_over() {
            return Ok(None);
        }
        self.silence.begin();
        let chunk = {
            let line = Line::now(&self.engine.metrics, self.rest.bytes());
            let late = self.engine.late(&self.engine.silences, self.rest.priority(), &line);
            tokio::select! {
                biased;
                chunk = self.body.next() => chunk,
                () = late => self.first_of_two().await,
            }
        };
        let chunk = chunk.transpose()?;
        self.silence.end();
        if let Some(chunk) = &chunk {
            self.rest.take(chunk.len())?;
        }
        if self.rest.is_over() {
            self.silence.over();
        }
        Ok(chunk)
    }

    /// The next bytes from the body or from another one, which then takes its place. A second request that
    /// fails changes nothing: whoever reads the body has a deadline for it.
    async fn first_of_two(&mut self) -> Option<Result<Bytes, StoreError>> {
        let (key, position) = (self.rest.key(), self.rest.position());
        tracing::debug!("get {key:?}: the body stands still; asked again from byte {position}");
        let chunk = {
            let mut second = std::pin::pin!(other_body(&self.engine, &self.rest));
            let (chunk, body) = tokio::select! {
                biased;
                chunk = self.body.next() => match chunk {
                    Some(Ok(chunk)) => return Some(Ok(chunk)),
                    Some(Err(err)) if !err.kind().is_transient() => return Some(Err(err)),
                    // Broken or too short: left to the reader only if the other one is no better.
                    broken => match second.await {
                        Ok(other) => other,
                        Err(_) => return broken,
                    },
                },
                other = &mut second => match other {
                    Ok(other) => other,
                    Err(err) => {
                        tracing::debug!("{err}; the first body is waited for");
                        return self.body.next().await;
                    }
                },
            };
            self.body = body;
            chunk
        };
        self.silence.lost();
        self.engine.metrics.hedge_won();
        Some(Ok(chunk))
    }
}

/// Another body from where the first one stands, and its first bytes.
async fn other_body(engine: &Engine, rest: &Rest) -> Result<(Bytes, Body), StoreError> {
    let mut body = rest.body(engine.send(&rest.request()).await?)?;
    loop {
        match body.next().await.transpose()? {
            Some(empty) if empty.is_empty() => tokio::task::yield_now().await,
            Some(chunk) => return Ok((chunk, body)),
            None => return Err(rest.missing()),
        }
    }
}

/// How long one body let its reader wait at most; the time between two questions for the next bytes is
/// the reader's own. Noted at the body's end: one sample for each body, so that long ones do not teach
/// more than short ones.
struct Silence {
    engine: Arc<Engine>,
    since: Option<Instant>,
    longest: Duration,
    noted: bool,
}

impl Silence {
    fn new(engine: Arc<Engine>) -> Self {
        Self { engine, since: None, longest: Duration::ZERO, noted: false }
    }

    fn begin(&mut self) {
        self.since = Some(Instant::now());
    }

    fn end(&mut self) {
        if let Some(since) = self.since.take() {
            self.longest = self.longest.max(since.elapsed());
        }
    }

    /// The body has ended.
    fn over(&mut self) {
        self.noted = true;
        self.engine.silences.ended(self.longest);
    }

    /// Another body goes on in its place.
    fn lost(&mut self) {
        self.end();
        self.engine.silences.given_up(std::mem::take(&mut self.longest));
    }
}

impl Drop for Silence {
    /// A body that broke or was left by its reader.
    fn drop(&mut self) {
        if !self.noted {
            self.lost();
        }
    }
}
