//! What the scans of a JPEG cost: a progressive one goes over its pixels again and again.
//!
//! Owns the sum, made of the headers of its scans, and how large it may be. Invariant: the time that a picture's scans take, besides that
//! for the bytes which they have, is bounded by its pixels.

/// A frame's header: how many blocks of 8 x 8 its components have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    progressive: bool,
    arithmetic: bool,
    width: u16,
    height: u16,
    /// Three bytes each: name, sampling, and a table.
    components: &'a [[u8; 3]],
}

/// All scans of a picture.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scans {
    /// How many there are.
    pub(super) count: u32,
    /// Whether it is one, with all components and coefficients: pixels come while it is read.
    pub(super) is_single: bool,
    /// Coefficients that they go over, and what else they cost, in coefficients.
    cost: u64,
    /// What they may cost.
    allowed: u64,
}

/// What a block costs a scan that finds nothing to do in it, in coefficients.
const BLOCK: u64 = 8;

/// What a scan costs, however small: its tables.
const SCAN: u64 = 4096;

/// How many coefficients the scans may go over for each block. A block has 64. The scans that libjpeg makes of a picture, of four channels
/// too, cost 239; the costliest that mozjpeg tries, some 300. A refinement takes up to 9 ns for a coefficient, so that the worst file takes
/// 6 times as long as the same picture in one scan, where an ordinary progressive one takes 2.5 times as long.
const PER_BLOCK: u64 = 384;

/// The same of arithmetic coding, where a refinement takes several times as long: little more than the scans that libjpeg makes.
const PER_ARITHMETIC_BLOCK: u64 = 256;

/// Scans that a picture of few pixels may have in any case.
const FREE_SCANS: u64 = 64;

/// Whether the frame that this marker begins is coded arithmetically, not by Huffman's codes.
pub(in crate::preprocess::image) fn is_arithmetic(marker: u8) -> bool {
    matches!(marker, 0xc9..=0xcb | 0xcd..=0xcf)
}

impl<'a> Frame<'a> {
    /// Reads the segment of a start-of-frame marker.
    pub(super) fn read(marker: u8, segment: &'a [u8]) -> Option<Self> {
        let (&[_, a, b, c, d, _], components) = segment.split_first_chunk()?;
        Some(Self {
            progressive: matches!(marker, 0xc2 | 0xc6 | 0xca | 0xce),
            arithmetic: is_arithmetic(marker),
            height: u16::from_be_bytes([a, b]),
            width: u16::from_be_bytes([c, d]),
            components: components.as_chunks().0,
        })
    }

    /// The blocks of a component: those of whole minimum coded units.
    fn blocks(&self, [_, sampling, _]: [u8; 3]) -> u64 {
        let of = |sampling: u8| (u64::from(sampling >> 4), u64::from(sampling & 15));
        let most =
            |side: fn(u8) -> u8| self.components.iter().map(|part| u64::from(side(part[1]))).max().unwrap_or(1).max(1);
        let (columns, rows) = (most(|sampling| sampling >> 4), most(|sampling| sampling & 15));
        let units = u64::from(self.width).div_ceil(8 * columns) * u64::from(self.height).div_ceil(8 * rows);
        let (across, down) = of(sampling);
        units * across * down
    }

    /// The blocks of all components.
    fn all_blocks(&self) -> u64 {
        self.components.iter().map(|&component| self.blocks(component)).sum()
    }
}

impl Scans {
    /// Counts the scan of that start-of-scan segment.
    pub(super) fn add(&mut self, frame: Option<&Frame>, segment: &[u8]) {
        self.count = self.count.saturating_add(1);
        self.cost = self.cost.saturating_add(SCAN);
        // Without a frame there is nothing to decode.
        let Some((frame, (&count, rest))) = frame.zip(segment.split_first()) else { return };
        let Some((names, rest)) = rest.split_at_checked(2 * usize::from(count)) else { return };
        let &[first, last, ..] = rest else { return };
        let coefficients = if frame.progressive { u64::from(last.saturating_sub(first)).min(63) + 1 } else { 64 };
        let blocks = |name: u8| {
            let named = frame.components.iter().filter(|component| component[0] == name);
            named.map(|&component| frame.blocks(component)).max().unwrap_or(0)
        };
        let blocks: u64 = names.as_chunks::<2>().0.iter().map(|&[name, _]| blocks(name)).sum();
        self.cost = self.cost.saturating_add(blocks * (coefficients + BLOCK));
        self.is_single = self.count == 1 && !frame.progressive && usize::from(count) == frame.components.len();
        let per_block = if frame.arithmetic { PER_ARITHMETIC_BLOCK } else { PER_BLOCK };
        self.allowed = frame.all_blocks() * per_block + FREE_SCANS * SCAN;
    }

    /// Whether they cost more than the picture's pixels are worth.
    pub(super) fn are_too_many(&self) -> bool {
        self.cost > self.allowed && self.count > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A progressive frame of 4:2:0, or of four components of the same size.
    fn frame(side: u16, components: &'static [[u8; 3]]) -> Frame<'static> {
        Frame { progressive: true, arithmetic: false, width: side, height: side, components }
    }

    const YCC: &[[u8; 3]] = &[[1, 0x22, 0], [2, 0x11, 1], [3, 0x11, 1]];
    const CMYK: &[[u8; 3]] = &[[1, 0x11, 0], [2, 0x11, 0], [3, 0x11, 0], [4, 0x11, 0]];

    fn scans(frame: &Frame, scans: impl IntoIterator<Item = (&'static [u8], u8, u8)>) -> Scans {
        let mut all = Scans::default();
        for (names, first, last) in scans {
            let count = names.len() as u8;
            let names = names.iter().flat_map(|&name| [name, 0]);
            let segment: Vec<u8> = [count].into_iter().chain(names).chain([first, last, 0]).collect();
            all.add(Some(frame), &segment);
        }
        all
    }

    #[test]
    fn what_encoders_make_is_allowed_at_any_size() {
        let each = |names: &'static [u8], first, last| names.chunks(1).map(move |name| (name, first, last));
        for side in [1, 8, 100, 7_000, 65_535] {
            let all = [1, 2, 3, 4].as_slice();
            let bands =
                [(1, 5), (6, 63), (1, 63), (1, 63)].into_iter().flat_map(|(first, last)| each(all, first, last));
            let cmyk = [(all, 0, 0), (all, 0, 0)].into_iter().chain(bands);
            let of_libjpeg = scans(&frame(side, CMYK), cmyk);
            assert_eq!(of_libjpeg.count, 18);
            assert!(!of_libjpeg.are_too_many(), "{side}");
            // Three bits refined one by one, after two bands.
            let names = [1, 2, 3].as_slice();
            let bands = [(1, 2), (3, 63), (1, 63), (1, 63), (1, 63)].into_iter();
            let mozjpeg = [(names, 0, 0)].into_iter().chain(bands.flat_map(|(first, last)| each(names, first, last)));
            assert!(!scans(&frame(side, YCC), mozjpeg).are_too_many(), "{side}");
        }
    }

    #[test]
    fn scans_that_cost_many_times_the_pixels_are_too_many() {
        let all = [1, 2, 3].as_slice();
        for (scan, most) in [((all, 0, 0), 42), (([1].as_slice(), 1, 63), 8), (([2].as_slice(), 1, 1), 255)] {
            let of = |count| scans(&frame(7_000, YCC), std::iter::repeat_n(scan, count)).are_too_many();
            assert!(!of(most));
            assert!(of(most + 1));
            let tiny = |count| scans(&frame(8, YCC), std::iter::repeat_n(scan, count)).are_too_many();
            assert!(!tiny(50));
            assert!(tiny(70));
        }
    }

    #[test]
    fn arithmetic_coding_may_do_what_libjpeg_makes_and_little_more() {
        let all = [1, 2, 3, 4].as_slice();
        for (marker, most) in [(0xc2, 5), (0xca, 3)] {
            let segment = [&[0, 17, 8, 20, 0, 20, 0, 4][2..], CMYK.as_flattened()].concat();
            let read = Frame::read(marker, &segment).expect("a frame");
            let frame = Frame { components: CMYK, ..read };
            let each = |first, last| all.chunks(1).map(move |name| (name, first, last));
            let of_libjpeg = [(all, 0, 0), (all, 0, 0)].into_iter().chain(each(1, 5)).chain(each(6, 63));
            let of_libjpeg = of_libjpeg.chain(each(1, 63)).chain(each(1, 63));
            assert!(!scans(&frame, of_libjpeg).are_too_many(), "{marker:x}");
            let of = |count| scans(&frame, (0..count).flat_map(|_| each(1, 63))).are_too_many();
            assert!(!of(most) && of(most + 1), "{marker:x}");
        }
    }

    #[test]
    fn one_scan_of_everything_is_single_whatever_it_costs() {
        let mut frame = frame(100, YCC);
        let all = [1, 2, 3].as_slice();
        assert!(!scans(&frame, [(all, 0, 0)]).is_single);
        frame.progressive = false;
        assert!(scans(&frame, [(all, 0, 63)]).is_single);
        assert!(!scans(&frame, [(&all[..2], 0, 63)]).is_single);
        assert!(!scans(&frame, [(all, 0, 63), (all, 0, 63)]).is_single);
    }
}
