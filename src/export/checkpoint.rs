//! A checkpoint folder's `model.safetensors`, whole or in shards with `model.safetensors.index.json`, as a [`WeightSource`].
//!
//! Owns finding the files, reading their headers, checking names and shapes, widening F16 and BF16 to f32 (exact), and the
//! digest of the source. Nothing in a file is trusted: offsets are checked against its length before anything is allocated.
//!
//! Names are those of `CLIPModel`: the tensors of a bare `CLIPTextModel` or `CLIPVisionModel`, which newer versions of
//! `transformers` store without `text_model.` / `vision_model.`, get that prefix here.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use safetensors::{Dtype, tensor::Metadata};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{error::ExportError, weights::WeightSource};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The format's own limit on a header, bytes.
const MAX_HEADER: u64 = 100_000_000;

/// How the names in a bare tower start.
const BARE: [&str; 5] = ["embeddings.", "encoder.", "final_layer_norm.", "pre_layrnorm.", "post_layernorm."];
/// Names in a bare vision tower that a bare text tower does not have.
const VISION_ONLY: [&str; 3] =
    ["embeddings.class_embedding", "embeddings.patch_embedding.weight", "pre_layrnorm.weight"];

/// An opened checkpoint: headers read, weights still on disk.
#[derive(Debug)]
pub struct Checkpoint {
    files: Vec<(PathBuf, File)>,
    tensors: BTreeMap<String, Tensor>,
    read: RefCell<BTreeSet<String>>,
}

/// Where one tensor lies.
#[derive(Debug)]
struct Tensor {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    offset: u64,
    length: usize,
}

/// `model.safetensors.index.json`; its other field, the total size, is of no use here.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens the weights in `dir` and reads their headers.
    ///
    /// # Errors
    /// When there are none, a header is malformed, a file is cut short, or the index names a tensor that its shard lacks.
    pub fn open(dir: &Path) -> Result<Self, ExportError> {
        let index_path = dir.join(INDEX);
        let (names, index) = if dir.join(SINGLE).exists() {
            (BTreeSet::from([SINGLE.to_owned()]), None)
        } else if !index_path.exists() {
            return Err(ExportError::NoWeights(dir.to_owned()));
        } else {
            let text = fs::read_to_string(&index_path).map_err(ExportError::io(&index_path))?;
            let error = |reason: String| ExportError::Json { file: INDEX.into(), reason };
            let index: Index = serde_json::from_str(&text).map_err(|e| error(e.to_string()))?;
            if let Some(outside) =
                index.weight_map.values().find(|f| Path::new(f).file_name().is_none_or(|n| n != f.as_str()))
            {
                return Err(error(format!("`{outside}` is not the name of a file in the same folder")));
            }
            (index.weight_map.values().cloned().collect(), Some(index))
        };

        let mut checkpoint = Self { files: Vec::new(), tensors: BTreeMap::new(), read: RefCell::default() };
        for name in names {
            checkpoint.add_file(dir.join(name))?;
        }
        if let Some(missing) =
            index.iter().flat_map(|i| i.weight_map.keys()).find(|name| !checkpoint.tensors.contains_key(*name))
        {
            return Err(ExportError::MissingTensor(missing.clone()));
        }
        let is_vision = VISION_ONLY.iter().any(|name| checkpoint.contains(name));
        let bare_prefix = if is_vision { "vision_model." } else { "text_model." };
        let canonical = |name: String| {
            if BARE.iter().any(|part| name.starts_with(part)) { format!("{bare_prefix}{name}") } else { name }
        };
        checkpoint.tensors = checkpoint.tensors.into_iter().map(|(name, tensor)| (canonical(name), tensor)).collect();
        Ok(checkpoint)
    }

    fn add_file(&mut self, path: PathBuf) -> Result<(), ExportError> {
        let io = ExportError::io(&path);
        let malformed = |reason: String| ExportError::Safetensors { file: path.display().to_string(), reason };
        let read = |path: &Path| -> io::Result<(File, u64, u64)> {
            let file = File::open(path)?;
            let size = file.metadata()?.len();
            let mut length = [0; 8];
            if size >= 8 {
                file.read_exact_at(&mut length, 0)?;
            }
            Ok((file, size, u64::from_le_bytes(length)))
        };
        let (file, size, header_length) = read(&path).map_err(io)?;
        if size < 8 || header_length > MAX_HEADER || header_length > size - 8 {
            return Err(malformed("the header does not fit the file".into()));
        }
        let mut header = vec![0; header_length as usize];
        file.read_exact_at(&mut header, 8).map_err(ExportError::io(&path))?;
        // Deserializing checks that the tensors lie back to back and that each has the size of its shape.
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| malformed(e.to_string()))?;
        let expected = (8 + header_length).saturating_add(metadata.data_len() as u64);
        if expected != size {
            return Err(malformed(format!("its header describes {expected} bytes, the file has {size}")));
        }
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let tensor = Tensor {
                file: self.files.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                offset: 8 + header_length + start as u64,
                length: end - start,
            };
            if self.tensors.insert(name.clone(), tensor).is_some() {
                return Err(malformed(format!("tensor `{name}` is also in another shard")));
            }
        }
        self.files.push((path, file));
        Ok(())
    }

    /// Whether any tensor's name starts with `prefix`.
    pub(crate) fn has_prefix(&self, prefix: &str) -> bool {
        self.tensors.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// Fails on the first tensor that nothing has read: the model has something that the graphs do not compute.
    pub(crate) fn check_all_read(&self) -> Result<(), ExportError> {
        let read = self.read.borrow();
        match self.tensors.keys().find(|name| !read.contains(*name) && !is_harmless(name)) {
            Some(name) => Err(ExportError::UnknownTensor(name.clone())),
            None => Ok(()),
        }
    }

    /// The sha256 of `model.safetensors`, in hexadecimal; of shards, the sha256 of what `sha256sum` prints for them in the
    /// order of their names.
    pub(crate) fn sha256(&self) -> Result<String, ExportError> {
        let mut digests = Vec::new();
        for (path, _) in &self.files {
            digests.push((file_sha256(path)?, path.file_name().unwrap_or_default().to_string_lossy()));
        }
        Ok(match digests.as_slice() {
            [(digest, _)] => digest.clone(),
            many => hex(&Sha256::digest(many.iter().map(|(d, n)| format!("{d}  {n}\n")).collect::<String>())),
        })
    }
}

impl WeightSource for Checkpoint {
    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ExportError> {
        let tensor = self.tensors.get(name).ok_or_else(|| ExportError::MissingTensor(name.to_owned()))?;
        // A scalar is stored as `[]` by some versions and as `[1]` by others.
        if tensor.shape != shape && !(shape.is_empty() && tensor.shape == [1]) {
            let (actual, expected) = (tensor.shape.clone(), shape.to_vec());
            return Err(ExportError::TensorShape { name: name.to_owned(), actual, expected });
        }
        let Some((path, file)) = self.files.get(tensor.file) else {
            return Err(ExportError::MissingTensor(name.to_owned()));
        };
        let mut bytes = vec![0; tensor.length];
        file.read_exact_at(&mut bytes, tensor.offset).map_err(ExportError::io(path))?;
        let values = match tensor.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            other => return Err(ExportError::TensorType { name: name.to_owned(), dtype: format!("{other:?}") }),
        };
        self.read.borrow_mut().insert(name.to_owned());
        Ok(values)
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

/// Buffers that older versions of `transformers` stored and nobody reads.
fn is_harmless(name: &str) -> bool {
    name.ends_with(".position_ids")
}

/// The sha256 of a file, in hexadecimal.
pub(crate) fn file_sha256(path: &Path) -> Result<String, ExportError> {
    let digest = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex(&hasher.finalize())),
                n => hasher.update(&buffer[..n]),
            }
        }
    };
    digest().map_err(ExportError::io(path))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use safetensors::{View, tensor::TensorView};

    use super::*;

    fn write(path: &Path, tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) {
        let views: HashMap<_, _> =
            tensors.iter().map(|(n, d, s, b)| (n.to_string(), TensorView::new(*d, s.to_vec(), b).unwrap())).collect();
        assert!(views.values().all(|v| v.data_len() > 0));
        safetensors::serialize_to_file(&views, None, path).unwrap();
    }

    #[test]
    fn the_three_float_types_widen_exactly() {
        let dir = tempfile::tempdir().unwrap();
        let half = f16::from_f32(-1.5).to_le_bytes().to_vec();
        let brain = bf16::from_f32(3.0).to_le_bytes().to_vec();
        write(
            &dir.path().join(SINGLE),
            &[
                ("a", Dtype::F32, &[1], 0.1f32.to_le_bytes().to_vec()),
                ("b", Dtype::F16, &[1], half),
                ("c", Dtype::BF16, &[1, 1], brain),
                ("d", Dtype::I64, &[1], vec![0; 8]),
            ],
        );
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let read = |name, shape: &[usize]| checkpoint.read(name, shape).map(|v| v[0]).map_err(|e| e.to_string());
        assert_eq!((read("a", &[1]), read("b", &[1]), read("c", &[1, 1])), (Ok(0.1), Ok(-1.5), Ok(3.0)));
        assert!(read("a", &[2]).unwrap_err().contains("`a` has shape [1], the configuration asks for [2]"));
        assert!(read("d", &[1]).unwrap_err().contains("`d` has element type I64"));
        assert!(read("e", &[1]).unwrap_err().contains("`e` is missing"));
    }

    #[test]
    fn a_tensor_that_nothing_reads_is_named_unless_it_is_a_known_buffer() {
        let dir = tempfile::tempdir().unwrap();
        let one = || 1f32.to_le_bytes().to_vec();
        let tensors = [("x.position_ids", Dtype::F32, &[1][..], one()), ("lora.up", Dtype::F32, &[1], one())];
        write(&dir.path().join(SINGLE), &tensors);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert!(checkpoint.check_all_read().unwrap_err().to_string().contains("`lora.up`"));
        checkpoint.read("lora.up", &[1]).unwrap();
        checkpoint.check_all_read().unwrap();
    }

    #[test]
    fn shards_read_as_one_and_a_lying_index_is_caught() {
        let dir = tempfile::tempdir().unwrap();
        let shard = |name: &str, tensor: &str| {
            write(&dir.path().join(name), &[(tensor, Dtype::F32, &[1], 2f32.to_le_bytes().to_vec())]);
        };
        shard("model-00001-of-00002.safetensors", "a");
        shard("model-00002-of-00002.safetensors", "b");
        let index = |map: &str| fs::write(dir.path().join(INDEX), format!(r#"{{"weight_map": {map}}}"#)).unwrap();
        index(r#"{"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}"#);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.read("b", &[1]).unwrap(), [2.0]);
        assert_eq!(checkpoint.sha256().unwrap().len(), 64);

        shard("model-00003-of-00002.safetensors", "a");
        index(r#"{"a": "model-00001-of-00002.safetensors", "b": "model-00003-of-00002.safetensors"}"#);
        assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("also in another shard"));
        index(r#"{"c": "model-00001-of-00002.safetensors"}"#);
        assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("`c` is missing"));
        index(r#"{"a": "../model-00001-of-00002.safetensors"}"#);
        assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("not the name of a file"));
    }

    proptest! {
        #[test]
        fn no_damage_to_a_header_makes_it_panic(at in 0usize..80, byte: u8) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(SINGLE);
            write(&path, &[("a", Dtype::F32, &[2, 2], vec![0; 16]), ("b", Dtype::F16, &[3], vec![0; 6])]);
            let mut bytes = fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            fs::write(&path, bytes).unwrap();
            if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
                let names: Vec<_> = checkpoint.tensors.keys().cloned().collect();
                names.iter().for_each(|name| drop(checkpoint.read(name, &[2, 2])));
            }
        }
    }

    #[test]
    fn damaged_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SINGLE);
        write(&path, &[("a", Dtype::F32, &[4], vec![0; 16])]);
        let good = fs::read(&path).unwrap();
        let huge = [&u64::MAX.to_le_bytes()[..], &good[8..]].concat();
        for bad in [&good[..good.len() - 1], &good[..20], &good[..3], &huge, b""] {
            fs::write(&path, bad).unwrap();
            let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
            assert!(message.contains("not a safetensors file"), "{message}");
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(Checkpoint::open(dir.path()), Err(ExportError::NoWeights(_))));
    }
}
