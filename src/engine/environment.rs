//! The ONNX Runtime library and its environment: found, loaded once, kept for the life of the process.
//!
//! Owns the search for the library and the one `ort` environment a process may ever have. Does not own sessions.
//!
//! Invariants: the library is always loaded from an explicit path (the crate's implicit search panics or hangs when it finds
//! none); loading twice returns the first; asking for another file after that is an error, not a silent reuse.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use ort::environment::Environment;

use super::error::EngineError;

/// The folder, in the executable's folder or any folder above it, that `make` unpacks the library into.
const CHECKOUT_FOLDER: &str = ".onnxruntime";

/// Variables of the environment that the libraries read when they are loaded, and their values: a process sets them before it has
/// threads, each unless the operator has. The published builds of ONNX Runtime send usage data home unless told not to.
pub const VARIABLES: [(&str, &str); 2] = [("ORT_DISABLE_TELEMETRY", "1"), ONEDNN_CACHE];

/// oneDNN, of which OpenVINO is made, keeps 1024 of the pieces that it compiles for a size of batch, for the whole process, beside those
/// that its sessions keep, unless this says otherwise before it is loaded.
const ONEDNN_CACHE: (&str, &str) = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0");

/// The loaded library and its environment.
#[derive(Debug)]
pub struct Runtime {
    environment: Environment,
    version: String,
    library: PathBuf,
    /// The plugin that was registered, of which a process can have one.
    plugin: Mutex<Option<PathBuf>>,
}

impl Runtime {
    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The library's version, such as `1.32.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether spinning threads can be told for how long, as from 1.26 on: before, they spin on for milliseconds.
    pub(super) fn bounds_spinning(&self) -> bool {
        bounds_spinning(&self.version)
    }

    /// Its file.
    pub(super) fn library(&self) -> &Path {
        &self.library
    }

    /// Whether a plugin was registered: then a session must say which device it is for.
    pub(super) fn has_plugin(&self) -> bool {
        self.plugin.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Loads the plugin in `file`, unless it is loaded.
    pub(super) fn register(&self, file: &Path) -> Result<(), String> {
        let mut registered = self.plugin.lock().unwrap_or_else(PoisonError::into_inner);
        if registered.as_deref() == Some(file) {
            return Ok(());
        }
        self.environment.register_ep_library("openvino", file).map_err(|error| one_line(error.message()))?;
        *registered = Some(file.to_owned());
        Ok(())
    }
}

static LOADED: Mutex<Option<&'static Runtime>> = Mutex::new(None);

/// The library of this process, where one is loaded.
pub(super) fn loaded() -> Option<&'static Runtime> {
    *LOADED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Loads the library: `explicit`, or the first found beside the executable or in a checkout above it.
pub(super) fn load(explicit: Option<&Path>, executable_dir: Option<&Path>) -> Result<&'static Runtime, EngineError> {
    let library = match explicit {
        Some(path) => path.to_owned(),
        None => find(executable_dir)?,
    };
    let library =
        library.canonicalize().map_err(|error| EngineError::Library { path: library, reason: error.to_string() })?;
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    match *loaded {
        Some(runtime) if runtime.library == library => Ok(runtime),
        Some(runtime) => Err(EngineError::Library {
            path: library,
            reason: format!("this process already uses {}", runtime.library.display()),
        }),
        None => {
            let runtime: &'static Runtime = Box::leak(Box::new(open(library)?));
            *loaded = Some(runtime);
            Ok(runtime)
        }
    }
}

fn open(library: PathBuf) -> Result<Runtime, EngineError> {
    let fault = |reason: String| EngineError::Library { path: library.clone(), reason: one_line(&reason) };
    // Telemetry is switched off by [`VARIABLES`]: this switch alone does not stop the wheel's background thread.
    let environment = ort::init_from(&library)
        .map_err(|error| fault(error.to_string()))?
        .with_name("clipserve")
        .with_telemetry(false)
        .build()
        .map_err(|error| fault(error.message().to_owned()))?;
    let version = version(&library);
    Ok(Runtime { environment, version, library, plugin: Mutex::new(None) })
}

fn bounds_spinning(version: &str) -> bool {
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    minor.is_some_and(|minor| minor >= 26)
}

/// `1.32.0` from `libonnxruntime.so.1.32.0`, else `1.<minor>` as the library itself says.
fn version(library: &Path) -> String {
    let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match name.strip_prefix("libonnxruntime.so.") {
        Some(version) if version.split('.').count() == 3 => version.to_owned(),
        _ => ort::util::probe(library).map_or_else(|| "unknown".to_owned(), |minor| format!("1.{minor}")),
    }
}

pub(super) fn find(executable_dir: Option<&Path>) -> Result<PathBuf, EngineError> {
    let beside = executable_dir.map(Path::to_owned);
    let above = executable_dir.into_iter().flat_map(Path::ancestors).map(|dir| dir.join(CHECKOUT_FOLDER));
    let folders: Vec<PathBuf> = beside.into_iter().chain(above).collect();
    folders.iter().find_map(|folder| library_in(folder)).ok_or_else(|| EngineError::LibraryNotFound {
        searched: folders.iter().map(|folder| folder.display().to_string()).collect(),
    })
}

/// `libonnxruntime.so` or `libonnxruntime.so.<version>`, the last by name.
pub(super) fn library_in(folder: &Path) -> Option<PathBuf> {
    let is_library = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name == "libonnxruntime.so" || name.starts_with("libonnxruntime.so.")
    };
    fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).filter(is_library).max()
}

/// ONNX Runtime's messages may span lines; a start-up error is one.
pub(super) fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_spin_only_where_they_can_be_told_for_how_long() {
        for (version, expected) in [("1.32.0", true), ("1.26", true), ("1.24.1", false), ("unknown", false)] {
            assert_eq!(bounds_spinning(version), expected, "{version}");
        }
    }

    #[test]
    fn the_library_is_found_beside_the_executable_and_in_a_checkout_above_it() {
        let root = tempfile::tempdir().expect("a folder");
        let bin = root.path().join("target/release");
        fs::create_dir_all(&bin).expect("a folder");
        assert!(matches!(find(Some(&bin)), Err(EngineError::LibraryNotFound { searched }) if searched.len() > 3));
        let checkout = root.path().join(CHECKOUT_FOLDER);
        fs::create_dir(&checkout).expect("a folder");
        fs::write(checkout.join("libonnxruntime.so.1.32.0"), "").expect("a file");
        fs::write(checkout.join("libonnxruntime_providers_shared.so"), "").expect("a file");
        assert_eq!(find(Some(&bin)).expect("above"), checkout.join("libonnxruntime.so.1.32.0"));
        fs::write(bin.join("libonnxruntime.so"), "").expect("a file");
        assert_eq!(find(Some(&bin)).expect("beside"), bin.join("libonnxruntime.so"));
    }

    #[test]
    fn a_message_becomes_one_line() {
        assert_eq!(one_line("a\n  b\tc\n"), "a b c");
    }
}
