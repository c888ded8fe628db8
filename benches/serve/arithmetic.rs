//! In what clipserve computes, as the benchmarks name it.
//!
//! Owns the flags of the service and the graphs that belong to each, and what part of bare ONNX Runtime's speed it is held to.

use std::process::Command;

use clipserve::config::Precision;

/// Arithmetic and the execution provider that does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arithmetic {
    /// f32 on ONNX Runtime's own kernels.
    F32,
    /// bf16 by OpenVINO.
    Bf16,
    /// int8 on ONNX Runtime's own kernels.
    Int8,
    /// int8 by OpenVINO.
    #[value(name = "int8-openvino")]
    Int8OpenVino,
}

impl Arithmetic {
    /// As the command line spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int8OpenVino => "int8-openvino",
        }
    }

    /// Whether OpenVINO computes it.
    pub(crate) fn is_openvino(self) -> bool {
        matches!(self, Self::Bf16 | Self::Int8OpenVino)
    }

    /// Gives the service the flags for it; none is left to the machine.
    pub(crate) fn flags(self, command: &mut Command) {
        let precision = if self == Self::Int8OpenVino { "int8" } else { self.name() };
        let provider = if self.is_openvino() { "openvino" } else { "cpu" };
        command.args(["--precision", precision, "--provider", provider]);
    }

    /// What the graphs hold.
    pub(crate) fn graphs(self) -> Precision {
        match self {
            Self::F32 | Self::Bf16 => Precision::F32,
            Self::Int8 => Precision::Int8,
            Self::Int8OpenVino => Precision::Int8Weights,
        }
    }

    /// The least part of bare ONNX Runtime's images per second that must be served.
    pub(crate) fn bare_bar(self) -> Option<f64> {
        match self {
            Self::F32 => Some(0.95),
            Self::Bf16 => Some(0.9),
            Self::Int8 | Self::Int8OpenVino => None,
        }
    }

    /// The least part of what the cores' arithmetic allows that must be served with ViT-L/14's sizes, where both is known.
    pub(crate) fn limit_bar(self) -> f64 {
        match self {
            Self::F32 => 0.8,
            Self::Bf16 => 0.75,
            Self::Int8 | Self::Int8OpenVino => 0.62,
        }
    }
}
