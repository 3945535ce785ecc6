//! Which files come after one in the order in which a program goes through a tree: by depth, and in each
//! directory by name, as readdir gives them, or by inode number. Asks nothing.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::Tree;
use super::block::Listed;
use super::snapshot::Snapshot;
use super::weight::{Scales, Weight};
use crate::object::{DirPath, Ino};

/// In which order a program visits what is in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VisitOrder {
    /// As readdir gives it: `tar`, `grep -r`, `cat *`.
    Name,
    /// By inode number: `cp -r`, and fts in a directory of more than 10,000.
    Number,
}

/// Entries that are looked at for one answer, files and directories.
const STEPS_MAX: usize = 1000;

/// Larger directories are not sorted by number.
const SORTED_NAMES_MAX: usize = 100_000;

/// Directories whose order by number is kept.
const SORTED_MAX: NonZeroUsize = NonZeroUsize::new(8).expect("not zero");

/// Listings sorted by inode number, by the number of the listing.
pub(super) struct Sorted(Mutex<LruCache<u64, Arc<ByNumber>>>);

/// The entries of a listing by inode number: that, and where each is.
struct ByNumber {
    places: Vec<(Ino, u32, u16)>,
    _weight: Weight,
}

/// A look ahead.
struct Look {
    order: VisitOrder,
    n_max: usize,
    n_steps: usize,
    files: Vec<Listed>,
}

impl Sorted {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(SORTED_MAX)))
    }

    fn of(&self, listing: &Snapshot, scales: &Scales) -> Option<Arc<ByNumber>> {
        if let Some(known) = self.0.lock().get(&listing.number) {
            return Some(Arc::clone(known));
        }
        if listing.n_names() > SORTED_NAMES_MAX {
            return None;
        }
        let mut places = Vec::new();
        for slot in 0..listing.extent().0 {
            let block = listing.look_at(slot)?;
            for index in 0..block.len() {
                let listed = Listed::at(&block, index);
                if listed.is_there() {
                    let slot = u32::try_from(slot).expect("a page of names has room in memory");
                    places.push((listed.first_number(), slot, listed.into_parts().1));
                }
            }
        }
        places.sort_unstable();
        let weight = scales.weight(places.capacity() * size_of::<(Ino, u32, u16)>());
        let sorted = Arc::new(ByNumber { places, _weight: weight });
        let before = self.0.lock().put(listing.number, Arc::clone(&sorted));
        drop(before);
        Some(sorted)
    }
}

impl Tree {
    /// The files that come after the file `name` of directory `dir`, whose number is `ino`, at most
    /// `n_max`: those behind it in `dir` with all that is below, then those behind `dir`, and so on. It
    /// ends early where a directory is not known whole.
    pub fn files_after(
        &self,
        dir: &DirPath,
        name: &str,
        ino: Ino,
        order: VisitOrder,
        n_max: usize,
    ) -> Vec<Listed> {
        let mut look = Look { order, n_max, n_steps: 0, files: Vec::new() };
        let (mut dir, mut name, mut ino) = (dir.clone(), name.to_owned(), ino);
        while self.look_into(&dir, Some((&name, ino)), &mut look).is_continue() && dir != self.root
        {
            let above = dir.parent();
            let trimmed = dir.as_str().trim_end_matches('/');
            name = trimmed[above.as_str().len().min(trimmed.len())..].to_owned();
            (ino, dir) = (Ino::of_directory(dir.as_str()), above);
        }
        look.files
    }

    /// Adds the files below `dir` that come behind the entry `after`. Breaks when there are enough, or where
    /// something is not known.
    fn look_into(
        &self,
        dir: &DirPath,
        after: Option<(&str, Ino)>,
        look: &mut Look,
    ) -> ControlFlow<()> {
        let known = self.directories.lock().peek(dir).map(Arc::clone);
        let Some(listing) = known.and_then(|known| known.last_complete()) else {
            return ControlFlow::Break(());
        };
        match look.order {
            VisitOrder::Name => {
                let (mut slot, mut index) = match after {
                    Some((name, _)) => listing.place_behind(name)?,
                    None => (0, 0),
                };
                while slot < listing.extent().0 {
                    let Some(block) = listing.look_at(slot) else { return ControlFlow::Break(()) };
                    for index in index..block.len() {
                        self.look_at(Listed::at(&block, index), look)?;
                    }
                    (slot, index) = (slot + 1, 0);
                }
            }
            VisitOrder::Number => {
                let Some(sorted) = self.sorted.of(&listing, &self.scales) else {
                    return ControlFlow::Break(());
                };
                let from = after
                    .map_or(0, |(_, ino)| sorted.places.partition_point(|(each, ..)| *each <= ino));
                for (_, slot, index) in &sorted.places[from..] {
                    let Some(block) = listing.look_at(*slot as usize) else {
                        return ControlFlow::Break(());
                    };
                    self.look_at(Listed::from_parts(&block, *index), look)?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn look_at(&self, entry: Listed, look: &mut Look) -> ControlFlow<()> {
        look.n_steps += 1;
        if look.n_steps > STEPS_MAX {
            return ControlFlow::Break(());
        }
        match entry.path() {
            Some(path) => self.look_into(&path, None, look),
            None if entry.is_there() => {
                look.files.push(entry);
                if look.files.len() < look.n_max {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            }
            None => ControlFlow::Continue(()),
        }
    }
}
