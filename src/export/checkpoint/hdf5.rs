//! The container that Keras writes: HDF5, whose groups are like folders and whose datasets are like files.
//!
//! Owns which groups are walked, which of HDF5's many ways to store a dataset are taken, and the bounds. Reading headers, and what is
//! stored in chunks or compressed, is `hdf5-reader`'s; what lies in one piece, as Keras leaves it, is read from the file itself.
//! Groups are listed here and not by the crate, which would follow symbolic links: Keras writes none, and they can be made to take
//! minutes. Attributes are not looked at: a list of names in them is cut in pieces of 64 KiB.
//!
//! Invariants: the headers of a file are read for [`MAX_HEADERS`] bytes at most; the datasets that lie in one piece are together no
//! larger than the file, and the others no more than [`MAX_RATIO`] times as large.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hdf5_reader::{
    ByteOrder, Datatype, Hdf5File, OpenOptions, Storage, StorageBuffer,
    btree_v1::collect_btree_v1_leaves_storage,
    error::Error,
    io::Cursor,
    local_heap::LocalHeap,
    messages::{
        HdfMessage,
        dataspace::{DataspaceMessage, DataspaceType},
        layout::DataLayout,
        link::LinkTarget,
    },
    symbol_table::SymbolTableNode,
};

use super::stored::{Element, Stored};
use crate::export::error::ExportError;

/// Bytes of headers that are read: those of a ViT-B/32 are 1 MiB.
const MAX_HEADERS: u64 = 16 << 20;
/// Groups and datasets. Each of a layer's tensors has one of each, and a ViT-bigG/14 has 80 layers.
const MAX_OBJECTS: usize = 1 << 14;
/// Groups within groups.
const MAX_DEPTH: usize = 16;
/// Bytes of the name of a group or dataset.
const MAX_NAME: usize = 256;
/// How much larger than the file what it has compressed may be: weights hardly shrink at all.
const MAX_RATIO: u64 = 10;
/// Bytes of a chunk when it is no longer compressed.
const MAX_CHUNK: usize = 64 << 20;

/// The datasets of one file, by the path of groups that leads to each, joined by slashes.
pub(super) fn open(path: &Path) -> Result<Vec<(String, Stored)>, ExportError> {
    let file = File::open(path).map_err(ExportError::io(path))?;
    let size = file.metadata().map_err(ExportError::io(path))?.len();
    let malformed = |reason: String| ExportError::malformed(path, format!("not weights by Keras: {reason}"));
    Walk::begin(path, file, size).and_then(Walk::all).map_err(malformed)
}

/// A file of which no more is read than is left.
struct Metered {
    file: Arc<File>,
    size: u64,
    left: AtomicU64,
}

impl Storage for Metered {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_range(&self, offset: u64, length: usize) -> Result<StorageBuffer, Error> {
        let needed = length as u64;
        if offset.checked_add(needed).is_none_or(|end| end > self.size) {
            return Err(Error::UnexpectedEof { offset, needed, available: self.size.saturating_sub(offset) });
        }
        let spent = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(needed));
        if spent.is_err() {
            return Err(Error::ResourceLimit("its headers are longer than those of any weights".to_owned()));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(StorageBuffer::from_vec(bytes))
    }
}

/// What a group or a dataset is called, and where its header is.
type Link = (String, u64);

/// A walk through a file.
struct Walk {
    path: Arc<PathBuf>,
    file: Arc<File>,
    storage: Arc<Metered>,
    hdf5: Hdf5File,
    /// Addresses of the headers that were met.
    met: HashSet<u64>,
    /// Bytes that the datasets in one piece may still have, and the others.
    left: [u64; 2],
    found: BTreeMap<String, Stored>,
}

impl Walk {
    fn begin(path: &Path, file: File, size: u64) -> Result<Self, String> {
        let file = Arc::new(file);
        let storage = Arc::new(Metered { file: Arc::clone(&file), size, left: AtomicU64::new(MAX_HEADERS) });
        let options = OpenOptions::default()
            .with_chunk_cache_bytes(0)
            .with_max_chunk_bytes(MAX_CHUNK)
            .with_max_object_header_bytes(MAX_HEADERS as usize);
        let hdf5 = Hdf5File::from_storage_with_options(Arc::clone(&storage) as _, options).map_err(text)?;
        let left = [size, size.saturating_mul(MAX_RATIO)];
        let path = Arc::new(path.to_owned());
        Ok(Self { path, file, storage, hdf5, met: HashSet::new(), left, found: BTreeMap::new() })
    }

    /// The datasets of the whole file.
    fn all(mut self) -> Result<Vec<(String, Stored)>, String> {
        let root = self.hdf5.superblock().root_object_header_address().map_err(text)?;
        self.object(String::new(), root, 0)?;
        Ok(self.found.into_iter().collect())
    }

    /// The object at `address`, and what is in it.
    fn object(&mut self, name: String, address: u64, depth: usize) -> Result<(), String> {
        if !self.met.insert(address) {
            return Err(format!("`{name}` is in it under another name as well"));
        }
        if self.met.len() > MAX_OBJECTS || depth > MAX_DEPTH {
            return Err(format!(
                "more than {MAX_OBJECTS} groups and datasets, or more than {MAX_DEPTH} in one another"
            ));
        }
        let header = self.hdf5.get_or_parse_header(address).map_err(text)?;
        if let Some(space) = find(&header.messages, |message| match message {
            HdfMessage::Dataspace(space) => Some(space),
            _ => None,
        }) {
            let tensor = self.dataset(&name, space, &header.messages)?;
            self.found.insert(name, tensor);
            return Ok(());
        }
        for (link, address) in self.links(&name, &header.messages)? {
            if link.is_empty() || link.len() > MAX_NAME || link.contains('/') {
                return Err(format!("something in `{name}` has a name of {} bytes", link.len()));
            }
            let path = if name.is_empty() { link } else { format!("{name}/{link}") };
            self.object(path, address, depth + 1)?;
        }
        Ok(())
    }

    /// What is in the group that has this header.
    fn links(&self, name: &str, messages: &[HdfMessage]) -> Result<Vec<Link>, String> {
        let mut links = Vec::new();
        for message in messages {
            match message {
                HdfMessage::SymbolTable(table) => links.extend(self.table(table.btree_address, table.heap_address)?),
                HdfMessage::Link(link) => match link.target {
                    LinkTarget::Hard { address } => links.push((link.name.clone(), address)),
                    LinkTarget::Soft { .. } | LinkTarget::External { .. } => return Err(symbolic(&link.name)),
                },
                HdfMessage::LinkInfo(info)
                    if !Cursor::is_undefined_offset(info.fractal_heap_address, self.offset_size()) =>
                {
                    return Err(format!("the links of `{name}` are stored in a way that Keras does not use"));
                }
                _ => {}
            }
        }
        Ok(links)
    }

    /// What is in the group whose names are in this tree and this heap.
    fn table(&self, tree: u64, heap: u64) -> Result<Vec<Link>, String> {
        let (offsets, lengths) = (self.offset_size(), self.hdf5.superblock().length_size);
        let storage = self.hdf5.storage();
        let heap = LocalHeap::parse_at_storage(storage, heap, offsets, lengths).map_err(text)?;
        let length = usize::try_from(heap.data_segment_size).map_err(text)?;
        let names = storage.read_range(heap.data_segment_address, length).map_err(text)?;
        let nodes = collect_btree_v1_leaves_storage(storage, tree, offsets, lengths, None, &[], None).map_err(text)?;
        let entry = 2 * usize::from(offsets) + 24;
        let mut links = Vec::new();
        for (_, node) in nodes {
            // Its head says how many entries there are.
            let head = storage.read_range(node, 8).map_err(text)?;
            let count = usize::from(u16::from_le_bytes([head[6], head[7]]));
            let bytes = storage.read_range(node, 8 + count * entry).map_err(text)?;
            for entry in SymbolTableNode::parse(&mut Cursor::new(&bytes), offsets, lengths).map_err(text)?.entries {
                let rest = usize::try_from(entry.link_name_offset).ok().and_then(|start| names.get(start..));
                let name = rest.and_then(|rest| rest.split(|&byte| byte == 0).next()).unwrap_or_default();
                let name = str::from_utf8(name).map_err(text)?;
                if entry.cache_type == 2 {
                    return Err(symbolic(name));
                }
                links.push((name.get(..MAX_NAME + 1).unwrap_or(name).to_owned(), entry.object_header_address));
            }
        }
        Ok(links)
    }

    /// The dataset that has this header.
    fn dataset(&mut self, name: &str, space: &DataspaceMessage, messages: &[HdfMessage]) -> Result<Stored, String> {
        let datatype = find(messages, |message| match message {
            HdfMessage::Datatype(datatype) => Some(&datatype.datatype),
            _ => None,
        });
        let layout = find(messages, |message| match message {
            HdfMessage::DataLayout(layout) => Some(&layout.layout),
            _ => None,
        });
        let (Some(datatype), Some(layout)) = (datatype, layout) else {
            return Err(format!("`{name}` has no type or no place"));
        };
        if messages.iter().any(|message| matches!(message, HdfMessage::ExternalFiles(_))) {
            return Err(format!("`{name}` is in another file"));
        }
        let shape: Option<Vec<usize>> = space.dims.iter().map(|&count| usize::try_from(count).ok()).collect();
        let shape = shape.filter(|_| space.dataspace_type != DataspaceType::Null);
        let element = self.element(name, datatype)?;
        let bytes = |shape: &Vec<usize>| {
            shape.iter().try_fold(element.size() as u64, |all, &count| all.checked_mul(count as u64))
        };
        let (Some(shape), Some(bytes)) = (shape.clone(), shape.as_ref().and_then(bytes)) else {
            return Err(format!("`{name}` has a shape that no tensor can have"));
        };
        let base = self.hdf5.superblock().base_address;
        let plain = match *layout {
            DataLayout::Contiguous { address, size }
                if size == bytes
                    && !Cursor::is_undefined_offset(address, self.offset_size())
                    && is_little(datatype) =>
            {
                let start = address.checked_add(base);
                let part = start.and_then(|start| Some(start..start.checked_add(size)?));
                Some(
                    part.filter(|part| part.end <= self.storage.size)
                        .ok_or_else(|| format!("`{name}` ends behind the file"))?,
                )
            }
            _ => None,
        };
        let left = &mut self.left[usize::from(plain.is_none())];
        *left =
            left.checked_sub(bytes).ok_or_else(|| format!("with `{name}` it has more weights than fit the file"))?;
        match plain {
            Some(part) => Ok(Stored::within(&self.path, &self.file, element, shape, vec![part])),
            None => self.packed(name, element, shape),
        }
    }

    /// A dataset that the crate reads: in chunks, compressed, of the other byte order, or never written.
    fn packed(&self, name: &str, element: Element, shape: Vec<usize>) -> Result<Stored, String> {
        let dataset = self.hdf5.dataset(name).map_err(text)?;
        let chunks = dataset.chunks().unwrap_or_default();
        // Chunks that stick far out of the dataset would be unpacked for nothing.
        if chunks.iter().zip(&shape).any(|(&chunk, &count)| chunk as usize > count) {
            return Err(format!("`{name}` is stored in chunks that are larger than itself"));
        }
        let storage = Arc::clone(&self.storage);
        let read = move || {
            storage.left.store(MAX_HEADERS.saturating_add(storage.size), Ordering::Relaxed);
            dataset.read_native_bytes().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
        };
        Ok(Stored::new(&self.path, element, shape, read))
    }

    /// What a dataset's elements are.
    fn element(&self, name: &str, datatype: &Datatype) -> Result<Element, String> {
        Ok(match datatype {
            // Several types have one size, and the crate does not say which it is: their fields, in the type as it is stored.
            Datatype::FloatingPoint { size: 2 | 4, .. } => {
                let stored = self.hdf5.dataset(name).and_then(|dataset| dataset.raw_datatype()).map_err(text)?;
                let known = FLOATS.iter().find(|(fields, _)| stored.get(8..20).is_some_and(|own| own == fields));
                known.map_or_else(|| Element::Other("a float of another kind".to_owned()), |(_, known)| known.clone())
            }
            Datatype::FloatingPoint { size, .. } => Element::Other(format!("F{}", u32::from(*size) * 8)),
            Datatype::FixedPoint { size, signed, .. } => {
                Element::Other(format!("{}{}", if *signed { 'I' } else { 'U' }, u32::from(*size) * 8))
            }
            _ => Element::Other("no number".to_owned()),
        })
    }

    fn offset_size(&self) -> u8 {
        self.hdf5.superblock().offset_size
    }
}

/// A float's first bit and its bits, where its exponent is and how long, where its mantissa is and how long, and the exponent's bias.
const FLOATS: [([u8; 12], Element); 3] = [
    ([0, 0, 32, 0, 23, 8, 0, 23, 127, 0, 0, 0], Element::F32),
    ([0, 0, 16, 0, 10, 5, 0, 10, 15, 0, 0, 0], Element::F16),
    ([0, 0, 16, 0, 7, 8, 0, 7, 127, 0, 0, 0], Element::BF16),
];

fn is_little(datatype: &Datatype) -> bool {
    matches!(datatype, Datatype::FloatingPoint { byte_order: ByteOrder::LittleEndian, .. })
}

fn find<'m, T>(messages: &'m [HdfMessage], wanted: impl Fn(&'m HdfMessage) -> Option<&'m T>) -> Option<&'m T> {
    messages.iter().find_map(wanted)
}

fn symbolic(name: &str) -> String {
    format!("`{name}` is a symbolic link, and Keras writes none")
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/export/frameworks").join(name)
    }

    #[test]
    fn whatever_way_a_dataset_is_stored_it_has_its_values() {
        let tensors: BTreeMap<String, Stored> = open(&fixture("odd.h5")).unwrap().into_iter().collect();
        let (row, rows): (Vec<_>, Vec<_>) = ((0..30).map(|i| i as f32).collect(), (0..600).map(|i| i as f32).collect());
        for (name, element, shape, values) in [
            ("model/packed", Element::F32, &[20, 30][..], &rows),
            ("model/big_endian", Element::F32, &[30], &row),
            ("model/half", Element::F16, &[30], &row),
            ("model/double", Element::Other("F64".to_owned()), &[30], &vec![]),
            ("model/scalar", Element::F32, &[], &vec![3.0]),
            ("model/unwritten", Element::F32, &[2, 2], &vec![0.0; 4]),
        ] {
            let tensor = &tensors[name];
            assert_eq!((&tensor.element, &*tensor.shape), (&element, shape), "{name}");
            assert_eq!(&tensor.values().unwrap(), values, "{name}");
        }
        assert_eq!(tensors.len(), 6);
    }

    #[test]
    fn links_are_refused_and_so_is_what_is_no_hdf5() {
        let error = open(&fixture("link.h5")).unwrap_err().to_string();
        assert!(error.contains("`other` is a symbolic link"), "{error}");
        let error = open(&fixture("flax/config.json")).unwrap_err().to_string();
        assert!(error.contains("not weights by Keras"), "{error}");
    }

    #[test]
    fn a_file_that_claims_more_than_it_holds_is_refused() {
        let whole = fs::read(fixture("tf/tf_model.h5")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tf_model.h5");
        // The shape [40, 12] of the token embedding, as its header has it, and the bytes that follow from it.
        let size = |count: u64| [count.to_le_bytes(), 12_u64.to_le_bytes()].concat();
        let at = whole.windows(16).position(|bytes| bytes == size(40)).unwrap();
        for count in [41, 1 << 20, 1 << 40, u64::MAX] {
            let mut bytes = whole.clone();
            bytes[at..at + 16].copy_from_slice(&size(count));
            fs::write(&path, bytes).unwrap();
            let read =
                open(&path).map(|tensors| tensors.into_iter().map(|(_, tensor)| tensor.values()).collect::<Vec<_>>());
            let refused = read.map_or_else(|_| true, |tensors| tensors.iter().any(Result::is_err));
            assert!(refused, "{count} rows");
        }
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        open(&path).unwrap_err();
    }
}
