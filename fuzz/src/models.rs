//! The files that say what a model is: its configurations, its graphs, its tokenizer.

use std::{cell::OnceCell, fs, path::Path};

use clipserve::{
    engine,
    model::{
        clip_config::ClipConfig, immich::ImmichTransform, open_clip::ImageTransform, preprocessor::PreprocessorConfig,
        texts::Tokenization,
    },
    preprocess::text::TextTokenizer,
};
use tempfile::TempDir;

/// Texts that a tokenizer gets, which has some of their words.
const TEXTS: [&str; 4] =
    ["", "a photo of a cat", "na\u{ef}ve  \u{1f408}\u{200d}\u{2b1b} 12's\n", "<|endoftext|> aaaaaaaaaaaa"];

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

/// In a folder of the thread's own.
fn in_folder(use_it: impl FnOnce(&Path)) {
    FOLDER.with(|folder| use_it(folder.get_or_init(|| TempDir::new().expect("a folder")).path()));
}

/// `config.json` and its like.
pub(super) fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(config) = ClipConfig::from_json(text) {
        assert!(ClipConfig::from_json(&config.to_json()).is_ok(), "what is written of it is read again");
    }
    let _ = PreprocessorConfig::from_json(text);
    let _ = ImageTransform::from_json(text);
    let _ = ImmichTransform::from_json(text);
}

/// An ONNX graph, as far as it is read here.
pub(super) fn graph(bytes: &[u8]) {
    in_folder(|folder| {
        let path = folder.join("model.onnx");
        fs::write(&path, bytes).expect("room for a file");
        let _ = engine::read_graph(&path);
    });
}

/// `tokenizer.json`.
pub(super) fn tokenizer(bytes: &[u8]) {
    in_folder(|folder| {
        let path = folder.join("tokenizer.json");
        fs::write(&path, bytes).expect("room for a file");
        tokenize(Tokenization::Transformers(path.clone()));
        fs::remove_file(path).expect("it was written");
    });
}

/// What stands beside a tokenizer: the first line is `tokenizer_config.json`, the second `special_tokens_map.json`, the third `vocab.json`,
/// and the rest is `merges.txt`.
pub(super) fn settings(bytes: &[u8]) {
    const FILES: [&str; 4] = ["tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"];
    in_folder(|folder| {
        for (name, contents) in FILES.iter().zip(bytes.splitn(FILES.len(), |&byte| byte == b'\n')) {
            fs::write(folder.join(name), contents).expect("room for a file");
        }
        tokenize(Tokenization::Transformers(folder.join("tokenizer.json")));
        for name in FILES {
            // A short input has not all of them.
            let _ = fs::remove_file(folder.join(name));
        }
    });
}

fn tokenize(tokenization: Tokenization) {
    let Ok(tokenizer) = TextTokenizer::open(&tokenization, 77, 1 << 10, Some(3072)) else { return };
    for text in TEXTS {
        let _ = tokenizer.tokenize(text, true);
        let _ = tokenizer.pieces(text, true);
    }
    let _ = tokenizer.decode(&[0, 1, 320, 3071], true);
}
