//! The files of weights beside a graph, which exporters name after it: ONNX's external data.
//!
//! Owns the convention. Does not read the graph, whose initializers name the same files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The files that hold weights of `graph`, in the order of their names; none where they are in the graph itself.
///
/// # Errors
/// When the graph's folder cannot be read.
pub fn of(graph: &Path) -> io::Result<Vec<PathBuf>> {
    let name = graph.file_name().unwrap_or_default().to_string_lossy();
    // Our graphs of all outputs have no weights of their own.
    let name = name.replace("_outputs.onnx", "_model.onnx");
    let folder = graph.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        if file_name.strip_prefix(&name).is_some_and(is_rest_of_name) && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whether this follows the graph's name in that of a file of its weights: `_data`, `.data`, and the parts of data that is in
/// several files (`_data_1`).
pub(super) fn is_rest_of_name(rest: &str) -> bool {
    let Some(number) = rest.strip_prefix("_data").or_else(|| rest.strip_prefix(".data")) else { return false };
    number.is_empty()
        || number
            .strip_prefix('_')
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_a_graphs_weights_is_found_and_no_other() {
        let root = tempfile::tempdir().expect("a folder");
        let path = |name: &str| root.path().join(name);
        for name in [
            "text_model.onnx",
            "text_model.onnx_data",
            "vision_model.onnx",
            "vision_model.onnx.data",
            "vision_model.onnx_data",
            "vision_model.onnx_data_1",
            "vision_model.onnx_data_",
            "vision_model.onnx_database",
            "vision_model_fp16.onnx_data",
        ] {
            fs::write(path(name), "").expect("a file");
        }
        let of = |graph: &str| of(&path(graph)).expect("a folder that can be read");
        let vision = ["vision_model.onnx.data", "vision_model.onnx_data", "vision_model.onnx_data_1"];
        assert_eq!(of("vision_model.onnx"), vision.map(path));
        assert_eq!(of("text_outputs.onnx"), [path("text_model.onnx_data")]);
        assert!(of("other.onnx").is_empty());
    }
}
