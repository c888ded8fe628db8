//! AV1 data to planes of samples.
//!
//! Owns the calls of the decoder, on one thread (`apart`), and the memory of what it gives. Invariant: no frame larger than the size that
//! was asked for is decoded, memory for one is there before it is, and layers are bounded by [`Layers`].

use re_rav1d::dav1d::{Decoder, Error, Picture, PixelLayout, PlanarImageComponent, Plane as DecodedPlane, Settings};

use super::{
    apart,
    container::{Cicp, Coded, Tile},
    obu,
    refusal::{FORMAT, damaged},
};
use crate::preprocess::{image::error::ImageError, memory};

/// How often the decoder is asked for another frame of the same data.
const MAX_PATIENCE: usize = 64;

/// Pixels of the frames that a picture has besides one for each tile, of colours and alpha together: its layers, each of which is decoded
/// whole, and kept as long as another may refer to it. Enough for four layers of 2,300 x 2,300.
const MAX_LAYERED: u64 = 16 << 20;

/// The frames that a picture may still have besides one for each tile, in pixels.
pub(super) struct Layers(u64);

impl Layers {
    pub(super) fn new() -> Self {
        Self(MAX_LAYERED)
    }

    /// Takes the frames of a tile.
    pub(super) fn spend(&mut self, frames: usize, area: u64) -> Result<(), ImageError> {
        let besides = area.saturating_mul(frames.saturating_sub(1) as u64);
        self.0 = self.0.checked_sub(besides).ok_or(ImageError::Wasteful { format: FORMAT })?;
        Ok(())
    }
}

/// What the decoder holds for each pixel of a frame besides its samples: motion, modes and masks of blocks.
const BYTES_OF_BLOCKS: u64 = 2;

/// The least side of a tile, by the standard that AVIF is made by (MIAF).
const MIN_TILE_SIDE: u32 = 64;

/// Where samples of colour are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Grey,
    /// Halved both ways.
    Yuv420,
    /// Halved along the rows.
    Yuv422,
    Yuv444,
}

impl Layout {
    /// Columns and rows of colour in a picture.
    fn chroma(self, width: u32, height: u32) -> (u32, u32) {
        match self {
            Self::Grey => (0, 0),
            Self::Yuv420 => (width.div_ceil(2), height.div_ceil(2)),
            Self::Yuv422 => (width.div_ceil(2), height),
            Self::Yuv444 => (width, height),
        }
    }
}

/// A decoded picture.
pub(super) struct Frame {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Bits of a sample.
    pub(super) depth: u8,
    pub(super) layout: Layout,
    /// What its data say of its colours.
    pub(super) cicp: Cicp,
    planes: Vec<Plane>,
}

/// Rows of samples.
struct Plane {
    samples: Samples,
    /// Bytes from a row to the next.
    stride: usize,
    width: usize,
    height: usize,
}

enum Samples {
    Decoded(DecodedPlane),
    Joined(Vec<u8>),
}

impl Plane {
    fn row(&self, row: usize, sample_bytes: usize) -> &[u8] {
        let bytes: &[u8] = match &self.samples {
            Samples::Decoded(plane) => plane,
            Samples::Joined(bytes) => bytes,
        };
        &bytes[row * self.stride..][..self.width * sample_bytes]
    }
}

impl Frame {
    /// Decodes a picture, from all its tiles.
    pub(super) fn decode(coded: &Coded, layers: &mut Layers) -> Result<Self, ImageError> {
        let [first, rest @ ..] = coded.tiles.as_slice() else { return Err(damaged("a picture without tiles")) };
        let first = Self::of_tile(first, layers)?;
        if !coded.is_grid {
            return Ok(first);
        }
        let (width, height) = (coded.width, coded.height);
        let covers = |tile: u32, count: u32, side: u32| {
            let all = u64::from(tile) * u64::from(count);
            tile >= MIN_TILE_SIDE && all >= u64::from(side) && all - u64::from(tile) < u64::from(side)
        };
        let rows = coded.tiles.len() as u32 / coded.columns;
        let halves = |layouts: &[Layout], sides: [u32; 2]| {
            layouts.contains(&first.layout) && sides.iter().any(|side| side % 2 == 1)
        };
        if !covers(first.width, coded.columns, width)
            || !covers(first.height, rows, height)
            || halves(&[Layout::Yuv420, Layout::Yuv422], [width, first.width])
            || halves(&[Layout::Yuv420], [height, first.height])
        {
            return Err(damaged("a grid whose tiles do not make it up"));
        }
        let mut joined = first.canvas(width, height)?;
        joined.put(&first, 0, 0);
        for (number, tile) in (1..).zip(rest) {
            let tile = Self::of_tile(tile, layers)?;
            let kind = |frame: &Self| (frame.width, frame.height, frame.depth, frame.layout, frame.cicp);
            if kind(&tile) != kind(&first) {
                return Err(damaged("a grid of different tiles"));
            }
            joined.put(&tile, number % coded.columns, number / coded.columns);
        }
        Ok(joined)
    }

    fn of_tile(tile: &Tile, layers: &mut Layers) -> Result<Self, ImageError> {
        let area = tile.area();
        let mut data = memory::room(tile.len())?;
        tile.data.iter().for_each(|piece| data.extend_from_slice(piece));
        let (cicp, frames) = obu::read(&data)?;
        layers.spend(frames, area)?;
        // Three planes of two bytes at most, once more with grain.
        let needed = area.saturating_mul(12 + BYTES_OF_BLOCKS);
        memory::ask(needed)?;
        let asked = Asked { area, operating_point: tile.operating_point, layer: tile.layer };
        let held = needed.saturating_mul(frames.max(1) as u64).saturating_add(data.len() as u64);
        let picture = apart::run(held, move || decode(data, &asked))??;
        let (width, height) = (picture.width(), picture.height());
        if (width, height) != (tile.width, tile.height) {
            let detail = format!("a picture of {width}x{height} where {}x{} was announced", tile.width, tile.height);
            return Err(ImageError::UnsupportedVariant { format: FORMAT, detail });
        }
        let layout = match picture.pixel_layout() {
            PixelLayout::I400 => Layout::Grey,
            PixelLayout::I420 => Layout::Yuv420,
            PixelLayout::I422 => Layout::Yuv422,
            PixelLayout::I444 => Layout::Yuv444,
        };
        let (chroma_width, chroma_height) = layout.chroma(width, height);
        let plane = |component, width: u32, height: u32| Plane {
            stride: picture.stride(component) as usize,
            samples: Samples::Decoded(picture.plane(component)),
            width: width as usize,
            height: height as usize,
        };
        let mut planes = vec![plane(PlanarImageComponent::Y, width, height)];
        if layout != Layout::Grey {
            planes.extend(
                [PlanarImageComponent::U, PlanarImageComponent::V].map(|c| plane(c, chroma_width, chroma_height)),
            );
        }
        Ok(Self { width, height, depth: picture.bit_depth() as u8, layout, cicp, planes })
    }

    /// An empty frame of another size.
    fn canvas(&self, width: u32, height: u32) -> Result<Self, ImageError> {
        let (chroma_width, chroma_height) = self.layout.chroma(width, height);
        let sides = [(width, height), (chroma_width, chroma_height), (chroma_width, chroma_height)];
        let plane = |&(width, height): &(u32, u32)| {
            let (width, height) = (width as usize, height as usize);
            let stride = width * self.sample_bytes();
            let samples = Samples::Joined(memory::zeroed(Vec::new(), stride * height)?);
            Ok(Plane { samples, stride, width, height })
        };
        let planes = sides[..self.planes.len()].iter().map(plane).collect::<Result<_, ImageError>>()?;
        let &Self { depth, layout, cicp, .. } = self;
        Ok(Self { width, height, depth, layout, cicp, planes })
    }

    /// Copies what of `tile` lies within.
    fn put(&mut self, tile: &Self, column: u32, row: u32) {
        let sample_bytes = self.sample_bytes();
        for (to, from) in self.planes.iter_mut().zip(&tile.planes) {
            let (left, top) = (column as usize * from.width, row as usize * from.height);
            let width = from.width.min(to.width.saturating_sub(left)) * sample_bytes;
            let Samples::Joined(bytes) = &mut to.samples else { continue };
            for line in 0..from.height.min(to.height.saturating_sub(top)) {
                let at = (top + line) * to.stride + left * sample_bytes;
                bytes[at..][..width].copy_from_slice(&from.row(line, sample_bytes)[..width]);
            }
        }
    }

    fn sample_bytes(&self) -> usize {
        if self.depth > 8 { 2 } else { 1 }
    }

    /// Columns and rows of a plane: 0 is luma, 1 and 2 are colours.
    pub(super) fn plane_size(&self, plane: usize) -> (usize, usize) {
        (self.planes[plane].width, self.planes[plane].height)
    }

    /// Puts a row of a plane into `out`, less its `shift` lowest bits.
    pub(super) fn read_row(&self, plane: usize, row: usize, shift: u8, out: &mut [u16]) {
        let bytes = self.planes[plane].row(row, self.sample_bytes());
        if self.depth > 8 {
            for (out, &sample) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = u16::from_ne_bytes(sample) >> shift;
            }
        } else {
            for (out, &sample) in out.iter_mut().zip(bytes) {
                *out = u16::from(sample);
            }
        }
    }
}

/// What is to be decoded.
struct Asked {
    /// Pixels of a frame, at most.
    area: u64,
    operating_point: u8,
    /// The one that is shown of several spatial layers.
    layer: Option<u8>,
}

fn decode(data: Vec<u8>, asked: &Asked) -> Result<Picture, ImageError> {
    let &Asked { area, operating_point, layer } = asked;
    let mut settings = Settings::new();
    settings.set_n_threads(1);
    settings.set_max_frame_delay(1);
    settings.set_operating_point(operating_point.into());
    settings.set_all_layers(layer.is_some());
    settings.set_frame_size_limit(u32::try_from(area).unwrap_or(u32::MAX));
    let mut decoder = Decoder::with_settings(&settings).map_err(refuse)?;
    let mut sent = decoder.send_data(data, None, None, None);
    let (mut shown, mut pictures) = (None, 0);
    // The frames after the one that is shown are decoded too: libavif refuses the picture where one of them is damaged.
    for _ in 0..MAX_PATIENCE {
        if let Err(error) = sent
            && !error.is_again()
        {
            return Err(refuse(error));
        }
        match decoder.get_picture() {
            Ok(picture) => {
                if layer.is_none_or(|layer| usize::from(layer) == pictures) {
                    shown.get_or_insert(picture);
                }
                pictures += 1;
            }
            Err(Error::Again) if sent.is_ok() => break,
            Err(Error::Again) => sent = decoder.send_pending_data(),
            Err(error) => return Err(refuse(error)),
        }
    }
    shown.ok_or_else(|| damaged("AV1 data without a picture"))
}

fn refuse(error: Error) -> ImageError {
    match error {
        Error::NotEnoughMemory => ImageError::OutOfMemory,
        Error::UnsupportedBitstream => ImageError::UnsupportedVariant { format: FORMAT, detail: error.to_string() },
        other => damaged(&other.to_string()),
    }
}
