//! [`RowOperator`]s as ONNX functions of standard operators: what a runtime computes that has no kernel of that name.
//!
//! Owns the bodies of those around a product, and calling them. Does not own attention's (`encoder`). Invariant: nothing in one looks beyond a row, so
//! that a row's result depends on no other.

use super::{
    activation::activate,
    graph::{Function, GraphBuilder, Value},
    int8::MIDDLE,
    proto::{AttributeProto, DataType},
};
use crate::model::{
    clip_config::Activation,
    row_operators::{EPSILON, LEAST, LIMIT, RowOperator},
};

/// Rows in 8 bits: they are about `(values - 128) * scale`.
#[derive(Clone, Debug)]
pub(super) struct Quantized {
    /// U8 `[rows, width]`.
    pub(super) values: Value,
    /// f32 `[rows, 1]`.
    pub(super) scale: Value,
}

/// A layer's product of 8-bit integers, and what makes its values of it.
pub(super) struct Sums {
    /// I32 `[rows, output]`.
    pub(super) sums: Value,
    /// The scale of each row of the input, `[rows, 1]`.
    pub(super) scale: Value,
    /// The scale of each row of the weight, `[output]`.
    pub(super) columns: Value,
    /// `[output]`.
    pub(super) bias: Value,
}

impl Sums {
    fn named() -> Self {
        let [sums, scale, columns, bias] = ["sums", "scale", "column_scales", "bias"].map(Value::named);
        Self { sums, scale, columns, bias }
    }

    fn inputs(&self) -> [&Value; 4] {
        [&self.sums, &self.scale, &self.columns, &self.bias]
    }
}

impl GraphBuilder<'_> {
    /// Rows `x` (f32) in 8 bits, each by its own largest magnitude.
    pub(super) fn quantize_rows(&mut self, x: &Value) -> Quantized {
        self.define(RowOperator::Quantize, &[], |g| {
            let x = Value::named("x");
            let outputs = quantize(g, &x);
            Function { inputs: vec![x], outputs: outputs.into() }
        });
        let [values, scale] = self.call(RowOperator::Quantize, [x], Vec::new());
        Quantized { values, scale }
    }

    /// The layer norm of rows `x` (f32) in 8 bits.
    pub(super) fn layer_norm_rows(&mut self, x: &Value, weight: &Value, bias: &Value, epsilon: f64) -> Quantized {
        let epsilon = AttributeProto::float(EPSILON, epsilon as f32);
        self.define(RowOperator::LayerNorm, &[EPSILON], |g| {
            let inputs = ["x", "weight", "bias"].map(Value::named);
            let [x, weight, bias] = &inputs;
            let y = g.layer_norm_by(x, weight, bias, epsilon.clone());
            let outputs = quantize(g, &y);
            Function { inputs: inputs.into(), outputs: outputs.into() }
        });
        let [values, scale] = self.call(RowOperator::LayerNorm, [x, weight, bias], vec![epsilon]);
        Quantized { values, scale }
    }

    /// The values of a product.
    pub(super) fn dequantize_rows(&mut self, sums: &Sums) -> Value {
        self.define(RowOperator::Dequantize, &[], |g| {
            let sums = Sums::named();
            let y = dequantize(g, &sums);
            Function { inputs: sums.inputs().map(Value::clone).into(), outputs: vec![y] }
        });
        let [y] = self.call(RowOperator::Dequantize, sums.inputs(), Vec::new());
        y
    }

    /// The values of a product added to `residual`.
    pub(super) fn dequantize_rows_onto(&mut self, residual: &Value, sums: &Sums) -> Value {
        self.define(RowOperator::DequantizeOnto, &[], |g| {
            let (residual, sums) = (Value::named("residual"), Sums::named());
            let y = dequantize(g, &sums);
            let y = g.op("Add", [&y, &residual]);
            let [a, b, c, d] = sums.inputs().map(Value::clone);
            Function { inputs: vec![residual, a, b, c, d], outputs: vec![y] }
        });
        let [a, b, c, d] = sums.inputs();
        let [y] = self.call(RowOperator::DequantizeOnto, [residual, a, b, c, d], Vec::new());
        y
    }

    /// What `activation` makes of the values of a product, in 8 bits.
    pub(super) fn activate_rows(&mut self, activation: Activation, sums: &Sums) -> Quantized {
        let operator = RowOperator::Activate(activation);
        self.define(operator, &[], |g| {
            let sums = Sums::named();
            let y = dequantize(g, &sums);
            let y = activate(g, activation, &y);
            let outputs = quantize(g, &y);
            Function { inputs: sums.inputs().map(Value::clone).into(), outputs: outputs.into() }
        });
        let [values, scale] = self.call(operator, sums.inputs(), Vec::new());
        Quantized { values, scale }
    }
}

/// Bytes and scale of each row of `x`, by its own largest magnitude.
fn quantize(g: &mut GraphBuilder, x: &Value) -> [Value; 2] {
    let magnitude = g.op("Abs", [x]);
    let axes = vec![AttributeProto::ints("axes", &[-1]), AttributeProto::int("keepdims", 1)];
    let largest = g.node("ReduceMax", [&magnitude], axes);
    let least = g.scalar(LEAST);
    let largest = g.op("Max", [&largest, &least]);
    let limit = g.scalar(LIMIT);
    let steps = g.op("Div", [&limit, &largest]);
    let scale = g.op("Div", [&largest, &limit]);
    let in_steps = g.op("Mul", [x, &steps]);
    let rounded = g.op("Round", [&in_steps]);
    let middle = g.scalar(MIDDLE);
    let shifted = g.op("Add", [&rounded, &middle]);
    [g.cast(&shifted, DataType::Uint8), scale]
}

/// The values of a product.
///
/// Two multiplications on purpose: ONNX Runtime takes one by a product of scales for its own fused form, whose activation scale is a single
/// number, and computes something else.
fn dequantize(g: &mut GraphBuilder, Sums { sums, scale, columns, bias }: &Sums) -> Value {
    let sums = g.cast(sums, DataType::Float);
    let rows = g.op("Mul", [&sums, scale]);
    let values = g.op("Mul", [&rows, columns]);
    g.op("Add", [&values, bias])
}
