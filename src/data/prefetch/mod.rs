//! What to ask for around a read, and ahead of its reader. Pure: no I/O, no clock.
//!
//! A [`Detector`] keeps a [`Cursor`] for each reader of one file, whatever handle it reads by, so that
//! interleaved readers each keep their pace. A cursor that is hit grows: the distance asked for ahead
//! is four times what the run has read so far, up to the bound of its [`window`]. Runs that are equally
//! far apart, forward or backward, are one reader that jumps ([`steps`]), and only what it will read
//! is asked for. A run that is no longer than those after which readers of this file have jumped is
//! not asked for beyond that length. A file that is opened and read at its end is one whose
//! directory is there, and its last part comes with that.

mod cursor;
mod steps;
mod window;

use std::ops::Range;
use std::time::Duration;

pub(crate) use self::cursor::pieces;
use self::cursor::{Cursor, Fit, Plan};
pub(crate) use self::window::Window;

/// Parts begin and end at multiples of this, or at the end of the object.
pub(crate) const ALIGN: u64 = 128 << 10;

/// The largest part.
pub(crate) const PART_BYTES_MAX: u64 = 8 << 20;

/// Parts grow to this with the window; larger ones only come with windows for which so many GETs of
/// this size would be in flight that the number of requests is the cost. At 90 MB/s and 20 ms to the
/// first byte a stream needs 43 MB of window for each GB/s, against 67 MB with parts of 4 MiB, whose
/// 256 GETs less for each GiB save less CPU time than the memory costs.
const PART_BYTES_USUAL: u64 = 2 << 20;

/// Readers with a pace that are known at once; beyond, the one used least recently goes.
const SETTLED_MAX: usize = 32;

/// Places where something was read once, any of which may become a reader. Counted by themselves, so that
/// random reads push out each other and no reader with a pace.
const LONE_MAX: usize = 16;

/// A reader that paused for longer begins anew, and what came ahead for it is let go.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Newer places after which a reader is taken to have jumped. More readers than that may be at work at once,
/// and are only held back until they have passed what they had read by then.
const NEWER_AFTER_JUMP: usize = 2;

/// So many places that are read at once may be one program that reads pieces of the file, some at a time,
/// until it is known how long they are.
const PLACES_OF_ONE_WHO_JUMPS: usize = 4;

/// The longest of this many runs is what is usual.
const RUNS_REMEMBERED: usize = 3;

/// Runs of more than this are streams, and say nothing of where others end.
const USUAL_BYTES_MAX: u64 = 8 << 20;

/// What is asked for when one of the first reads of a file is of its very end: the directory of a parquet,
/// ORC or zip file, most of them whole. At 90 MB/s it lasts a quarter of the round trip that it saves.
const TAIL_BYTES: u64 = 512 << 10;

/// Reads after which a file is no longer one that was just opened.
const FIRST_READS: u64 = 8;

/// The readers of one file.
#[derive(Debug)]
pub(crate) struct Detector {
    size: u64,
    cursors: Vec<Cursor>,
    /// The last runs after which readers jumped: when each began, and its length.
    runs: Vec<(u64, u64)>,
    /// Reads so far.
    tick: u64,
    last_id: u64,
}

/// The bounds that the mount sets at the moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes ahead of one reader.
    pub(crate) window_max: u64,
    /// Bytes of one part.
    pub(crate) part_max: u64,
    /// Bytes of one GET that a reader waits for; what is larger is asked for in pieces.
    pub(crate) demand_max: u64,
}

/// What a read means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Advice {
    /// For [`Detector::asked`] and [`Detector::stalled`].
    pub(crate) cursor: u64,
    /// The read does not go on where another one ended.
    pub(crate) is_new: bool,
    /// What to ask for where this read finds nothing: the aligned request, more for a reader with a pace.
    pub(crate) demand: Range<u64>,
    /// How large a part of it to ask for; [`ALIGN`] for a random read.
    pub(crate) part_bytes: u64,
    /// What to ask for ahead, in this order; empty for a random read, and while the last advice
    /// still reaches.
    pub(crate) ahead: Vec<Piece>,
    /// What came ahead of a reader who will not read it.
    pub(crate) gone: Vec<Range<u64>>,
}

/// One part to ask for ahead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) range: Range<u64>,
    /// For [`Detector::asked`].
    pub(crate) mark: u64,
}

impl Detector {
    /// `size` of the object, in bytes.
    pub(crate) fn new(size: u64) -> Self {
        Self { size, cursors: Vec::new(), runs: Vec::new(), tick: 0, last_id: 0 }
    }

    /// A reader asks for `len` bytes at `offset`, at `now` by any clock.
    pub(crate) fn on_read(
        &mut self,
        offset: u64,
        len: u64,
        now: Duration,
        bounds: Bounds,
    ) -> Advice {
        self.tick += 1;
        let read = offset..offset + len;
        let fit = |cursor: &Cursor| cursor.fits(offset);
        let fits = self.cursors.iter().enumerate().filter_map(|(i, it)| Some((fit(it)?, i)));
        let Some((fit, index)) = fits.min() else {
            let gone = self.begin(&read, now);
            let advice = self.advice(&read, Plan::nothing(read.end), gone);
            let advice = Advice { is_new: true, ..advice };
            return match self.tail(&read) {
                Some(demand) => Advice { part_bytes: demand.end - demand.start, demand, ..advice },
                None => advice,
            };
        };
        let fresh = self.fresh_id();
        self.uncount(index);
        let usual = self.usual();
        let may_jump = usual == 0 && self.cursors.len() >= PLACES_OF_ONE_WHO_JUMPS;
        let cursor = &mut self.cursors[index];
        (cursor.used, cursor.used_at) = (self.tick, now);
        let gone = cursor.go_on(fit, &read, fresh, self.size);
        let index = self.merge(index);
        let cursor = &mut self.cursors[index];
        cursor.settle(usual);
        let plan = match fit {
            Fit::Late => Plan::nothing(read.end),
            Fit::Run(_) | Fit::Step(_) | Fit::Skip(_) => {
                cursor.plan(usual, may_jump, self.size, bounds)
            }
        };
        let cursor = cursor.id;
        let is_new = matches!(fit, Fit::Step(_) | Fit::Skip(_));
        Advice { cursor, is_new, ..self.advice(&read, plan, gone) }
    }

    /// What was asked for on the advice, which may be less than advised.
    pub(crate) fn asked(&mut self, cursor: u64, mark: u64) {
        if let Some(cursor) = self.cursors.iter_mut().find(|it| it.id == cursor) {
            cursor.asked(mark);
        }
    }

    /// The reader of `cursor` had to wait for what was asked for ahead, at `now` by any clock, although
    /// `ready` bytes beyond had come.
    pub(crate) fn stalled(&mut self, cursor: u64, now: Duration, ready: u64, bounds: Bounds) {
        if let Some(cursor) = self.cursors.iter_mut().find(|it| it.id == cursor) {
            cursor.stalled(now, ready, bounds);
        }
    }

    /// Nobody reads the file any more, and what came ahead was let go: whoever opens it begins anew.
    pub(crate) fn forget(&mut self) {
        *self = Self { last_id: self.last_id, ..Self::new(self.size) };
    }

    /// A reader begins, or jumps. Returns what came ahead of readers that are forgotten for it.
    fn begin(&mut self, read: &Range<u64>, now: Duration) -> Vec<Range<u64>> {
        self.count_jumps();
        let mut cursor = Cursor::new(self.fresh_id(), read, self.tick, now);
        if let Some((first, second)) = self.steps_to(read) {
            let (first, second) = (self.cursors[first].id, self.cursors[second].id);
            let taken = |it: &mut Cursor| it.id == first || it.id == second;
            let (from, len) = self
                .cursors
                .extract_if(.., taken)
                .map(|it| (it.start(), it.len()))
                .reduce(|one, other| (farther(one.0, other.0, read.start), one.1.max(other.1)))
                .expect("two were found");
            cursor.begin_steps(from, len.max(read.end - read.start));
        }
        let gone = self.make_room(now);
        self.cursors.push(cursor);
        gone
    }

    /// Notes how long the runs were that readers have left.
    fn count_jumps(&mut self) {
        let mut births: Vec<u64> = self.cursors.iter().map(Cursor::born).collect();
        births.sort_unstable();
        // The one that begins now is one more.
        let Some(before) = births.len().checked_sub(NEWER_AFTER_JUMP - 1) else { return };
        let newer = births[before];
        for cursor in &mut self.cursors {
            let left = cursor.used < newer && !cursor.is_counted && !cursor.has_steps();
            if left && cursor.len() <= USUAL_BYTES_MAX {
                cursor.is_counted = true;
                self.runs.push((cursor.born(), cursor.len()));
            }
        }
        let n_old = self.runs.len().saturating_sub(RUNS_REMEMBERED);
        self.runs.drain(..n_old);
    }

    /// The reader of `index` reads on: where it was taken to have jumped, others only were faster.
    fn uncount(&mut self, index: usize) {
        let cursor = &mut self.cursors[index];
        if std::mem::take(&mut cursor.is_counted) {
            let born = cursor.born();
            self.runs.retain(|(of, _)| *of != born);
        }
    }

    /// How long a run is after which readers of this file jump; 0 while that is not known.
    fn usual(&self) -> u64 {
        self.runs.iter().map(|(_, len)| *len).max().unwrap_or(0)
    }

    /// Two runs, the older one first, from which `read` goes on in equal steps.
    fn steps_to(&self, read: &Range<u64>) -> Option<(usize, usize)> {
        let may_jump = |cursor: &Cursor| !cursor.has_steps() && cursor.len() <= USUAL_BYTES_MAX;
        let runs = || self.cursors.iter().enumerate().filter(|(_, it)| may_jump(it));
        let pairs = runs().flat_map(|second| runs().map(move |first| (first, second)));
        let fitting = pairs.filter(|((_, first), (_, second))| {
            let (short, long) = (first.len().min(second.len()), first.len().max(second.len()));
            first.used < second.used
                && long <= 2 * short + ALIGN
                && read.end - read.start <= long + ALIGN
                && steps::are_equal(first.start(), second.start(), read.start)
        });
        // Those who read last, where there are several.
        fitting.max_by_key(|(_, (_, it))| it.used).map(|((first, _), (second, _))| (first, second))
    }

    /// Takes out readers that paused, and the least recently used where there are too many.
    fn make_room(&mut self, now: Duration) -> Vec<Range<u64>> {
        let size = self.size;
        let mut gone: Vec<Range<u64>> = Vec::new();
        let paused = |it: &mut Cursor| now.saturating_sub(it.used_at) > PAUSE_MAX;
        gone.extend(self.cursors.extract_if(.., paused).flat_map(|it| it.unread(size)));
        for (settled, most) in [(true, SETTLED_MAX), (false, LONE_MAX)] {
            let of_kind = || self.cursors.iter().filter(|it| it.is_settled() == settled);
            if of_kind().count() >= most
                && let Some(oldest) = of_kind().map(|it| it.used).min()
            {
                let oldest = |it: &mut Cursor| it.used == oldest;
                gone.extend(self.cursors.extract_if(.., oldest).flat_map(|it| it.unread(size)));
            }
        }
        gone
    }

    /// Joins the run of `index` with one that begins within it; says where it is then.
    fn merge(&mut self, index: usize) -> usize {
        let mut cursor = self.cursors.swap_remove(index);
        let joined = self.cursors.iter().position(|other| cursor.absorb(other));
        if let Some(joined) = joined {
            self.cursors.swap_remove(joined);
        }
        self.cursors.push(cursor);
        self.cursors.len() - 1
    }

    fn advice(&self, read: &Range<u64>, plan: Plan, gone: Vec<Range<u64>>) -> Advice {
        let start = align_down(read.start);
        let more = if plan.part_bytes > ALIGN { start + plan.part_bytes } else { 0 };
        let end = align_up(read.end).max(more.min(align_up(plan.demand_end)));
        let demand = start..end.min(self.size);
        let Plan { part_bytes, ahead, .. } = plan;
        Advice { cursor: 0, is_new: false, demand, part_bytes, ahead, gone }
    }

    /// The last part of a file whose very end is one of the first things to be read of it.
    fn tail(&self, read: &Range<u64>) -> Option<Range<u64>> {
        let is_tail = self.tick <= FIRST_READS && read.end == self.size;
        let start = align_down(self.size.saturating_sub(TAIL_BYTES));
        (is_tail && start <= read.start).then_some(start..self.size)
    }

    fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

/// Which of two places is farther from `from`.
fn farther(one: u64, other: u64, from: u64) -> u64 {
    if one.abs_diff(from) > other.abs_diff(from) { one } else { other }
}

/// Down to the start of the alignment unit that holds `offset`.
pub(crate) fn align_down(offset: u64) -> u64 {
    offset - offset % ALIGN
}

/// Up to the end of the alignment unit that holds the byte before `offset`.
pub(crate) fn align_up(offset: u64) -> u64 {
    offset.next_multiple_of(ALIGN)
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests;
