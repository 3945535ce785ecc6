//! Readers as the kernel shows them, and what is asked for.

use std::collections::HashSet;

use proptest::prelude::*;

use super::window::WINDOW_BYTES_START;
use super::*;

const BOUNDS: Bounds =
    Bounds { window_max: 128 << 20, part_max: PART_BYTES_MAX, demand_max: PART_BYTES_MAX };
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const NOW: Duration = Duration::ZERO;

/// Reads, and returns what was asked for ahead, all of which is taken to be asked for.
fn read(detector: &mut Detector, offset: u64, len: u64) -> Vec<Range<u64>> {
    let advice = detector.on_read(offset, len, NOW, BOUNDS);
    for piece in &advice.ahead {
        detector.asked(advice.cursor, piece.mark);
    }
    advice.ahead.into_iter().map(|piece| piece.range).collect()
}

fn read_all(
    detector: &mut Detector,
    reads: impl IntoIterator<Item = (u64, u64)>,
) -> Vec<Range<u64>> {
    reads.into_iter().flat_map(|(offset, len)| read(detector, offset, len)).collect()
}

/// `count` reads of `len` bytes, each `stride` from the one before.
fn every(start: u64, stride: i64, len: u64, count: u64) -> impl Iterator<Item = (u64, u64)> {
    let step = move |index: u64| start.checked_add_signed(stride * i64::try_from(index).ok()?);
    (0..count).map_while(step).map(move |at| (at, len))
}

/// Places without order, each at the start of a page.
fn scattered(count: u64, size: u64) -> impl Iterator<Item = u64> {
    let places = std::iter::successors(Some(88_172_645_463_325_252_u64), |at| {
        let at = at ^ (at << 13);
        let at = at ^ (at >> 7);
        Some(at ^ (at << 17))
    });
    let count = usize::try_from(count).expect("a few");
    places.skip(1).take(count).map(move |at| at % (size / 4096) * 4096)
}

fn bytes(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

#[test]
fn a_stream_is_asked_for_ahead_in_growing_steps_without_holes() {
    let mut detector = Detector::new(GIB);
    let asked = read_all(&mut detector, every(0, 128 << 10, ALIGN, 200));
    assert!(asked.len() > 3);
    assert!(asked.windows(2).all(|pair| pair[0].end == pair[1].start), "{asked:?}");
    assert_eq!(detector.on_read(200 * ALIGN, ALIGN, NOW, BOUNDS).part_bytes, 2 * MIB);
}

#[test]
fn random_reads_ask_for_the_aligned_request_and_nothing_ahead() {
    let mut detector = Detector::new(GIB);
    for offset in scattered(2000, GIB) {
        let advice = detector.on_read(offset, 4096, NOW, BOUNDS);
        assert_eq!(advice.ahead, [], "at {offset}");
        assert_eq!(advice.demand, align_down(offset)..align_up(offset + 4096));
    }
}

#[test]
fn equal_steps_are_asked_for_ahead_exactly() {
    let reads = || every(MIB, 17 << 20, MIB, 61);
    let asked = read_all(&mut Detector::new(GIB), reads());
    let stretches: Vec<_> = reads().map(|(at, len)| at..at + len).collect();
    // Four places show three equal steps. What lies ahead is then all of the file that the steps meet.
    assert_eq!(asked, stretches[4..]);
}

#[test]
fn equal_steps_are_asked_for_further_ahead_the_longer_they_last() {
    let mut detector = Detector::new(GIB);
    let ahead: Vec<usize> =
        every(0, 17 << 20, MIB, 10).map(|(at, len)| read(&mut detector, at, len).len()).collect();
    assert_eq!(ahead, [0, 0, 0, 1, 2, 3, 3, 2, 2, 2], "doubled, then as many as were read");
}

#[test]
fn steps_of_reads_in_pieces_are_asked_for_as_stretches() {
    // As the kernel has them with a read-ahead of 512 KiB, of which two come together.
    let pieces = |at: u64| [(at, 512 * KIB), (at + 512 * KIB, 512 * KIB)];
    let reads = every(0, 17 << 20, MIB, 30).flat_map(|(at, _)| pieces(at));
    let mut detector = Detector::new(GIB);
    let asked = read_all(&mut detector, reads);
    let late: Vec<_> = asked.iter().filter(|range| range.start > 80 * MIB).cloned().collect();
    assert!(late.len() > 20);
    for range in late {
        assert_eq!(range.start % (17 * MIB), 0);
        assert_eq!(range.end - range.start, MIB);
    }
}

#[test]
fn a_small_stretch_is_asked_for_as_its_aligned_unit() {
    let asked = read_all(&mut Detector::new(GIB), every(5000, 700_001, 4096, 200));
    assert!(asked.len() > 150);
    let places: HashSet<u64> = every(5000, 700_001, 4096, 300)
        .flat_map(|(at, len)| [align_down(at), align_down(at + len)])
        .collect();
    for range in &asked {
        assert!(range.end - range.start <= 2 * ALIGN);
        assert!(places.contains(&range.start), "{range:?}");
    }
}

#[test]
fn steps_that_look_uneven_by_whole_pages_are_equal() {
    // Rows of 1,000,003 bytes, of which the kernel reads whole pages.
    let reads = (0..100_u64).map(|row| (row * 1_000_003 / 4096 * 4096, 8192));
    let mut detector = Detector::new(GIB);
    let asked = read_all(&mut detector, reads.clone());
    let found = reads.skip(4).filter(|(at, _)| asked.iter().any(|range| range.contains(at)));
    assert!(found.count() > 90);
}

#[test]
fn steps_that_break_are_not_asked_for_any_more() {
    let mut detector = Detector::new(GIB);
    read_all(&mut detector, every(0, 17 << 20, MIB, 10));
    assert_eq!(read_all(&mut detector, scattered(100, GIB).map(|at| (at, 4096))), []);
}

#[test]
fn a_stretch_that_goes_on_is_a_stream_and_lets_go_of_the_others() {
    let mut detector = Detector::new(GIB);
    read_all(&mut detector, every(0, 17 << 20, MIB, 10));
    let mut gone = Vec::new();
    let mut ahead = Vec::new();
    for (at, len) in every(9 * 17 * MIB + MIB, 1 << 20, MIB, 10) {
        gone.extend(detector.on_read(at, len, NOW, BOUNDS).gone);
        ahead.extend(read(&mut detector, at, len));
    }
    assert!(gone.contains(&(10 * 17 * MIB..10 * 17 * MIB + MIB)), "{gone:?}");
    assert!(bytes(&ahead) >= 10 * MIB, "{ahead:?}");
}

#[test]
fn a_backward_reader_is_asked_for_downward_without_holes() {
    for len in [8 * KIB, MIB] {
        let stride = -i64::try_from(len).unwrap();
        let asked = read_all(&mut Detector::new(GIB), every(512 * MIB, stride, len, 64));
        assert!(asked.len() > 3, "{asked:?}");
        assert!(asked.windows(2).all(|pair| pair[0].start == pair[1].end), "{asked:?}");
        assert!(bytes(&asked) >= 64 * len, "{} for {len}", bytes(&asked));
    }
}

#[test]
fn a_backward_reader_comes_to_the_beginning() {
    let asked = read_all(&mut Detector::new(GIB), every(64 * MIB, -(1 << 20), MIB, 65));
    assert_eq!(asked.last().unwrap().start, 0);
    assert_eq!(bytes(&asked), 61 * MIB, "all but what showed the steps");
}

#[test]
fn interleaved_readers_keep_their_pace_whatever_it_is() {
    let mut detector = Detector::new(4 * GIB);
    let mut forward = every(0, 128 << 10, ALIGN, 64);
    let mut other = every(GIB, 128 << 10, ALIGN, 64);
    let mut steps = every(2 * GIB, 17 << 20, MIB, 64);
    let mut backward = every(4 * GIB - MIB, -(1 << 20), MIB, 64);
    for step in 0..64 {
        let mut served = Vec::new();
        for reads in
            [&mut forward as &mut dyn Iterator<Item = _>, &mut other, &mut steps, &mut backward]
        {
            let (at, len) = reads.next().unwrap();
            let advice = detector.on_read(at, len, NOW, BOUNDS);
            for piece in &advice.ahead {
                detector.asked(advice.cursor, piece.mark);
            }
            served.push(!advice.ahead.is_empty() || advice.part_bytes > ALIGN);
        }
        assert!(step < 8 || served.iter().all(|it| *it), "step {step}: {served:?}");
    }
}

#[test]
fn a_random_reader_does_not_push_out_a_stream() {
    let mut detector = Detector::new(4 * GIB);
    read_all(&mut detector, every(0, 1 << 20, MIB, 32));
    for round in 0..8 {
        // Small ones, and such as come in pieces, each of which looks like the beginning of a stream.
        read_all(&mut detector, scattered(500, GIB).map(|at| (GIB + at, 4096)));
        for at in scattered(100, GIB).map(|at| 2 * GIB + at) {
            read_all(&mut detector, every(at, 512 << 10, 512 * KIB, 3));
        }
        let (at, len) = ((32 + round) * MIB, MIB);
        assert!(detector.on_read(at, len, NOW, BOUNDS).part_bytes > ALIGN, "round {round}");
    }
    assert!(detector.cursors.len() <= SETTLED_MAX + LONE_MAX);
}

#[test]
fn readers_who_jump_are_not_asked_for_beyond_where_they_jump() {
    let mut detector = Detector::new(256 * GIB);
    let mut asked = Vec::new();
    for at in scattered(50, 256 * GIB) {
        let ahead = read_all(&mut detector, every(at, 512 << 10, 512 * KIB, 3));
        let beyond = ahead.into_iter().filter(|range| range.end > align_up(at + 1536 * KIB));
        asked.push(beyond.count());
    }
    assert!(asked[..2].iter().all(|n| *n > 0), "nothing is known at first: {asked:?}");
    assert!(asked[2..].iter().all(|n| *n == 0), "one run shows where readers jump: {asked:?}");
    let asked = read_all(&mut detector, every(0, 512 << 10, 512 * KIB, 8));
    assert!(bytes(&asked) > 8 * MIB, "and a stream is still one: {asked:?}");
}

#[test]
fn pieces_that_are_read_side_by_side_are_not_asked_for_beyond_what_the_kernel_asks() {
    let mut detector = Detector::new(256 * GIB);
    let places: Vec<u64> = scattered(8, 256 * GIB).collect();
    for at in &places {
        read(&mut detector, *at, 512 * KIB);
    }
    for index in 1..4 {
        for at in &places {
            assert_eq!(read(&mut detector, at + index * 512 * KIB, 512 * KIB), []);
        }
    }
    let asked = read(&mut detector, places[3] + 2 * MIB, 512 * KIB);
    assert!(bytes(&asked) >= 8 * MIB, "and one that goes on is a stream: {asked:?}");
}

#[test]
fn pieces_that_the_kernel_reads_unequally_far_are_still_pieces() {
    let mut detector = Detector::new(256 * GIB);
    for (index, at) in scattered(30, 256 * GIB).enumerate() {
        let n_requests = [2, 2, 2, 3, 3, 2][index % 6];
        let asked = read_all(&mut detector, every(at, 512 << 10, 512 * KIB, n_requests));
        let beyond = asked.iter().any(|range| range.end > align_up(at + 1536 * KIB));
        assert!(index < 2 || !beyond, "{index}: {asked:?}");
    }
}

#[test]
fn a_read_that_overtook_others_is_of_the_same_stream() {
    let mut detector = Detector::new(GIB);
    for at in [0, 2, 1, 3, 5, 4, 6, 7] {
        read(&mut detector, at * 512 * KIB, 512 * KIB);
    }
    assert_eq!(detector.cursors.len(), 1);
    assert!(detector.on_read(4 * MIB, 512 * KIB, NOW, BOUNDS).part_bytes > ALIGN);
}

#[test]
fn a_dozen_bytes_every_few_megabytes_never_become_a_stream() {
    let mut detector = Detector::new(64 * GIB);
    read_all(&mut detector, every(0, 1 << 20, MIB, 64));
    // Not equal, and each within the reach of a stream that takes reads out of order.
    let mut at = 64 * MIB;
    let mut asked = Vec::new();
    for more in scattered(1000, 2 * MIB) {
        at += 2 * MIB + more;
        asked.extend(read(&mut detector, at, 4096));
    }
    assert!(bytes(&asked) < 64 * MIB, "{}", bytes(&asked));
}

#[test]
fn the_end_of_a_file_comes_in_one_part_when_it_is_read_first() {
    let size = 300 * MIB + 77_777;
    let mut detector = Detector::new(size);
    read(&mut detector, 0, 4096);
    let advice = detector.on_read(size / 4096 * 4096, size % 4096, NOW, BOUNDS);
    assert_eq!(advice.demand, align_down(size - TAIL_BYTES)..size);
    assert_eq!(advice.part_bytes, advice.demand.end - advice.demand.start);
    let mut detector = Detector::new(size);
    read_all(&mut detector, scattered(20, size / 2).map(|at| (at, 4096)));
    let advice = detector.on_read(size / 4096 * 4096, size % 4096, NOW, BOUNDS);
    assert_eq!(advice.demand, align_down(size)..size, "not in the middle of other reads");
}

#[test]
fn a_reader_that_pauses_is_forgotten_and_what_came_ahead_let_go() {
    let mut detector = Detector::new(GIB);
    let asked = read_all(&mut detector, every(0, 1 << 20, MIB, 8));
    let later = PAUSE_MAX + Duration::from_secs(1);
    let gone = detector.on_read(GIB / 2, 4096, later, BOUNDS).gone;
    assert_eq!(gone, [8 * MIB..asked.last().unwrap().end; 1]);
    assert_eq!(detector.cursors.len(), 1);
}

/// Streams 4 GiB by a reader that waits at each step, over a line on which a window of `w` bytes
/// gives `speed(w)` bytes per second; returns the window's bound at the end.
fn settle(stride: i64, speed: impl Fn(u64) -> f64) -> u64 {
    let mut detector = Detector::new(1 << 40);
    let mut now = Duration::ZERO;
    for (at, len) in every(1 << 39, stride, MIB, 4096) {
        let window = detector.cursors.first().map_or(MIB, Cursor::window_bytes_max);
        now += Duration::from_secs_f64(len as f64 / speed(window));
        let advice = detector.on_read(at, len, now, BOUNDS);
        detector.stalled(advice.cursor, now, 0, BOUNDS);
    }
    detector.cursors[0].window_bytes_max()
}

#[test]
fn the_window_settles_where_more_of_it_is_no_faster() {
    for stride in [1 << 20, -(1 << 20)] {
        assert!(settle(stride, |_| 1e9) <= 2 * WINDOW_BYTES_START, "a line that is full already");
        let far = settle(stride, |window| window as f64 * 10.0);
        assert_eq!(far, BOUNDS.window_max, "a far line");
        let settled = settle(stride, |window| (window as f64 * 10.0).min(6e8));
        assert!((32 * MIB..=128 * MIB).contains(&settled), "{settled} at a limit of 600 MB/s");
    }
}

#[test]
fn a_reader_that_waits_for_one_late_part_keeps_its_window() {
    let mut detector = Detector::new(1 << 40);
    let mut now = NOW;
    for (at, len) in every(0, 1 << 20, MIB, 512) {
        now += Duration::from_millis(1);
        let advice = detector.on_read(at, len, now, BOUNDS);
        detector.stalled(advice.cursor, now, WINDOW_BYTES_START / 2, BOUNDS);
    }
    assert_eq!(detector.cursors[0].window_bytes_max(), WINDOW_BYTES_START);
}

#[test]
fn a_reader_that_never_waits_keeps_the_first_window() {
    let mut detector = Detector::new(1 << 40);
    read_all(&mut detector, every(0, 1 << 20, MIB, 64));
    assert_eq!(detector.cursors[0].window_bytes_max(), WINDOW_BYTES_START);
}

#[test]
fn small_bounds_are_kept() {
    let bounds = Bounds { window_max: 2 * MIB, part_max: 256 << 10, ..BOUNDS };
    for (stride, size) in [(128 << 10, GIB), (17 << 20, 4 * GIB)] {
        let mut detector = Detector::new(size);
        for (at, _) in every(0, stride, ALIGN, 100) {
            let advice = detector.on_read(at, ALIGN, NOW, bounds);
            let ahead: Vec<_> = advice.ahead.iter().map(|piece| piece.range.clone()).collect();
            for piece in &advice.ahead {
                detector.asked(advice.cursor, piece.mark);
            }
            assert!(advice.part_bytes <= 256 << 10);
            assert!(bytes(&ahead) <= 2 * MIB + ALIGN);
            assert!(stride > 1 << 20 || ahead.iter().all(|it| it.end <= at + 2 * MIB + 2 * ALIGN));
        }
    }
}

/// What one reader does for a while.
#[derive(Clone, Debug)]
struct Stretch {
    start: u64,
    len: u64,
    stride: i64,
    count: u64,
}

fn stretch() -> impl Strategy<Value = Stretch> {
    let len = prop_oneof![1..9000_u64, 1..MIB, Just(4096), Just(ALIGN), Just(MIB)];
    let stride = prop_oneof![
        3 => -3_000_000..3_000_000_i64,
        1 => -20_000..20_000_i64,
        1 => Just(1 << 20),
        1 => Just(-(1 << 20)),
    ];
    (0_u64..(64 * MIB), len, stride, 1_u64..40).prop_map(|(start, len, stride, count)| Stretch {
        start,
        len,
        stride,
        count,
    })
}

proptest! {
    /// Nothing beyond the object is asked for, every demand holds its read, and never more than five times
    /// what was read plus the alignment is asked for ahead, whatever readers do and however
    /// their reads are mixed: in units of alignment, as a read of one byte takes a whole one.
    #[test]
    fn advice_stays_in_bounds(
        size in 1_u64..(64 * MIB),
        readers in proptest::collection::vec(stretch(), 1..12),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 1..400),
    ) {
        let mut detector = Detector::new(size);
        let mut readers: Vec<_> = readers
            .into_iter()
            .map(|it| every(it.start, it.stride, it.len, it.count))
            .collect();
        let (mut units, mut ahead) = (0, 0);
        for index in order {
            let reader = index.index(readers.len());
            let Some((at, len)) = readers[reader].next() else { continue };
            let at = at % size;
            let len = len.min(size - at);
            let advice = detector.on_read(at, len, NOW, BOUNDS);
            units += (align_up(at + len) - align_down(at)) / ALIGN;
            prop_assert!(advice.demand.start <= at && at + len <= advice.demand.end);
            prop_assert!(advice.demand.end <= size);
            prop_assert!(advice.part_bytes <= PART_BYTES_MAX);
            for piece in &advice.ahead {
                prop_assert!(piece.range.start < piece.range.end && piece.range.end <= size);
                prop_assert_eq!(piece.range.start % ALIGN, 0);
                prop_assert!(piece.range.end - piece.range.start <= advice.part_bytes);
                ahead += piece.range.end - piece.range.start;
                detector.asked(advice.cursor, piece.mark);
            }
            prop_assert!(ahead <= (5 * units + 1) * ALIGN, "{ahead} ahead of {units} units");
        }
    }

    /// Whoever reads in equal steps for long is asked for ahead, in any place, of any length.
    #[test]
    fn equal_steps_of_any_length_are_found(
        start in 0_u64..GIB,
        len in 1_u64..(2 * MIB),
        stride in prop_oneof![-30_000_000..-4096_i64, 4096..30_000_000_i64],
    ) {
        let start = start + 2 * GIB;
        let mut detector = Detector::new(8 * GIB);
        let mut seen: HashSet<u64> = HashSet::new();
        let mut found = 0;
        let mut asked_units: HashSet<u64> = HashSet::new();
        for (index, (at, len)) in every(start, stride, len, 60).enumerate() {
            let unit = |at: u64| at / ALIGN;
            let known = (unit(at)..=unit(at + len - 1))
                .all(|it| asked_units.contains(&it) || seen.contains(&it));
            found += usize::from(index >= 8 && known);
            seen.extend(unit(at)..=unit(at + len - 1));
            for range in read(&mut detector, at, len) {
                asked_units.extend(unit(range.start)..unit(align_up(range.end)));
            }
        }
        prop_assert!(found >= 45, "{found} of 52");
    }
}
