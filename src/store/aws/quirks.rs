//! What is known of one server that is not quite S3: learnt from its answers, once, and said once.
//! Decides nothing about a request; `requests.rs` asks here how to send one.
//!
//! Invariant: what was learnt is never forgotten, and a server that has shown that it does a thing
//! as S3 does it is not suspected of the opposite because one request failed.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// One way to differ from S3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Quirk {
    ListsNoETags,
    UnquotedETags,
    IgnoresConditions,
    RefusesConditions,
    IgnoresRange,
    IgnoresEncodingType,
    RefusesEncodingType,
    IgnoresStartAfter,
    RefusesStartAfter,
    /// Listings are of version 1, whether version 2 is ignored or refused.
    NoV2,
    ForbiddenForMissing,
    WantsChecksumMode,
    RefusesChecksumMode,
    ClosesConnections,
    OtherDates,
    NoLastModified,
    NoHead,
    NoContentLength,
}

const N_QUIRKS: usize = Quirk::NoContentLength as usize + 1;

impl Quirk {
    /// What the log says after the server's name: how it differs, and what is done instead.
    fn sentence(self) -> &'static str {
        match self {
            Self::ListsNoETags => {
                "lists without ETags: size and date tell versions apart, and the first read of a \
                 file pins its ETag"
            }
            Self::UnquotedETags => "lists ETags without quotes: they are read as if they had them",
            Self::IgnoresConditions => {
                "ignores If-Match and If-None-Match: the ETag of each answer is compared here"
            }
            Self::RefusesConditions => {
                "refuses If-Match and If-None-Match: they are left out, and the ETag of each \
                 answer is compared here"
            }
            Self::IgnoresRange => {
                "ignores Range: files are read from whole bodies that are skipped to the place, \
                 so reading in the middle of a large one is slow"
            }
            Self::IgnoresEncodingType => {
                "ignores encoding-type in listings: keys are read as they stand there"
            }
            Self::RefusesEncodingType => {
                "refuses encoding-type in listings: it is left out, and keys are read as they \
                 stand there"
            }
            Self::IgnoresStartAfter => {
                "ignores start-after in listings: they are read from their beginning and the keys \
                 before are left out here"
            }
            Self::RefusesStartAfter => {
                "refuses start-after in listings: they are read from their beginning and the keys \
                 before are left out here"
            }
            Self::NoV2 => "does not know ListObjectsV2: ListObjects of version 1 is used",
            Self::ForbiddenForMissing => {
                "answers 403 for a key that is missing: a listing of the key tells the two apart"
            }
            Self::WantsChecksumMode => {
                "wants x-amz-checksum-mode with each GET: it is sent, and the checksums of parts \
                 are not compared"
            }
            Self::RefusesChecksumMode => {
                "refuses x-amz-checksum-mode: it is left out, and no checksums are compared"
            }
            Self::ClosesConnections => {
                "closes the connection after each answer: each request opens another, which costs \
                 time"
            }
            Self::OtherDates => {
                "writes Last-Modified in another form than HTTP's: whole seconds are taken from it"
            }
            Self::NoLastModified => {
                "tells no Last-Modified with an object: its date is taken from a listing of the key"
            }
            Self::NoHead => "has no HEAD of objects: a GET of the first byte is used",
            Self::NoContentLength => {
                "tells no Content-Length: sizes are taken from the answers to requests with a Range"
            }
        }
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Some quirks: how a request is to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Known(u32);

impl Known {
    pub(super) fn has(self, quirk: Quirk) -> bool {
        self.0 & quirk.bit() != 0
    }

    pub(super) fn with(self, quirk: Quirk) -> Self {
        Self(self.0 | quirk.bit())
    }

    /// Conditions come to nothing, so that the answers' ETags have to be compared.
    pub(super) fn no_conditions(self) -> bool {
        self.has(Quirk::IgnoresConditions) || self.has(Quirk::RefusesConditions)
    }

    /// `start-after` is of no use.
    pub(super) fn no_start_after(self) -> bool {
        self.has(Quirk::IgnoresStartAfter) || self.has(Quirk::RefusesStartAfter)
    }
}

/// What is known of the server of one mount.
pub(super) struct Quirks {
    /// In words.
    endpoint: String,
    differs: AtomicU32,
    /// A bit is set where the server was seen to do it as S3 does.
    as_s3: AtomicU32,
    /// Answers in a row after which the connection was to be closed, up to [`CLOSES_MIN`].
    n_closes: AtomicU8,
}

/// S3 itself closes a connection now and then; so many in a row are a habit.
const CLOSES_MIN: u8 = 4;

const _: () = assert!(N_QUIRKS <= 32, "a bit for each");

impl Quirks {
    pub(super) fn new(endpoint: String) -> Self {
        Self {
            endpoint,
            differs: AtomicU32::default(),
            as_s3: AtomicU32::default(),
            n_closes: AtomicU8::default(),
        }
    }

    pub(super) fn known(&self) -> Known {
        Known(self.differs.load(Ordering::Relaxed))
    }

    pub(super) fn has(&self, quirk: Quirk) -> bool {
        self.known().has(quirk)
    }

    /// Whether the server may still turn out to have it.
    pub(super) fn is_open(&self, quirk: Quirk) -> bool {
        let settled = self.as_s3.load(Ordering::Relaxed) | self.differs.load(Ordering::Relaxed);
        settled & quirk.bit() == 0
    }

    /// An answer showed that the server has it.
    pub(super) fn learn(&self, quirk: Quirk) {
        let before = self.differs.fetch_or(quirk.bit(), Ordering::Relaxed);
        if before & quirk.bit() == 0 {
            tracing::info!("{} {}", self.endpoint, quirk.sentence());
        }
    }

    /// An answer showed that the server does this as S3 does.
    pub(super) fn is_as_s3(&self, quirk: Quirk) {
        if self.as_s3.load(Ordering::Relaxed) & quirk.bit() == 0 {
            self.as_s3.fetch_or(quirk.bit(), Ordering::Relaxed);
        }
    }

    /// An answer came, after which the connection is closed or not.
    pub(super) fn answered(&self, closes: bool) {
        if !closes {
            if self.n_closes.load(Ordering::Relaxed) != 0 {
                self.n_closes.store(0, Ordering::Relaxed);
            }
        } else if self.n_closes.fetch_add(1, Ordering::Relaxed) + 1 >= CLOSES_MIN {
            self.n_closes.store(0, Ordering::Relaxed);
            self.learn(Quirk::ClosesConnections);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learnt_stays_and_what_works_is_not_suspected() {
        let quirks = Quirks::new("S3".to_owned());
        assert!(quirks.is_open(Quirk::NoHead) && !quirks.has(Quirk::NoHead));
        quirks.is_as_s3(Quirk::NoHead);
        assert!(!quirks.is_open(Quirk::NoHead) && !quirks.has(Quirk::NoHead));
        quirks.learn(Quirk::IgnoresRange);
        quirks.is_as_s3(Quirk::IgnoresRange);
        assert!(quirks.has(Quirk::IgnoresRange) && !quirks.is_open(Quirk::IgnoresRange));
        assert!(quirks.is_open(Quirk::NoContentLength), "the last one has a bit, too");
    }

    #[test]
    fn a_connection_that_is_closed_now_and_then_is_no_habit() {
        let quirks = Quirks::new("S3".to_owned());
        for closes in [true, true, true, false, true, true, true] {
            quirks.answered(closes);
        }
        assert!(!quirks.has(Quirk::ClosesConnections));
        quirks.answered(true);
        assert!(quirks.has(Quirk::ClosesConnections));
    }
}
