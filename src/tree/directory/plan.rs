//! How to ask for a name of which memory says nothing: by a page of the listing, or alone.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Directory, State, is_directory};
use crate::tree::answer::{Ages, Answer, What};
use crate::tree::pieces::{Next, POLL_PAGES_MAX, Trust};
use crate::tree::snapshot::Snapshot;

/// How to ask for a name.
pub(in crate::tree) enum Plan {
    /// This page of this listing probably tells.
    Page(Arc<Snapshot>, usize),
    /// One LIST of exactly that name.
    ListName,
    /// LIST of the directory of that name, which there was before it was forgotten; where it is no more,
    /// as [`Plan::ListName`].
    ListBelow,
    /// HEAD of the name, and LIST of the directory of that name.
    Probe,
    /// Nothing was ever asked in this directory: [`Plan::Probe`], or its first page where that told
    /// of its siblings.
    First,
}

/// Pages that one lookup waits for, one after another, before it asks for its name alone: that which
/// shows that the directory is long, and that which should have the name.
const PAGES_IN_LINE: usize = 2;

impl Directory {
    /// How to ask for `name`, which is not known. `may_begin` is false where the server lists from no
    /// other place than the beginning; `begin` makes the listing of what is behind a name.
    pub(in crate::tree) fn plan(
        &self,
        name: &str,
        ages: &Ages,
        now: Instant,
        may_begin: bool,
        begin: &dyn Fn(&str) -> Snapshot,
    ) -> Plan {
        let mut state = self.state.lock();
        state.n_asked = state.n_asked.saturating_add(1);
        let plan = state.plan(name, 0, ages, now, may_begin, begin);
        let obsolete = state.pieces.obsolete(None);
        drop(state);
        drop(obsolete);
        plan
    }

    /// As [`Directory::plan`], after `n_pages` that did not tell.
    pub(in crate::tree) fn plan_on(
        &self,
        name: &str,
        n_pages: usize,
        ages: &Ages,
        now: Instant,
        may_begin: bool,
        begin: &dyn Fn(&str) -> Snapshot,
    ) -> Plan {
        self.state.lock().plan(name, n_pages, ages, now, may_begin, begin)
    }

    /// As [`Directory::plan`] where it is to be asked for by no page.
    pub(in crate::tree) fn plan_alone(&self, name: &str) -> Plan {
        match self.state.lock().heard(name) {
            Some(heard) if is_directory(&heard) => Plan::ListBelow,
            _ => Plan::ListName,
        }
    }
}

impl State {
    fn plan(
        &mut self,
        name: &str,
        n_tried: usize,
        ages: &Ages,
        now: Instant,
        may_begin: bool,
        begin: &dyn Fn(&str) -> Snapshot,
    ) -> Plan {
        if self.is_denied(now) {
            return Plan::Probe;
        }
        let best = self.best(name);
        // Also what was forgotten says how to ask.
        let heard = self.heard(name);
        if best.is_none() && heard.as_ref().is_some_and(is_directory) {
            return Plan::ListBelow;
        }
        let newest = self.newest.clone();
        if let Some(newest) = &newest
            && newest.n_pages() == 0
        {
            // On its way, or it failed the last time.
            return Plan::Page(Arc::clone(newest), 0);
        }
        let ttl = match &heard {
            Some(Answer { what: What::Absent, .. }) => ages.negative,
            _ => ages.metadata(1),
        };
        // One question may be all. One name over and over is asked for by pages, too: the same price, and
        // they show that the directory is there, which else its parent would be asked for.
        let is_first = self.n_asked <= 1;
        let is_poll = self.told.len() <= 1 && self.told.contains(name);
        // What was forgotten alone costs one request, and a long listing is shown on when it is known.
        let is_missed = best.is_none() && self.marks.has_name(name);
        // Where an answer may not be used twice, a page is worth no more than its one name.
        let pages_are_kept = !ttl.left(Duration::ZERO).is_zero();
        let n_max = if is_poll { POLL_PAGES_MAX } else { PAGES_IN_LINE };
        if pages_are_kept && n_tried < n_max {
            match &newest {
                None if !is_first => return Plan::Page(self.begin(|| begin("")), 0),
                // The same price as one name, and it answers every name on the page.
                Some(newest) if newest.n_pages_again() == 1 && newest.says(name).is_some() => {
                    return Plan::Page(self.begin(|| begin("")), 0);
                }
                Some(newest) if !is_first && !is_missed => {
                    let trust = if is_poll { Trust::Given } else { Trust::Earned };
                    match self.pieces.next(name, newest, trust, may_begin, begin) {
                        Some(Next::Page(listing, index)) => return Plan::Page(listing, index),
                        Some(Next::FirstPage) => return Plan::Page(self.begin(|| begin("")), 0),
                        None => {}
                    }
                }
                _ => {}
            }
        }
        self.pieces.asked_singly();
        match heard {
            None if newest.is_none() && self.n_asked <= 1 => Plan::First,
            None if self.finds_directories => Plan::Probe,
            _ => Plan::ListName,
        }
    }
}
