//! Whether a file is what it was, asked for many files at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::debug;

use super::Tree;
use crate::config::Ttl;
use crate::object::{DirPath, Object};

/// A page that takes longer is not waited for: what asks for one file alone has to come to its end within
/// the time of an open.
const PATIENCE: Duration = Duration::from_secs(2);

impl Tree {
    /// When the request was sent that told last that `object` is the current version of its key, where that
    /// was less than `ttl` ago. `None` says nothing of it.
    ///
    /// Of the second file that is asked about in one directory within `ttl`, a page is asked for, which
    /// tells of those around it as well. Ready at the first poll where nothing is asked.
    pub async fn confirm(self: &Arc<Self>, object: &Object, ttl: Ttl) -> Option<Instant> {
        let now = Instant::now();
        let (dir, name) = object.key.split_at(object.key.rfind('/').map_or(0, |slash| slash + 1));
        let directory = self.directory(&DirPath::new(dir));
        let confirmed = || {
            let sent = directory.confirms(name, &object.version)?;
            // What was asked for since counts, however long it took.
            (sent >= now || !ttl.left(sent.elapsed()).is_zero()).then_some(sent)
        };
        let spared = || confirmed().inspect(|_| self.doubts.spare(&directory.path, name, now));
        if let Some(sent) = spared() {
            return Some(sent);
        }
        if let Some(page) = directory.page_on_its_way(name) {
            // What it failed with, the open will hear itself.
            let _ = timeout(PATIENCE, page).await;
            if let Some(sent) = spared() {
                return Some(sent);
            }
        }
        // Before any page has come, LIST may be denied in any form.
        if !self.lists_at_all.load(Ordering::Relaxed)
            || !self.doubts.is_worth_a_page(&directory.path, name, ttl, now)
        {
            return None;
        }
        let begin = |after: &str| self.begin_after(&directory, after);
        let may_begin = self.order().by_ranges;
        let listing = directory.begin_page_of(name, &self.ages, now, may_begin, &begin)?;
        match timeout(PATIENCE, self.has_keys(&directory, &listing)).await {
            Ok(Ok(_)) => {}
            Ok(Err(err)) => {
                debug!("list {dir:?} for what is opened again: {err}");
                directory.drop_piece(&listing);
            }
            Err(_) => debug!("the page of {dir:?} for what is opened again is late"),
        }
        confirmed()
    }
}
