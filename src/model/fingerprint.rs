//! The name of a model's numbers: two models with the same fingerprint give the same embeddings, in the same arithmetic.
//!
//! Owns what is hashed: the graphs with their external data, the tokenizer and what is added to it, the preprocessor configuration, whose
//! rules these follow where that is not `transformers`, and the settings under which crops differ from what that asks for. Not in it: the
//! provider and the precision that run, which `/info` reports beside it.

use std::{
    fmt, io, iter,
    path::{Path, PathBuf},
};

use super::{
    digests::Digests,
    error::ModelError,
    external_data,
    layout::ModelFiles,
    pictures::PicturePreparation,
    rules::{PictureRules, Rules},
    sha256::{FileHasher, Sha256Digest},
    texts::Tokenization,
    tokens::TokenizerSettings,
};
use crate::config::PreprocessConfig;

/// SHA-256 over what embeddings depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// That of the files of a model, whose pictures and texts are prepared like this.
    ///
    /// # Errors
    /// Names the file that cannot be read, or is damaged.
    pub fn of(
        files: &ModelFiles,
        preparation: Option<&PicturePreparation>,
        tokenization: Option<&Tokenization>,
        digests: &Digests,
    ) -> Result<Self, ModelError> {
        let hash = |path: &Path| {
            let digest = digests.sha256(path).map(|digest| digest.and_length);
            digest.map_err(|error| ModelError::File { path: path.to_owned(), reason: error.to_string() })
        };
        let mut all = FileHasher::default();
        let (vision, text) = (files.vision.as_ref(), files.text.as_ref());
        for graphs in [vision.map(|vision| &vision.graphs), text.map(|text| &text.graphs)].into_iter().flatten() {
            let graph = graphs.first();
            let fault = |error: io::Error| ModelError::File { path: graph.to_owned(), reason: error.to_string() };
            let data = external_data::of(graph).map_err(fault)?;
            for path in iter::once(graph).chain(data.iter().map(PathBuf::as_path)) {
                all.update(hash(path)?.as_ref());
            }
        }
        let tokenizer = tokenization.and_then(Tokenization::file);
        let merges = tokenizer.filter(|path| path.ends_with("vocab.json"));
        let merges = merges.map(|path| path.with_file_name("merges.txt"));
        let preprocessor = match vision.map(|vision| &vision.preparation) {
            Some(PictureRules::Transformers(path)) => Some(path.as_path()),
            _ => None,
        };
        for path in [tokenizer, merges.as_deref(), preprocessor].into_iter().flatten() {
            all.update(hash(path)?.as_ref());
        }
        if let Some(path) = tokenizer.filter(|_| tokenization.is_some_and(Tokenization::adds_tokens)) {
            let added = TokenizerSettings::beside(path)?.added_to(path)?;
            // Only then, so that the name stays where nothing is added.
            if !added.is_empty() {
                all.update(Sha256Digest::of(serde_json::json!(added).to_string()).as_ref());
            }
        }
        // By other rules the same graphs give other numbers.
        let rules = [tokenization.and_then(Tokenization::identity), preparation.and_then(PicturePreparation::identity)];
        for identity in rules.into_iter().flatten() {
            all.update(Sha256Digest::of(identity).as_ref());
        }
        Ok(Self(all.finish().contents.hex()))
    }

    /// That of the model whose pictures are prepared by `settings` and `rules`: the files' own where the former are the defaults, which are
    /// the reference's.
    pub fn with_pictures_by(self, settings: &PreprocessConfig, rules: Rules) -> Self {
        // All fields are named, so that a new one is decided on here: threads change no pixel.
        let &PreprocessConfig { threads: _, exif_orientation, fast_decode } = settings;
        // Nobody else turns pictures, whatever is set.
        let exif_orientation = exif_orientation || rules != Rules::Transformers;
        if exif_orientation && !fast_decode {
            return self;
        }
        let settings = format!("{} exif_orientation={exif_orientation} fast_decode={fast_decode}", self.0);
        Self(Sha256Digest::of(settings).hex())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::{Graphs, TextFiles, VisionFiles, open_clip::ImageTransform, rules::TextRules, texts::Clean};

    #[test]
    fn every_setting_that_changes_a_picture_changes_the_fingerprint() {
        let of = |exif_orientation, fast_decode| {
            let settings = PreprocessConfig { threads: 1, exif_orientation, fast_decode };
            Fingerprint("f".to_owned()).with_pictures_by(&settings, Rules::Transformers).0
        };
        let settings = PreprocessConfig { threads: 1, exif_orientation: false, fast_decode: false };
        assert_eq!(Fingerprint("f".to_owned()).with_pictures_by(&settings, Rules::Immich).0, "f");
        assert_eq!(of(true, false), "f");
        let all =
            std::collections::BTreeSet::from([of(true, false), of(true, true), of(false, false), of(false, true)]);
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn every_file_that_counts_changes_the_fingerprint_and_no_other() {
        let root = tempfile::tempdir().expect("a folder");
        let file = |name: &str| {
            let path = root.path().join(name);
            fs::write(&path, name).expect("a file");
            path
        };
        let files = ModelFiles {
            vision: Some(VisionFiles {
                graphs: Graphs::Embedding(file("vision_model.onnx")),
                preparation: PictureRules::Transformers(file("preprocessor_config.json")),
                config: Some(file("config.json")),
                weights: None,
            }),
            text: Some(TextFiles {
                graphs: Graphs::Embedding(file("text_model.onnx")),
                preparation: TextRules::Transformers(file("tokenizer.json")),
                config: file("config.json"),
                weights: None,
            }),
            weights: Some(file("model.safetensors")),
        };
        file("vision_model.onnx_data");
        file("vision_model.onnx_data_1");
        let tokenization = Tokenization::Transformers(root.path().join("tokenizer.json"));
        let of =
            || Fingerprint::of(&files, None, Some(&tokenization), &Digests::default()).expect("readable").to_string();
        let before = of();
        assert!(before.starts_with("sha256:") && before.len() == 7 + 64);
        for changed in [
            "vision_model.onnx",
            "vision_model.onnx_data",
            "vision_model.onnx_data_1",
            "text_model.onnx",
            "tokenizer.json",
            "preprocessor_config.json",
        ] {
            fs::write(root.path().join(changed), "other").expect("a file");
            assert_ne!(of(), before, "{changed}");
            file(changed);
        }
        fs::write(root.path().join("config.json"), "other").expect("a file");
        assert_eq!(of(), before);
        // What other rules would make of the same files.
        let transform = ImageTransform::of_openai(224).expect("a size");
        let preparations = [PicturePreparation::OpenClip(transform.clone()), PicturePreparation::OpenAi(transform)];
        let tokenizations = [
            Tokenization::OpenClip(Clean::Lower),
            Tokenization::OpenClip(Clean::Whitespace),
            Tokenization::OpenAi,
            Tokenization::Immich { tokenizer: root.path().join("tokenizer.json"), canonicalize: false },
        ];
        let mut all = std::collections::BTreeSet::from([before]);
        for preparation in preparations.iter().map(Some).chain([None]) {
            for tokenization in &tokenizations {
                let of =
                    Fingerprint::of(&files, preparation, Some(tokenization), &Digests::default()).expect("readable");
                assert!(all.insert(of.to_string()), "{preparation:?} {tokenization:?}");
            }
        }
    }

    /// What is hashed must not change with a name in the code.
    #[test]
    fn the_identity_of_rules_is_this() {
        let transform = ImageTransform::of_openai(224).expect("a size");
        assert_eq!(
            PicturePreparation::OpenClip(transform).identity().as_deref(),
            Some(
                "open_clip ImageTransform { size: Size { height: 224, width: 224 }, resize: Shortest, resample: Bicubic, \
                 mean: [0.48145467, 0.4578275, 0.40821072], std: [0.26862955, 0.2613026, 0.2757771] }"
            )
        );
        assert_eq!(Tokenization::OpenClip(Clean::Lower).identity().as_deref(), Some("open_clip Lower"));
        let named = Tokenization::OpenClipHuggingFace("t".into(), Clean::Canonicalize);
        assert_eq!(named.identity().as_deref(), Some("open_clip Canonicalize"));
        assert_eq!(Tokenization::OpenAi.identity().as_deref(), Some("openai"));
        let immich = Tokenization::Immich { tokenizer: "t".into(), canonicalize: true };
        assert_eq!(immich.identity().as_deref(), Some("immich canonicalize"));
        assert_eq!(Tokenization::Transformers("t".into()).identity(), None);
    }
}
