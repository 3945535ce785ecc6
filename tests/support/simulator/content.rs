//! The bytes of objects, given out in slices that are never copied.
//!
//! A synthetic object is only a size and a seed. Its content is cut from one pattern of random
//! bytes that all of them share: block `n`, of 1 MiB, is the MiB of the pattern that starts at
//! `(seed + n * STEP) % STARTS`. So a terabyte costs nothing, a slice is a pointer, no two of its
//! blocks are equal (up to 3 TB), and bytes of a wrong place or a wrong object are wrong bytes.

use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Slices of 1 MiB saturate a connection of this machine; larger ones are not faster.
const BLOCK: u64 = 1 << 20;
/// Blocks start below this; one more block follows, so that every block is one slice. The last
/// prime below 3 Mi: so the starts of an object do not recur before all have been used.
const STARTS: u64 = 3145721;
/// The golden section of `STARTS`, which keeps the starts of neighbors far apart.
const STEP: u64 = 1944162;

static PATTERN: LazyLock<Bytes> = LazyLock::new(pattern);

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Real(Bytes),
    Synthetic(Synthetic),
}

impl Content {
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Real(bytes) => bytes.len() as u64,
            Self::Synthetic(synthetic) => synthetic.size,
        }
    }

    /// The bytes from `position` on, as many as lie in one piece, 1 MiB at most.
    pub(crate) fn slice(&self, position: u64, end: u64) -> Bytes {
        let end = end.min(self.size()).min(position + BLOCK);
        match self {
            Self::Real(bytes) => bytes.slice(index(position)..index(end)),
            Self::Synthetic(synthetic) => synthetic.slice(position, end),
        }
    }

    /// The bytes of a range in one piece: for tests to compare with, not for serving.
    pub(crate) fn bytes(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(index(range.end - range.start));
        let mut position = range.start;
        while position < range.end {
            let slice = self.slice(position, range.end);
            position += slice.len() as u64;
            bytes.extend_from_slice(&slice);
        }
        bytes
    }
}

impl Content {
    /// The same with one other bit, in the middle of `range`.
    pub(crate) fn flipped(&self, range: &Range<u64>) -> Self {
        let mut bytes = self.bytes(0..self.size());
        if let Some(byte) = bytes.get_mut(index(range.start.midpoint(range.end))) {
            *byte ^= 1;
        }
        Self::Real(bytes.into())
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Synthetic {
    size: u64,
    seed: u64,
}

impl Synthetic {
    /// The content and its digest, computed from the name, the size and the generation: a
    /// replaced object gets another generation and with it other bytes and another ETag.
    pub(crate) fn new(key: &str, size: u64, generation: u64) -> (Self, [u8; 16]) {
        let digest = xxh3_128_with_seed(key.as_bytes(), mix(size) ^ generation);
        let seed = u64::try_from(digest & u128::from(u64::MAX)).expect("masked to 64 bits");
        (Self { size, seed }, digest.to_be_bytes())
    }

    fn slice(&self, position: u64, end: u64) -> Bytes {
        let block = position / BLOCK;
        let start = (self.seed % STARTS + block % STARTS * STEP) % STARTS;
        let first = start + position % BLOCK;
        let last = start + (end - block * BLOCK).min(BLOCK);
        PATTERN.slice(index(first)..index(last))
    }
}

/// Any bytes of a synthetic object of the first generation, for tests that did not keep a server.
pub(crate) fn content(key: &str, size: u64, range: Range<u64>) -> Vec<u8> {
    Content::Synthetic(Synthetic::new(key, size, 0).0).bytes(range)
}

/// The body of an answer: the slices of a range, one frame each.
pub(crate) struct ContentBody {
    content: Content,
    rest: Range<u64>,
}

impl ContentBody {
    pub(crate) fn new(content: Content, range: Range<u64>) -> Self {
        assert!(range.end <= content.size(), "the range was resolved against this content");
        Self { content, rest: range }
    }
}

impl Body for ContentBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _ctx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let slice = self.content.slice(self.rest.start, self.rest.end);
        self.rest.start += slice.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.end - self.rest.start)
    }
}

/// The finalizer of SplitMix64: every bit of the argument changes half the bits of the result.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

fn pattern() -> Bytes {
    let words = (STARTS + BLOCK).div_ceil(8);
    let mut bytes = Vec::with_capacity(index(words * 8));
    for word in 0..words {
        bytes.extend_from_slice(&mix(word).to_le_bytes());
    }
    bytes.into()
}

fn index(position: u64) -> usize {
    usize::try_from(position).expect("64-bit machine")
}
