//! A checkpoint folder's weights, whole or in shards with an index, as a [`WeightSource`].
//!
//! Owns which files are taken, checking shapes, and the digest of the source. How a file holds its tensors is its container's
//! (`safetensors`, `pickle`, `torchscript`, `hdf5`, `msgpack`); what other libraries and training scripts call them, `naming` turns into
//! the names of `CLIPModel`. Nothing in a file is trusted: offsets are checked against its length before anything is allocated.

mod hdf5;
mod instructions;
mod msgpack;
mod naming;
mod pickle;
mod pickle_globals;
mod pickle_tar;
mod safetensors;
mod shapes;
mod stored;
mod torchscript;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read},
    mem,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use self::{
    naming::Family,
    stored::{Element, Stored},
};
use super::{
    error::ExportError,
    weights::{Half, WeightSource},
};
use crate::model::{
    CheckpointFiles, Digests, Weights, clip_config::ClipConfig, open_clip_config, read_text, rules::Rules,
    sha256::Sha256Digest,
};

/// An opened checkpoint: it is known what there is, and the weights are still on disk.
#[derive(Debug)]
pub struct Checkpoint {
    files: CheckpointFiles,
    paths: Vec<PathBuf>,
    tensors: BTreeMap<String, Stored>,
    family: Family,
    read: RefCell<BTreeSet<String>>,
}

/// How a file holds tensors.
#[derive(Clone, Copy)]
enum Container {
    Safetensors,
    /// By `torch.save` or by `torch.jit.save`.
    OfTorch,
    Hdf5,
    Msgpack,
}

/// An index of shards; its other field, the total size, is of no use here.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens the weights at `source`: in a folder the first of [`Weights::ALL`] that it has, or one file that has nothing beside it.
    ///
    /// # Errors
    /// When there are none, a file is malformed or cut short, or the index names a tensor that its shard lacks; when a tensor is of a
    /// tower that is not served.
    pub fn open(source: &Path) -> Result<Self, ExportError> {
        let nothing = |source: &Path| match source.exists() {
            true => ExportError::NoWeights(source.to_owned()),
            false => ExportError::Absent(source.to_owned()),
        };
        let files = CheckpointFiles::of(source).ok_or_else(|| nothing(source))?;
        let (paths, tensors, read) = (Vec::new(), BTreeMap::new(), RefCell::default());
        let mut checkpoint = Self { files, paths, tensors, family: Family::PyTorch, read };
        match checkpoint.files.clone() {
            CheckpointFiles::Folder { directory, weights } => checkpoint.add_folder(&directory, weights)?,
            CheckpointFiles::Trained { path, .. } => checkpoint.add(path, Container::OfTorch)?,
            CheckpointFiles::Bare(path) => {
                checkpoint.add(path.clone(), Container::OfTorch)?;
                checkpoint.check_bare(&path)?;
            }
        }
        checkpoint.tensors = checkpoint.family.renamed(mem::take(&mut checkpoint.tensors), source)?;
        Ok(checkpoint)
    }

    fn add_folder(&mut self, directory: &Path, weights: Weights) -> Result<(), ExportError> {
        let (files, index) = if directory.join(weights.file()).is_file() {
            (BTreeSet::from([weights.file().to_owned()]), None)
        } else {
            let index = read_index(&directory.join(weights.index()))?;
            (index.weight_map.values().cloned().collect(), Some(index))
        };
        let container = match weights {
            Weights::Safetensors | Weights::Fp16Variant | Weights::OpenClipSafetensors => Container::Safetensors,
            Weights::PyTorch | Weights::OpenClipPyTorch => Container::OfTorch,
            Weights::TensorFlow => Container::Hdf5,
            Weights::Flax => Container::Msgpack,
        };
        for file in files {
            self.add(directory.join(file), container)?;
        }
        let there: BTreeSet<_> = self.tensors.keys().map(|name| self.family.indexed(name)).collect();
        let mut indexed = index.iter().flat_map(|index| index.weight_map.keys());
        match indexed.find(|name| !there.contains(&self.family.indexed(name))) {
            Some(missing) => Err(ExportError::MissingTensor(missing.clone())),
            None => Ok(()),
        }
    }

    /// Adds the tensors of one file.
    fn add(&mut self, path: PathBuf, container: Container) -> Result<(), ExportError> {
        refuse_pointer(&path)?;
        let (tensors, family) = match container {
            Container::Safetensors => safetensors::open(&path)?,
            Container::OfTorch if torchscript::is_one(&path)? => (torchscript::open(&path)?, Family::PyTorch),
            Container::OfTorch => (pickle::open(&path)?, Family::PyTorch),
            Container::Hdf5 => (hdf5::open(&path)?, Family::TensorFlow),
            Container::Msgpack => (msgpack::open(&path)?, Family::Flax),
        };
        if !self.paths.is_empty() && self.family != family {
            let reason = format!("its names are those of {family:?}, and another shard's are not");
            return Err(ExportError::malformed(&path, reason));
        }
        self.family = family;
        for (name, tensor) in tensors {
            if self.tensors.contains_key(&name) {
                return Err(ExportError::malformed(
                    &path,
                    format!("tensor `{name}` is in it twice, or also in another shard"),
                ));
            }
            self.tensors.insert(name, tensor);
        }
        self.paths.push(path);
        Ok(())
    }

    /// Refuses weights whose shapes do not say what they compute: those of OpenAI's code do.
    fn check_bare(&self, path: &Path) -> Result<(), ExportError> {
        let has = |part: &str| self.tensors.keys().any(|name| name.contains(part));
        let reason = if has("text_model.") || has("vision_model.") {
            "its tensors are named as those of transformers; call it pytorch_model.bin, beside its config.json"
        } else if self.tensors.keys().any(|name| name.starts_with("state_dict.")) {
            "open_clip's training leaves weights under state_dict, and which activation and heads they have is in its model's configuration \
             alone; put that beside it as open_clip_config.json, or save the state_dict by itself if OpenAI's code trained it"
        } else {
            return Ok(());
        };
        Err(ExportError::malformed(path, reason.to_owned()))
    }

    /// What describes the weights, and is copied with them.
    pub(crate) fn files(&self) -> &CheckpointFiles {
        &self.files
    }

    /// The configuration of the model: a file's, or that of its shapes.
    ///
    /// # Errors
    /// Names the field that is unknown, or not served.
    pub(crate) fn config(&self) -> Result<ClipConfig, ExportError> {
        let Some((directory, file)) = self.files.description() else {
            return shapes::clip_config(self.files.weights(), &self.tensors);
        };
        let path = directory.join(file);
        let text = read_text(&path).map_err(ExportError::io(&path))?;
        let config = match self.files.rules() {
            Rules::OpenClip => open_clip_config::clip_config(&text),
            _ => ClipConfig::from_json(&text),
        };
        config.map_err(|error| ExportError::Config { file, error })
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

    /// The SHA-256 of the one file, in hexadecimal; of shards, that of what `sha256sum` prints for them in the order of their names.
    pub(crate) fn sha256(&self, digests: &Digests) -> Result<String, ExportError> {
        let mut all = Vec::new();
        for path in &self.paths {
            let digest = digests.sha256(path).map_err(ExportError::digest(path))?;
            all.push((digest.contents.hex(), path.file_name().unwrap_or_default().to_string_lossy()));
        }
        Ok(match all.as_slice() {
            [(digest, _)] => digest.clone(),
            many => Sha256Digest::of(many.iter().map(|(d, n)| format!("{d}  {n}\n")).collect::<String>()).hex(),
        })
    }
}

/// A clone without git-lfs has a few lines of text in place of each large file.
fn refuse_pointer(path: &Path) -> Result<(), ExportError> {
    const POINTER: &[u8] = b"version https://git-lfs";
    let mut start = [0; POINTER.len()];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    match read {
        Ok(()) if start == POINTER => {
            let reason = "it is git-lfs's pointer to the weights, not the weights; run `git lfs pull` in the clone";
            Err(ExportError::malformed(path, reason.to_owned()))
        }
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(ExportError::io(path)(error)),
        _ => Ok(()),
    }
}

/// Bytes of a file's name on Linux.
const MAX_NAME: usize = 255;

fn read_index(path: &Path) -> Result<Index, ExportError> {
    let text = read_text(path).map_err(ExportError::io(path))?;
    let error = |reason: String| ExportError::Json { file: path.display().to_string(), reason };
    let index: Index = serde_json::from_str(&text).map_err(|e| error(e.to_string()))?;
    let is_name = |file: &str| file.len() <= MAX_NAME && Path::new(file).file_name().is_some_and(|name| name == file);
    match index.weight_map.values().find(|file| !is_name(file)) {
        Some(outside) => {
            Err(error(format!("a shard's name is not the name of a file in the same folder: `{outside}`")))
        }
        None => Ok(index),
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
        if let Element::Other(dtype) = &tensor.element {
            return Err(ExportError::TensorType { name: name.to_owned(), dtype: dtype.clone() });
        }
        let values = tensor.values()?;
        self.read.borrow_mut().insert(name.to_owned());
        Ok(values)
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn rounding(&self, names: &[&str]) -> Option<Half> {
        // PyTorch and TensorFlow load weights of any type as f32; Flax keeps them as they are, and numpy's rules make the result's type.
        let all = |element| names.iter().all(|name| self.tensors.get(*name).is_some_and(|t| t.element == element));
        match self.family {
            Family::Flax if all(Element::F16) => Some(Half::F16),
            Family::Flax if all(Element::BF16) => Some(Half::BF16),
            _ => None,
        }
    }
}

/// Buffers that older versions of `transformers` stored and nobody reads.
fn is_harmless(name: &str) -> bool {
    name.ends_with(".position_ids")
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, fs};

    use ::safetensors::{Dtype, View, serialize_to_file, tensor::TensorView};
    use half::{bf16, f16};
    use proptest::prelude::*;

    use super::*;

    const SINGLE: &str = "model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";

    fn write(path: &Path, tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) {
        let views: HashMap<_, _> =
            tensors.iter().map(|(n, d, s, b)| (n.to_string(), TensorView::new(*d, s.to_vec(), b).unwrap())).collect();
        assert!(views.values().all(|v| v.data_len() > 0));
        serialize_to_file(&views, None, path).unwrap();
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
        assert_eq!(checkpoint.sha256(&Digests::default()).unwrap().len(), 64);

        shard("model-00003-of-00002.safetensors", "a");
        index(r#"{"a": "model-00001-of-00002.safetensors", "b": "model-00003-of-00002.safetensors"}"#);
        assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("also in another shard"));
        index(r#"{"c": "model-00001-of-00002.safetensors"}"#);
        assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("`c` is missing"));
        for name in ["../model-00001-of-00002.safetensors", &"x".repeat(3000)] {
            index(&format!(r#"{{"a": "{name}"}}"#));
            let error = Checkpoint::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains("not the name of a file") && error.len() < 2000, "{error}");
        }
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
        let mut path = dir.path().join(SINGLE);
        write(&path, &[("a", Dtype::F32, &[4], vec![0; 16])]);
        let good = fs::read(&path).unwrap();
        let huge = [&u64::MAX.to_le_bytes()[..], &good[8..]].concat();
        for bad in [&good[..good.len() - 1], &good[..20], &good[..3], &huge, b""] {
            fs::write(&path, bad).unwrap();
            let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
            assert!(message.contains("not a safetensors file"), "{message}");
        }
        for name in [SINGLE, "pytorch_model.bin"] {
            fs::remove_file(&path).unwrap();
            path = dir.path().join(name);
            fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 16\n").unwrap();
            assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("git lfs pull"), "{name}");
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(Checkpoint::open(dir.path()), Err(ExportError::NoWeights(_))));
        let absent = Checkpoint::open(&dir.path().join("owner/name")).unwrap_err().to_string();
        assert!(absent.contains("owner/name is not there") && absent.contains("from the hub"), "{absent}");
    }
}
