//! The requests: how each is sent to this server, and what its answer must be before anybody
//! believes it.
//!
//! A server that is not quite S3 shows in two ways. An answer that is not what was asked for tells
//! at once ([`Quirks::learn`](super::quirks::Quirks::learn)). A refusal may be about anything, so the request is sent again
//! without what the server may not know ([`AwsStore::conceding`]), and what then succeeds is the
//! proof. Either way the knowledge is used from the next request on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::types::EncodingType;
use futures_util::{FutureExt, TryStreamExt};

use super::answer::{ExactBody, Extent, condition_kept, extent, if_match};
use super::checksum::Expected;
use super::document::{PageBytes, TakeBody, Unreadable};
use super::listing::{self, Start};
use super::notes::{Modified, Notes, TakeNotes};
use super::quirks::{Known, Quirk};
use super::transport::transport;
use super::whole::Wholes;
use super::{AwsStore, Failure, Live, broken_rule, failure};
use crate::error::{StoreError, StoreErrorKind};
use crate::metrics::RequestKind;
use crate::object::{ETag, Object, Version};
use crate::store::{
    Checksum, Condition, GetAnswer, GetRequest, Head, ListPage, ListRequest, Priority,
};

/// What a listing says of one key.
enum InListing {
    There(Object),
    Missing,
    /// Too many other keys begin so, or such a listing is not allowed.
    Unclear,
}

/// How the length of a whole object is found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    /// By Content-Length, or by Content-Range where the server is known to tell no length.
    Told,
    /// It has been told that there is no byte at all; the body has to agree.
    Empty,
}

impl AwsStore {
    /// HEAD.
    pub(super) async fn find(&self, key: &str) -> Result<Head, StoreError> {
        let mut head = self.find_dated(key).await?;
        if self.quirks.has(Quirk::ListsNoETags) {
            // As listings tell it, so that the object has one inode number whoever is asked.
            head.version.etag = None;
        }
        Ok(head)
    }

    /// HEAD, or what stands in for it, with the date that a listing has where that has one alone.
    async fn find_dated(&self, key: &str) -> Result<Head, StoreError> {
        let listed_first = self.quirks.has(Quirk::NoLastModified);
        if listed_first {
            match self.in_listing(key).await? {
                InListing::There(Object { version, .. }) => {
                    return Ok(Head { version, version_id: None });
                }
                InListing::Missing => return Err(missing(RequestKind::Head, key)),
                InListing::Unclear => {}
            }
        }
        let mut head = match self.ask_head(key).await {
            Ok(head) => head,
            Err(err) => {
                // Once is enough to know the server, and then the layers above tell names apart,
                // by a listing that they have or need anyway.
                let looked_into = err.kind() == StoreErrorKind::Denied
                    && !self.quirks.has(Quirk::ForbiddenForMissing)
                    && self.asked_of_head.swap(true, Ordering::Relaxed);
                return Err(match looked_into {
                    true => err,
                    false => self.denied_or_missing(RequestKind::Head, key, err).await,
                });
            }
        };
        if !head.version.is_dated()
            && !listed_first
            && let InListing::There(object) = self.in_listing(key).await?
            && object.version.agrees_with(&head.version)
        {
            head.version.modified = object.version.modified;
        }
        Ok(head)
    }

    /// HEAD, or a GET of the first byte.
    async fn ask_head(&self, key: &str) -> Result<Head, StoreError> {
        let send = |known: Known| async move {
            if known.has(Quirk::NoHead) || known.has(Quirk::NoContentLength) {
                return self.head_by_get(key).await;
            }
            let send = |live| self.head_object(live, key);
            self.send(RequestKind::Head, key, false, send).await
        };
        self.conceding(send, |_| vec![Quirk::NoHead]).await
    }

    async fn head_by_get(&self, key: &str) -> Result<Head, StoreError> {
        let request = GetRequest {
            key: key.into(),
            range: Some(0..1),
            condition: Condition::Any,
            priority: Priority::Demand,
        };
        let answer = match self.get_as_known(&request).boxed().await {
            // An empty object has no first byte.
            Err(err) if err.kind() == StoreErrorKind::OutOfRange => {
                self.get_as_known(&GetRequest { range: None, ..request }).boxed().await?
            }
            answer => answer?,
        };
        // The connection is used again where the whole body has come.
        let _: Vec<_> = answer.body.try_collect().await?;
        Ok(answer.head)
    }

    /// LIST.
    pub(super) async fn page(&self, request: &ListRequest) -> Result<ListPage, StoreError> {
        let send = |known: Known| async move {
            let send = |live| self.list_objects(live, request, known);
            self.send(RequestKind::List, &request.prefix, false, send).await
        };
        let may_refuse = |err: &StoreError| {
            let mut suspects = vec![Quirk::RefusesEncodingType];
            if request.continuation.is_none() {
                // A call that a server does not know at all is 501, a parameter 400.
                let place = if err.status() == Some(501) { 0 } else { suspects.len() };
                suspects.insert(place, Quirk::NoV2);
                // Version 1 has another name for it, which would seem to be what helped.
                if request.start_after.is_some() {
                    suspects.insert(0, Quirk::RefusesStartAfter);
                }
            }
            suspects
        };
        self.conceding(send, may_refuse).await
    }

    /// GET.
    pub(super) async fn fetch(&self, request: &GetRequest) -> Result<GetAnswer, StoreError> {
        let known = self.quirks.known();
        // Rather than a body that is dropped when its head has come.
        if let Condition::NoneMatch(etag) = &request.condition
            && known.no_conditions()
            && let Ok(head) = self.ask_head(&request.key).await
            && head.version.etag.as_ref() == Some(etag)
        {
            let message = format!("GetObject {:?}: the object has not changed", request.key);
            return Err(StoreError::new(StoreErrorKind::NotModified, message));
        }
        let got = if known.has(Quirk::IgnoresRange) && request.range.is_some() {
            self.get_from_whole(request).await
        } else {
            self.get_as_known(request).await
        };
        match got {
            Err(err) if !matches!(request.condition, Condition::VersionId(_)) => {
                Err(self.denied_or_missing(RequestKind::Get, &request.key, err).await)
            }
            got => got,
        }
    }

    /// Where a GET for one range brings the whole body, others wait for that body.
    async fn get_from_whole(&self, request: &GetRequest) -> Result<GetAnswer, StoreError> {
        if let Some(answer) = self.wholes.join(request) {
            return Ok(answer);
        }
        if Wholes::is_out_of_reach(request) {
            return Err(out_of_reach(&request.key));
        }
        if matches!(request.condition, Condition::NoneMatch(_)) {
            return self.get_as_known(request).await;
        }
        let opening = self.wholes.opening(&request.key);
        let _opening = opening.lock().await;
        match self.wholes.join(request) {
            Some(answer) => Ok(answer),
            None => self.get_as_known(request).await,
        }
    }

    async fn get_as_known(&self, request: &GetRequest) -> Result<GetAnswer, StoreError> {
        let conditional =
            matches!(request.condition, Condition::Match(_) | Condition::NoneMatch(_));
        let send = |known: Known| self.send_get(request, known, Length::Told);
        let may_refuse = |_: &StoreError| {
            let conditions = conditional.then_some(Quirk::RefusesConditions);
            let checksum_mode = match request.range {
                Some(_) => Quirk::WantsChecksumMode,
                None => Quirk::RefusesChecksumMode,
            };
            conditions.into_iter().chain([checksum_mode]).collect()
        };
        match self.conceding(send, may_refuse).await {
            // Asked for from byte 0 on, as its length is told in no other way.
            Err(err) if err.kind() == StoreErrorKind::OutOfRange && request.range.is_none() => {
                self.send_get(request, self.quirks.known(), Length::Empty).await
            }
            got => got,
        }
    }

    async fn send_get(
        &self,
        request: &GetRequest,
        known: Known,
        length: Length,
    ) -> Result<GetAnswer, StoreError> {
        let versioned = matches!(request.condition, Condition::VersionId(_));
        let send = |live| self.get_object(live, request, known, length);
        self.send(RequestKind::Get, &request.key, versioned, send).await
    }

    /// Sends as the server is known to want it. Where it refuses, or has just taught better, sends
    /// again without what it may not know; `may_refuse` names that.
    async fn conceding<T, F>(
        &self,
        send: impl Fn(Known) -> F + Send + Sync,
        may_refuse: impl FnOnce(&StoreError) -> Vec<Quirk> + Send,
    ) -> Result<T, StoreError>
    where
        T: Send,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let mut known = self.quirks.known();
        let mut sent = send(known).await;
        let is_other = sent.as_ref().is_err_and(|err| err.kind() == StoreErrorKind::Other);
        if is_other && known != self.quirks.known() {
            known = self.quirks.known();
            sent = send(known).await;
        }
        let err = match sent {
            Err(err) if is_refusal(&err) => err,
            sent => return sent,
        };
        let mut suspects = may_refuse(&err);
        // What another request has learnt only now is no less the reason.
        suspects.retain(|quirk| {
            self.quirks.is_open(*quirk) || self.quirks.has(*quirk) && !known.has(*quirk)
        });
        let all_of_them = (suspects.len() > 1).then(|| suspects.clone());
        let each = suspects.into_iter().map(|quirk| vec![quirk]);
        for conceded in each.chain(all_of_them) {
            let known =
                conceded.iter().fold(self.quirks.known(), |known, quirk| known.with(*quirk));
            let again = send(known).await;
            let understood = match &again {
                Ok(_) => true,
                Err(err) => !is_refusal(err) && !err.kind().is_transient(),
            };
            if understood {
                conceded.into_iter().for_each(|quirk| self.quirks.learn(quirk));
                return again;
            }
        }
        Err(err)
    }

    /// `err`, or `NotFound` where it is a 403 and a listing does not have the key.
    async fn denied_or_missing(&self, kind: RequestKind, key: &str, err: StoreError) -> StoreError {
        let suspected = self.quirks.has(Quirk::ForbiddenForMissing)
            || self.quirks.is_open(Quirk::ForbiddenForMissing);
        match err.kind() {
            StoreErrorKind::NotFound => {
                self.quirks.is_as_s3(Quirk::ForbiddenForMissing);
                err
            }
            StoreErrorKind::Denied if suspected => match self.in_listing(key).await {
                Ok(InListing::Missing) => {
                    self.quirks.learn(Quirk::ForbiddenForMissing);
                    missing(kind, key)
                }
                // By the rules of S3, a key that may not be listed may be missing.
                Err(_) | Ok(InListing::There(_) | InListing::Unclear) => err,
            },
            _ => err,
        }
    }

    /// Fails where another try may tell.
    async fn in_listing(&self, key: &str) -> Result<InListing, StoreError> {
        let page = match self.page(&ListRequest::directory(key)).boxed().await {
            Ok(page) => page,
            Err(err) if err.kind().is_transient() => return Err(err),
            Err(_) => return Ok(InListing::Unclear),
        };
        let found = page.objects.into_iter().find(|object| *object.key == *key);
        Ok(match (found, page.continuation) {
            (Some(object), _) => InListing::There(object),
            (None, None) => InListing::Missing,
            (None, Some(_)) => InListing::Unclear,
        })
    }

    /// What a GET of one byte fails with, where HEAD has failed; `None` if it does not fail.
    pub(super) async fn reason(&self, live: &Arc<Live>, key: &str) -> Option<Failure> {
        let request = GetRequest {
            key: key.into(),
            range: Some(0..1),
            condition: Condition::Any,
            priority: Priority::Demand,
        };
        self.get_object(Arc::clone(live), &request, self.quirks.known(), Length::Told).await.err()
    }

    async fn head_object(&self, live: Arc<Live>, key: &str) -> Result<Head, Failure> {
        let request = live
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(key)
            .set_request_payer(self.requester.clone())
            .set_expected_bucket_owner(self.expected_bucket_owner.clone());
        let notes = TakeNotes::default();
        let sent = request.customize().interceptor(notes.clone()).send().await;
        let notes = notes.taken();
        self.quirks.answered(notes.closes);
        let answer = sent.map_err(|err| failure(move |o| o.sdk_error(&err)))?;
        self.quirks.is_as_s3(Quirk::NoHead);
        let size = answer.content_length().and_then(|length| u64::try_from(length).ok());
        let size = size.ok_or_else(|| self.no_length())?;
        Ok(self.head_of(answer.e_tag(), size, &notes, answer.version_id()))
    }

    async fn list_objects(
        &self,
        live: Arc<Live>,
        request: &ListRequest,
        known: Known,
    ) -> Result<ListPage, Failure> {
        let after = request.start_after.as_deref();
        let (newer, marker, token) = match Start::of(request) {
            Start::First if known.has(Quirk::NoV2) => (false, after, None),
            Start::First => (true, None, None),
            Start::Marker(marker) => (false, Some(marker), None),
            Start::Token(token) => (true, None, Some(token)),
        };
        let after = after.filter(|_| token.is_none() && !known.no_start_after());
        let delimiter = request.delimited.then(|| "/".to_owned());
        let encoding = (!known.has(Quirk::RefusesEncodingType)).then_some(EncodingType::Url);
        let keys_max = i32::from(request.keys_max);
        let (body, notes) = (TakeBody::default(), TakeNotes::default());
        let sent = if newer {
            let listing = live
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(&request.prefix)
                .set_delimiter(delimiter)
                .set_start_after(after.map(str::to_owned))
                .set_continuation_token(token.map(str::to_owned))
                .max_keys(keys_max)
                .set_encoding_type(encoding)
                .set_request_payer(self.requester.clone())
                .set_expected_bucket_owner(self.expected_bucket_owner.clone())
                .customize();
            let listing = listing.interceptor(body.clone()).interceptor(notes.clone());
            listing.send().await.map(drop).map_err(|err| failure(move |o| o.sdk_error(&err)))
        } else {
            let listing = live
                .client
                .list_objects()
                .bucket(&self.bucket)
                .prefix(&request.prefix)
                .set_delimiter(delimiter)
                .set_marker(marker.map(str::to_owned))
                .max_keys(keys_max)
                .set_encoding_type(encoding)
                .set_request_payer(self.requester.clone())
                .set_expected_bucket_owner(self.expected_bucket_owner.clone())
                .customize();
            let listing = listing.interceptor(body.clone()).interceptor(notes.clone());
            listing.send().await.map(drop).map_err(|err| failure(move |o| o.sdk_error(&err)))
        };
        self.quirks.answered(notes.taken().closes);
        sent?;
        let body = body.taken().ok_or_else(|| broken_rule("the answer has no body"))?;
        let unreadable = |err| {
            failure(move |o| match err {
                Unreadable::BrokenOff(err) => {
                    let what = format!("the listing broke off ({})", transport(&err));
                    o.failed(StoreErrorKind::Unreachable, &what)
                }
                Unreadable::IllFormed(what) => o.unreadable(false, &what),
                Unreadable::Foreign => o.unreadable(true, "it is no listing"),
                Unreadable::Wrong(what) => o.broken_rule(what),
            })
        };
        let page = PageBytes::collect(body).await.map_err(unreadable)?;
        let take_apart = || {
            let document = page.read().map_err(unreadable)?;
            for quirk in listing::differences(request, known, &document) {
                self.quirks.learn(quirk);
            }
            if newer {
                self.quirks.is_as_s3(Quirk::NoV2);
            }
            if !known.has(Quirk::RefusesEncodingType) {
                self.quirks.is_as_s3(Quirk::RefusesEncodingType);
            }
            listing::page(request, document, &self.warned).map_err(broken_rule)
        };
        self.parsers.run(take_apart).await
    }

    async fn get_object(
        &self,
        live: Arc<Live>,
        request: &GetRequest,
        known: Known,
        length: Length,
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
        } else if known.has(Quirk::NoContentLength) && length == Length::Told {
            get = get.range("bytes=0-");
        }
        let conditions = !known.has(Quirk::RefusesConditions);
        get = match &request.condition {
            Condition::Match(etag) if conditions => get.set_if_match(if_match(etag)),
            Condition::NoneMatch(etag) if conditions => get.if_none_match(etag.to_string()),
            Condition::VersionId(id) => get.version_id(&**id),
            Condition::Any | Condition::Match(_) | Condition::NoneMatch(_) => get,
        };
        let conditional = get.get_if_match().is_some() || get.get_if_none_match().is_some();
        let notes = TakeNotes::default();
        // S3 has a checksum for the whole object alone, and some servers send that with parts, too.
        let is_whole = get.get_range().is_none();
        let asks_for_checksum = is_whole && !known.has(Quirk::RefusesChecksumMode)
            || known.has(Quirk::WantsChecksumMode);
        let mut get = get.customize().interceptor(notes.clone());
        if asks_for_checksum {
            // Not by the SDK's own option, which would compare the checksum of the whole object
            // with a part of it, and could only end the body that does not fit.
            get = get.mutate_request(|request| {
                request.headers_mut().insert("x-amz-checksum-mode", "ENABLED");
            });
        }
        let sent = get.send().await;
        let notes = notes.taken();
        self.quirks.answered(notes.closes);
        let answer = sent.map_err(|err| failure(move |o| o.sdk_error(&err)))?;
        if conditional {
            self.quirks.is_as_s3(Quirk::RefusesConditions);
        }
        self.quirks.is_as_s3(match asks_for_checksum {
            true => Quirk::RefusesChecksumMode,
            false => Quirk::WantsChecksumMode,
        });
        let extent = self.extent(request, &answer, &notes, length)?;
        let head = self.head_of(answer.e_tag(), extent.size, &notes, answer.version_id());
        if let Err(kind) = condition_kept(&request.condition, &head) {
            if conditional {
                self.quirks.learn(Quirk::IgnoresConditions);
            }
            let what = "the server ignored the condition, we did not";
            return Err(failure(move |o| o.failed(kind, what)));
        }
        let key = Arc::clone(&request.key);
        if extent.whole {
            // An empty object has no range, and comes whole from others, too.
            if extent.size > 0 {
                self.quirks.learn(Quirk::IgnoresRange);
            }
            if Wholes::is_out_of_reach(request) {
                let key = Arc::clone(&request.key);
                return Err(failure(move |_| out_of_reach(&key)));
            }
            let kept = self.wholes.begin(request, head, answer.body);
            let what = "the object has no byte in the range";
            return kept
                .ok_or_else(|| failure(move |o| o.failed(StoreErrorKind::OutOfRange, what)));
        }
        let checksum = if is_whole { Expected::of(&key, &answer) } else { None };
        let checksum = checksum.map(|checksum| Box::new(checksum) as Box<dyn Checksum>);
        let body = ExactBody::new(answer.body, key, &extent);
        Ok(GetAnswer { head, range: extent.range, body: Box::pin(body), checksum })
    }

    /// Where the bytes of a GET's answer lie.
    fn extent(
        &self,
        request: &GetRequest,
        answer: &GetObjectOutput,
        notes: &Notes,
        length: Length,
    ) -> Result<Extent, Failure> {
        let (content_range, content_length) = (answer.content_range(), answer.content_length());
        if length == Length::Empty && content_range.is_none() && content_length.is_none() {
            // The body fails if it has a byte after all.
            return Ok(Extent { size: 0, range: 0..0, whole: false });
        }
        if content_range.is_none() && content_length.is_none() {
            return Err(self.no_length());
        }
        if content_range.is_none() && notes.status == 206 {
            return Err(corrupt("a part has come, but no Content-Range with it".to_owned()));
        }
        let from_0 = request.range.is_none() && content_range.is_some();
        let all = 0..u64::MAX;
        let may_be_part = from_0 && self.quirks.has(Quirk::NoContentLength);
        let asked = if may_be_part { Some(&all) } else { request.range.as_ref() };
        extent(asked, content_range, content_length).map_err(corrupt)
    }

    /// Learnt: the next request asks in another way.
    fn no_length(&self) -> Failure {
        self.quirks.learn(Quirk::NoContentLength);
        broken_rule("the answer has no Content-Length")
    }

    fn head_of(
        &self,
        etag: Option<&str>,
        size: u64,
        notes: &Notes,
        version_id: Option<&str>,
    ) -> Head {
        let modified = match notes.modified {
            Modified::Http(modified) => modified,
            Modified::Otherwise(modified) => {
                self.quirks.learn(Quirk::OtherDates);
                modified
            }
            Modified::Missing => {
                self.quirks.learn(Quirk::NoLastModified);
                Version::UNDATED
            }
        };
        Head {
            version: Version {
                etag: etag.filter(|tag| !tag.is_empty()).map(ETag::new),
                size,
                modified,
            },
            // What S3 answers where versioning is suspended; it names no version for good.
            version_id: version_id.filter(|id| *id != "null").map(Into::into),
        }
    }
}

/// An answer with other bytes than were asked for.
fn corrupt(what: String) -> Failure {
    failure(move |operation| operation.failed(StoreErrorKind::Corrupt, &what))
}

/// Whether the server may have refused how it was asked, rather than what.
fn is_refusal(err: &StoreError) -> bool {
    const CODES: [&str; 7] = [
        "BadRequest",
        "InvalidArgument",
        "InvalidRequest",
        "MethodNotAllowed",
        "NotImplemented",
        "NotSupported",
        "UnsupportedParameter",
    ];
    err.kind() == StoreErrorKind::Other
        && matches!(err.status(), Some(400 | 405 | 501))
        && err.code().is_none_or(|code| CODES.contains(&code))
}

fn out_of_reach(key: &str) -> StoreError {
    let message = format!(
        "GetObject {key:?}: the server ignores Range, and what lies more than 16 GiB into a body is not \
         waited for"
    );
    StoreError::new(StoreErrorKind::Other, message)
}

fn missing(kind: RequestKind, key: &str) -> StoreError {
    let message = format!("{} {key:?}: there is no such key", kind.name());
    StoreError::new(StoreErrorKind::NotFound, message)
}
