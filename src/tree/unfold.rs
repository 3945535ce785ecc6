//! From a listing without delimiter to the directories in it. Pure.
//!
//! All keys below a directory lie side by side in the order of keys, so a directory is known, whole,
//! when the listing has come in before its first key and has gone beyond its last. Several parts of
//! one listing are taken in side by side, each by an [`Unfold`] of its own: what lies across a seam is
//! put together when both sides have come ([`Unfold::join`]).
//!
//! Paths and keys are without the prefix that is listed; a directory has its `/`, and the one that is
//! listed is the empty path.

use std::sync::Arc;

use tokio::time::Instant;

use super::listing::Item;
use super::name::is_presentable;
use crate::object::Version;

/// A directory with more names is not put together: it is listed by itself, in bounded memory.
const NAMES_MAX: usize = 20_000;

/// One directory, or what a part of a listing has of it.
#[derive(Debug)]
pub(super) struct Piece<M> {
    pub(super) path: String,
    /// In the order of keys, each directory once.
    pub(super) items: Vec<Item>,
    /// Of the pages that told of it, each once.
    pub(super) marks: Vec<Arc<M>>,
    /// It may have names before these.
    begun_before: bool,
    /// It has too many names, and was given up.
    lost: bool,
}

/// A part of a listing as it comes in. `M` is what it notes of each page.
#[derive(Debug)]
pub(super) struct Unfold<M> {
    /// It has the keys behind this one.
    start: Box<str>,
    /// The directories in which the last key lies, from the one that is listed down.
    open: Vec<Piece<M>>,
    /// Those that it has left and that may have names before its start.
    closed: Vec<Piece<M>>,
    /// A key has come, or the end.
    moved: bool,
}

impl<M> Piece<M> {
    fn new(path: &str, begun_before: bool) -> Self {
        let (items, marks) = (Vec::new(), Vec::new());
        Self { path: path.to_owned(), items, marks, begun_before, lost: false }
    }

    fn add(&mut self, name: &str, version: Option<Version>, sent: Instant, mark: &Arc<M>) {
        self.note(mark);
        let is_directory = version.is_none();
        // Where a seam goes through a directory, or its name cannot be shown.
        let repeats = |last: &Item| is_directory && last.version.is_none() && last.name == name;
        if self.lost || self.items.last().is_some_and(repeats) {
            return;
        }
        self.items.push(Item { name: name.to_owned(), version, sent });
        self.give_up_if_large();
    }

    fn note(&mut self, mark: &Arc<M>) {
        if self.marks.last().is_none_or(|last| !Arc::ptr_eq(last, mark)) {
            self.marks.push(Arc::clone(mark));
        }
    }

    fn give_up_if_large(&mut self) {
        if self.items.len() > NAMES_MAX {
            self.lost = true;
            self.items = Vec::new();
        }
    }

    /// What the next part has of the same directory comes behind.
    fn append(&mut self, next: Self) {
        let mut items = next.items;
        if let (Some(last), Some(first)) = (self.items.last(), items.first())
            && last.version.is_none()
            && first.version.is_none()
            && last.name == first.name
        {
            items.remove(0);
        }
        self.items.append(&mut items);
        for mark in &next.marks {
            self.note(mark);
        }
        if next.lost {
            self.lost = true;
            self.items = Vec::new();
        }
        self.give_up_if_large();
    }
}

impl<M> Unfold<M> {
    /// A part that has the keys behind `start`; the empty one is the beginning.
    pub(super) fn new(start: &str) -> Self {
        let open = vec![Piece::new("", !start.is_empty())];
        Self { start: start.into(), open, closed: Vec::new(), moved: false }
    }

    /// Takes in the next key, and gives the directories that are whole by that to `out`.
    pub(super) fn push(
        &mut self,
        key: &str,
        version: Version,
        sent: Instant,
        mark: &Arc<M>,
        out: &mut Vec<Piece<M>>,
    ) {
        self.moved = true;
        self.close_until(out, |path| key.starts_with(path));
        let mut at = self.open.last().map_or(0, |top| top.path.len());
        loop {
            let Some(top) = self.open.last_mut() else { return };
            let rest = &key[at..];
            let Some(len) = rest.find('/') else {
                // The empty name is the directory's own marker.
                match rest {
                    "" => top.note(mark),
                    name => top.add(name, Some(version), sent, mark),
                }
                return;
            };
            let name = &rest[..len];
            top.add(name, None, sent, mark);
            if !is_presentable(name) {
                return; // Nobody gets below.
            }
            at += len + 1;
            let path = &key[..at];
            self.open.push(Piece::new(path, self.start.starts_with(path)));
        }
    }

    /// Nothing follows.
    pub(super) fn end(&mut self, out: &mut Vec<Piece<M>>) {
        self.moved = true;
        self.close_until(out, |_| false);
    }

    /// Puts `next` behind this part, which has come to where that one begins.
    pub(super) fn join(mut self, next: Self, out: &mut Vec<Piece<M>>) -> Self {
        if !next.moved {
            return self;
        }
        let mut theirs: Vec<Piece<M>> = next.closed;
        let mut open = next.open;
        // What is on both sides: its path is in `self.open`, as it holds the seam.
        for piece in std::mem::take(&mut self.open).into_iter().rev() {
            if let Some(theirs) = open.iter_mut().find(|theirs| theirs.path == piece.path) {
                let theirs = std::mem::replace(theirs, piece);
                let at = open.iter().position(|piece| piece.path == theirs.path);
                if let Some(mine) = at.and_then(|at| open.get_mut(at)) {
                    mine.append(theirs);
                }
            } else {
                let mut piece = piece;
                if let Some(at) = theirs.iter().position(|theirs| theirs.path == piece.path) {
                    piece.append(theirs.swap_remove(at));
                }
                self.close(piece, out);
            }
        }
        // What is on the right alone begins there, or before this part.
        for mut piece in theirs {
            piece.begun_before &= self.start.starts_with(&piece.path);
            self.close(piece, out);
        }
        for piece in &mut open {
            piece.begun_before &= self.start.starts_with(&piece.path) && !self.start.is_empty();
        }
        Self { open, moved: true, ..self }
    }

    /// Behind which key it begins.
    pub(super) fn start(&self) -> &str {
        &self.start
    }

    /// What it holds.
    pub(super) fn n_items(&self) -> usize {
        self.open.iter().chain(&self.closed).map(|piece| piece.items.len()).sum()
    }

    /// What it has of the directory that is listed, as far as that is whole: the last name, where
    /// that is a directory, may be one that the next page goes on in.
    pub(super) fn into_top(mut self) -> Option<Piece<M>> {
        (!self.open.is_empty()).then(|| self.open.swap_remove(0)).filter(|top| !top.lost)
    }

    fn close_until(&mut self, out: &mut Vec<Piece<M>>, stays: impl Fn(&str) -> bool) {
        while let Some(piece) = self.open.pop_if(|piece| !stays(&piece.path)) {
            self.close(piece, out);
        }
    }

    fn close(&mut self, piece: Piece<M>, out: &mut Vec<Piece<M>>) {
        if piece.begun_before {
            self.closed.push(piece);
        } else if !piece.lost {
            out.push(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn version() -> Version {
        Version { etag: None, size: 1, modified: 1 }
    }

    type Shown = BTreeMap<String, Vec<String>>;

    fn shown(piece: &Piece<usize>) -> (String, Vec<String>) {
        let slash = |item: &Item| if item.version.is_none() { "/" } else { "" };
        let name = |item: &Item| format!("{}{}", item.name, slash(item));
        (piece.path.clone(), piece.items.iter().map(name).collect())
    }

    /// What each directory has, by looking at every key for every directory.
    fn expected(keys: &BTreeSet<String>) -> Shown {
        let mut all = Shown::from([(String::new(), Vec::new())]);
        for key in keys {
            let mut at = 0;
            loop {
                let (dir, rest) = key.split_at(at);
                let names = all.entry(dir.to_owned()).or_default();
                let end = rest.find('/').map(|slash| slash + 1);
                let name = &rest[..end.unwrap_or(rest.len())];
                if !name.is_empty() && names.last().is_none_or(|last| last != name) {
                    names.push(name.to_owned());
                }
                match end {
                    Some(end) if is_presentable(&name[..end - 1]) => at += end,
                    _ => break,
                }
            }
        }
        all
    }

    /// Takes `keys` in by parts that begin behind each of `seams`, which come and are joined in the
    /// order of `turns`.
    fn unfold(keys: &BTreeSet<String>, seams: &BTreeSet<String>, turns: &[usize]) -> Shown {
        let mut starts = vec![String::new()];
        starts.extend(seams.iter().filter(|seam| !seam.is_empty()).cloned());
        let part = |start: &String| (Unfold::new(start), start.clone(), false);
        let mut parts: Vec<(Unfold<usize>, String, bool)> = starts.iter().map(part).collect();
        let mut out = Vec::new();
        let sent = Instant::now();
        let mut turns = turns.iter().cycle();
        loop {
            let waiting: Vec<usize> = (0..parts.len()).filter(|at| !parts[*at].2).collect();
            if waiting.is_empty() {
                break;
            }
            let at = waiting[turns.next().expect("a cycle") % waiting.len()];
            let until = parts.get(at + 1).map(|(unfold, ..)| unfold.start.to_string());
            let (unfold, after, done) = &mut parts[at];
            let mark = Arc::new(at);
            let is_mine = |key: &&String| {
                **key > *after && until.as_ref().is_none_or(|until| **key <= *until)
            };
            let rest: Vec<&String> = keys.iter().filter(is_mine).collect();
            // A page of two keys.
            let (page, rest) = rest.split_at(rest.len().min(2));
            for key in page {
                unfold.push(key, version(), sent, &mark, &mut out);
                after.clone_from(key);
            }
            if !rest.is_empty() {
                continue;
            }
            *done = true;
            if until.is_none() {
                unfold.end(&mut out);
            }
            // Every part that is done takes in the one behind it.
            let mut at = 0;
            while at + 1 < parts.len() {
                if parts[at].2 {
                    let (mine, ..) = parts.remove(at);
                    let next = std::mem::replace(&mut parts[at].0, Unfold::new(""));
                    parts[at].0 = mine.join(next, &mut out);
                } else {
                    at += 1;
                }
            }
        }
        out.iter().map(shown).collect()
    }

    fn set(keys: &[&str]) -> BTreeSet<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[test]
    fn each_directory_comes_out_when_the_listing_has_left_it() {
        let mut unfold = Unfold::new("");
        let (mut out, sent, mark) = (Vec::new(), Instant::now(), Arc::new(0));
        let mut paths = Vec::new();
        for key in ["a/b/1", "a/b/2", "a/c", "b/", "b//x", "b//y", "c/d/e/f"] {
            unfold.push(key, version(), sent, &mark, &mut out);
            paths.push(out.drain(..).map(|piece| piece.path).collect::<Vec<_>>().join(" "));
        }
        assert_eq!(paths, ["", "", "a/b/", "a/", "", "", "b/"]);
        assert_eq!(unfold.n_items(), 3 + 1 + 1 + 1);
        unfold.end(&mut out);
        let rest: Vec<_> = out.iter().map(shown).map(|(path, _)| path).collect();
        assert_eq!(rest, ["c/d/e/", "c/d/", "c/", ""]);
        assert_eq!(shown(&out[3]).1, ["a/", "b/", "c/"]);
    }

    #[test]
    fn a_directory_with_very_many_names_is_left_out_and_its_neighbors_are_not() {
        let mut unfold = Unfold::new("");
        let (mut out, sent, mark) = (Vec::new(), Instant::now(), Arc::new(0));
        for index in 0..=NAMES_MAX {
            unfold.push(&format!("a/{index:06}"), version(), sent, &mark, &mut out);
        }
        unfold.push("b/x", version(), sent, &mark, &mut out);
        unfold.end(&mut out);
        let paths: Vec<_> = out.iter().map(|piece| &*piece.path).collect();
        assert_eq!(paths, ["b/", ""]);
    }

    #[test]
    fn what_lies_across_a_seam_is_put_together() {
        let keys = set(&["a/1", "a/2", "a/3", "b/c/1", "b/c/2", "b/d", "e"]);
        for seam in ["a/", "a/1", "a/2", "b", "b/c/1", "b/c/2", "b/c0", "d", "z"] {
            assert_eq!(unfold(&keys, &set(&[seam]), &[0]), expected(&keys), "{seam}");
            assert_eq!(unfold(&keys, &set(&[seam]), &[1]), expected(&keys), "{seam}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn all_directories_come_out_once_and_whole_however_the_listing_is_split(
            keys in prop::collection::btree_set("[ab]{1,2}(/[ab-]{0,2}){0,3}", 0..40),
            seams in prop::collection::btree_set("[ab]{1,2}(/[ab0-]{0,2}){0,3}", 0..5),
            turns in prop::collection::vec(0_usize..8, 1..20),
        ) {
            prop_assert_eq!(unfold(&keys, &seams, &turns), expected(&keys));
        }
    }
}
