//! What holds while S3 cannot be asked: what was known last.

use std::sync::Arc;

use tokio::time::Instant;

use super::Tree;
use super::answer::Answer;
use super::directory::{Directory, Known};
use super::said::Topic;
use crate::error::FsError;

impl Tree {
    /// What `name` is by `known` and by what there is to be asked; where S3 cannot be, what was known last.
    pub(super) async fn ask_or_outlast(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
        name: &str,
        known: Known,
    ) -> Result<Answer, FsError> {
        let asked = async {
            let mut known = known;
            if matches!(known, Known::No)
                && let Some((listing, slot)) = directory.away(name)
                && self.bring_back(&listing, slot).await.is_ok()
            {
                known = directory.known(name, &self.ages, Instant::now());
            }
            match known {
                Known::Answer(answer) => Ok(answer),
                Known::AnswerAndRefresh(answer) => {
                    self.refresh(directory);
                    Ok(answer)
                }
                Known::No => match self.listed_by_itself(directory, name) {
                    Some(answer) => Ok(answer),
                    None => match self.shown_from_below(directory, name).await {
                        Some(answer) => Ok(answer),
                        None => self.ask(directory, name).await,
                    },
                },
            }
        };
        let last_known =
            || directory.last_known(name).or_else(|| self.shown_by_itself(directory, name));
        self.outlast(asked, last_known).await
    }

    /// What `asked` comes to; where that cannot be had, what `last_known` gives, at once if S3 is known to be
    /// out.
    pub(super) async fn outlast<T>(
        &self,
        asked: impl Future<Output = Result<T, FsError>>,
        last_known: impl Fn() -> Option<T>,
    ) -> Result<T, FsError> {
        let asked = match last_known() {
            Some(_) => self.reach.unless_out(asked).await,
            None => Some(asked.await),
        };
        let err = match asked {
            Some(Err(err)) if is_outage(&err) => err,
            Some(answer) => return answer,
            // Forgotten in this very moment.
            None => return last_known().ok_or(FsError::Abandoned),
        };
        match last_known().filter(|_| self.reach.serves_on()) {
            Some(known) => {
                self.warn_of_outage(&err);
                Ok(known)
            }
            None => Err(err),
        }
    }

    /// As [`Tree::listed_by_itself`], however long ago that was: for when nothing can be asked.
    pub(super) fn shown_by_itself(&self, parent: &Directory, name: &str) -> Option<Answer> {
        let child = self.known_directory(&parent.path.child(name))?;
        let answer = child.last_own_answer()?;
        parent.marks().allow(name, answer.sent).then_some(answer)
    }

    /// Of trouble with some requests: where there is no answer at all, [`crate::store::reach::Reach`] says so.
    pub(super) fn warn_of_outage(&self, err: &FsError) {
        if !self.reach.is_out() && self.said.is_due(Topic::Outage) {
            tracing::warn!(
                "what was last known is served, as S3 does not answer everything: {err}"
            );
        }
    }
}

/// Whether S3 could not be asked, so that what was last known is the best there is.
pub(super) fn is_outage(err: &FsError) -> bool {
    matches!(err, FsError::Store(err) if err.kind().is_transient())
}
