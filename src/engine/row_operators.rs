//! The operators of [`RowOperator`] as kernels of ONNX Runtime's CPU provider, which it calls in place of the functions of that name in a graph.
//!
//! Owns their inputs and outputs as tensors, and how their rows are divided among the threads of a run. Does not own the arithmetic
//! (`row_kernels`).
//!
//! Invariant: nothing here panics, whatever a graph feeds it: it is called from the runtime, which cannot be unwound.

use std::sync::{Mutex, PoisonError};

use ort::{
    operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput},
    session::builder::SessionBuilder,
    value::{PrimitiveTensorElementType, TensorElementType, ValueRef, ValueRefMut},
};

use super::row_kernels::{self, Attended, Sums};
use crate::model::{
    clip_config::Activation,
    row_operators::{DOMAIN, EPSILON, HEADS, RowOperator},
};

/// All of them, for a session of the CPU provider, the first of which has to be open before two others are opened at the same time.
///
/// # Errors
/// When the runtime does not take them.
pub fn row_operators() -> ort::Result<OperatorDomain> {
    RowOperator::ALL.into_iter().map(Registered).try_fold(OperatorDomain::new(DOMAIN)?, OperatorDomain::add)
}

/// Opens the first session of the process that has them, as `builder` does: one of nothing.
///
/// The first session with a domain tells the whole process of it, after it has looked whether another one has: of two that are opened at the same
/// time one fails, one time in a hundred (ONNX Runtime 1.32: "the domain is already exist").
///
/// # Errors
/// When the runtime does not take them.
pub(super) fn announce(builder: &SessionBuilder) -> ort::Result<()> {
    static ANNOUNCED: Mutex<bool> = Mutex::new(false);
    let mut announced = ANNOUNCED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*announced {
        builder.clone().commit_from_memory(NOTHING)?;
        *announced = true;
    }
    Ok(())
}

/// A model whose output is its input: format 8 of operator set 17, and a graph of one `Identity` from a float `x` to `y`.
const NOTHING: &[u8] = b"\x08\x08\x3a\x2f\x0a\x10\x0a\x01x\x12\x01y\x22\x08Identity\x12\x01g\x5a\x0b\x0a\x01x\x12\x06\x0a\x04\x08\x01\x12\x00\
    \x62\x0b\x0a\x01y\x12\x06\x0a\x04\x08\x01\x12\x00\x42\x02\x10\x11";

struct Registered(RowOperator);

impl Operator for Registered {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        self.0.name()
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        use TensorElementType::{Float32, Int32, Int64};
        let elements: &[_] = match self.0 {
            RowOperator::Quantize => &[Float32],
            RowOperator::LayerNorm => &[Float32, Float32, Float32],
            RowOperator::Dequantize | RowOperator::Activate(_) => &[Int32, Float32, Float32, Float32],
            RowOperator::DequantizeOnto => &[Float32, Int32, Float32, Float32, Float32],
            RowOperator::CausalAttention => &[Float32, Float32, Float32, Int64, Int64, Int64, Float32],
        };
        elements.iter().copied().map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        use TensorElementType::{Float32, Uint8};
        let elements: &[_] = match self.0 {
            RowOperator::Quantize | RowOperator::LayerNorm | RowOperator::Activate(_) => &[Uint8, Float32],
            RowOperator::Dequantize | RowOperator::DequantizeOnto | RowOperator::CausalAttention => &[Float32],
        };
        elements.iter().copied().map(OperatorOutput::required)
    }

    fn create_kernel<'attr>(&self, node: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        let missing = |name: &str| ort::Error::new(format!("the attribute {name} is missing"));
        // Runs that share a session share the kernel, at the same time: it has nothing that changes.
        Ok(match self.0 {
            RowOperator::Quantize => Box::new(quantize),
            RowOperator::LayerNorm => {
                let epsilon = node.get(EPSILON).ok_or_else(|| missing(EPSILON))?;
                Box::new(move |context: &ComputeContext| layer_norm(context, epsilon))
            }
            RowOperator::Dequantize => Box::new(dequantize),
            RowOperator::DequantizeOnto => Box::new(dequantize_onto),
            RowOperator::Activate(activation) => {
                Box::new(move |context: &ComputeContext| activate(context, activation))
            }
            RowOperator::CausalAttention => {
                let heads: i64 = node.get(HEADS).ok_or_else(|| missing(HEADS))?;
                let heads = usize::try_from(heads).ok().filter(|&heads| heads > 0).ok_or_else(|| missing(HEADS))?;
                Box::new(move |context: &ComputeContext| attend(context, heads))
            }
        })
    }
}

fn quantize(context: &ComputeContext) -> ort::Result<()> {
    let x = input(context, 0)?;
    let (rows, width, x) = matrix::<f32>(&x)?;
    into_bytes(
        context,
        rows,
        width,
        |part| x.chunks(part.values),
        |x, bytes, scales| {
            row_kernels::quantize(x, width, bytes, scales);
        },
    )
}

fn layer_norm(context: &ComputeContext, epsilon: f32) -> ort::Result<()> {
    let (x, weight, bias) = (input(context, 0)?, input(context, 1)?, input(context, 2)?);
    let (rows, width, x) = matrix::<f32>(&x)?;
    let (_, weight) = weight.try_extract_tensor::<f32>()?;
    let (_, bias) = bias.try_extract_tensor::<f32>()?;
    same(weight.len(), width)?;
    same(bias.len(), width)?;
    into_bytes(
        context,
        rows,
        width,
        |part| x.chunks(part.values),
        |x, bytes, scales| {
            row_kernels::layer_norm(x, weight, bias, epsilon, bytes, scales);
        },
    )
}

fn activate(context: &ComputeContext, activation: Activation) -> ort::Result<()> {
    let tensors = tensors(context, 0)?;
    let product = Product::of(&tensors)?;
    into_bytes(
        context,
        product.rows,
        product.width(),
        |part| product.parts(part),
        |sums, bytes, scales| {
            row_kernels::activate(activation, sums, bytes, scales);
        },
    )
}

/// Bytes and scales of `rows`, a part at a time.
fn into_bytes<P: Send, I: Iterator<Item = P> + Send>(
    context: &ComputeContext,
    rows: usize,
    width: usize,
    parts: impl FnOnce(Part) -> I,
    compute: impl Fn(P, &mut [u8], &mut [f32]) + Sync + Send,
) -> ort::Result<()> {
    let (mut bytes, mut scales) = (output(context, 0, rows, width)?, output(context, 1, rows, 1)?);
    let (_, bytes) = bytes.try_extract_tensor_mut::<u8>()?;
    let (_, scales) = scales.try_extract_tensor_mut::<f32>()?;
    let part = Part::of(rows, width);
    let parts = parts(part).zip(bytes.chunks_mut(part.values)).zip(scales.chunks_mut(part.rows));
    each(context, part.count, parts, |((from, bytes), scales)| compute(from, bytes, scales))
}

fn dequantize(context: &ComputeContext) -> ort::Result<()> {
    let tensors = tensors(context, 0)?;
    let product = Product::of(&tensors)?;
    into_floats(context, &product, |part| product.parts(part), row_kernels::dequantize)
}

fn dequantize_onto(context: &ComputeContext) -> ort::Result<()> {
    let residual = input(context, 0)?;
    let (_, _, residual) = matrix::<f32>(&residual)?;
    let tensors = tensors(context, 1)?;
    let product = Product::of(&tensors)?;
    same(residual.len(), product.all.sums.len())?;
    let parts = |part: Part| product.parts(part).zip(residual.chunks(part.values));
    into_floats(context, &product, parts, |(sums, residual), y| row_kernels::dequantize_onto(residual, sums, y))
}

/// The values of `product`, a part at a time.
fn into_floats<P: Send, I: Iterator<Item = P> + Send>(
    context: &ComputeContext,
    product: &Product<'_>,
    parts: impl FnOnce(Part) -> I,
    compute: impl Fn(P, &mut [f32]) + Sync + Send,
) -> ort::Result<()> {
    let (rows, width) = (product.rows, product.width());
    let mut y = output(context, 0, rows, width)?;
    let (_, y) = y.try_extract_tensor_mut::<f32>()?;
    let part = Part::of(rows, width);
    each(context, part.count, parts(part).zip(y.chunks_mut(part.values)), |(from, y)| compute(from, y))
}

fn attend(context: &ComputeContext, heads: usize) -> ort::Result<()> {
    let (queries, keys, values, row_of) =
        (input(context, 0)?, input(context, 1)?, input(context, 2)?, input(context, 3)?);
    let (rows, width, queries) = matrix::<f32>(&queries)?;
    let (_, _, keys) = matrix::<f32>(&keys)?;
    let (_, _, values) = matrix::<f32>(&values)?;
    same(keys.len(), queries.len())?;
    same(values.len(), queries.len())?;
    if width == 0 || !width.is_multiple_of(heads) {
        return Err(ort::Error::new(format!("{heads} heads do not divide {width} values")));
    }
    let (_, sequence, row_of) = matrix::<i64>(&row_of)?;
    let mut y = output(context, 0, rows, width)?;
    let (_, mut y) = y.try_extract_tensor_mut::<f32>()?;
    let mut texts = Vec::new();
    let mut first = 0;
    for row_of in row_of.chunks_exact(sequence.max(1)) {
        let last = row_of.last().and_then(|&row| usize::try_from(row).ok()).filter(|&row| first <= row && row < rows);
        let last = last.ok_or_else(|| ort::Error::new("the texts' rows do not lie one behind the other"))?;
        let range = first * width..(last + 1) * width;
        let (text, rest) = y.split_at_mut(range.len());
        let [queries, keys, values] = [queries, keys, values].map(|states| &states[range.clone()]);
        texts.push((Attended { queries, keys, values, heads, head: width / heads }, text));
        (first, y) = (last + 1, rest);
    }
    same(first, rows)?;
    each(context, texts.len(), texts.into_iter(), |(text, y)| row_kernels::attend(text, y))
}

/// The inputs of a product, from the first one on.
fn tensors(context: &ComputeContext, first: usize) -> ort::Result<[ValueRef<'_>; 4]> {
    let at = |index| input(context, first + index);
    Ok([at(0)?, at(1)?, at(2)?, at(3)?])
}

/// A product of 8-bit integers.
struct Product<'a> {
    rows: usize,
    all: Sums<'a>,
}

impl<'a> Product<'a> {
    fn of([sums, scales, columns, bias]: &'a [ValueRef<'_>; 4]) -> ort::Result<Self> {
        let (rows, width, sums) = matrix::<i32>(sums)?;
        let (_, scales) = scales.try_extract_tensor::<f32>()?;
        let (_, columns) = columns.try_extract_tensor::<f32>()?;
        let (_, bias) = bias.try_extract_tensor::<f32>()?;
        same(scales.len(), rows)?;
        same(columns.len(), width)?;
        same(bias.len(), width)?;
        Ok(Self { rows, all: Sums { sums, scales, columns, bias } })
    }

    fn width(&self) -> usize {
        self.all.columns.len()
    }

    fn parts(&self, part: Part) -> impl Iterator<Item = Sums<'a>> + Send + use<'a> {
        let all = self.all;
        let parts = all.sums.chunks(part.values).zip(all.scales.chunks(part.rows));
        parts.map(move |(sums, scales)| Sums { sums, scales, ..all })
    }
}

/// How many rows are one piece of work.
#[derive(Clone, Copy)]
struct Part {
    /// At least one.
    rows: usize,
    /// At least one.
    values: usize,
    count: usize,
}

/// About so many values take a thread some microseconds, as many as it takes to hand them over.
const PART: usize = 32 * 1024;

impl Part {
    /// Of `rows` of `width` values.
    fn of(rows: usize, width: usize) -> Self {
        let width = width.max(1);
        let part = (PART / width).clamp(1, rows.max(1));
        Self { rows: part, values: part * width, count: rows.div_ceil(part) }
    }
}

/// Does `work` for each of `count` parts, on the threads of the run.
fn each<P: Send>(
    context: &ComputeContext,
    count: usize,
    parts: impl Iterator<Item = P> + Send,
    work: impl Fn(P) + Sync + Send,
) -> ort::Result<()> {
    if count <= 1 {
        parts.for_each(work);
        return Ok(());
    }
    let parts = Mutex::new(parts);
    context.par_for(count, count, |_| {
        let part = parts.lock().unwrap_or_else(PoisonError::into_inner).next();
        part.into_iter().for_each(&work);
    })
}

fn input(context: &ComputeContext, index: usize) -> ort::Result<ValueRef<'_>> {
    context.input(index)?.ok_or_else(|| ort::Error::new("an input is missing"))
}

/// Rows, their width, and all values of a tensor.
fn matrix<'a, T: PrimitiveTensorElementType>(value: &'a ValueRef<'_>) -> ort::Result<(usize, usize, &'a [T])> {
    let (shape, values) = value.try_extract_tensor::<T>()?;
    match shape.iter().map(|&size| usize::try_from(size)).collect::<Result<Vec<_>, _>>().as_deref() {
        Ok(&[rows, width]) => Ok((rows, width, values)),
        _ => Err(ort::Error::new(format!("it is {shape}, not [rows, width]"))),
    }
}

/// The output `index`, of that shape.
fn output(context: &ComputeContext, index: usize, rows: usize, width: usize) -> ort::Result<ValueRefMut<'_>> {
    context.output(index, [rows, width])?.ok_or_else(|| ort::Error::new("an output is missing"))
}

fn same(found: usize, expected: usize) -> ort::Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(ort::Error::new(format!("an input has {found} values, not {expected}")))
    }
}
