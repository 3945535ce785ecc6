//! The tree on a bucket in memory, with a paused clock: answers, times and the number of requests.

mod confirm;
mod forget;
mod lookup;
mod model;
mod readdir;
mod siblings;
mod walk;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::{DirHandle, Found, Tree, TreeConfig};
use crate::config::{MetadataTtl, Ttl};
use crate::error::FsError;
use crate::object::DirPath;
use crate::store::fake::{Call, FakeStore};

/// What one answer of [`FakeStore`] takes.
const ROUND_TRIP: Duration = Duration::from_millis(20);

struct World {
    store: FakeStore,
    tree: Arc<Tree>,
}

impl World {
    fn new(keys: &[&str]) -> Self {
        Self::with(keys, MetadataTtl::Auto, Duration::from_secs(1))
    }

    fn with(keys: &[&str], metadata_ttl: MetadataTtl, negative_ttl: Duration) -> Self {
        let config = TreeConfig {
            prefix: DirPath::new(""),
            metadata_ttl,
            negative_ttl: Ttl::For(negative_ttl),
            entries_bytes_max: 64 << 20,
            reach: Arc::default(),
        };
        Self::with_config(keys, config)
    }

    fn with_config(keys: &[&str], config: TreeConfig) -> Self {
        let store = FakeStore::new();
        for key in keys {
            store.put(key, key.as_bytes().to_vec());
        }
        let tree = Tree::new(Arc::new(store.clone()), Handle::current(), config);
        Self { store, tree }
    }

    /// `dir/n0000`, `dir/n0001` and so on.
    fn fill(&self, dir: &str, n_objects: usize) {
        for index in 0..n_objects {
            self.store.put(&format!("{dir}n{index:04}"), "x");
        }
    }

    /// What `path` means: `file SIZE`, `dir`, `dir unlistable`, `absent`, or the error.
    async fn lookup(&self, path: &str) -> String {
        self.lookup_timed(path).await.0
    }

    async fn lookup_timed(&self, path: &str) -> (String, u128) {
        let (dir, name) = path.split_at(path.rfind('/').map_or(0, |slash| slash + 1));
        match self.tree.lookup(&DirPath::new(dir), name).await {
            Ok(lookup) => {
                let found = lookup.found.map_or("absent".to_owned(), |found| shape(&found));
                (found, lookup.valid_for.as_millis())
            }
            Err(err) => (error(&err), 0),
        }
    }

    async fn open(&self, dir: &str) -> Result<DirHandle, FsError> {
        self.tree.open_dir(&DirPath::new(dir)).await
    }

    /// The names in `dir`, directories with a slash.
    async fn readdir(&self, dir: &str) -> Result<Vec<String>, FsError> {
        names(&self.open(dir).await?, 7).await
    }

    /// The calls since the last time: `HEAD key`, `LIST prefix`, `LIST prefix +` for a later page,
    /// `LIST prefix after` for one from a name on.
    fn calls(&self) -> Vec<String> {
        let call = |call| match call {
            Call::Head(key) => format!("HEAD {key}"),
            Call::List(list) if list.continuation.is_some() => format!("LIST {} +", list.prefix),
            Call::List(list) if list.start_after.is_some() => format!("LIST {} after", list.prefix),
            Call::List(list) => format!("LIST {}", list.prefix),
            Call::Get(get) => format!("GET {}", get.key),
        };
        self.store.take_calls().into_iter().map(call).collect()
    }

    fn n_calls(&self) -> usize {
        self.store.take_calls().len()
    }
}

fn shape(found: &Found) -> String {
    match &found.clone().alone() {
        Found::Listed(_) => unreachable!("it is alone"),
        Found::File(object) => format!("file {}", object.version.size),
        Found::Directory { listable: true, .. } => "dir".to_owned(),
        Found::Directory { listable: false, .. } => "dir unlistable".to_owned(),
    }
}

fn error(err: &FsError) -> String {
    match err {
        FsError::Store(err) => format!("error {:?}", err.kind()),
        err => format!("error {err:?}"),
    }
}

/// Reads to the end, `max` entries at a time.
async fn names(handle: &DirHandle, max: usize) -> Result<Vec<String>, FsError> {
    let mut names = Vec::new();
    loop {
        let entries = handle.read(names.len() as u64, max).await?;
        if entries.is_empty() {
            return Ok(names);
        }
        for entry in entries {
            let is_directory = matches!(entry.found.alone(), Found::Directory { .. });
            names.push(format!("{}{}", entry.name, if is_directory { "/" } else { "" }));
        }
    }
}

async fn pass(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// How long something took, by the paused clock.
async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let start = Instant::now();
    let result = work.await;
    (result, start.elapsed())
}
