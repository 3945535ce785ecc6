//! Two photographs that nobody took: landscapes computed at run time, encoded as JPEG and padded
//! with comments to an exact size, so that the repository holds no binary files.

use jpeg_encoder::{ColorType, Encoder};

use super::simulator::content::mix;

/// A comment segment is FF FE, two bytes of length that count themselves, and its text.
const COMMENT: [u8; 2] = [0xFF, 0xFE];
const SEGMENT_MAX: usize = 2 + 65_535;
const SEGMENT_MIN: usize = 4;
/// Start of image, FF D8, and the JFIF segment: programs look for JFIF before any comment.
const START_LEN: usize = 2 + 2 + 16;

pub(crate) const FOREST: Scene = Scene {
    sky: [196, 216, 222],
    ground: [22, 58, 30],
    peaks: 0.0,
    trees: 0.045,
    grain: 40,
    seed: 11,
};
pub(crate) const MOUNTAINS: Scene = Scene {
    sky: [96, 150, 214],
    ground: [92, 84, 88],
    peaks: 0.16,
    trees: 0.003,
    grain: 40,
    seed: 7,
};

/// Ranges of hills, one behind the other, paler with the distance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    sky: [u8; 3],
    ground: [u8; 3],
    /// Height of sharp peaks, as a share of the picture.
    peaks: f64,
    /// Height of what stands on the hills.
    trees: f64,
    /// Noise of the film, which makes the file nearly as large as it must be.
    grain: u64,
    seed: u64,
}

/// A valid JPEG of exactly so many bytes.
pub(crate) fn jpeg(scene: Scene, width: u16, height: u16, size: usize) -> Vec<u8> {
    let pixels = render(scene, usize::from(width), usize::from(height));
    let mut picture = Vec::new();
    Encoder::new(&mut picture, 98)
        .encode(&pixels, width, height, ColorType::Rgb)
        .expect("a Vec takes all");
    pad(&picture, size)
}

fn pad(picture: &[u8], size: usize) -> Vec<u8> {
    assert_eq!(&picture[6..10], b"JFIF", "the encoder begins with this segment");
    let missing = size.checked_sub(picture.len()).expect("a size above that of the picture");
    assert!(missing == 0 || missing >= SEGMENT_MIN, "no comment is that short");
    let mut padded = Vec::with_capacity(size);
    padded.extend_from_slice(&picture[..START_LEN]);
    let mut missing = missing;
    while missing > 0 {
        // What remains must be a whole segment again, or nothing.
        let leave = if missing > SEGMENT_MAX { SEGMENT_MIN } else { 0 };
        let segment = SEGMENT_MAX.min(missing - leave);
        let length = u16::try_from(segment - COMMENT.len()).expect("65,535 at most");
        padded.extend_from_slice(&COMMENT);
        padded.extend_from_slice(&length.to_be_bytes());
        // Programs print a comment to its first zero; the noise after it does not compress.
        let noise = (4..segment).map(|place| mix((place ^ missing) as u64).to_le_bytes()[0]);
        padded.extend(b"padding\0".iter().copied().chain(noise).take(segment - SEGMENT_MIN));
        missing -= segment;
    }
    padded.extend_from_slice(&picture[START_LEN..]);
    assert_eq!(padded.len(), size, "padded to the size asked for");
    padded
}

const N_RANGES: usize = 6;

fn render(scene: Scene, width: usize, height: usize) -> Vec<u8> {
    let ranges: Vec<Vec<f64>> = (0..N_RANGES).map(|number| skyline(scene, number, width)).collect();
    let mut pixels = Vec::with_capacity(width * height * 3);
    for row in 0..height {
        let colors: Vec<[u8; 3]> =
            (0..=N_RANGES).map(|depth| blend(scene, depth, row, height)).collect();
        let top = row as f64 / height as f64;
        for column in 0..width {
            // The nearest range that reaches this high.
            let nearest = ranges.iter().rposition(|skyline| skyline[column] <= top);
            let color = colors[nearest.map_or(0, |number| number + 1)];
            let grain = mix(scene.seed ^ (row * width + column) as u64) % scene.grain;
            let grain = u8::try_from(grain).expect("a grain is small");
            pixels.extend(color.map(|channel| channel.saturating_add(grain)));
        }
    }
    pixels
}

/// Where this range begins in each column, from 0 at the top to 1; number 0 is the farthest.
fn skyline(scene: Scene, number: usize, width: usize) -> Vec<f64> {
    let seed = mix(scene.seed + number as u64);
    let base = 0.30 + 0.11 * number as f64;
    (0..width)
        .map(|column| {
            let x = column as f64 / width as f64;
            let phase = (seed % 628) as f64 / 100.0;
            let waves = (x * 5.0 + phase).sin() * 0.06 + (x * 17.0 + phase * 3.0).sin() * 0.025;
            let ridge = [3.0, 7.0, 19.0]
                .map(|n| (x * n + phase).sin().abs() / f64::sqrt(n))
                .iter()
                .sum::<f64>();
            let tree = (mix(seed ^ (column / 3) as u64) % 1000) as f64 / 1000.0;
            base + waves + scene.peaks * (ridge - 1.0) - scene.trees * tree
        })
        .collect()
}

fn blend(scene: Scene, depth: usize, row: usize, height: usize) -> [u8; 3] {
    let share = depth * 255 / N_RANGES;
    let light = 255 - row * 60 / height;
    let channel = |place: usize| {
        let sky = usize::from(scene.sky[place]) * (255 - share);
        let ground = usize::from(scene.ground[place]) * share;
        u8::try_from((sky + ground) / 255 * light / 255).expect("a mean of bytes")
    };
    [channel(0), channel(1), channel(2)]
}
