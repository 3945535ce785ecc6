//! Having the bucket looked at anew: what the tree knows of a path is forgotten, and what the kernel
//! remembers of it runs out. Open files and directories go on, and so does who stands in a directory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{DirectoryEntry, FileSystem, Node, Place};
use crate::object::{DirPath, Ino};
use crate::tree::{Forgotten, Found};

/// How often something was forgotten. An answer that was begun at another count may come of what was
/// forgotten meanwhile, so the kernel may use it, and may not keep it.
///
/// Invariant: what the kernel may keep is written down (inodes, absences) before the count is looked
/// at, and the count is raised before that is read. So whoever sees the old count is seen.
#[derive(Default)]
pub(super) struct Forgettings(AtomicU64);

impl Forgettings {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// How long the kernel may keep an answer that was begun at `count`.
    pub(super) fn limit(&self, count: u64, valid_for: Duration) -> Duration {
        if self.count() == count { valid_for } else { Duration::ZERO }
    }
}

/// Names that the kernel is told of in one notice.
const NAMES_PER_NOTICE: usize = 256;

/// The kernel takes in the answer for a name that it asks about again without a lock against notices
/// (linux/fs/fuse/dir.c, `fuse_dentry_revalidate`): who has just been answered gets this long.
const ANSWERS_SETTLE: Duration = Duration::from_millis(5);

impl FileSystem {
    /// Forgets what is known of `path`, names of the mount without `/` at either end, empty for the
    /// root: of the name, and of the names in the directory that it may be; with `recursive` of all
    /// below. When it comes back, the next look asks S3. Not to be awaited by a request of the kernel.
    pub async fn refresh(&self, path: &str, recursive: bool) -> Forgotten {
        let path = match path {
            "" => self.root.clone(),
            path => DirPath::new(&format!("{}{path}/", self.root.as_str())),
        };
        let forgotten = self.tree.forget(&path, recursive);
        self.forgettings.0.fetch_add(1, Ordering::AcqRel);

        let below = self.inodes.below(&path, recursive);
        let mut directories = vec![self.directory_ino(&path)];
        self.kept.forget(&directories);
        if path != self.root {
            self.kept.forget(&[self.directory_ino(&path.parent())]);
        }
        if recursive {
            self.kept.forget(&below);
        }
        tokio::time::sleep(ANSWERS_SETTLE).await;
        for inodes in below.chunks(NAMES_PER_NOTICE) {
            // What the kernel has forgotten by now needs no notice.
            let nodes = inodes.iter().filter_map(|ino| Some((*ino, self.inodes.get(*ino).ok()?)));
            let nodes: Vec<(Ino, Node)> = nodes.collect();
            if recursive {
                let found = nodes.iter().filter(|(_, node)| matches!(node, Node::Directory { .. }));
                directories.extend(found.map(|(ino, _)| *ino));
            }
            self.notices
                .expire(nodes.iter().filter_map(|(_, node)| self.place(node)).collect())
                .await;
        }
        for parent in directories {
            let absent = self.absences.take(parent);
            for names in absent.chunks(NAMES_PER_NOTICE) {
                let place = |name: &str| Place { parent, name: name.into() };
                self.notices.expire(names.iter().map(|name| place(name)).collect()).await;
            }
            self.notices.drop_pages(parent).await;
        }
        if let Some(place) = self.place(&Node::Directory { path, listable: true }) {
            let parent = place.parent;
            self.notices.expire(vec![place]).await;
            self.notices.drop_pages(parent).await;
        }
        forgotten
    }

    /// How long the kernel may keep an entry of a directory, to be asked after
    /// [`FileSystem::remember`].
    pub fn valid_for(&self, entry: &DirectoryEntry) -> Duration {
        self.forgettings.limit(entry.count, entry.valid_for)
    }

    /// Where it is by its name; `None` for the root.
    pub(super) fn place(&self, node: &Node) -> Option<Place> {
        let whole = match node {
            Node::File(object) => &*object.key,
            Node::Directory { path, .. } if *path == self.root => return None,
            Node::Directory { path, .. } => path.as_str().strip_suffix('/')?,
        };
        let (dir, name) = whole.split_at(whole.rfind('/').map_or(0, |slash| slash + 1));
        Some(Place { parent: self.directory_ino(&DirPath::new(dir)), name: name.into() })
    }

    fn directory_ino(&self, path: &DirPath) -> Ino {
        self.inodes.number(&Found::Directory { path: path.clone(), listable: true })
    }
}
