//! A tensor in a file, whatever the file's format: what it is is known, and its bytes are still there.
//!
//! Owns how a tensor is seen otherwise than it lies there (turned, a part of its rows, its rows scaled) and widening F16 and BF16 to f32, which is
//! exact. Does not own why (`naming`), nor where a format puts its tensors (the containers).
//!
//! Invariant: reading takes the memory of the f32 values, once as they lie and once more where they are turned, and a little for the
//! file's own bytes; a container that cannot read piece by piece takes those of the whole tensor.

use std::{
    fmt,
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use half::{bf16, f16};

use crate::export::error::ExportError;

/// Bytes that are read of a file at once: whole elements of every type.
const PIECE: usize = 1 << 20;

/// What a tensor's elements are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    BF16,
    /// No float, or one that no CLIP has; as its format names it. Never read.
    Other(String),
}

impl Element {
    /// Bytes of one; 0 of those that are never read.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Other(_) => 0,
        }
    }

    /// Appends the values of whole elements.
    fn widen(&self, bytes: &[u8], values: &mut Vec<f32>) {
        match self {
            Self::F32 => values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Self::F16 => values.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
            Self::BF16 => values.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
            Self::Other(_) => {}
        }
    }
}

/// Where the elements are, row-major and little-endian.
#[derive(Clone)]
enum Bytes {
    /// In these parts of a file, one after the other.
    In(Arc<File>, Arc<[Range<u64>]>),
    /// Whatever this gives.
    By(Arc<dyn Fn() -> io::Result<Vec<u8>>>),
}

/// One tensor in a file.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) element: Element,
    pub(super) shape: Vec<usize>,
    /// Elements in the file from one to the next along each dimension.
    strides: Vec<usize>,
    /// Elements in the file before the first.
    start: usize,
    path: Arc<PathBuf>,
    bytes: Bytes,
}

impl Stored {
    /// Of the file `path`; `read` gives the elements, row-major and little-endian, as many as `shape` has.
    pub(super) fn new(
        path: &Arc<PathBuf>,
        element: Element,
        shape: Vec<usize>,
        read: impl Fn() -> io::Result<Vec<u8>> + 'static,
    ) -> Self {
        Self::of(path, element, shape, Bytes::By(Arc::new(read)))
    }

    /// In the file `path`, which `file` is: the elements lie in `parts`, as many bytes as `shape` has, one part after the other.
    pub(super) fn within(
        path: &Arc<PathBuf>,
        file: &Arc<File>,
        element: Element,
        shape: Vec<usize>,
        parts: impl Into<Arc<[Range<u64>]>>,
    ) -> Self {
        Self::of(path, element, shape, Bytes::In(Arc::clone(file), parts.into()))
    }

    fn of(path: &Arc<PathBuf>, element: Element, shape: Vec<usize>, bytes: Bytes) -> Self {
        Self { element, strides: row_major(&shape), shape, start: 0, path: Arc::clone(path), bytes }
    }

    /// With its dimensions in another order, as numpy's `transpose`: dimension `i` of the result is `axes[i]` of this one.
    ///
    /// # Panics
    /// When `axes` is not a permutation of the dimensions.
    pub(super) fn transposed(self, axes: &[usize]) -> Self {
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        let count = self.shape.len();
        assert!(sorted.into_iter().eq(0..count), "{axes:?} is no permutation of {count} dimensions");
        let turned = |of: &[usize]| axes.iter().map(|&axis| of[axis]).collect();
        Self { shape: turned(&self.shape), strides: turned(&self.strides), ..self }
    }

    /// The part `rows` of its first dimension.
    ///
    /// # Panics
    /// When it has no such rows.
    pub(super) fn rows(mut self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && self.shape.first().is_some_and(|&all| rows.end <= all), "no rows {rows:?}");
        self.shape[0] = rows.len();
        self.start += rows.start * self.strides[0];
        self
    }

    /// In `shape`, with so many elements from one to the next along each dimension. Whoever asks has checked that it has them all.
    pub(super) fn viewed(self, shape: Vec<usize>, strides: &[usize]) -> Self {
        Self { shape, strides: strides.to_vec(), ..self }
    }

    /// In f32, each row (all of one index of its first dimension) times the factor that `factors` has for it.
    pub(super) fn scaled_rows(self, factors: Self) -> Self {
        let path = Arc::clone(&self.path);
        let (shape, row) = (self.shape.clone(), self.shape.iter().skip(1).product::<usize>().max(1));
        let element = match (&self.element, &factors.element) {
            (other @ Element::Other(_), _) | (_, other @ Element::Other(_)) => other.clone(),
            _ => Element::F32,
        };
        let scale = move || {
            let (values, factors) = (self.seen()?, factors.seen()?);
            let scaled = values.chunks(row).zip(factors).flat_map(|(row, factor)| row.iter().map(move |v| v * factor));
            Ok(scaled.flat_map(f32::to_le_bytes).collect())
        };
        Self::new(&path, element, shape, scale)
    }

    /// All elements, row-major; none where they are no floats.
    ///
    /// # Errors
    /// When the file cannot be read, or ends too soon.
    pub(super) fn values(&self) -> Result<Vec<f32>, ExportError> {
        self.seen().map_err(ExportError::io(Path::new(&*self.path)))
    }

    fn seen(&self) -> io::Result<Vec<f32>> {
        if self.shape.contains(&0) || matches!(self.element, Element::Other(_)) {
            return Ok(Vec::new());
        }
        // From the first element that is seen to the last, as they lie in the file.
        let length =
            1 + self.shape.iter().zip(&self.strides).map(|(count, stride)| (count - 1) * stride).sum::<usize>();
        let values = self.read(self.start..self.start + length)?;
        Ok(if self.strides == row_major(&self.shape) { values } else { gathered(&values, &self.shape, &self.strides) })
    }

    /// These elements, as they lie in the file.
    fn read(&self, elements: Range<usize>) -> io::Result<Vec<f32>> {
        let size = self.element.size();
        let bytes = elements.start * size..elements.end * size;
        let mut values = Vec::with_capacity(elements.len());
        match &self.bytes {
            Bytes::By(read) => self.element.widen(read()?.get(bytes).unwrap_or_default(), &mut values),
            Bytes::In(file, parts) => {
                let mut piece = vec![0; PIECE.min(bytes.len())];
                let mut before = 0;
                for part in parts.iter() {
                    // What is wanted of this part, counted from the tensor's first byte.
                    let all = before..before + (part.end - part.start) as usize;
                    let (mut at, end) = (bytes.start.clamp(all.start, all.end), bytes.end.clamp(all.start, all.end));
                    while at < end {
                        let piece = &mut piece[..PIECE.min(end - at)];
                        file.read_exact_at(piece, part.start + (at - all.start) as u64)?;
                        self.element.widen(piece, &mut values);
                        at += piece.len();
                    }
                    before = all.end;
                }
            }
        }
        if values.len() == elements.len() {
            return Ok(values);
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a tensor in it has fewer elements than its shape"))
    }
}

/// Elements from one to the next along each dimension of a tensor that lies row-major.
fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1_usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        // Saturating: of a shape that has a zero as well, the others may be anything.
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

/// What of `values` lies in `shape`, an element every `strides`, as row-major elements.
fn gathered(values: &[f32], shape: &[usize], strides: &[usize]) -> Vec<f32> {
    // Square tiles keep both the reads and the writes of a tile in the first-level cache.
    const TILE: usize = 32;
    // How many, and how far apart in `values` and in the result.
    let mut axes: Vec<[usize; 3]> =
        shape.iter().zip(strides).zip(row_major(shape)).map(|((&count, &from), to)| [count, from, to]).collect();
    // The axis along which the result is written, and of the others the one along which `values` is read.
    let [columns, from_column, _] = axes.pop().unwrap_or([1, 0, 0]);
    let nearest = (0..axes.len()).min_by_key(|&axis| axes[axis][1]);
    let [rows, from_row, to_row] = nearest.map_or([1, 0, 0], |axis| axes.swap_remove(axis));
    let mut out = vec![0.0; shape.iter().product()];
    for plane in 0..axes.iter().map(|[count, ..]| count).product() {
        let (mut rest, mut from, mut to) = (plane, 0, 0);
        for [count, from_step, to_step] in &axes {
            from += rest % count * from_step;
            to += rest % count * to_step;
            rest /= count;
        }
        for row0 in (0..rows).step_by(TILE) {
            for column0 in (0..columns).step_by(TILE) {
                for row in row0..(row0 + TILE).min(rows) {
                    let (from, to) = (from + row * from_row, to + row * to_row);
                    for column in column0..(column0 + TILE).min(columns) {
                        out[to + column] = values[from + column * from_column];
                    }
                }
            }
        }
    }
    out
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} in {}", self.element, self.shape, self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn counted(shape: &[usize]) -> Stored {
        let count: usize = shape.iter().product();
        let bytes: Vec<u8> = (0..count).flat_map(|i| f16::from_f32(i as f32).to_le_bytes()).collect();
        Stored::new(&Arc::new(PathBuf::new()), Element::F16, shape.to_vec(), move || Ok(bytes.clone()))
    }

    #[test]
    fn a_tensor_is_turned_as_numpy_turns_it() {
        let turned = counted(&[2, 3]).transposed(&[1, 0]);
        assert_eq!((turned.shape.as_slice(), turned.values().unwrap()), (&[3, 2][..], vec![0., 3., 1., 4., 2., 5.]));
        // numpy.arange(24).reshape(2, 1, 3, 4).transpose(3, 2, 0, 1)
        let turned = counted(&[2, 1, 3, 4]).transposed(&[3, 2, 0, 1]);
        assert_eq!(turned.shape, [4, 3, 2, 1]);
        assert_eq!(turned.values().unwrap()[..8], [0., 12., 4., 16., 8., 20., 1., 13.]);
        assert_eq!(counted(&[]).transposed(&[]).values().unwrap(), [0.]);
        assert_eq!(counted(&[2, 0]).transposed(&[1, 0]).values().unwrap(), [] as [f32; 0]);
        // Larger than a tile on both sides.
        let turned = counted(&[37, 41]).transposed(&[1, 0]).values().unwrap();
        assert!((0..41).all(|row| (0..37).all(|column| turned[row * 37 + column] == (column * 41 + row) as f32)));
    }

    #[test]
    fn rows_are_cut_out_before_and_after_a_turn() {
        let part = counted(&[3, 2]).rows(1..3);
        assert_eq!((part.shape.as_slice(), part.values().unwrap()), (&[2, 2][..], vec![2., 3., 4., 5.]));
        assert_eq!(part.transposed(&[1, 0]).rows(1..2).values().unwrap(), [3., 5.]);
    }

    #[test]
    fn each_row_is_scaled_by_its_own_factor() {
        let scaled = counted(&[3, 2]).scaled_rows(counted(&[3]));
        assert_eq!((scaled.element.clone(), scaled.values().unwrap()), (Element::F32, vec![0., 0., 2., 3., 8., 10.]));
        assert_eq!(counted(&[3]).scaled_rows(counted(&[3])).values().unwrap(), [0., 1., 4.]);
    }

    #[test]
    fn a_view_takes_what_its_strides_say() {
        let view = counted(&[7]).viewed(vec![2, 2], &[1, 3]);
        assert_eq!(view.values().unwrap(), [0., 3., 1., 4.]);
        assert_eq!(view.transposed(&[1, 0]).values().unwrap(), [0., 1., 3., 4.]);
    }

    #[test]
    fn what_lies_in_several_parts_of_a_file_is_one_tensor() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..700_000).flat_map(|i| (i as f32).to_le_bytes()).collect();
        file.write_all(b"--").unwrap();
        file.write_all(&bytes[..12]).unwrap();
        file.write_all(b"---").unwrap();
        file.write_all(&bytes[12..]).unwrap();
        let path = Arc::new(file.path().to_owned());
        let handle = Arc::new(File::open(file.path()).unwrap());
        let parts = [2..14, 17..17 + bytes.len() as u64 - 12];
        let tensor = Stored::within(&path, &handle, Element::F32, vec![700, 1000], parts.clone());
        let all = tensor.values().unwrap();
        assert!(all.len() == 700_000 && all.iter().enumerate().all(|(i, &value)| value == i as f32));
        assert_eq!(tensor.rows(699..700).values().unwrap()[..], all[699_000..]);
        let short = Stored::within(&path, &handle, Element::F32, vec![701, 1000], parts);
        assert!(short.values().is_err());
    }
}
