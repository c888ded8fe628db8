//! Colours of fewer samples than there are pixels, as libyuv spreads them.

use super::frame::{Frame, Layout};

/// How a pixel without a sample of its own gets one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Upsampling {
    /// The one that it shares.
    Nearest,
    /// From the nearest two or four, 9 : 3 : 3 : 1, rounded.
    Filtered,
}

impl Upsampling {
    /// Fills `out` with the samples of plane `plane` for a row of the picture, less their `shift` lowest bits.
    pub(super) fn row(
        self,
        frame: &Frame,
        plane: usize,
        row: usize,
        shift: u8,
        (near, far): (&mut [u16], &mut [u16]),
        out: &mut [u16],
    ) {
        let (chroma_width, chroma_rows) = frame.plane_size(plane);
        let (near, far) = (&mut near[..chroma_width], &mut far[..chroma_width]);
        let near_row = if frame.layout == Layout::Yuv420 { row / 2 } else { row };
        if frame.layout == Layout::Yuv444 {
            frame.read_row(plane, row, shift, out);
            return;
        }
        frame.read_row(plane, near_row, shift, near);
        if self == Self::Nearest {
            out.iter_mut().enumerate().for_each(|(x, out)| *out = near[x / 2]);
            return;
        }
        let far_row = match frame.layout {
            Layout::Yuv420 if row % 2 == 1 => (near_row + 1).min(chroma_rows - 1),
            Layout::Yuv420 => near_row.saturating_sub(1),
            _ => near_row,
        };
        frame.read_row(plane, far_row, shift, far);
        filter(near, far, out);
    }
}

/// Both ends have no neighbour to the side: also the last pixel of an odd row, which has.
fn filter(near: &[u16], far: &[u16], out: &mut [u16]) {
    let end = |at: usize| (3 * near[at] + far[at] + 2) >> 2;
    let last = out.len() - 1;
    out[0] = end(0);
    let pairs = out[1..].as_chunks_mut::<2>().0;
    for ((pair, near), far) in pairs.iter_mut().zip(near.windows(2)).zip(far.windows(2)) {
        let (&[a, b], &[c, d]) = (&[near[0], near[1]], &[far[0], far[1]]);
        let mix = |a: u16, b: u16, c: u16, d: u16| ((9 * u32::from(a) + u32::from(3 * b + 3 * c + d) + 8) >> 4) as u16;
        *pair = [mix(a, b, c, d), mix(b, a, d, c)];
    }
    out[last] = end(last / 2);
}
