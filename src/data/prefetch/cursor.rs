//! One reader of a file: where it is, and what it has earned to be asked for ahead.

use std::ops::Range;
use std::time::Duration;

use super::steps::Steps;
use super::window::{WINDOW_BYTES_START, Window};
use super::{ALIGN, Bounds, PART_BYTES_MAX, PART_BYTES_USUAL, Piece, align_down, align_up};

/// GETs of one reader in flight while its parts still grow.
const PARTS_AHEAD: u64 = 8;

/// GETs of one reader in flight from which on its parts grow further.
const PARTS_AHEAD_MANY: u64 = 32;

/// How far a read may lie from where a cursor expects it: the kernel sends several read-aheads of a
/// stream at once, and its threads deliver them in any order.
pub(super) const REORDER_BYTES_MAX: u64 = 4 << 20;

/// What one read of a program may look like as long as it is small: the kernel asks for it in requests of
/// 512 KiB, and for one or two beyond it.
const KERNEL_AHEAD_BYTES: u64 = 2 << 20;

/// One reader.
#[derive(Debug)]
pub(super) struct Cursor {
    /// Given anew when the reader turns out to be of another kind: what was advised before is not taken
    /// for what was asked since.
    pub(super) id: u64,
    /// The read that it was used by last, and when.
    pub(super) used: u64,
    pub(super) used_at: Duration,
    /// The read that it began with.
    born: u64,
    is_settled: bool,
    /// Whether its end counts among the usual lengths of runs already.
    pub(super) is_counted: bool,
    /// The run: where it began, and where the next read is expected.
    start: u64,
    next: u64,
    /// Bytes read in the run, and bytes between its ends that were not.
    run: u64,
    skipped: u64,
    /// Reads of the run but the first.
    hits: u64,
    /// Bytes read in all runs.
    total: u64,
    /// The edge of what was asked for; for equal steps that leave something out they know it themselves.
    asked: u64,
    window: Window,
    steps: Option<Steps>,
}

/// How a read goes on with a cursor, the surest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Fit {
    /// Where it was expected, or this far before: late, or again.
    Run(u64),
    /// In the stretch that lies this many steps on.
    Step(u64),
    /// In a stretch that the reader has left: it came late.
    Late,
    /// This far beyond where it was expected: others will follow.
    Skip(u64),
}

/// What a cursor advises on a read.
pub(super) struct Plan {
    pub(super) part_bytes: u64,
    /// How far the demand may reach beyond what is read.
    pub(super) demand_end: u64,
    pub(super) ahead: Vec<Piece>,
}

impl Cursor {
    /// A reader that began with `read`.
    pub(super) fn new(id: u64, read: &Range<u64>, tick: u64, now: Duration) -> Self {
        Self {
            id,
            used: tick,
            used_at: now,
            born: tick,
            is_settled: false,
            is_counted: false,
            start: read.start,
            next: read.end,
            run: read.end - read.start,
            skipped: 0,
            hits: 0,
            total: read.end - read.start,
            asked: read.end,
            window: Window::new(WINDOW_BYTES_START, now),
            steps: None,
        }
    }

    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// How long the run is by now.
    pub(super) fn len(&self) -> u64 {
        self.next - self.start
    }

    pub(super) fn has_steps(&self) -> bool {
        self.steps.is_some()
    }

    pub(super) fn born(&self) -> u64 {
        self.born
    }

    /// Whether it is a reader with a pace.
    pub(super) fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// It is one from when it is longer than the runs after which readers of this file usually jump,
    /// or in equal steps.
    pub(super) fn settle(&mut self, usual: u64) {
        self.is_settled |= match &self.steps {
            Some(steps) => steps.is_settled(),
            None => self.hits >= 2 && self.len() > usual,
        };
    }

    /// Whether, and how, a read at `offset` goes on with it.
    pub(super) fn fits(&self, offset: u64) -> Option<Fit> {
        let late = self.next.saturating_sub(self.len().min(REORDER_BYTES_MAX));
        if late <= offset && offset <= self.next {
            return Some(Fit::Run(self.next - offset));
        }
        if let Some(steps) = &self.steps {
            let by = steps.steps_to(self.start, offset)?;
            return match by {
                0 => Some(Fit::Run(offset.abs_diff(self.next))),
                1.. if by <= steps.reach() => Some(Fit::Step(by.unsigned_abs())),
                -2..0 => Some(Fit::Late),
                _ => None,
            };
        }
        let gap = offset.checked_sub(self.next)?;
        // Most of what lies between the ends is read, so that asking for all of it wastes little.
        let few = self.skipped + gap <= self.run / 2;
        (few && gap <= REORDER_BYTES_MAX).then_some(Fit::Skip(gap))
    }

    /// Goes on with `read`. Where that is no longer what the cursor was, `fresh` becomes its id, and what
    /// had been asked for and will not be read is returned.
    pub(super) fn go_on(
        &mut self,
        fit: Fit,
        read: &Range<u64>,
        fresh: u64,
        size: u64,
    ) -> Vec<Range<u64>> {
        self.total += read.end - read.start;
        match fit {
            Fit::Late => Vec::new(),
            Fit::Step(by) => self.step(by, read, fresh, size),
            Fit::Run(_) | Fit::Skip(_) => {
                self.hits += u64::from(read.end > self.next);
                self.extend(read);
                let expected = self.steps.as_ref().map_or(u64::MAX, |steps| 2 * steps.len());
                if self.len() > expected.max(2 * ALIGN) {
                    return self.leave_steps(fresh, size);
                }
                Vec::new()
            }
        }
    }

    fn extend(&mut self, read: &Range<u64>) {
        let len = read.end - read.start;
        if read.start < self.next {
            self.skipped = self.skipped.saturating_sub(len);
            self.run += read.end.saturating_sub(self.next);
        } else {
            self.skipped += read.start - self.next;
            self.run += len;
        }
        self.next = self.next.max(read.end);
        if self.steps.is_none() {
            self.asked = self.asked.max(self.next);
        }
    }

    fn step(&mut self, by: u64, read: &Range<u64>, fresh: u64, size: u64) -> Vec<Range<u64>> {
        let len = self.len();
        let Some(steps) = &mut self.steps else { return Vec::new() };
        let at = steps.place(self.start, by, read.start);
        let goes_on = steps.take(by, at, len);
        let dense = steps.is_dense().then(|| steps.is_backward());
        let gone = if goes_on { Vec::new() } else { self.leave_steps(fresh, size) };
        self.start = at;
        self.next = read.end;
        self.run = read.end - read.start;
        (self.skipped, self.hits) = (0, 0);
        match dense {
            Some(true) => self.asked = self.asked.min(self.start),
            Some(false) => self.asked = self.asked.max(self.next),
            None => {}
        }
        gone
    }

    /// It is where a reader came to in two equal steps from `origin`, between runs of at most `len`.
    pub(super) fn begin_steps(&mut self, origin: u64, len: u64) {
        let steps = Steps::new(origin, self.start, len);
        self.asked = if steps.is_backward() { self.start } else { self.next };
        self.steps = Some(steps);
    }

    fn leave_steps(&mut self, fresh: u64, size: u64) -> Vec<Range<u64>> {
        let gone = self.unread(size);
        self.id = fresh;
        self.steps = None;
        self.asked = self.next;
        gone
    }

    /// Takes over a run that turned out to be the beginning of what follows this one: its first read
    /// overtook others.
    pub(super) fn absorb(&mut self, other: &Self) -> bool {
        let joined = self.steps.is_none()
            && other.steps.is_none()
            && self.start < other.start
            && other.start <= self.next
            && self.next < other.next
            && other.len() <= REORDER_BYTES_MAX;
        if joined {
            self.run += other.run;
            self.next = other.next;
            self.asked = self.asked.max(other.asked);
            self.hits += other.hits;
        }
        joined
    }

    /// What to ask for on the read that came last, where readers of this file usually jump after
    /// `usual` bytes, and `may_jump` where how far is not known yet.
    pub(super) fn plan(&self, usual: u64, may_jump: bool, size: u64, bounds: Bounds) -> Plan {
        let window = self.wish().min(self.window.bytes_max()).min(bounds.window_max);
        let part_bytes = part_bytes(window, bounds.part_max);
        match &self.steps {
            Some(steps) if !steps.is_settled() => Plan::nothing(self.next),
            Some(steps) if steps.is_dense() && steps.is_backward() => {
                let ahead = self.downward(window, part_bytes);
                Plan { part_bytes, demand_end: self.next, ahead }
            }
            Some(steps) if !steps.is_dense() => {
                let most = PART_BYTES_USUAL.min(bounds.part_max).max(ALIGN);
                let part_bytes = steps.stretch_bytes().clamp(ALIGN, most);
                let stretches = steps.ahead(self.start, window, size);
                let ahead = stretches.into_iter().flat_map(|(range, mark)| {
                    pieces(range, part_bytes).map(move |range| Piece { range, mark })
                });
                let demand_end = align_up(self.start + steps.len());
                Plan { part_bytes, demand_end, ahead: ahead.collect() }
            }
            None if self.hits == 0 => Plan::nothing(self.next),
            None if may_jump && self.len() <= KERNEL_AHEAD_BYTES => Plan::nothing(self.next),
            _ => {
                // Where readers usually jump nothing is asked for beyond, until this one has gone on.
                let unusual = self.has_steps() || self.len() > unusual_bytes(usual);
                let limit = if unusual { size } else { align_up(self.start + usual).min(size) };
                let ahead = self.upward(window, part_bytes, limit);
                Plan { part_bytes, demand_end: limit, ahead }
            }
        }
    }

    fn upward(&self, window: u64, part_bytes: u64, limit: u64) -> Vec<Piece> {
        // Aligned, so that the parts of a stream begin where the kernel's requests do.
        let from = align_up(self.asked.max(self.next)).min(limit);
        let wanted = self.next.saturating_add(window).min(limit);
        let whole = wanted.saturating_sub(from) / part_bytes * part_bytes;
        let to = if wanted == limit { limit } else { from + whole };
        pieces(from..to, part_bytes).map(|range| Piece { mark: range.end, range }).collect()
    }

    fn downward(&self, window: u64, part_bytes: u64) -> Vec<Piece> {
        let mut at = align_down(self.asked.min(self.start));
        let wanted = self.start.saturating_sub(window);
        let mut ahead = Vec::new();
        // The nearest first: it is needed first.
        while at > wanted && (at - wanted >= part_bytes || wanted == 0) {
            let from = at.saturating_sub(part_bytes);
            ahead.push(Piece { range: from..at, mark: from });
            at = from;
        }
        ahead
    }

    /// Everything up to this mark of a [`Piece`] was asked for.
    pub(super) fn asked(&mut self, mark: u64) {
        match &mut self.steps {
            Some(steps) if !steps.is_dense() => steps.asked(mark),
            Some(steps) if steps.is_backward() => self.asked = self.asked.min(mark),
            _ => self.asked = self.asked.max(mark),
        }
    }

    /// The reader waited for what was asked for ahead, `ready` bytes of which had come: a larger window
    /// may help.
    pub(super) fn stalled(&mut self, now: Duration, ready: u64, bounds: Bounds) {
        if self.wish() >= self.window.bytes_max() {
            self.window.stalled(self.total, now, ready, bounds);
        }
    }

    /// What was asked for and has not been read.
    pub(super) fn unread(&self, size: u64) -> Vec<Range<u64>> {
        let range = match &self.steps {
            Some(steps) if !steps.is_dense() => return steps.unread(self.start, size),
            Some(steps) if steps.is_backward() => self.asked..align_down(self.start),
            _ => align_up(self.next)..self.asked,
        };
        if range.start < range.end { vec![range] } else { Vec::new() }
    }

    /// The bytes ahead that it has earned: four times what it has read, what it left out taken off.
    fn wish(&self) -> u64 {
        match &self.steps {
            Some(steps) => steps.wish(),
            None => (self.run * 4).saturating_sub(self.skipped),
        }
    }

    #[cfg(test)]
    pub(super) fn window_bytes_max(&self) -> u64 {
        self.window.bytes_max()
    }
}

impl Plan {
    /// For a reader without a pace.
    pub(super) fn nothing(demand_end: u64) -> Self {
        Self { part_bytes: ALIGN, demand_end, ahead: Vec::new() }
    }
}

/// `range` in pieces of `part_bytes`, the last one as long as it is.
pub(crate) fn pieces(range: Range<u64>, part_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let step = usize::try_from(part_bytes).expect("a part is at most 8 MiB");
    let end = range.end;
    range.step_by(step).map(move |at| at..end.min(at + part_bytes))
}

/// A run that is longer is none after which the reader jumps as usual: the kernel asks beyond the end of a read,
/// now more and now less.
fn unusual_bytes(usual: u64) -> u64 {
    if usual < KERNEL_AHEAD_BYTES / 4 {
        usual * 2
    } else {
        KERNEL_AHEAD_BYTES.max(usual + usual / 2)
    }
}

/// The size of the parts in a window: enough of them at once to fill the line, few enough to be cheap.
fn part_bytes(window: u64, part_max: u64) -> u64 {
    let wish = (window / PARTS_AHEAD).min(PART_BYTES_USUAL.max(window / PARTS_AHEAD_MANY));
    let wish = wish.clamp(ALIGN, PART_BYTES_MAX.min(part_max).max(ALIGN));
    // A power of two, so that the memory of one part fits the next.
    1 << wish.ilog2()
}
