//! Things that happen at a moment chosen by a test: before a given answer, or in the middle of a
//! given body. A hook fires once.

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::World;
use super::call::{Call, Kind};

/// What a hook does to the server.
pub(crate) type Action = Box<dyn FnOnce(&World) + Send>;

#[derive(Default)]
pub(crate) struct Hooks {
    waiting: Mutex<Vec<Hook>>,
}

struct Hook {
    kind: Kind,
    /// The key, or the prefix of a listing.
    subject: String,
    /// Fires at the request after so many.
    skip: u64,
    moment: Moment,
}

enum Moment {
    Before(Action),
    /// The answer waits until the sender is used or dropped.
    Hold(oneshot::Receiver<()>),
    During {
        after_bytes: u64,
        action: Action,
    },
}

/// An action that is due once so many bytes of a body have been sent.
pub(crate) struct Due {
    pub(crate) after_bytes: u64,
    pub(crate) action: Action,
}

/// While this lives, the answer it holds is not given.
#[must_use = "dropping it lets the answer go"]
pub(crate) struct Held {
    _release: oneshot::Sender<()>,
}

impl Hooks {
    pub(crate) fn before(&self, kind: Kind, subject: &str, nth: u64, action: Action) {
        self.add(kind, subject, nth, Moment::Before(action));
    }

    pub(crate) fn during(&self, key: &str, after_bytes: u64, action: Action) {
        self.add(Kind::Get, key, 1, Moment::During { after_bytes, action });
    }

    pub(crate) fn hold(&self, kind: Kind, subject: &str) -> Held {
        let (release, held) = oneshot::channel();
        self.add(kind, subject, 1, Moment::Hold(held));
        Held { _release: release }
    }

    /// Runs what is due before the answer to this call, and returns what is due in its body.
    pub(crate) async fn fire(&self, call: &Call, world: &World) -> Vec<Due> {
        let mut due = Vec::new();
        for moment in self.take(call) {
            match moment {
                Moment::Before(action) => action(world),
                // An error means that the holder was dropped, which is how it lets go.
                Moment::Hold(held) => drop(held.await),
                Moment::During { after_bytes, action } => due.push(Due { after_bytes, action }),
            }
        }
        due
    }

    fn add(&self, kind: Kind, subject: &str, nth: u64, moment: Moment) {
        assert!(nth > 0, "the first request is number 1");
        let subject = subject.to_owned();
        self.waiting.lock().push(Hook { kind, subject, skip: nth - 1, moment });
    }

    fn take(&self, call: &Call) -> Vec<Moment> {
        let mut waiting = self.waiting.lock();
        let (matching, others): (Vec<_>, Vec<_>) = std::mem::take(&mut *waiting)
            .into_iter()
            .partition(|hook| hook.kind == call.kind && hook.subject == call.subject());
        *waiting = others;
        let mut fired = Vec::new();
        for hook in matching {
            match hook.skip {
                0 => fired.push(hook.moment),
                skip => waiting.push(Hook { skip: skip - 1, ..hook }),
            }
        }
        fired
    }
}
