//! The linear layers of a graph and the MLPs that are made of them, in each precision.
//!
//! Owns which products are ones of 8-bit integers, and those products as ONNX nodes; the arithmetic of their weights is `int8`'s, that of what is
//! between them is `functions`'.

use super::{
    activation::activate,
    error::ExportError,
    functions::{Quantized, Sums},
    graph::{GraphBuilder, Value},
    int8::{self, MIDDLE, quantized, scales},
    proto::{AttributeProto, DataType},
    weights::transpose,
};
use crate::{config::Precision, model::clip_config::TransformerConfig};

/// Rows as a linear layer takes them in the graph's precision.
pub(crate) enum Operand {
    /// In any but int8.
    Floats(Value),
    /// In int8.
    Bytes(Quantized),
}

impl GraphBuilder<'_> {
    /// Rows `x` for the layers that they go into.
    pub(crate) fn operand(&mut self, x: Value) -> Operand {
        match self.precision() {
            Precision::Int8 => Operand::Bytes(self.quantize_rows(&x)),
            Precision::F32 | Precision::F16 | Precision::Int8Weights => Operand::Floats(x),
        }
    }

    /// The layer norm `name` of rows `x` of `size` values, for the layers that it goes into.
    pub(crate) fn normed(&mut self, name: &str, x: &Value, size: usize, epsilon: f64) -> Result<Operand, ExportError> {
        Ok(match self.precision() {
            Precision::Int8 => {
                let [weight, bias] = self.layer_norm_weights(name, size)?;
                Operand::Bytes(self.layer_norm_rows(x, &weight, &bias, epsilon))
            }
            Precision::F32 | Precision::F16 | Precision::Int8Weights => {
                Operand::Floats(self.layer_norm(name, x, size, epsilon)?)
            }
        })
    }

    /// `(x @ weight^T + bias) * scale` of rows `x`, with `{name}.weight` `[output, input]` and `{name}.bias` `[output]`; `scale`
    /// goes into both. In int8 precision the product is one of 8-bit integers.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        x: &Operand,
        sizes: [usize; 2],
        scale: f32,
    ) -> Result<Value, ExportError> {
        match x {
            Operand::Floats(x) => self.float_linear(name, x, sizes, scale),
            Operand::Bytes(x) => {
                let sums = self.sums(name, x, sizes, scale)?;
                Ok(self.dequantize_rows(&sums))
            }
        }
    }

    /// `residual + x @ weight^T + bias`, see [`Self::linear`].
    pub(crate) fn linear_onto(
        &mut self,
        residual: &Value,
        name: &str,
        x: &Operand,
        sizes: [usize; 2],
    ) -> Result<Value, ExportError> {
        match x {
            Operand::Floats(x) => {
                let y = self.float_linear(name, x, sizes, 1.0)?;
                Ok(self.op("Add", [residual, &y]))
            }
            Operand::Bytes(x) => {
                let sums = self.sums(name, x, sizes, 1.0)?;
                Ok(self.dequantize_rows_onto(residual, &sums))
            }
        }
    }

    /// `residual + fc2(activation(fc1(x)))`, with the layers `{name}.fc1` and `{name}.fc2`: `CLIPMLP` and what it is added to. In int8 precision
    /// what is between them is never floats.
    pub(crate) fn mlp_onto(
        &mut self,
        residual: &Value,
        name: &str,
        x: &Operand,
        config: &TransformerConfig,
    ) -> Result<Value, ExportError> {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let (first, second) = (format!("{name}.fc1"), format!("{name}.fc2"));
        let active = match x {
            Operand::Floats(x) => {
                let y = self.float_linear(&first, x, [wide, hidden], 1.0)?;
                Operand::Floats(activate(self, config.hidden_act, &y))
            }
            Operand::Bytes(x) => {
                let sums = self.sums(&first, x, [wide, hidden], 1.0)?;
                Operand::Bytes(self.activate_rows(config.hidden_act, &sums))
            }
        };
        self.linear_onto(residual, &second, &active, [hidden, wide])
    }

    /// [`Self::linear`] of floats.
    fn float_linear(&mut self, name: &str, x: &Value, sizes: [usize; 2], scale: f32) -> Result<Value, ExportError> {
        let source = self.source();
        let bias = self.bias(name, sizes[0], scale)?;
        let weight_name = format!("{name}.weight");
        let matrix = || Ok(scaled(source.read(&weight_name, &sizes)?, scale));
        let weight = match self.precision() {
            Precision::Int8Weights => self.small_weight(name, sizes, &matrix)?,
            Precision::F32 | Precision::F16 | Precision::Int8 => {
                self.derived(&weight_name, self.float(), &sizes, matrix)?
            }
        };
        Ok(self.product(x, &weight, Some(&bias)))
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
                let sums = self.cast(&sums, DataType::Float);
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

    /// `{name}.bias` `[output]` times `scale`.
    fn bias(&mut self, name: &str, output: usize, scale: f32) -> Result<Value, ExportError> {
        let name = format!("{name}.bias");
        let source = self.source();
        self.derived(&name, self.float(), &[output], || Ok(scaled(source.read(&name, &[output])?, scale)))
    }

    /// The layer `name` of rows `x`, see [`Self::linear`], as sums of integers.
    fn sums(
        &mut self,
        name: &str,
        x: &Quantized,
        [output, input]: [usize; 2],
        scale: f32,
    ) -> Result<Sums, ExportError> {
        let source = self.source();
        let matrix = || Ok(scaled(source.read(&format!("{name}.weight"), &[output, input])?, scale));
        let bias = self.bias(name, output, scale)?;
        let (weight, columns) = self.integer_weight(name, [output, input], &matrix)?;
        let sums = self.integer_product(&x.values, &weight);
        Ok(Sums { sums, scale: x.scale.clone(), columns, bias })
    }

    /// `(x - 128) @ weight` as I32, from `x` U8 and `weight` S8 `[input, output]`.
    ///
    /// The weight's zero point is left out: where ONNX Runtime makes products exact for CPUs without VNNI it writes each anew,
    /// and fails on one that two products share.
    fn integer_product(&mut self, x: &Value, weight: &Value) -> Value {
        let middle = self.scalar_of(DataType::Uint8, MIDDLE);
        self.op("MatMulInteger", [x, weight, &middle])
    }
}

fn scaled(mut elements: Vec<f32>, scale: f32) -> Vec<f32> {
    elements.iter_mut().for_each(|element| *element *= scale);
    elements
}
