//! The linear layers of a graph, in each precision.
//!
//! Owns which products are ones of 8-bit integers, and those products as ONNX nodes; the arithmetic of their weights is `int8`'s.

use super::{
    error::ExportError,
    graph::{GraphBuilder, Quantized, Value},
    int8::{self, LIMIT, MIDDLE, quantized, scales},
    proto::{AttributeProto, DataType},
    weights::transpose,
};
use crate::config::Precision;

impl GraphBuilder<'_> {
    /// `(x @ weight^T + bias) * scale` of rows `x`, with `{name}.weight` `[output, input]` and `{name}.bias` `[output]`; `scale`
    /// goes into both. In int8 precision the product is one of 8-bit integers.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        x: &Value,
        [output, input]: [usize; 2],
        scale: f32,
    ) -> Result<Value, ExportError> {
        let source = self.source();
        let weight_name = format!("{name}.weight");
        let matrix = || Ok(scaled(source.read(&weight_name, &[output, input])?, scale));
        let bias_name = format!("{name}.bias");
        let bias = || Ok(scaled(source.read(&bias_name, &[output])?, scale));
        let bias = self.derived(&bias_name, self.float(), &[output], bias)?;
        match self.precision() {
            Precision::F32 | Precision::F16 => {
                let weight = self.derived(&weight_name, self.float(), &[output, input], matrix)?;
                Ok(self.product(x, &weight, Some(&bias)))
            }
            Precision::Int8 => {
                let q = match self.quantized.get(x) {
                    Some(quantized) => quantized.clone(),
                    None => self.quantize_rows(x),
                };
                self.quantized.insert(x.clone(), q.clone());
                let (weight, scales) = self.integer_weight(name, [output, input], &matrix)?;
                let product = self.dequantized_product(&q, &weight, &scales);
                Ok(self.op("Add", [&product, &bias]))
            }
            Precision::Int8Weights => {
                let weight = self.small_weight(name, [output, input], &matrix)?;
                Ok(self.product(x, &weight, Some(&bias)))
            }
        }
    }

    /// `(x - zero) @ weight^T` of bytes `x` `[rows, input]`, in f32, and that zero; `weight` `[output, input]` is made by `matrix`.
    /// In int8 precision the product is one of 8-bit integers.
    ///
    /// Never f16, which would round away what is left once a bias brings the sums back to zero.
    pub(crate) fn byte_product(
        &mut self,
        name: &str,
        x: &Value,
        [output, input]: [usize; 2],
        matrix: &dyn Fn() -> Result<Vec<f32>, ExportError>,
    ) -> Result<(Value, f32), ExportError> {
        let weight_name = format!("{name}.weight");
        match self.precision() {
            Precision::Int8 => {
                let (weight, scales) = self.integer_weight(name, [output, input], matrix)?;
                let sums = self.integer_product(x, &weight);
                Ok((self.op("Mul", [&sums, &scales]), MIDDLE))
            }
            Precision::Int8Weights if int8::is_grouped(input) => {
                let x = self.cast(x, DataType::Float);
                // OpenVINO quantises around zero: as they are, bytes would use half of its steps.
                let middle = self.scalar(MIDDLE);
                let x = self.op("Sub", [&x, &middle]);
                let weight = self.small_weight(name, [output, input], matrix)?;
                Ok((self.product(&x, &weight, None), MIDDLE))
            }
            Precision::F32 | Precision::F16 | Precision::Int8Weights => {
                let x = self.cast(x, DataType::Float);
                let weight = self.derived(&weight_name, DataType::Float, &[output, input], matrix)?;
                Ok((self.product(&x, &weight, None), 0.0))
            }
        }
    }

    /// `{name}.weight` in 8 bits as integer products take it, `[input, output]`, and the scale of each output.
    fn integer_weight(
        &mut self,
        name: &str,
        [output, input]: [usize; 2],
        matrix: &dyn Fn() -> Result<Vec<f32>, ExportError>,
    ) -> Result<(Value, Value), ExportError> {
        let scales = self.weight_scales(name, output, matrix)?;
        let elements = || Ok(transpose(&quantized(&matrix()?, output), output, input));
        let weight = self.derived(&format!("{name}.weight"), DataType::Int8, &[input, output], elements)?;
        Ok((weight, scales))
    }

    /// `{name}.weight` `[output, input]` as f32 from 8 bits, for OpenVINO.
    fn small_weight(
        &mut self,
        name: &str,
        [output, input]: [usize; 2],
        matrix: &dyn Fn() -> Result<Vec<f32>, ExportError>,
    ) -> Result<Value, ExportError> {
        let scales = self.weight_scales(name, output, matrix)?;
        let elements = || Ok(quantized(&matrix()?, output));
        let weight = self.derived(&format!("{name}.weight"), DataType::Int8, &[output, input], elements)?;
        Ok(self.node("DequantizeLinear", [&weight, &scales], vec![AttributeProto::int("axis", 0)]))
    }

    /// The scale of each output of `matrix` in 8 bits.
    fn weight_scales(
        &mut self,
        name: &str,
        output: usize,
        matrix: &dyn Fn() -> Result<Vec<f32>, ExportError>,
    ) -> Result<Value, ExportError> {
        self.derived(&format!("{name}.scale"), DataType::Float, &[output], || Ok(scales(&matrix()?, output)))
    }

    /// Quantises each row of `x` (f32) by its own largest magnitude.
    fn quantize_rows(&mut self, x: &Value) -> Quantized {
        let magnitude = self.op("Abs", [x]);
        let largest = self.node(
            "ReduceMax",
            [&magnitude],
            vec![AttributeProto::ints("axes", &[-1]), AttributeProto::int("keepdims", 1)],
        );
        // A row of zeros would divide by zero.
        let tiny = self.scalar(1e-30);
        let largest = self.op("Max", [&largest, &tiny]);
        let limit = self.scalar(LIMIT);
        let steps = self.op("Div", [&limit, &largest]);
        let scale = self.op("Div", [&largest, &limit]);
        let in_steps = self.op("Mul", [x, &steps]);
        // From 1.5 to 255.5; the conversion cuts the fraction off, which the extra half turns into rounding.
        let offset = self.scalar(MIDDLE + 0.5);
        let shifted = self.op("Add", [&in_steps, &offset]);
        let values = self.cast(&shifted, DataType::Uint8);
        Quantized { values, scale }
    }

    /// `x @ weight` in f32, from `x` quantised, `weight` S8 `[input, output]` and its `scales` `[output]`.
    ///
    /// Two multiplications on purpose: ONNX Runtime takes one by a product of scales for its own fused form, whose activation
    /// scale is a single number, and computes something else.
    fn dequantized_product(&mut self, x: &Quantized, weight: &Value, scales: &Value) -> Value {
        let sums = self.integer_product(&x.values, weight);
        let rows = self.op("Mul", [&sums, &x.scale]);
        self.op("Mul", [&rows, scales])
    }

    /// `(x - 128) @ weight` in f32, from `x` U8 and `weight` S8 `[input, output]`.
    ///
    /// The weight's zero point is left out: where ONNX Runtime makes products exact for CPUs without VNNI it writes each anew,
    /// and fails on one that two products share.
    fn integer_product(&mut self, x: &Value, weight: &Value) -> Value {
        let middle = self.scalar_of(DataType::Uint8, MIDDLE);
        let sums = self.op("MatMulInteger", [x, weight, &middle]);
        self.cast(&sums, DataType::Float)
    }
}

fn scaled(mut elements: Vec<f32>, scale: f32) -> Vec<f32> {
    elements.iter_mut().for_each(|element| *element *= scale);
    elements
}
