//! A reader that jumps by equal steps: stretches of about the same length, each as far from the one before
//! as that is from its own. A reader that goes backward is one of these, with a negative stride.

use std::ops::Range;

use super::{ALIGN, align_down, align_up};

/// Equal steps before anything is asked for ahead. Three places in a row that are equally far apart come
/// about by chance where a file has few blocks; four hardly do.
const STEPS_BEFORE_AHEAD: u64 = 3;

/// Stretches asked for ahead, at most: each is a GET of its own.
const STRETCHES_MAX: u64 = 64;

/// The kernel reads whole pages, so that steps of any length look up to one page longer or shorter.
const PAGE: u64 = 4096;

/// The jumps of one reader. The stretch it is in begins at the cursor's `start`.
#[derive(Debug)]
pub(super) struct Steps {
    /// Where the first stretch began.
    origin: u64,
    /// From the beginning of one stretch to that of the next, on the average. Never 0.
    stride: i64,
    /// How long a stretch is expected to be: the longer one of the last two.
    len: u64,
    len_before: u64,
    /// Equal steps made, less those that were left out.
    made: u64,
    /// Which stretch the reader is in, and up to which one was asked for.
    position: u64,
    asked: u64,
}

impl Steps {
    /// Two steps were made from `origin` to `start`, between stretches of at most `len`.
    pub(super) fn new(origin: u64, start: u64, len: u64) -> Self {
        let stride = mean(origin, start, 2);
        Self { origin, stride, len, len_before: len, made: 2, position: 2, asked: 2 }
    }

    /// Whether it has gone on for long enough to be believed.
    pub(super) fn is_settled(&self) -> bool {
        self.made >= STEPS_BEFORE_AHEAD
    }

    pub(super) fn is_backward(&self) -> bool {
        self.stride < 0
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether the stretches, once aligned, leave nothing out between them.
    pub(super) fn is_dense(&self) -> bool {
        self.stride.unsigned_abs() < self.len + ALIGN
    }

    /// How many steps from the stretch that begins at `start` the one is that holds `offset`.
    pub(super) fn steps_to(&self, start: u64, offset: u64) -> Option<i64> {
        let stride = i128::from(self.stride.unsigned_abs());
        let slack = i128::from(slack(self.stride.unsigned_abs()));
        let distance = i128::from(offset) - i128::from(start) + slack;
        let rest = distance.rem_euclid(stride);
        let steps = i64::try_from(distance.div_euclid(stride)).ok()?;
        let steps = if self.stride > 0 { steps } else { -steps };
        (rest < i128::from(self.len) + slack).then_some(steps)
    }

    /// Where the stretch begins that lies `steps` on from the one at `start`, in which `read` lies.
    pub(super) fn place(&self, start: u64, steps: u64, read: u64) -> u64 {
        let way = self.stride.unsigned_abs().saturating_mul(steps);
        let at =
            if self.stride > 0 { start.saturating_add(way) } else { start.saturating_sub(way) };
        let is_beginning = at.abs_diff(read) <= slack(self.stride.unsigned_abs());
        if is_beginning { read } else { at.min(read) }
    }

    /// The furthest stretch that a read may go on with: the next, or any that was asked for.
    pub(super) fn reach(&self) -> i64 {
        let asked = match (self.is_settled(), self.is_dense()) {
            (false, _) => 1,
            (true, true) => self.made,
            (true, false) => self.asked.saturating_sub(self.position),
        };
        i64::try_from(asked.clamp(1, STRETCHES_MAX)).unwrap_or(1)
    }

    /// The reader went on by `steps` to `start`, having read `len` bytes of the stretch it leaves. Those
    /// it left out count against it; false when it no longer is to be believed.
    pub(super) fn take(&mut self, steps: u64, start: u64, len: u64) -> bool {
        self.len = len.max(self.len_before).max(1);
        self.len_before = len;
        self.position += steps;
        self.asked = self.asked.max(self.position);
        self.made = (self.made + 1).saturating_sub(steps - 1);
        self.stride = mean(self.origin, start, self.position);
        self.made >= 2 && self.stride != 0
    }

    /// How many bytes it has earned to be asked for ahead: for a dense one four times what it went over,
    /// for others as much as it has read, and twice as much at each step in the beginning.
    pub(super) fn wish(&self) -> u64 {
        if !self.is_settled() {
            return 0;
        }
        if self.is_dense() {
            return self.made.saturating_mul(self.stride.unsigned_abs()).saturating_mul(4);
        }
        let doubled = 1_u64 << (self.made - STEPS_BEFORE_AHEAD).min(32);
        doubled.min(self.made).min(STRETCHES_MAX) * self.stretch_bytes()
    }

    /// The stretches still to be asked for within `window` bytes, aligned, with the mark of each.
    pub(super) fn ahead(&self, start: u64, window: u64, size: u64) -> Vec<(Range<u64>, u64)> {
        let until = self.position + window / self.stretch_bytes();
        let stretch = |index: u64| {
            let steps = i128::from(index - self.position);
            let at = i128::from(start) + steps * i128::from(self.stride);
            let at = u64::try_from(at).ok().filter(|at| *at < size)?;
            let end = align_up(at.saturating_add(self.len)).min(size);
            Some((align_down(at)..end, index))
        };
        (self.asked.max(self.position) + 1..=until).map_while(stretch).collect()
    }

    /// Everything up to this mark was asked for.
    pub(super) fn asked(&mut self, mark: u64) {
        self.asked = self.asked.max(mark);
    }

    /// What was asked for and has not been read.
    pub(super) fn unread(&self, start: u64, size: u64) -> Vec<Range<u64>> {
        let n_ahead = self.asked.saturating_sub(self.position);
        let all = Self { asked: self.position, ..*self };
        let ahead = all.ahead(start, n_ahead * self.stretch_bytes(), size);
        ahead.into_iter().map(|(range, _)| range).collect()
    }

    /// The most that one stretch takes once it is aligned.
    pub(super) fn stretch_bytes(&self) -> u64 {
        // One that begins and ends within units takes up to one unit more than its length.
        align_up(self.len)
            + if self.stride.unsigned_abs().is_multiple_of(ALIGN) { 0 } else { ALIGN }
    }
}

/// Whether the way from `first` to `second` is that from `second` to `third`, and not none.
pub(super) fn are_equal(first: u64, second: u64, third: u64) -> bool {
    let one = i128::from(second) - i128::from(first);
    let other = i128::from(third) - i128::from(second);
    let slack = i128::from(slack(first.abs_diff(second)));
    one != 0 && other != 0 && (one - other).abs() <= slack && one.signum() == other.signum()
}

/// How far a step of this length may differ from another.
fn slack(stride: u64) -> u64 {
    PAGE.min(stride / 4)
}

/// The mean of `n` steps from `origin` to `start`.
fn mean(origin: u64, start: u64, n: u64) -> i64 {
    let way = i128::from(start) - i128::from(origin);
    i64::try_from(way / i128::from(n.max(1))).unwrap_or(0)
}
