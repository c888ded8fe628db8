//! A tensor in a file, whatever the file's format: what it is is known, and its elements are still there.
//!
//! Owns how a tensor is seen otherwise than it lies there (turned, a part of its rows, its rows scaled), and widening F16 and BF16 to f32,
//! which is exact. Does not own why (`naming`).
//!
//! Invariant: of a tensor that lies in a file as it is, no more is in memory than its elements in f32 and a buffer.

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

/// Bytes that are read at once: in the second-level cache when they are widened.
const CHUNK: usize = 1 << 18;

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
    /// Bytes of one, of those that are read.
    pub(super) fn size(&self) -> Option<usize> {
        match self {
            Self::F32 => Some(4),
            Self::F16 | Self::BF16 => Some(2),
            Self::Other(_) => None,
        }
    }

    /// Appends the elements that `bytes` are, little-endian.
    fn widen(&self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::F32 => out.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Self::F16 => out.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
            Self::BF16 => out.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
            Self::Other(_) => {}
        }
    }
}

/// Where the elements are, row-major and little-endian.
#[derive(Clone)]
enum Bytes {
    /// In the file, from this byte on.
    At { file: Arc<File>, offset: u64 },
    /// Made by whoever reads the file, all at once.
    Made(Arc<dyn Fn() -> io::Result<Vec<u8>>>),
}

impl Bytes {
    fn made(read: impl Fn() -> io::Result<Vec<u8>> + 'static) -> Self {
        Self::Made(Arc::new(read))
    }
}

/// One tensor in a file.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) element: Element,
    pub(super) shape: Vec<usize>,
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
        Self { element, shape, path: Arc::clone(path), bytes: Bytes::made(read) }
    }

    /// Of the open `file` at `path`, in which its elements lie one after the other from byte `offset` on. That they do, whoever says so has
    /// checked: as many bytes will be allocated as `shape` has.
    pub(super) fn at(path: &Arc<PathBuf>, element: Element, shape: Vec<usize>, file: &Arc<File>, offset: u64) -> Self {
        Self { element, shape, path: Arc::clone(path), bytes: Bytes::At { file: Arc::clone(file), offset } }
    }

    /// With its dimensions in another order, as numpy's `transpose`: dimension `i` of the result is `axes[i]` of this one.
    ///
    /// # Panics
    /// When `axes` is not a permutation of the dimensions.
    pub(super) fn transposed(self, axes: &[usize]) -> Self {
        let from = &self.shape;
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..from.len()), "{axes:?} is no permutation of {} dimensions", from.len());
        let shape: Vec<usize> = axes.iter().map(|&axis| from[axis]).collect();
        let strides: Vec<usize> = axes.iter().map(|&axis| from[axis + 1..].iter().product()).collect();
        self.viewed(shape, &strides)
    }

    /// In `shape`, with so many elements of this one from one to the next along each dimension.
    pub(super) fn viewed(self, shape: Vec<usize>, strides: &[usize]) -> Self {
        let size = self.element.size().unwrap_or_default();
        let strides: Vec<usize> = strides.iter().map(|stride| stride * size).collect();
        let (element, path, to) = (self.element.clone(), Arc::clone(&self.path), shape.clone());
        let view = move || {
            let bytes = self.whole()?;
            let mut out = Vec::with_capacity(to.iter().product::<usize>() * size);
            gather(&bytes, &to, &strides, size, 0, &mut out);
            Ok(out)
        };
        Self::new(&path, element, shape, view)
    }

    /// The part `rows` of its first dimension.
    ///
    /// # Panics
    /// When it has no such rows.
    pub(super) fn rows(mut self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && self.shape.first().is_some_and(|&all| rows.end <= all), "no rows {rows:?}");
        let row = self.shape[1..].iter().product::<usize>() * self.element.size().unwrap_or_default();
        self.shape[0] = rows.len();
        self.bytes = match self.bytes {
            Bytes::At { file, offset } => Bytes::At { file, offset: offset + (rows.start * row) as u64 },
            Bytes::Made(read) => {
                Bytes::made(move || Ok(read()?.get(rows.start * row..rows.end * row).unwrap_or_default().to_vec()))
            }
        };
        self
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
            let (values, factors) = (self.widened()?, factors.widened()?);
            let scaled = values.chunks(row).zip(factors).flat_map(|(row, factor)| row.iter().map(move |v| v * factor));
            Ok(scaled.flat_map(f32::to_le_bytes).collect())
        };
        Self::new(&path, element, shape, scale)
    }

    /// All elements.
    ///
    /// # Errors
    /// When the file cannot be read, or ends too soon; when they are of [`Element::Other`].
    pub(super) fn read(&self) -> Result<Vec<f32>, ExportError> {
        self.widened().map_err(ExportError::io(Path::new(&*self.path)))
    }

    fn widened(&self) -> io::Result<Vec<f32>> {
        let count = self.count();
        let mut out = Vec::with_capacity(count);
        match &self.bytes {
            Bytes::At { file, offset } => {
                let mut left = count * self.element.size().unwrap_or_default();
                let (mut buffer, mut offset) = (vec![0; left.min(CHUNK)], *offset);
                while left > 0 {
                    let chunk = left.min(CHUNK);
                    file.read_exact_at(&mut buffer[..chunk], offset)?;
                    self.element.widen(&buffer[..chunk], &mut out);
                    left -= chunk;
                    offset += chunk as u64;
                }
            }
            Bytes::Made(read) => self.element.widen(&read()?, &mut out),
        }
        if out.len() == count { Ok(out) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// All bytes.
    fn whole(&self) -> io::Result<Vec<u8>> {
        match &self.bytes {
            Bytes::At { file, offset } => {
                let mut bytes = vec![0; self.count() * self.element.size().unwrap_or_default()];
                file.read_exact_at(&mut bytes, *offset)?;
                Ok(bytes)
            }
            Bytes::Made(read) => read(),
        }
    }

    fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Appends to `out` what of `bytes` lies from `start` on, in `shape`, an element of `size` bytes every `strides`.
fn gather(bytes: &[u8], shape: &[usize], strides: &[usize], size: usize, start: usize, out: &mut Vec<u8>) {
    match (shape, strides) {
        ([count, shape @ ..], [stride, strides @ ..]) => {
            (0..*count).for_each(|at| gather(bytes, shape, strides, size, start + at * stride, out));
        }
        _ => out.extend_from_slice(bytes.get(start..start + size).unwrap_or_default()),
    }
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

    /// 0, 1, 2, .. in f16.
    fn counted(shape: &[usize]) -> Stored {
        let bytes: Vec<u8> = counting(shape).flat_map(|i| f16::from_f32(i as f32).to_le_bytes()).collect();
        Stored::new(&Arc::new(PathBuf::new()), Element::F16, shape.to_vec(), move || Ok(bytes.clone()))
    }

    /// The same, in a file behind a few other bytes.
    fn counted_in_a_file(shape: &[usize]) -> Stored {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = counting(shape).flat_map(|i| (i as f32).to_le_bytes()).collect();
        file.write_all(&[&[1, 2, 3], bytes.as_slice()].concat()).unwrap();
        Stored::at(&Arc::new(PathBuf::new()), Element::F32, shape.to_vec(), &Arc::new(file), 3)
    }

    fn counting(shape: &[usize]) -> Range<usize> {
        0..shape.iter().product()
    }

    fn values(tensor: &Stored) -> Vec<usize> {
        tensor.read().unwrap().into_iter().map(|value| value as usize).collect()
    }

    #[test]
    fn a_tensor_is_turned_as_numpy_turns_it() {
        let turned = counted(&[2, 3]).transposed(&[1, 0]);
        assert_eq!((turned.shape.as_slice(), values(&turned)), (&[3, 2][..], vec![0, 3, 1, 4, 2, 5]));
        // numpy.arange(24).reshape(2, 1, 3, 4).transpose(3, 2, 0, 1)
        let turned = counted(&[2, 1, 3, 4]).transposed(&[3, 2, 0, 1]);
        assert_eq!(turned.shape, [4, 3, 2, 1]);
        assert_eq!(values(&turned)[..8], [0, 12, 4, 16, 8, 20, 1, 13]);
        let scalar = counted(&[]).transposed(&[]);
        assert_eq!(values(&scalar), [0]);
    }

    #[test]
    fn rows_are_cut_out() {
        for tensor in [counted(&[3, 2]), counted_in_a_file(&[3, 2])] {
            let part = tensor.rows(1..3);
            assert_eq!((part.shape.as_slice(), values(&part)), (&[2, 2][..], vec![2, 3, 4, 5]));
        }
    }

    #[test]
    fn each_row_is_scaled_by_its_own_factor() {
        let scaled = counted(&[3, 2]).scaled_rows(counted_in_a_file(&[3]));
        assert_eq!((scaled.element.clone(), values(&scaled)), (Element::F32, vec![0, 0, 2, 3, 8, 10]));
        assert_eq!(values(&counted(&[3]).scaled_rows(counted(&[3]))), [0, 1, 4]);
    }

    #[test]
    fn what_lies_in_a_file_is_read_in_chunks_and_to_its_end_only() {
        let (count, shape) = (CHUNK / 2 + 5, [CHUNK / 2 + 5]);
        let tensor = counted_in_a_file(&shape);
        assert!(values(&tensor).into_iter().eq(0..count));
        let longer = Stored { shape: vec![count + 1], ..tensor };
        assert!(longer.read().unwrap_err().to_string().contains("fill whole buffer"));
    }
}
