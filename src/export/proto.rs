//! The subset of `onnx.proto3` that CLIP's graphs need, as hand-written `prost` messages: no `protoc`, no build script.
//!
//! Owns the wire format only: field numbers and types as in <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3>. Fields
//! that ONNX declares and we never write are left out; a reader skips what it does not know. Scalars whose presence matters
//! to readers generated from the proto2 form (attribute values, dimensions) are `optional`, so that a zero is written.

use half::{bf16, f16};

/// Format version of the files we write; 8 is the one that belongs to [`OPSET_VERSION`], and every later runtime reads it.
pub(crate) const IR_VERSION: i64 = 8;
/// Version of the default operator set: the first with `LayerNormalization`.
pub(crate) const OPSET_VERSION: i64 = 17;

/// `TensorProto.DataType`: the element types we write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub(crate) enum DataType {
    Float = 1,
    Uint8 = 2,
    Int8 = 3,
    Int64 = 7,
    Float16 = 10,
    BFloat16 = 16,
}

impl DataType {
    /// Bytes of one element.
    pub(crate) fn size(self) -> u64 {
        match self {
            Self::Uint8 | Self::Int8 => 1,
            Self::Float16 | Self::BFloat16 => 2,
            Self::Float => 4,
            Self::Int64 => 8,
        }
    }

    /// The lowest finite value of a float type, `torch.finfo(dtype).min`.
    pub(crate) fn lowest(self) -> f32 {
        if self == Self::Float16 { f16::MIN.to_f32() } else { f32::MIN }
    }

    /// Appends `value` in this type, little-endian: rounded to half precision, or, for the whole numbers of a quantised tensor, as it is.
    pub(crate) fn encode(self, value: f32, bytes: &mut Vec<u8>) {
        match self {
            Self::Uint8 => bytes.push(value as u8),
            Self::Int8 => bytes.extend((value as i8).to_le_bytes()),
            Self::Int64 => bytes.extend((value as i64).to_le_bytes()),
            Self::Float16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
            Self::BFloat16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
            Self::Float => bytes.extend(value.to_le_bytes()),
        }
    }
}

/// `AttributeProto.AttributeType`: the kinds of attribute we write.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
enum AttributeType {
    Float = 1,
    Int = 2,
    Tensor = 4,
    Ints = 7,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ModelProto {
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    #[prost(string, tag = "2")]
    pub producer_name: String,
    #[prost(string, tag = "3")]
    pub producer_version: String,
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<StringStringEntryProto>,
    /// What nodes of other domains than ONNX's compute.
    #[prost(message, repeated, tag = "25")]
    pub functions: Vec<FunctionProto>,
}

/// An operator as nodes of others. It has no initializers: constants are nodes.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FunctionProto {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, repeated, tag = "4")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "5")]
    pub output: Vec<String>,
    /// The names of those that a node of it has to have.
    #[prost(string, repeated, tag = "6")]
    pub attribute: Vec<String>,
    #[prost(message, repeated, tag = "7")]
    pub node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "9")]
    pub opset_import: Vec<OperatorSetIdProto>,
    #[prost(string, tag = "10")]
    pub domain: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    #[prost(string, tag = "7")]
    pub domain: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AttributeProto {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
    #[prost(int32, tag = "20")]
    pub r#type: i32,
}

impl AttributeProto {
    pub(crate) fn float(name: &str, value: f32) -> Self {
        Self { name: name.into(), f: Some(value), r#type: AttributeType::Float as i32, ..Default::default() }
    }

    pub(crate) fn int(name: &str, value: i64) -> Self {
        Self { name: name.into(), i: Some(value), r#type: AttributeType::Int as i32, ..Default::default() }
    }

    pub(crate) fn tensor(name: &str, value: TensorProto) -> Self {
        Self { name: name.into(), t: Some(value), r#type: AttributeType::Tensor as i32, ..Default::default() }
    }

    pub(crate) fn ints(name: &str, values: &[i64]) -> Self {
        Self { name: name.into(), ints: values.to_vec(), r#type: AttributeType::Ints as i32, ..Default::default() }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    #[prost(string, tag = "8")]
    pub name: String,
    /// Little-endian elements, when the tensor lives in the graph file.
    #[prost(bytes = "vec", optional, tag = "9")]
    pub raw_data: Option<Vec<u8>>,
    /// `location` (a file beside the graph), `offset` and `length` in bytes, when it does not.
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<StringStringEntryProto>,
    /// `TensorProto.DataLocation`: 0 here, [`TensorProto::EXTERNAL`] in another file.
    #[prost(int32, optional, tag = "14")]
    pub data_location: Option<i32>,
}

impl TensorProto {
    pub(crate) const EXTERNAL: i32 = 1;
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StringStringEntryProto {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct OperatorSetIdProto {
    #[prost(string, tag = "1")]
    pub domain: String,
    #[prost(int64, tag = "2")]
    pub version: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ValueInfoProto {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TypeProto {
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TensorTypeProto {
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TensorShapeProto {
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

/// `TensorShapeProto.Dimension`: one of the two is set.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DimensionProto {
    #[prost(int64, optional, tag = "1")]
    pub dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub dim_param: Option<String>,
}
