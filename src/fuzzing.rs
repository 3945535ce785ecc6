//! What comes from outside, one function for each way in: for `fuzz/`, and for tests that run the same over
//! examples. Each panics where a rule of the program does not hold.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::{self, Handle};

use crate::config::values;
use crate::config::{MetadataTtl, Ttl};
use crate::error::{StoreError, StoreErrorKind};
use crate::object::DirPath;
use crate::store::fake::FakeStore;
use crate::store::{GetAnswer, GetRequest, Head, ListPage, ListRequest, ObjectStore, aws};
use crate::tree::{Found, Tree, TreeConfig, is_presentable};
use crate::{cli, control, fs};

/// Steps of one run of a client: more only make it slower.
const STEPS_MAX: usize = 300;

/// Pages of one listing.
const PAGES_MAX: usize = 8;

/// A client that does anything in any order; the first byte says whether the store fails meanwhile.
pub fn client(bytes: &[u8]) {
    let Some((first, script)) = bytes.split_first() else { return };
    let len = script.len().min(STEPS_MAX * fs::model::STEP_BYTES);
    fs::model::run(&script[..len], first % 2 == 1);
}

/// The pages of a listing as a server sends them, with a byte of 0 between two.
pub fn listing(bytes: &[u8]) {
    let pages: Vec<&[u8]> = bytes.split(|byte| *byte == 0).take(PAGES_MAX).collect();
    let store = Pages {
        pages: pages.iter().map(|page| page.to_vec()).collect(),
        next: AtomicUsize::new(0),
    };
    on_paused_clock(async {
        let tree = tree(Arc::new(store));
        let Ok(names) = names_in(&tree, "").await else { return };
        check_names(&names);
    });
}

/// Keys of a bucket, one on each line: all that can be shown are, once, and each is found by its name.
pub fn keys(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let keys: BTreeSet<&str> =
        text.lines().filter(|key| (1..=1024).contains(&key.len())).take(64).collect();
    let store = FakeStore::new();
    for key in &keys {
        store.put(key, key.as_bytes().to_vec());
    }
    store.set_page_keys(u16::try_from(1 + bytes.len() % 9).expect("below 10"));
    on_paused_clock(async {
        let tree = tree(Arc::new(store));
        let mut left = vec![String::new()];
        let mut files = BTreeSet::new();
        while let Some(dir) = left.pop() {
            let names = names_in(&tree, &dir).await.expect("the store does not fail");
            check_names(&names);
            for (name, is_directory) in names {
                let path = DirPath::new(&dir);
                let found = tree.lookup(&path, &name).await.expect("the store does not fail").found;
                let found = found.expect("what is listed is found").alone();
                match found {
                    Found::Directory { path, .. } => {
                        assert!(is_directory && path.as_str() == format!("{dir}{name}/"));
                        left.push(path.as_str().to_owned());
                    }
                    Found::File(object) => {
                        assert!(!is_directory && *object.key == *format!("{dir}{name}"));
                        assert!(files.insert(object.key.to_string()), "shown twice");
                    }
                    Found::Listed(_) => unreachable!("it is alone"),
                }
            }
        }
        let is_shadowed = |key: &str| {
            keys.iter()
                .any(|other| other.strip_prefix(key).is_some_and(|rest| rest.starts_with('/')))
        };
        let can_be_shown = |key: &&&str| key.split('/').all(is_presentable) && !is_shadowed(key);
        let expected: BTreeSet<String> =
            keys.iter().filter(can_be_shown).map(|key| (*key).to_owned()).collect();
        assert_eq!(files, expected);
    });
}

/// A line that comes over the control socket, to the mount and to the command.
pub fn control_line(bytes: &[u8]) {
    control::try_line(bytes);
}

/// A size, a mode, or another value of an option.
pub fn value(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let sentences = [
        values::parse_size(text).err(),
        values::parse_memory(text).err(),
        values::parse_bandwidth(text).err(),
        values::parse_requests(text).err(),
        values::parse_mode(text).err(),
        values::parse_level(text).err(),
        text.parse::<Ttl>().err(),
        text.parse::<MetadataTtl>().err(),
    ];
    for sentence in sentences.iter().flatten() {
        assert!(!sentence.is_empty());
    }
    if let Ok(size) = values::parse_size(text) {
        assert_eq!(values::parse_size(&size.to_string()), Ok(size));
    }
}

/// The words of a command line, one on each line, mount options and subcommands among them.
pub fn command_line(bytes: &[u8]) {
    use std::os::unix::ffi::OsStringExt;
    let words = bytes.split(|byte| *byte == b'\n').map(|word| OsString::from_vec(word.to_vec()));
    let typed: Vec<OsString> = std::iter::once("s3mount".into()).chain(words).collect();
    if let Err(err) = cli::understand(&typed) {
        assert!([0, 2].contains(&err.exit_code()) && !err.render().to_string().is_empty());
    }
}

fn on_paused_clock(work: impl Future<Output = ()>) {
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without threads").block_on(work);
}

fn tree(store: Arc<dyn ObjectStore>) -> Arc<Tree> {
    let config = TreeConfig {
        prefix: DirPath::new(""),
        metadata_ttl: MetadataTtl::Auto,
        negative_ttl: Ttl::For(Duration::from_secs(1)),
        entries_bytes_max: 8 << 20,
        reach: Arc::default(),
    };
    Tree::new(store, Handle::current(), config)
}

/// The names in a directory, and whether each is one.
async fn names_in(
    tree: &Arc<Tree>,
    dir: &str,
) -> Result<Vec<(String, bool)>, crate::error::FsError> {
    let handle = tree.open_dir(&DirPath::new(dir)).await?;
    let mut names = Vec::new();
    loop {
        let entries = handle.read(names.len() as u64, 7).await?;
        if entries.is_empty() {
            return Ok(names);
        }
        for entry in entries {
            let is_directory = matches!(entry.found.alone(), Found::Directory { .. });
            names.push((entry.name.to_string(), is_directory));
        }
    }
}

fn check_names(names: &[(String, bool)]) {
    let different: BTreeSet<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(different.len(), names.len(), "a name is shown twice");
    assert!(different.iter().all(|name| is_presentable(name)), "{different:?}");
}

/// A server that answers every LIST with the next of some pages, whatever was asked.
struct Pages {
    pages: Vec<Vec<u8>>,
    next: AtomicUsize,
}

impl ObjectStore for Pages {
    fn head<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Head, StoreError>> {
        async { Err(StoreError::new(StoreErrorKind::NotFound, "no such key")) }.boxed()
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<ListPage, StoreError>> {
        async move {
            // As far as a server is: without a pause a listing that has no end is one step of the clock.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let index = self.next.fetch_add(1, Ordering::Relaxed) % self.pages.len();
            aws::try_page(&request, &self.pages[index])
        }
        .boxed()
    }

    fn get(&self, _: GetRequest) -> BoxFuture<'_, Result<GetAnswer, StoreError>> {
        async { Err(StoreError::new(StoreErrorKind::NotFound, "no such key")) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Runs over the examples of a target, each of their beginnings, and each with one byte changed.
    #[track_caller]
    fn run(target: &str, check: fn(&[u8]), step: usize) {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        let mut n_seeds = 0;
        for seed in std::fs::read_dir(seeds).expect("each target has examples") {
            let bytes = std::fs::read(seed.expect("it is a folder").path()).expect("it is a file");
            n_seeds += 1;
            check(&bytes);
            for at in (0..bytes.len()).step_by(step) {
                check(&bytes[..at]);
                let mut changed = bytes.clone();
                changed[at] = changed[at].wrapping_mul(31).wrapping_add(17);
                check(&changed);
            }
        }
        assert!(n_seeds > 1, "{target} has {n_seeds} examples");
    }

    #[test]
    fn listings_break_no_rule() {
        run("listing", listing, 7);
    }

    #[test]
    fn keys_break_no_rule() {
        run("keys", keys, 17);
    }

    #[test]
    fn lines_values_and_command_lines_break_no_rule() {
        run("control_line", control_line, 1);
        run("value", value, 1);
        run("command_line", command_line, 11);
    }

    #[test]
    fn clients_break_no_rule() {
        run("client", client, 151);
    }
}
