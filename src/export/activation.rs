//! `hidden_act` as ONNX nodes.
//!
//! Written as the plain operators of each formula: ONNX Runtime recognises the patterns and puts its fused kernels in their
//! place, other execution providers see standard operators.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

use super::graph::{GraphBuilder, Value};
use crate::model::clip_config::Activation;

/// Applies `activation` to every element of `x`.
pub(crate) fn activate(g: &mut GraphBuilder, activation: Activation, x: &Value) -> Value {
    match activation {
        // x * sigmoid(1.702 x)
        Activation::QuickGelu => {
            let slope = g.scalar(1.702);
            let scaled = g.op("Mul", [x, &slope]);
            let gate = g.op("Sigmoid", [&scaled]);
            g.op("Mul", [x, &gate])
        }
        // x * (1 + erf(x / sqrt 2)) / 2
        Activation::Gelu => {
            let (root, one, half) = (g.scalar(FRAC_1_SQRT_2.recip()), g.scalar(1.0), g.scalar(0.5));
            let scaled = g.op("Div", [x, &root]);
            let erf = g.op("Erf", [&scaled]);
            let shifted = g.op("Add", [&erf, &one]);
            let product = g.op("Mul", [x, &shifted]);
            g.op("Mul", [&product, &half])
        }
        // x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2
        Activation::GeluNew => {
            let (three, cubic) = (g.scalar(3.0), g.scalar(0.044715));
            let (root, one, half) = (g.scalar(FRAC_2_PI.sqrt()), g.scalar(1.0), g.scalar(0.5));
            let cube = g.op("Pow", [x, &three]);
            let bent = g.op("Mul", [&cube, &cubic]);
            let sum = g.op("Add", [x, &bent]);
            let scaled = g.op("Mul", [&sum, &root]);
            let tanh = g.op("Tanh", [&scaled]);
            let shifted = g.op("Add", [&tanh, &one]);
            let halved = g.op("Mul", [x, &half]);
            g.op("Mul", [&halved, &shifted])
        }
        Activation::Relu => g.op("Relu", [x]),
        // ONNX's default alpha and gamma are the published constants, as are torch's.
        Activation::Selu => g.op("Selu", [x]),
    }
}
