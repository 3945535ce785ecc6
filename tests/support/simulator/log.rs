//! What was asked and what was answered: the requests one by one, and sums of them.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::call::{Call, Kind};

/// One line per request is kept up to here; further requests are only counted.
const ENTRIES_MAX: usize = 1_000_000;

#[derive(Clone, Debug)]
pub(crate) struct LogEntry {
    pub(crate) call: Arc<Call>,
    /// Which connection carried it, counted from 0.
    pub(crate) connection: u64,
    /// None until the head of the answer is sent, and for ever after a reset or a silence.
    pub(crate) status: Option<u16>,
    /// Bytes of the object that the answer promised; 0 but for GET.
    pub(crate) bytes_requested: u64,
    /// Bytes of the body that went into the connection until now.
    pub(crate) bytes_sent: u64,
    /// `cut`, `stall`, `error`, `reset` or `silence`, if shaping chose this request.
    pub(crate) fault: Option<&'static str>,
}

/// Sums since the start or since the last reset. Bytes are those of GET.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) list: u64,
    pub(crate) head: u64,
    pub(crate) get: u64,
    pub(crate) put: u64,
    pub(crate) delete: u64,
    pub(crate) other: u64,
    /// Answers from 400 to 499, and 304 is none of them.
    pub(crate) client_errors: u64,
    /// Answers from 500 on.
    pub(crate) server_errors: u64,
    /// Requests that shaping chose for a fault.
    pub(crate) faults: u64,
    pub(crate) bytes_requested: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) connections: u64,
    /// The most requests that were open at once.
    pub(crate) concurrent_max: u64,
    /// The most bytes of GET that were promised and not yet sent at once.
    pub(crate) owed_max: u64,
}

impl Counts {
    /// All requests.
    pub(crate) fn requests(&self) -> u64 {
        self.list + self.head + self.get + self.put + self.delete + self.other
    }

    pub(crate) fn to_json(self) -> Value {
        json!({
            "list": self.list, "head": self.head, "get": self.get, "put": self.put,
            "delete": self.delete, "other": self.other, "requests": self.requests(),
            "client_errors": self.client_errors, "server_errors": self.server_errors,
            "faults": self.faults, "bytes_requested": self.bytes_requested,
            "bytes_sent": self.bytes_sent, "connections": self.connections,
            "concurrent_max": self.concurrent_max, "owed_max": self.owed_max,
        })
    }

    fn of_kind(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::List => &mut self.list,
            Kind::Head => &mut self.head,
            Kind::Get => &mut self.get,
            Kind::Put => &mut self.put,
            Kind::Delete => &mut self.delete,
            Kind::Other => &mut self.other,
        }
    }
}

#[derive(Default)]
pub(crate) struct Log {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    counts: Counts,
    entries: Vec<LogEntry>,
    /// Raised by a reset: what began before it is no longer counted.
    epoch: u64,
    n_open: u64,
    owed: u64,
    /// Since the start, resets or not.
    n_connections: u64,
    n_requests: u64,
    file: Option<File>,
}

impl Log {
    /// Finished requests are also written to this file, one JSON object a line.
    pub(crate) fn write_to(&self, file: File) {
        self.inner.lock().file = Some(file);
    }

    pub(crate) fn counts(&self) -> Counts {
        self.inner.lock().counts
    }

    /// Without the GETs that repeat another one because that was late on a busy machine, of which there
    /// may be one in twenty.
    pub(crate) fn counts_unhedged(&self) -> Counts {
        let inner = self.inner.lock();
        let mut counts = inner.counts;
        let mut left = counts.get / 20;
        let mut seen: HashMap<_, &LogEntry> = HashMap::new();
        for entry in inner.entries.iter().filter(|entry| entry.call.kind == Kind::Get) {
            let Call { bucket, key, range, if_match, .. } = &*entry.call;
            let Some(other) = seen.insert((bucket, key, range, if_match), entry) else { continue };
            if left == 0 {
                break;
            }
            left -= 1;
            // The one whose body was given up is the one that lost.
            let lost = if entry.bytes_sent < other.bytes_sent { entry } else { other };
            counts.get -= 1;
            counts.bytes_requested -= lost.bytes_requested;
            counts.bytes_sent -= lost.bytes_sent;
        }
        counts
    }

    pub(crate) fn entries(&self) -> Vec<LogEntry> {
        self.inner.lock().entries.clone()
    }

    pub(crate) fn reset(&self) {
        let mut inner = self.inner.lock();
        let (concurrent_max, owed_max) = (inner.n_open, inner.owed);
        inner.counts = Counts { concurrent_max, owed_max, ..Counts::default() };
        inner.entries = Vec::new();
        inner.epoch += 1;
    }

    /// The number of a new connection.
    pub(crate) fn connection(&self) -> u64 {
        let mut inner = self.inner.lock();
        inner.counts.connections += 1;
        inner.n_connections += 1;
        inner.n_connections - 1
    }

    pub(crate) fn begin(self: &Arc<Self>, call: Arc<Call>, connection: u64) -> Flight {
        let mut inner = self.inner.lock();
        *inner.counts.of_kind(call.kind) += 1;
        inner.n_open += 1;
        inner.n_requests += 1;
        inner.counts.concurrent_max = inner.counts.concurrent_max.max(inner.n_open);
        let entry = LogEntry {
            call,
            connection,
            status: None,
            bytes_requested: 0,
            bytes_sent: 0,
            fault: None,
        };
        let place = (inner.entries.len() < ENTRIES_MAX).then_some(inner.entries.len());
        if place.is_some() {
            inner.entries.push(entry.clone());
        }
        let (epoch, number) = (inner.epoch, inner.n_requests);
        drop(inner);
        Flight { log: Arc::clone(self), entry, place, epoch, number }
    }
}

/// A request under way. Dropped when its body has ended or its connection has.
pub(crate) struct Flight {
    log: Arc<Log>,
    entry: LogEntry,
    /// In the log; none if that is full.
    place: Option<usize>,
    epoch: u64,
    number: u64,
}

impl Flight {
    /// Of this request since the start, from 1.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn fault(&mut self, fault: &'static str) {
        self.update(|entry, counts| {
            entry.fault = Some(fault);
            counts.faults += 1;
        });
    }

    /// The head of the answer, and how much body it promises.
    pub(crate) fn answered(&mut self, status: u16, length: u64) {
        self.update(|entry, counts| {
            entry.status = Some(status);
            match status {
                400..=499 => counts.client_errors += 1,
                500.. => counts.server_errors += 1,
                _ if entry.call.kind == Kind::Get => {
                    entry.bytes_requested = length;
                    counts.bytes_requested += length;
                }
                _ => (),
            }
        });
    }

    pub(crate) fn sent(&mut self, bytes: u64) {
        self.update(|entry, counts| {
            entry.bytes_sent += bytes;
            if entry.call.kind == Kind::Get && matches!(entry.status, Some(200 | 206)) {
                counts.bytes_sent += bytes;
            }
        });
    }

    fn update(&mut self, change: impl FnOnce(&mut LogEntry, &mut Counts)) {
        let mut inner = self.log.inner.lock();
        inner.owed -= self.entry.owed();
        if inner.epoch != self.epoch {
            change(&mut self.entry, &mut Counts::default());
            inner.owed += self.entry.owed();
            return;
        }
        change(&mut self.entry, &mut inner.counts);
        inner.owed += self.entry.owed();
        inner.counts.owed_max = inner.counts.owed_max.max(inner.owed);
        if let Some(place) = self.place {
            let entry = &self.entry;
            inner.entries[place].clone_from(entry);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut inner = self.log.inner.lock();
        inner.n_open -= 1;
        inner.owed -= self.entry.owed();
        if let Some(file) = &mut inner.file {
            // A log that cannot be written must not stop the server it describes.
            drop(writeln!(file, "{}", self.entry.to_json()));
        }
    }
}

impl LogEntry {
    /// Promised, and not yet sent.
    fn owed(&self) -> u64 {
        self.bytes_requested.saturating_sub(self.bytes_sent)
    }

    fn to_json(&self) -> Value {
        let call = &self.call;
        json!({
            "kind": format!("{:?}", call.kind), "method": call.method.as_str(),
            "bucket": call.bucket, "key": call.key, "query": call.query, "range": call.range,
            "if_match": call.if_match, "if_none_match": call.if_none_match,
            "status": self.status, "bytes_requested": self.bytes_requested,
            "bytes_sent": self.bytes_sent, "fault": self.fault, "connection": self.connection,
        })
    }
}
