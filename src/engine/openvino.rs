//! OpenVINO on the CPU: bf16 arithmetic, which ONNX Runtime's own CPU kernels do not have on x86, and a faster int8.
//!
//! Owns where its files are, in which of its two forms it is used, and its options. Does not own the choice to use it (`provider`), nor
//! what the CPU can do (`cpu`).
//!
//! It comes as a plugin for any ONNX Runtime, which takes Intel's CPUs only, and built into an ONNX Runtime of its own
//! (`onnxruntime-openvino`), which takes any. `scripts/fetch-onnxruntime.sh --openvino` puts both below the folder of the ONNX
//! Runtime library: `openvino/plugin/` and `openvino/runtime/`.

use std::path::{Path, PathBuf};

use ort::{device::Device, environment::Environment, memory::DeviceType};

use super::{cpu, environment, error::EngineError, session_options::SessionOptions};
use crate::config::EngineConfig;

const PROVIDER: &str = "OpenVINOExecutionProvider";
const PLUGIN_FILE: &str = "libonnxruntime_providers_openvino_plugin.so";
const BUILT_IN_FILE: &str = "libonnxruntime_providers_openvino.so";
const CUDA_FILE: &str = "libonnxruntime_providers_cuda.so";
const FOLDER: &str = "openvino";

/// The provider's option that takes OpenVINO's own properties.
pub(super) const OPTIONS: &str = "load_config";
/// The same for the plugin, whose options carry its name; one without it is dropped silently.
pub(super) const PLUGIN_OPTIONS: &str = "OpenVINOExecutionProvider.load_config";

/// The form in which OpenVINO is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OpenVino {
    /// A plugin, in this file, that the environment loads.
    Plugin(PathBuf),
    /// A provider of the ONNX Runtime library itself.
    BuiltIn,
}

/// What is not there.
pub(super) enum Missing {
    /// ONNX Runtime.
    Library(EngineError),
    /// OpenVINO; the reason.
    OpenVino(String),
}

/// The ONNX Runtime library to load, and the form of OpenVINO that goes with it and with this CPU.
pub(super) fn find(config: &EngineConfig) -> Result<(PathBuf, OpenVino), Missing> {
    let library = match &config.library {
        Some(library) => library.clone(),
        None => environment::find(config.executable_dir.as_deref()).map_err(Missing::Library)?,
    };
    let folder = library.parent().unwrap_or(Path::new("")).to_owned();
    if folder.join(BUILT_IN_FILE).is_file() {
        return Ok((library, OpenVino::BuiltIn));
    }
    let beside = [folder.join(FOLDER).join("plugin"), folder.clone()].map(|folder| folder.join(PLUGIN_FILE));
    let plugin = beside.into_iter().find(|file| file.is_file());
    let own = folder.join(FOLDER).join("runtime");
    match plugin {
        Some(plugin) if cpu::is_intel() => Ok((library, OpenVino::Plugin(plugin))),
        _ if config.library.is_none() && own.join(BUILT_IN_FILE).is_file() => {
            environment::library_in(&own).map(|library| (library, OpenVino::BuiltIn)).ok_or_else(|| {
                Missing::OpenVino(format!("there is no ONNX Runtime library in {}; fetch it again", own.display()))
            })
        }
        Some(_) => Err(Missing::OpenVino(format!(
            "the OpenVINO plugin takes Intel's CPUs only, and this is {}; the onnxruntime-openvino library takes it",
            cpu::name().unwrap_or_else(|| "another".to_owned())
        ))),
        None => Err(Missing::OpenVino(format!(
            "OpenVINO is not beside the ONNX Runtime library in {}; `make fetch-openvino` fetches it",
            folder.display()
        ))),
    }
}

/// Whether the library that would be loaded is the CUDA build.
pub(super) fn is_cuda_build(config: &EngineConfig) -> bool {
    let library = config.library.clone().or_else(|| environment::find(config.executable_dir.as_deref()).ok());
    library.is_some_and(|library| library.with_file_name(CUDA_FILE).is_file())
}

/// What OpenVINO computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    /// f32.
    F32,
    /// bf16, from graphs of f32.
    Bf16,
    /// 8-bit integers, from graphs of 8-bit weights; everything else in f32.
    Int8,
}

/// OpenVINO's properties. The precision is always said: its own default is bf16 in one form and f32 in the other. One stream:
/// a session runs one batch at a time. Not pinned: a container's cores are not the first ones. Bounded: see [`CACHE_CAPACITY`].
pub(super) fn options(arithmetic: Arithmetic, options: &SessionOptions) -> String {
    let precision = if arithmetic == Arithmetic::Bf16 { "bf16" } else { "f32" };
    let group = if arithmetic == Arithmetic::Int8 { options.activation_group } else { 0 };
    serde_json::json!({"CPU": {
        "INFERENCE_PRECISION_HINT": precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": group.to_string(),
        "INFERENCE_NUM_THREADS": options.intra_threads.to_string(),
        "NUM_STREAMS": "1",
        "ENABLE_CPU_PINNING": "NO",
        "CPU_RUNTIME_CACHE_CAPACITY": CACHE_CAPACITY,
    }})
    .to_string()
}

/// Of what a session compiles for a new size of a batch, it keeps so many pieces, the last used ones: a run takes three or four. As
/// many as all lengths of one text need; OpenVINO's own 5000 are hundreds of megabytes (`docs/performance.md`).
const CACHE_CAPACITY: &str = "256";

/// The plugin's device for this machine's CPU.
pub(super) fn cpu_devices(environment: &Environment) -> impl Iterator<Item = Device<'_>> {
    let is_cpu = |device: &Device<'_>| {
        device.ep().is_ok_and(|name| name == PROVIDER) && device.hardware_device().ty() == DeviceType::CPU
    };
    environment.devices().filter(is_cpu).take(1)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{self, Overrides};

    fn engine(library: &Path) -> EngineConfig {
        let set = vec!["model.path=m".to_owned(), format!("engine.library={}", library.display())];
        config::load(&Overrides { set, ..Overrides::default() }, []).expect("valid").config.engine
    }

    #[test]
    fn the_form_follows_from_what_lies_beside_the_library_and_from_the_cpu() {
        let root = tempfile::tempdir().expect("a folder");
        let file = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(&path, "").expect("a file");
            path
        };
        let library = file("libonnxruntime.so.1.32.0");
        let find = |config: &EngineConfig| match find(config) {
            Ok((library, form)) => Ok((library, form)),
            Err(Missing::OpenVino(reason)) => Err(reason),
            Err(Missing::Library(error)) => Err(error.to_string()),
        };
        let nothing = find(&engine(&library)).expect_err("nothing there");
        assert!(nothing.contains("make fetch-openvino"), "{nothing}");
        let plugin = file("openvino/plugin/libonnxruntime_providers_openvino_plugin.so");
        let with_plugin = find(&engine(&library));
        let mut unnamed = engine(&library);
        (unnamed.library, unnamed.executable_dir) = (None, Some(root.path().to_owned()));
        let own = file("openvino/runtime/libonnxruntime.so.1.24.1");
        file("openvino/runtime/libonnxruntime_providers_openvino.so");
        if cpu::is_intel() {
            assert_eq!(with_plugin, Ok((library.clone(), OpenVino::Plugin(plugin.clone()))));
            assert_eq!(find(&unnamed), Ok((library.clone(), OpenVino::Plugin(plugin))));
        } else {
            let refused = with_plugin.expect_err("not Intel's");
            assert!(refused.contains("Intel's CPUs only"), "{refused}");
            assert_eq!(find(&unnamed), Ok((own.clone(), OpenVino::BuiltIn)));
            assert!(find(&engine(&library)).is_err(), "a library that was named is not replaced by another one");
        }
        assert_eq!(find(&engine(&own)), Ok((own, OpenVino::BuiltIn)));
    }

    #[test]
    fn the_precision_is_always_said() {
        for (arithmetic, hint, group) in
            [(Arithmetic::F32, "f32", "0"), (Arithmetic::Bf16, "bf16", "0"), (Arithmetic::Int8, "f32", "384")]
        {
            let session = SessionOptions {
                intra_threads: 3,
                activation_group: 384,
                keeps_memory: true,
                profile: None,
                exact_integers: false,
            };
            let options: serde_json::Value = serde_json::from_str(&options(arithmetic, &session)).expect("JSON");
            let cpu = &options["CPU"];
            assert_eq!((&cpu["INFERENCE_PRECISION_HINT"], &cpu["INFERENCE_NUM_THREADS"]), (&hint.into(), &"3".into()));
            assert_eq!(cpu["DYNAMIC_QUANTIZATION_GROUP_SIZE"], group, "{arithmetic:?}");
        }
    }
}
