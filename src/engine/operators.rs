//! Whether the operators of a graph let the items of one run change each other's answers.
//!
//! Owns telling that from the graph. Does not own what follows from it (`OneByOne`: such items do not share a run).
//!
//! Dynamic quantisation, as ONNX Runtime's `quantize_dynamic` writes it and transformers.js' `_int8`, `_uint8` and `_quantized`
//! graphs have it, measures one scale over all that is in a tensor: over every item of the run, and over what short texts are
//! padded with. `DynamicQuantizeLinear` does, and so do the operators that the runtime fuses it into (`DynamicQuantizeMatMul`,
//! `DynamicQuantizeLSTM`) where a graph was saved after that. What takes the scale from them (`MatMulInteger`,
//! `MatMulIntegerToFloat`, `QAttention`) does not matter by itself: a scale that stands in the file is the same in every run.
//! Neither does `MatMulNBits` (`_q4` graphs), which quantises, where `accuracy_level` is 4, each row in blocks of its own.

use std::io::{self, Read, Seek};

use super::graph_file::{GraphFile, is_damaged};
use crate::encoder::OneByOne;

/// What the names of the operators that measure a scale over a whole tensor begin with, those of the standard and the runtime's.
const DYNAMIC: &[u8] = b"DynamicQuantize";

/// A message of `onnx.proto3` that nodes are found through.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Function,
    Node,
    Attribute,
}

/// A field of such a message.
enum Part {
    Inner(Message),
    Operator,
}

impl Message {
    /// What field `number` is; `None` for what leads to no operator, tensors among it.
    fn part(self, number: u32) -> Option<Part> {
        Some(match (self, number) {
            // `g` and `graphs`: the bodies of `If`, `Loop` and `Scan`.
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Part::Inner(Self::Graph),
            (Self::Model, 25) => Part::Inner(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Part::Inner(Self::Node),
            (Self::Node, 5) => Part::Inner(Self::Attribute),
            (Self::Node, 4) => Part::Operator,
            _ => return None,
        })
    }
}

/// Why the items of a tower whose graph is `file` may not share a run; `None` where they may.
///
/// # Errors
/// When the file cannot be read. One that is read and is no ONNX graph may still be one of the runtime's own format, which has
/// operators that are not seen here.
pub(super) fn one_by_one<R: Read + Seek>(file: &mut GraphFile<R>) -> io::Result<Option<OneByOne>> {
    match quantizes_dynamically(file) {
        Ok(dynamic) => Ok(dynamic.then_some(OneByOne::DynamicQuantization)),
        Err(error) if is_damaged(&error) => Ok(Some(OneByOne::UnknownOperators)),
        Err(error) => Err(error),
    }
}

/// Whether an operator anywhere in the graph does: in its nodes, in the bodies in them, in the functions that it brings.
fn quantizes_dynamically<R: Read + Seek>(file: &mut GraphFile<R>) -> io::Result<bool> {
    // What is left of each message around the place that is read: no recursion, which a file could make as deep as it likes.
    let mut around = vec![(Message::Model, file.whole())];
    while let Some((message, rest)) = around.last_mut() {
        let Some(field) = file.next(rest)? else {
            around.pop();
            continue;
        };
        match message.part(field.number) {
            Some(Part::Inner(inner)) => around.push((inner, field.payload())),
            Some(Part::Operator) if file.starts_with(field.payload(), DYNAMIC)? => return Ok(true),
            Some(Part::Operator) | None => {}
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::{super::graph_file::field, *};

    fn graph(nodes: &[Vec<u8>]) -> Vec<u8> {
        // The version, a number, in front, and weights behind.
        [&[8, 8][..], &field(7, &[nodes.concat(), field(5, &field(9, &[7; 20_000]))].concat())].concat()
    }

    fn operator(op_type: &str) -> Vec<u8> {
        [field(1, b"x"), field(2, b"y"), field(3, b"DynamicQuantizeLinear_1"), field(4, op_type.as_bytes())].concat()
    }

    fn told(bytes: &[u8]) -> Option<OneByOne> {
        one_by_one(&mut GraphFile::of_bytes(bytes)).expect("readable")
    }

    #[test]
    fn an_operator_is_found_in_nodes_in_bodies_and_in_functions() {
        let dynamic = operator("DynamicQuantizeLinear");
        let other = || field(1, &operator("MatMulInteger"));
        let body = |number| [operator("If"), field(5, &field(number, &field(1, &dynamic)))].concat();
        let deeper = [operator("Loop"), field(5, &field(6, &field(1, &body(11))))].concat();
        let model = |node: &[u8]| graph(&[other(), field(1, node), other()]);
        let function = [graph(&[other()]), field(25, &[field(1, b"its name"), field(7, &dynamic)].concat())].concat();
        let fused = model(&operator("DynamicQuantizeMatMul"));
        for bytes in [model(&dynamic), fused, model(&body(6)), model(&body(11)), model(&deeper), function] {
            assert_eq!(told(&bytes), Some(OneByOne::DynamicQuantization));
        }
    }

    #[test]
    fn what_has_no_such_operator_shares_a_run_whatever_its_values_are_called() {
        let by_name = operator("DequantizeLinear");
        // A string attribute, the graph's own name, and an operator whose name only ends so.
        let text = [operator("Constant"), field(5, &field(4, b"DynamicQuantizeLinear"))].concat();
        let ends = operator("NotDynamicQuantizeLinear");
        let named = field(2, b"DynamicQuantizeLinear");
        assert_eq!(told(&graph(&[field(1, &by_name), field(1, &text), field(1, &ends), named])), None);
        assert_eq!(told(&graph(&[field(1, &operator("")), field(1, &operator("Dynamic"))])), None);
        assert_eq!(told(b""), None);
    }

    #[test]
    fn what_is_no_graph_is_told_apart_and_any_depth_is_read() {
        let whole = graph(&[field(1, &operator("MatMul"))]);
        for bytes in [&whole[..whole.len() - 1], b"ORTM is in such a file", &[0xff; 64], &[0x3a, 0x7f]] {
            assert_eq!(told(bytes), Some(OneByOne::UnknownOperators), "{}", bytes.len());
        }
        let mut node = operator("DynamicQuantizeLSTM");
        for _ in 0..2_000 {
            node = field(5, &field(6, &field(1, &node)));
        }
        assert_eq!(told(&graph(&[field(1, &node)])), Some(OneByOne::DynamicQuantization));
    }
}
