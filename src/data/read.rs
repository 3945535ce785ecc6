//! A read: look, ask for the gaps in one step, ask ahead, wait for its own bytes.

use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use super::budget::Permit;
use super::buffer::Buffer;
use super::part::{Download, Part};
use super::prefetch::{ALIGN, Advice, Bounds, PART_BYTES_MAX, align_down, align_up, pieces};
use super::scarce::NoMemory;
use super::{Data, File};
use crate::error::FsError;

/// No GET is planned to last longer than this at the speed seen: a slow line gets small parts.
const GET_SECONDS_MAX: u64 = 2;

/// What is asked for at once where a reader of a file that is loaded comes to a new place.
const BESIDE_LOADING_BYTES: u64 = 4 << 20;

/// So many parts of a stream the line brings in a second at least, each a place where others may go between.
const PARTS_PER_SECOND: u64 = 8;

/// A read that lasts longer than this part of a second is asked for in pieces, between which others may go.
const DEMAND_PER_SECOND: u64 = 4;

/// Until so much has come, the speed of the line may be that of one short answer of a busy server.
const LINE_KNOWN_BYTES: u64 = 1 << 20;

/// What a read found; see `as_ref` for the bytes.
pub struct ReadBytes(Found);

enum Found {
    /// At or beyond the end of the file.
    Nothing,
    /// In a part's own memory: most reads, without another copy.
    Within { buffer: Arc<Buffer>, range: Range<usize> },
    /// From several parts.
    Gathered(Vec<u8>),
}

impl ReadBytes {
    /// `range` of a buffer, all of which has come.
    pub(super) fn within(buffer: &Arc<Buffer>, range: Range<usize>) -> Self {
        Self(Found::Within { buffer: Arc::clone(buffer), range })
    }
}

impl AsRef<[u8]> for ReadBytes {
    fn as_ref(&self) -> &[u8] {
        match &self.0 {
            Found::Nothing => &[],
            Found::Within { buffer, range } => {
                buffer.get(range.clone()).expect("waited for, and bytes once there stay")
            }
            Found::Gathered(bytes) => bytes,
        }
    }
}

impl Data {
    /// `len` bytes at `offset`, fewer only at the end of the file. `buffered` says that the page
    /// cache keeps what is returned, so a part that a stream has passed is let go.
    ///
    /// Ready at the first poll when the bytes are in memory.
    pub async fn read(
        self: &Arc<Self>,
        file: &Arc<File>,
        offset: u64,
        len: u32,
        buffered: bool,
    ) -> Result<ReadBytes, FsError> {
        let range = offset..offset.saturating_add(u64::from(len)).min(file.size());
        if range.start >= range.end {
            return Ok(ReadBytes(Found::Nothing));
        }
        if let Some(err) = file.recent_failure(&range) {
            return Err(err);
        }
        self.stir();
        let bounds = self.bounds();
        let now = self.started.elapsed();
        let len = range.end - range.start;
        let mut advice = file.detector.lock().on_read(offset, len, now, bounds);
        if file.is_whole_only() {
            advice.ahead.clear();
            (advice.demand, advice.part_bytes) = (0..file.size(), file.size());
        }
        if buffered {
            file.loading.lock().on_read(&range, advice.is_new);
        }
        self.let_go_ahead(file, &advice.gone);
        let parts = self.cover(file, &range, &advice, bounds).await;
        // Ahead only after the demand is on its way.
        if file.loading.lock().is_on() {
            self.ask_beside_loading(file, &range, &advice);
        } else {
            self.ask_ahead(file, &advice);
        }
        let parts = parts?;
        for part in &parts {
            let end = part.local(&range).end;
            if part.has(end) {
                continue;
            }
            if part.streamed {
                let ready = self.index.lock().unread_complete(file.ino);
                let now = self.started.elapsed();
                file.detector.lock().stalled(advice.cursor, now, ready, bounds);
            }
            part.wait_until(end).await?;
        }
        let bytes = self.hand_over(file, &parts, &range, buffered)?;
        if buffered && range.start == 0 {
            file.loading.lock().on_head(bytes.as_ref());
        }
        Ok(bytes)
    }

    /// The parts of `range`, those that were missing now on their way.
    async fn cover(
        self: &Arc<Self>,
        file: &Arc<File>,
        range: &Range<u64>,
        advice: &Advice,
        bounds: Bounds,
    ) -> Result<Vec<Arc<Part>>, FsError> {
        // Only in one piece can it be compared with its checksum.
        let most = if file.is_whole_only() { PART_BYTES_MAX } else { bounds.demand_max };
        // What all parts may hold: less once the system had no memory for more.
        let mut used_max = u64::MAX;
        loop {
            let gaps = {
                let mut index = self.index.lock();
                if let Some(parts) = index.take_cover(file.ino, range) {
                    return Ok(parts);
                }
                index.gaps(file.ino, &advice.demand)
            };
            let mut wanted = needed(gaps, range, advice.part_bytes, most);
            // What was read already is no pressure: it goes when room is needed.
            self.evict_for(sizes(&wanted).iter().map(|size| *size as u64).sum());
            let at_once = (used_max == u64::MAX).then(|| self.budget.try_reserve(&sizes(&wanted)));
            let permits = match at_once.flatten() {
                Some(permits) => permits,
                None => {
                    // Under pressure a demand part is no larger than its aligned request.
                    if !file.is_whole_only() {
                        let aligned = align_down(range.start)..align_up(range.end).min(file.size());
                        let gaps = self.index.lock().gaps(file.ino, &aligned);
                        wanted = needed(gaps, range, ALIGN, most);
                    }
                    self.wait_for_room_within(&sizes(&wanted), used_max).await
                }
            };
            crate::failpoint!("budget");
            // Taken in the same step, so that a part that fails at once still tells this reader.
            match self.start_wanted(file, range, wanted, permits) {
                Ok(Some(parts)) => return Ok(parts),
                Ok(None) => {}
                // Nobody else has any that would come back.
                Err(NoMemory) if used_max == 0 => return Err(FsError::NoMemory),
                // Again with less, when those who hold some now have given it back. Halved, so that it comes
                // to an end where others are always there before.
                Err(NoMemory) => used_max = self.budget.used().min(used_max / 2),
            }
        }
    }

    /// Waits in the budget's queue, and makes room from then on.
    pub(super) async fn wait_for_room(&self, sizes: &[usize]) -> Vec<Permit> {
        self.wait_for_room_within(sizes, u64::MAX).await
    }

    /// As [`Data::wait_for_room`], until all parts with these hold at most `used_max`, or there are no others.
    async fn wait_for_room_within(&self, sizes: &[usize], used_max: u64) -> Vec<Permit> {
        let mut reserve = pin!(self.budget.reserve(sizes, used_max));
        let mut queued = false;
        std::future::poll_fn(|ctx| {
            let polled = reserve.as_mut().poll(ctx);
            if polled.is_ready() || queued {
                return polled;
            }
            // In the queue now, so that whatever completes later makes room, too.
            queued = true;
            self.relieve();
            reserve.as_mut().poll(ctx)
        })
        .await
    }

    /// Puts parts into the gaps that are still there, and takes the parts of `range`. Where the system has no
    /// memory for one of them, nothing is asked for.
    fn start_wanted(
        self: &Arc<Self>,
        file: &Arc<File>,
        range: &Range<u64>,
        wanted: Vec<Range<u64>>,
        permits: Vec<Permit>,
    ) -> Result<Option<Vec<Arc<Part>>>, NoMemory> {
        let new = wanted.into_iter().zip(permits).map(|(range, permit)| {
            let chunk = self.chunk_for_reader(&permit)?;
            Ok(Part::new(range, false, permit, chunk))
        });
        let new: Vec<(Arc<Part>, Download)> = new.collect::<Result<_, _>>()?;
        let (parts, (started, spare)) = {
            let mut index = self.index.lock();
            // Another reader may have asked for one while this one waited for room.
            let sorted: (Vec<_>, Vec<_>) = new.into_iter().partition(|(part, _)| {
                let free = index.gaps(file.ino, &part.range) == [part.range.clone(); 1];
                if free {
                    index.insert(file.ino, part, true);
                }
                free
            });
            (index.take_cover(file.ino, range), sorted)
        };
        drop(spare);
        for (_, download) in started {
            self.start_download(file, download);
        }
        Ok(parts)
    }

    /// Asks for what a reader will read next, as far as there is room without waiting.
    fn ask_ahead(self: &Arc<Self>, file: &Arc<File>, advice: &Advice) {
        for piece in &advice.ahead {
            if !self.ask_for_piece(file, &piece.range) {
                return;
            }
            file.detector.lock().asked(advice.cursor, piece.mark);
        }
    }

    /// While all of the file is brought, that follows its readers, and needs a moment until it is where one
    /// of them has come to.
    fn ask_beside_loading(self: &Arc<Self>, file: &Arc<File>, read: &Range<u64>, advice: &Advice) {
        if !advice.is_new {
            return;
        }
        let end = (align_up(read.end) + BESIDE_LOADING_BYTES).min(file.size());
        let part_bytes =
            align_down((BESIDE_LOADING_BYTES / 2).min(self.part_bytes_max())).max(ALIGN);
        for range in pieces(read.end..end, part_bytes) {
            if !self.ask_for_piece(file, &range) {
                return;
            }
        }
    }

    /// False when there was no room or no memory for all of it.
    fn ask_for_piece(self: &Arc<Self>, file: &Arc<File>, range: &Range<u64>) -> bool {
        let missing = file.loading.lock().not_given(range);
        let gaps = {
            let index = self.index.lock();
            missing.map_or_else(Vec::new, |missing| index.gaps(file.ino, &missing))
        };
        for gap in gaps {
            let Some(permit) = self.reserve_ahead(chunk_bytes(&gap)) else { return false };
            let Some(chunk) = self.chunk_ahead(&permit) else { return false };
            let (part, download) = Part::new(gap, true, permit, chunk);
            {
                let mut index = self.index.lock();
                if index.gaps(file.ino, &part.range) != [part.range.clone(); 1] {
                    // Another reader has asked for some of it meanwhile.
                    continue;
                }
                index.insert(file.ino, &part, false);
            }
            self.start_download(file, download);
        }
        true
    }

    /// Lets go of what came ahead of a reader who will not read it.
    fn let_go_ahead(&self, file: &File, gone: &[Range<u64>]) {
        if file.loading.lock().is_on() {
            return; // It came for all readers of the file.
        }
        for range in gone {
            let unread = self.index.lock().evict_unread_in(file.ino, range);
            self.let_go(unread);
        }
    }

    /// Prefetch only tries. It may push out what was read already, never what is still unread, and
    /// keeps to half of the budget.
    pub(super) fn reserve_ahead(&self, bytes: usize) -> Option<Permit> {
        let bytes_u64 = bytes as u64;
        if self.index.lock().unread_bytes() + bytes_u64 > self.budget.limit() / 2 {
            return None;
        }
        self.evict_for(bytes_u64);
        self.budget.try_reserve(&[bytes])?.pop()
    }

    /// Lets go of what was read already, least recently used first, as far as `bytes` need it.
    fn evict_for(&self, bytes: u64) {
        let free = self.budget.free();
        if free < bytes {
            let evicted = self.index.lock().evict(bytes - free);
            self.let_go(evicted);
        }
    }

    fn hand_over(
        &self,
        file: &File,
        parts: &[Arc<Part>],
        range: &Range<u64>,
        buffered: bool,
    ) -> Result<ReadBytes, NoMemory> {
        let found = found(parts, range)?;
        let mut passed = Vec::new();
        for part in parts {
            let local = part.local(range);
            let whole = part.serve((local.end - local.start) as u64);
            if buffered && whole && part.streamed && part.is_complete() {
                let id = super::index::PartId { ino: file.ino, start: part.range.start };
                passed.extend(self.index.lock().remove(id, part));
            }
        }
        drop(passed);
        Ok(ReadBytes(found))
    }

    /// The largest part that is planned at the moment.
    pub(super) fn part_bytes_max(&self) -> u64 {
        self.bounds().part_max.min(PART_BYTES_MAX)
    }

    /// What one reader may have at the moment.
    pub(super) fn bounds(&self) -> Bounds {
        let streams = self.index.lock().streams().max(1);
        let of_one = self.metrics.pace().bytes_per_second.saturating_mul(GET_SECONDS_MAX);
        let of_all = self.metrics.line_bytes_per_second().unwrap_or(u64::MAX);
        let share = self.budget.limit() / 2 / streams;
        let part_max = of_one.min(of_all / PARTS_PER_SECOND).min(share / 4);
        // More than fits on the line would only wait for its turn, and hold memory.
        let window_max = share.min(self.metrics.window_bytes().unwrap_or(u64::MAX));
        let is_known = self.metrics.bytes_received() >= LINE_KNOWN_BYTES;
        let demand_max = if is_known { of_all / DEMAND_PER_SECOND } else { u64::MAX };
        Bounds { window_max, part_max, demand_max }
    }
}

/// The bytes of `range`, all of which have come.
fn found(parts: &[Arc<Part>], range: &Range<u64>) -> Result<Found, NoMemory> {
    if let [part] = parts {
        let (buffer, range) = (Arc::clone(part.buffer()), part.local(range));
        return Ok(Found::Within { buffer, range });
    }
    let mut bytes = Vec::new();
    let len = parts.iter().map(|part| part.local(range).len()).sum();
    bytes.try_reserve_exact(len).map_err(|_| NoMemory)?;
    for part in parts {
        let piece = part.buffer().get(part.local(range));
        bytes.extend_from_slice(piece.expect("waited for, and bytes once there stay"));
    }
    Ok(Found::Gathered(bytes))
}

/// The gaps that the read touches, in pieces of at most the size of a part or of the request; in short ones
/// where that is more than `most`.
fn needed(
    gaps: Vec<Range<u64>>,
    range: &Range<u64>,
    part_bytes: u64,
    most: u64,
) -> Vec<Range<u64>> {
    let piece = part_bytes.max(align_up(range.end) - align_down(range.start));
    let piece = piece.min(PART_BYTES_MAX);
    let piece = if piece > most { align_down(most / 2).max(ALIGN) } else { piece };
    let mut wanted = Vec::new();
    for gap in gaps {
        let mut at = gap.start;
        while at < gap.end {
            let end = gap.end.min(at + piece);
            if at < range.end && end > range.start {
                wanted.push(at..end);
            }
            at = end;
        }
    }
    wanted
}

fn sizes(ranges: &[Range<u64>]) -> Vec<usize> {
    ranges.iter().map(chunk_bytes).collect()
}

/// The memory of a part, in whole pages.
pub(super) fn chunk_bytes(range: &Range<u64>) -> usize {
    let len = usize::try_from(range.end - range.start).expect("a part is at most 8 MiB");
    len.next_multiple_of(4096)
}
