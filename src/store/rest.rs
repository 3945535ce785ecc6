//! What of a body is still to come, and how to ask for it on another connection. Invariant: what is
//! joined by it is one version of the object, each byte once and in order, as many as its range has.

use std::ops::Range;
use std::sync::Arc;

use super::{Body, Condition, GetAnswer, GetRequest, Head, Priority};
use crate::error::{StoreError, StoreErrorKind};
use crate::object::ETag;

/// The rest of one body.
pub(super) struct Rest {
    key: Arc<str>,
    /// Of the first answer.
    head: Head,
    pin: Condition,
    priority: Priority,
    /// Begins at the next byte of the object that the reader gets.
    range: Range<u64>,
}

impl Rest {
    /// All of the body that is announced by the head of `answer`.
    pub(super) fn of(request: &GetRequest, answer: &GetAnswer) -> Self {
        Self {
            key: Arc::clone(&request.key),
            head: answer.head.clone(),
            pin: pin(&request.condition, answer.head.version.etag.as_ref()),
            // Once the head has come, the open is answered, and its bytes are a reader's.
            priority: match request.priority {
                Priority::Open => Priority::Demand,
                priority => priority,
            },
            range: answer.range.clone(),
        }
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn priority(&self) -> Priority {
        self.priority
    }

    /// Where it begins.
    pub(super) fn position(&self) -> u64 {
        self.range.start
    }

    pub(super) fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    pub(super) fn is_over(&self) -> bool {
        self.range.start >= self.range.end
    }

    /// Some of it has come. Fails where that is more than was announced.
    pub(super) fn take(&mut self, n_bytes: usize) -> Result<(), StoreError> {
        let n_bytes = n_bytes as u64;
        if n_bytes > self.bytes() {
            let message = format!("get {:?}: the body is longer than announced", self.key);
            return Err(StoreError::new(StoreErrorKind::Corrupt, message));
        }
        self.range.start += n_bytes;
        Ok(())
    }

    /// That the body ended before it was over.
    pub(super) fn missing(&self) -> StoreError {
        let message =
            format!("get {:?}: the body ended {} bytes too early", self.key, self.bytes());
        StoreError::new(StoreErrorKind::Unreachable, message)
    }

    pub(super) fn request(&self) -> GetRequest {
        GetRequest {
            key: Arc::clone(&self.key),
            range: Some(self.range.clone()),
            condition: self.pin.clone(),
            priority: self.priority,
        }
    }

    /// The body that goes on here. Fails with `Changed` where it is not the rest of the same version.
    pub(super) fn body(&self, answer: GetAnswer) -> Result<Body, StoreError> {
        let same_bytes = answer.head.version.has_the_bytes_of(&self.head.version);
        if !same_bytes || answer.range != self.range {
            let message = format!("get {:?}: it changed while its body came in", self.key);
            return Err(StoreError::new(StoreErrorKind::Changed, message));
        }
        Ok(answer.body)
    }
}

/// What the rest of a body must match: the version that its beginning came from.
fn pin(asked: &Condition, got: Option<&ETag>) -> Condition {
    match (asked, got) {
        (Condition::VersionId(_) | Condition::Match(_), _) => asked.clone(),
        (Condition::Any | Condition::NoneMatch(_), Some(etag)) => Condition::Match(etag.clone()),
        // A server without ETags: the head of the rest is compared by size and date alone.
        (Condition::Any | Condition::NoneMatch(_), None) => Condition::Any,
    }
}
