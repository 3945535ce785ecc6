//! A bucket in memory with a fault plan, for unit tests with a paused clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Bound, Range};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use parking_lot::Mutex;

use super::{Checksum, Condition, GetAnswer, GetRequest, Head, ListPage, ListRequest, ObjectStore};
use crate::error::{StoreError, StoreErrorKind};
use crate::object::{ETag, Object, Version};

/// What one call does instead of answering at once and rightly.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Fail(StoreErrorKind),
    /// Never answers.
    Stall,
    /// Answers so much later.
    Slow(Duration),
    /// Fails so much later.
    SlowFail(Duration, StoreErrorKind),
    /// The body ends with an error after this many bytes.
    Cut(u64),
    /// The body stops for this time after this many bytes, and then ends with an error.
    LateCut(u64, Duration),
    /// The body stops for ever after this many bytes.
    StallBody(u64),
    /// The body stops for this time after this many bytes.
    PauseBody(u64, Duration),
    /// The body comes byte by byte, each after this time.
    Drip(Duration),
    /// This byte of the body is another.
    Flip(u64),
    Panic,
}

/// A call, for assertions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    Head(String),
    List(ListRequest),
    Get(GetRequest),
}

struct Stored {
    bytes: Bytes,
    version: Version,
    version_id: Option<Arc<str>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Stored>,
    old: BTreeMap<String, Stored>,
    faults: VecDeque<(usize, Fault)>,
    calls: Vec<Call>,
    generation: i64,
    page_keys: Option<u16>,
    list_denied: bool,
    flat_list_denied: bool,
    /// As `faults`, of listings without delimiter alone.
    flat_faults: VecDeque<(usize, Fault)>,
    head_denied: bool,
    tree_order: bool,
}

/// The bucket; clones share it.
#[derive(Clone, Default)]
pub(crate) struct FakeStore {
    state: Arc<Mutex<State>>,
    latency: Duration,
    chunk_bytes: usize,
    versioned: bool,
    checksums: bool,
}

/// Any that tells bytes apart.
struct FakeChecksum {
    so_far: xxhash_rust::xxh3::Xxh3,
    value: u64,
}

impl Checksum for FakeChecksum {
    fn update(&mut self, bytes: &[u8]) {
        self.so_far.update(bytes);
    }

    fn finish(self: Box<Self>) -> Result<(), StoreError> {
        let is_right = self.so_far.digest() == self.value;
        if is_right { Ok(()) } else { Err(StoreError::new(StoreErrorKind::Corrupt, "flipped")) }
    }
}

impl FakeStore {
    pub(crate) fn new() -> Self {
        Self { latency: Duration::from_millis(20), chunk_bytes: 64 * 1024, ..Self::default() }
    }

    /// Answers carry version ids and old versions stay readable.
    pub(crate) fn versioned(self) -> Self {
        Self { versioned: true, ..self }
    }

    /// Answers with a whole object carry its checksum.
    pub(crate) fn with_checksums(self) -> Self {
        Self { checksums: true, ..self }
    }

    pub(crate) fn put(&self, key: &str, bytes: impl Into<Bytes>) -> Object {
        let mut state = self.state.lock();
        state.generation += 1;
        let generation = state.generation;
        let bytes = bytes.into();
        let version = Version {
            etag: Some(ETag::new(&format!("{:x}", xxhash_rust::xxh3::xxh3_64(&bytes)))),
            size: bytes.len() as u64,
            modified: 1_700_000_000 + generation,
        };
        let version_id: Option<Arc<str>> = self.versioned.then(|| format!("v{generation}").into());
        let stored = Stored { bytes, version: version.clone(), version_id };
        if let Some(old) = state.objects.insert(key.to_owned(), stored)
            && let Some(id) = old.version_id.clone()
        {
            state.old.insert(id.to_string(), old);
        }
        Object { key: key.into(), version }
    }

    pub(crate) fn delete(&self, key: &str) {
        self.state.lock().objects.remove(key);
    }

    pub(crate) fn with_latency(self, latency: Duration) -> Self {
        Self { latency, ..self }
    }

    /// The call that comes after `skip` further ones meets `fault`.
    pub(crate) fn fault(&self, skip: usize, fault: Fault) {
        self.state.lock().faults.push_back((skip, fault));
    }

    pub(crate) fn set_page_keys(&self, keys: u16) {
        self.state.lock().page_keys = Some(keys);
    }

    pub(crate) fn deny_list(&self) {
        self.state.lock().list_denied = true;
    }

    pub(crate) fn allow_list(&self) {
        self.state.lock().list_denied = false;
    }

    /// Denies listings without delimiter.
    pub(crate) fn deny_flat_list(&self) {
        self.state.lock().flat_list_denied = true;
    }

    /// The listing without delimiter that comes after `skip` further ones meets `fault`.
    pub(crate) fn fault_flat(&self, skip: usize, fault: Fault) {
        self.state.lock().flat_faults.push_back((skip, fault));
    }

    /// Lists `a/` before `a-b`, as SeaweedFS does.
    pub(crate) fn list_in_tree_order(&self) {
        self.state.lock().tree_order = true;
    }

    pub(crate) fn deny_head(&self) {
        self.state.lock().head_denied = true;
    }

    /// The calls since the last time, in order.
    pub(crate) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state.lock().calls)
    }

    /// Notes the call, waits, and says which fault it meets.
    async fn enter(&self, call: Call) -> Result<Option<Fault>, StoreError> {
        let fault = {
            let mut state = self.state.lock();
            let is_flat = matches!(&call, Call::List(list) if !list.delimited);
            state.calls.push(call);
            let fault = next_fault(&mut state.faults);
            let flat_fault = is_flat.then(|| next_fault(&mut state.flat_faults)).flatten();
            fault.or(flat_fault)
        };
        tokio::time::sleep(self.latency).await;
        match fault {
            Some(Fault::Fail(kind)) => Err(StoreError::new(kind, "planned fault")),
            Some(Fault::Stall) => std::future::pending().await,
            Some(Fault::Slow(by)) => {
                tokio::time::sleep(by).await;
                Ok(None)
            }
            Some(Fault::SlowFail(by, kind)) => {
                tokio::time::sleep(by).await;
                Err(StoreError::new(kind, "planned late fault"))
            }
            Some(Fault::Panic) => panic!("planned panic"),
            other => Ok(other),
        }
    }

    fn answer(&self, request: &GetRequest, fault: Option<&Fault>) -> Result<GetAnswer, StoreError> {
        let state = self.state.lock();
        let current = state.objects.get(&*request.key);
        let stored = match &request.condition {
            Condition::VersionId(id) => state
                .old
                .get(&**id)
                .or_else(|| current.filter(|stored| stored.version_id.as_ref() == Some(id))),
            _ => current,
        };
        let fail = |kind| StoreError::new(kind, format!("get {}", request.key));
        let stored = stored.ok_or_else(|| fail(StoreErrorKind::NotFound))?;
        match &request.condition {
            Condition::Match(etag) if stored.version.etag.as_ref() != Some(etag) => {
                return Err(fail(StoreErrorKind::Changed));
            }
            Condition::NoneMatch(etag) if stored.version.etag.as_ref() == Some(etag) => {
                return Err(fail(StoreErrorKind::NotModified));
            }
            _ => {}
        }
        let size = stored.version.size;
        let range = request.range.clone().unwrap_or(0..size);
        let range = range.start..range.end.min(size);
        if range.start >= range.end && request.range.is_some() {
            return Err(fail(StoreErrorKind::OutOfRange));
        }
        let bytes = stored.bytes.slice(as_usize(&range));
        let head = Head { version: stored.version.clone(), version_id: stored.version_id.clone() };
        let value = xxhash_rust::xxh3::xxh3_64(&bytes);
        let checksum = (self.checksums && request.range.is_none()).then(|| {
            Box::new(FakeChecksum { so_far: Default::default(), value }) as Box<dyn Checksum>
        });
        let bytes = match fault {
            Some(Fault::Flip(at)) => {
                let mut bytes = bytes.to_vec();
                bytes[usize::try_from(*at).expect("small")] ^= 1;
                bytes.into()
            }
            _ => bytes,
        };
        Ok(GetAnswer { head, range, body: self.body(&bytes, fault), checksum })
    }

    fn body(&self, bytes: &Bytes, fault: Option<&Fault>) -> super::Body {
        let end = match fault {
            Some(
                Fault::Cut(at)
                | Fault::StallBody(at)
                | Fault::PauseBody(at, _)
                | Fault::LateCut(at, _),
            ) => usize::try_from(*at).expect("small").min(bytes.len()),
            _ => bytes.len(),
        };
        let (chunk, pause) = match fault {
            Some(Fault::Drip(pause)) => (1, *pause),
            _ => (self.chunk_bytes.max(1), Duration::ZERO),
        };
        let chunks: Vec<_> = (0..end)
            .step_by(chunk)
            .map(|start| Ok(bytes.slice(start..(start + chunk).min(end))))
            .collect();
        let tail = match fault {
            Some(Fault::Cut(_)) => {
                let err = StoreError::new(StoreErrorKind::Unreachable, "planned cut");
                stream::iter([Err(err)]).boxed()
            }
            Some(Fault::LateCut(_, pause)) => {
                let pause = *pause;
                let cut = async move {
                    tokio::time::sleep(pause).await;
                    Err(StoreError::new(StoreErrorKind::Unreachable, "planned late cut"))
                };
                stream::once(cut).boxed()
            }
            Some(Fault::StallBody(_)) => stream::pending().boxed(),
            Some(Fault::PauseBody(_, pause)) => {
                let (pause, rest) = (*pause, bytes.slice(end..));
                let rest = async move {
                    tokio::time::sleep(pause).await;
                    Ok(rest)
                };
                stream::once(rest).boxed()
            }
            _ => stream::empty().boxed(),
        };
        // Each chunk is a step of its own, so that readers see a body that grows.
        stream::iter(chunks)
            .then(move |chunk| async move {
                match pause {
                    Duration::ZERO => tokio::task::yield_now().await,
                    pause => tokio::time::sleep(pause).await,
                }
                chunk
            })
            .chain(tail)
            .boxed()
    }

    fn page(&self, request: &ListRequest) -> ListPage {
        let state = self.state.lock();
        let max = usize::from(state.page_keys.unwrap_or(request.keys_max).min(request.keys_max));
        let after = request.continuation.as_ref().or(request.start_after.as_ref());
        let mut from = match after {
            Some(after) => Bound::Excluded(after.clone()),
            None => Bound::Included(request.prefix.clone()),
        };
        let (mut page, mut seen) = (ListPage::default(), BTreeSet::new());
        let mut last = String::new();
        loop {
            let next = state.objects.range((from.clone(), Bound::Unbounded)).next();
            let Some((key, stored)) = next else { break };
            if key < &request.prefix {
                from = Bound::Included(request.prefix.clone());
                continue;
            }
            let Some(rest) = key.strip_prefix(&request.prefix) else { break };
            let rolled = request.delimited.then(|| rest.find('/')).flatten();
            let rolled = rolled.map(|slash| &key[..=request.prefix.len() + slash]);
            // A common prefix that the token or start-after lies in was given before.
            let skip = rolled.is_some_and(|prefix| after.is_some_and(|a| a.starts_with(prefix)));
            if !skip && rolled.is_none_or(|prefix| !seen.contains(prefix)) {
                if page.objects.len() + page.prefixes.len() == max {
                    page.continuation = Some(last);
                    break;
                }
                if let Some(prefix) = rolled {
                    seen.insert(prefix.to_owned());
                    page.prefixes.push(prefix.to_owned());
                } else {
                    let version = stored.version.clone();
                    page.objects.push(Object { key: key.as_str().into(), version });
                }
            }
            last = rolled.map_or_else(|| key.clone(), |prefix| format!("{prefix}\u{10ffff}"));
            from = Bound::Excluded(key.clone());
        }
        page
    }
}

impl FakeStore {
    /// A delimited page in tree order; its token is a number of entries.
    fn page_in_tree_order(&self, request: &ListRequest) -> ListPage {
        let state = self.state.lock();
        let mut entries: Vec<&str> = state
            .objects
            .keys()
            .filter_map(|key| {
                let rest = key.strip_prefix(&request.prefix)?;
                let slash = rest.find('/').filter(|_| request.delimited);
                let end = slash.map_or(key.len(), |at| request.prefix.len() + at + 1);
                Some(&key[..end])
            })
            .collect();
        entries.sort_by_key(|entry| entry.replace('/', "\0"));
        entries.dedup();
        let max = usize::from(state.page_keys.unwrap_or(request.keys_max));
        let skip = request.continuation.as_ref().map_or(0, |token| token.parse().expect("ours"));
        let mut page = ListPage::default();
        for &entry in entries.iter().skip(skip).take(max) {
            match state.objects.get(entry) {
                Some(stored) if !entry.ends_with('/') || entry == request.prefix => {
                    let version = stored.version.clone();
                    page.objects.push(Object { key: entry.into(), version });
                }
                _ => page.prefixes.push(entry.to_owned()),
            }
        }
        page.continuation = (skip + max < entries.len()).then(|| (skip + max).to_string());
        page
    }
}

/// The fault that is due, and counts down to the others.
fn next_fault(faults: &mut VecDeque<(usize, Fault)>) -> Option<Fault> {
    let due = faults.iter().position(|(skip, _)| *skip == 0);
    for (skip, _) in faults.iter_mut() {
        *skip = skip.saturating_sub(1);
    }
    due.and_then(|index| faults.remove(index)).map(|(_, fault)| fault)
}

fn as_usize(range: &Range<u64>) -> Range<usize> {
    let cast = |n: u64| usize::try_from(n).expect("objects of tests fit into memory");
    cast(range.start)..cast(range.end)
}

impl ObjectStore for FakeStore {
    fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Head, StoreError>> {
        async move {
            self.enter(Call::Head(key.to_owned())).await?;
            let state = self.state.lock();
            if state.head_denied {
                return Err(StoreError::new(StoreErrorKind::Denied, "head denied"));
            }
            let stored = state.objects.get(key);
            stored
                .map(|stored| Head {
                    version: stored.version.clone(),
                    version_id: stored.version_id.clone(),
                })
                .ok_or_else(|| StoreError::new(StoreErrorKind::NotFound, format!("head {key}")))
        }
        .boxed()
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<ListPage, StoreError>> {
        async move {
            self.enter(Call::List(request.clone())).await?;
            let (denied, tree_order) = {
                let state = self.state.lock();
                let flat_denied = state.flat_list_denied && !request.delimited;
                (state.list_denied || flat_denied, state.tree_order)
            };
            if denied {
                return Err(StoreError::new(StoreErrorKind::Denied, "list denied"));
            }
            Ok(if tree_order { self.page_in_tree_order(&request) } else { self.page(&request) })
        }
        .boxed()
    }

    fn get(&self, request: GetRequest) -> BoxFuture<'_, Result<GetAnswer, StoreError>> {
        async move {
            let fault = self.enter(Call::Get(request.clone())).await?;
            self.answer(&request, fault.as_ref())
        }
        .boxed()
    }
}
