//! A builder of ONNX graphs: values are typed handles, names are unique, equal constants are shared, weights go to the
//! [`WeightFile`].
//!
//! Owns the bookkeeping of nodes, initializers, inputs and outputs. Knows operators by name only: linear layers in each precision are in
//! `linear`; what CLIP is made of, `encoder`, `vision` and `text` know. Invariant: a value exists before a node uses it, so nodes come out in topological order.

use super::{
    error::ExportError,
    proto::{
        AttributeProto, DataType, DimensionProto, FunctionProto, GraphProto, IR_VERSION, ModelProto, NodeProto,
        OPSET_VERSION, OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto,
        TypeProto, ValueInfoProto,
    },
    weights::{WeightFile, WeightSource},
};
use crate::{
    config::Precision,
    model::row_operators::{self, RowOperator},
};

/// The output of a node, an initializer or a graph input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value(String);

impl Value {
    /// What is called `name`: an input of a function, which is there by its name alone.
    pub(super) fn named(name: &str) -> Self {
        Self(name.to_owned())
    }
}

/// The body of a function, which is built already: what it is given, and what it gives.
pub(super) struct Function {
    /// There by their names alone.
    pub(super) inputs: Vec<Value>,
    pub(super) outputs: Vec<Value>,
}

/// Keys and values of a graph's `metadata_props`.
pub(crate) type Entries = Vec<(String, String)>;

/// One dimension of a graph input or output.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dim {
    Fixed(usize),
    Named(&'static str),
}

/// A graph under construction, with the two places its weights flow between.
pub(crate) struct GraphBuilder<'a> {
    graph: GraphProto,
    scope: String,
    precision: Precision,
    /// Operators that the graph brings with it.
    functions: Vec<FunctionProto>,
    source: &'a dyn WeightSource,
    file: &'a mut WeightFile,
}

impl<'a> GraphBuilder<'a> {
    pub(crate) fn new(
        name: &str,
        precision: Precision,
        source: &'a dyn WeightSource,
        file: &'a mut WeightFile,
    ) -> Self {
        let graph = GraphProto { name: name.to_owned(), ..Default::default() };
        Self { graph, scope: String::new(), precision, functions: Vec::new(), source, file }
    }

    /// What the graph computes in.
    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// The element type of the hidden states.
    pub(crate) fn float(&self) -> DataType {
        match self.precision {
            Precision::F16 => DataType::Float16,
            Precision::F32 | Precision::Int8 | Precision::Int8Weights => DataType::Float,
        }
    }

    /// Names of the nodes that follow start with `scope`, so that a profile says which layer they belong to.
    pub(crate) fn scope(&mut self, scope: impl Into<String>) {
        self.scope = scope.into();
    }

    pub(crate) fn input(&mut self, name: &str, element: DataType, dims: &[Dim]) -> Value {
        self.graph.input.push(value_info(name, element, dims));
        Value(name.to_owned())
    }

    /// Declares `value`, of the type of the hidden states, as the graph's output `name`, f32 whatever the precision.
    pub(crate) fn output(&mut self, name: &str, value: &Value, dims: &[Dim]) {
        let mut node = NodeProto {
            input: vec![value.0.clone()],
            output: vec![name.to_owned()],
            name: format!("{name}/output"),
            op_type: "Identity".to_owned(),
            ..Default::default()
        };
        if self.float() != DataType::Float {
            node.op_type = "Cast".to_owned();
            node.attribute = vec![AttributeProto::int("to", DataType::Float as i64)];
        }
        self.graph.node.push(node);
        self.graph.output.push(value_info(name, DataType::Float, dims));
    }

    /// Adds a node with one output.
    pub(crate) fn node<const N: usize>(
        &mut self,
        op: &str,
        inputs: [&Value; N],
        attributes: Vec<AttributeProto>,
    ) -> Value {
        let name = format!("{}/{op}_{}", self.scope, self.graph.node.len());
        self.graph.node.push(NodeProto {
            input: inputs.map(|v| v.0.clone()).to_vec(),
            output: vec![name.clone()],
            name: name.clone(),
            op_type: op.to_owned(),
            attribute: attributes,
            domain: String::new(),
        });
        Value(name)
    }

    /// A node without attributes.
    pub(crate) fn op<const N: usize>(&mut self, op: &str, inputs: [&Value; N]) -> Value {
        self.node(op, inputs, Vec::new())
    }

    /// A node of `operator`, which [`Self::define`] has defined, with its `N` inputs: its `M` outputs.
    pub(super) fn call<const N: usize, const M: usize>(
        &mut self,
        operator: RowOperator,
        inputs: [&Value; N],
        attributes: Vec<AttributeProto>,
    ) -> [Value; M] {
        let name = format!("{}/{}_{}", self.scope, operator.name(), self.graph.node.len());
        let outputs = std::array::from_fn(|i| Value(format!("{name}_{i}")));
        self.graph.node.push(NodeProto {
            input: inputs.map(|v| v.0.clone()).to_vec(),
            output: outputs.iter().map(|v| v.0.clone()).collect(),
            name,
            op_type: operator.name().to_owned(),
            attribute: attributes,
            domain: row_operators::DOMAIN.to_owned(),
        });
        outputs
    }

    /// Gives the graph the function `operator`, unless it has it: `body` builds it of standard operators.
    pub(super) fn define(
        &mut self,
        operator: RowOperator,
        attributes: &[&str],
        body: impl FnOnce(&mut GraphBuilder) -> Function,
    ) {
        if self.functions.iter().any(|function| function.name == operator.name()) {
            return;
        }
        let mut g = GraphBuilder::new(operator.name(), self.precision, self.source, self.file);
        let Function { inputs, outputs } = body(&mut g);
        // A function has no initializers.
        let constants = g.graph.initializer.into_iter().map(|tensor| NodeProto {
            output: vec![tensor.name.clone()],
            name: tensor.name.clone(),
            op_type: "Constant".to_owned(),
            attribute: vec![AttributeProto::tensor("value", tensor)],
            ..Default::default()
        });
        let names = |values: Vec<Value>| values.into_iter().map(|value| value.0).collect();
        self.functions.push(FunctionProto {
            name: operator.name().to_owned(),
            input: names(inputs),
            output: names(outputs),
            attribute: attributes.iter().map(ToString::to_string).collect(),
            node: constants.chain(g.graph.node).collect(),
            opset_import: vec![standard()],
            domain: row_operators::DOMAIN.to_owned(),
        });
    }

    /// Permutes the dimensions.
    pub(crate) fn transpose(&mut self, x: &Value, perm: &[i64]) -> Value {
        self.node("Transpose", [x], vec![AttributeProto::ints("perm", perm)])
    }

    /// Reshapes; 0 keeps the dimension at that place, -1 takes the rest.
    pub(crate) fn reshape(&mut self, x: &Value, shape: &[i64]) -> Value {
        let shape = self.ints(shape);
        self.op("Reshape", [x, &shape])
    }

    /// Converts the element type.
    pub(crate) fn cast(&mut self, x: &Value, to: DataType) -> Value {
        self.node("Cast", [x], vec![AttributeProto::int("to", to as i64)])
    }

    /// A constant vector of indices or sizes.
    pub(crate) fn ints(&mut self, values: &[i64]) -> Value {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(DataType::Int64, &[values.len()], bytes)
    }

    /// A constant index or size.
    pub(crate) fn int(&mut self, value: i64) -> Value {
        self.constant(DataType::Int64, &[], value.to_le_bytes().to_vec())
    }

    /// A constant scalar of the type of the hidden states.
    pub(crate) fn scalar(&mut self, value: f32) -> Value {
        self.scalar_of(self.float(), value)
    }

    /// A constant scalar.
    pub(crate) fn scalar_of(&mut self, element: DataType, value: f32) -> Value {
        let mut bytes = Vec::new();
        element.encode(value, &mut bytes);
        self.constant(element, &[], bytes)
    }

    /// A constant kept in the graph file itself: for what is small.
    fn constant(&mut self, element: DataType, dims: &[usize], bytes: Vec<u8>) -> Value {
        let dims: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
        let same = |t: &&TensorProto| {
            t.data_type == element as i32 && t.dims == dims && t.raw_data.as_deref() == Some(bytes.as_slice())
        };
        if let Some(tensor) = self.graph.initializer.iter().find(same) {
            return Value(tensor.name.clone());
        }
        let name = format!("constant_{}", self.graph.initializer.len());
        self.graph.initializer.push(TensorProto {
            name: name.clone(),
            dims,
            data_type: element as i32,
            raw_data: Some(bytes),
            ..Default::default()
        });
        Value(name)
    }

    /// The checkpoint's tensor `name`, in the type of the hidden states.
    pub(crate) fn weight(&mut self, name: &str, shape: &[usize]) -> Result<Value, ExportError> {
        let source = self.source;
        self.derived(name, self.float(), shape, || source.read(name, shape))
    }

    /// A tensor called `name`, computed from the checkpoint.
    pub(crate) fn derived(
        &mut self,
        name: &str,
        element: DataType,
        shape: &[usize],
        elements: impl FnOnce() -> Result<Vec<f32>, ExportError>,
    ) -> Result<Value, ExportError> {
        if !self.graph.initializer.iter().any(|t| t.name == name) {
            let tensor = self.file.tensor(name, element, shape, elements)?;
            self.graph.initializer.push(tensor);
        }
        Ok(Value(name.to_owned()))
    }

    /// `x @ weight^T + bias` of rows `x` `[rows, input]`, `weight` `[output, input]` as checkpoints have it, and `bias`
    /// `[output]`.
    ///
    /// `Gemm`, because it takes a weight in that order: OpenVINO would keep a copy of one that it has to turn.
    pub(crate) fn product(&mut self, x: &Value, weight: &Value, bias: Option<&Value>) -> Value {
        let turned = vec![AttributeProto::int("transB", 1)];
        match bias {
            Some(bias) => self.node("Gemm", [x, weight, bias], turned),
            None => self.node("Gemm", [x, weight], turned),
        }
    }

    /// `x @ weight^T` with `{name}.weight` `[output, input]`: a projection to the shared space. Never quantised: it is one row
    /// per input, and the last thing that happens to an embedding.
    pub(crate) fn projection(&mut self, name: &str, x: &Value, shape: [usize; 2]) -> Result<Value, ExportError> {
        let weight = self.weight(&format!("{name}.weight"), &shape)?;
        Ok(self.product(x, &weight, None))
    }

    /// Layer norm over the last dimension, of `size` elements.
    pub(crate) fn layer_norm(
        &mut self,
        name: &str,
        x: &Value,
        size: usize,
        epsilon: f64,
    ) -> Result<Value, ExportError> {
        let [weight, bias] = self.layer_norm_weights(name, size)?;
        Ok(self.layer_norm_by(x, &weight, &bias, AttributeProto::float("epsilon", epsilon as f32)))
    }

    /// The weight and the bias of the layer norm `name` of `size` elements.
    pub(super) fn layer_norm_weights(&mut self, name: &str, size: usize) -> Result<[Value; 2], ExportError> {
        Ok([self.weight(&format!("{name}.weight"), &[size])?, self.weight(&format!("{name}.bias"), &[size])?])
    }

    /// Layer norm over the last dimension with these.
    pub(super) fn layer_norm_by(&mut self, x: &Value, weight: &Value, bias: &Value, epsilon: AttributeProto) -> Value {
        self.node("LayerNormalization", [x, weight, bias], vec![AttributeProto::int("axis", -1), epsilon])
    }

    /// The source of weights, for tensors that are computed from several.
    pub(crate) fn source(&self) -> &'a dyn WeightSource {
        self.source
    }

    /// The finished model with its metadata.
    pub(crate) fn finish(self, metadata: Entries) -> ModelProto {
        let domain =
            || OperatorSetIdProto { domain: row_operators::DOMAIN.to_owned(), version: row_operators::VERSION };
        let own = (!self.functions.is_empty()).then(domain);
        ModelProto {
            ir_version: IR_VERSION,
            producer_name: env!("CARGO_PKG_NAME").to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(self.graph),
            opset_import: [standard()].into_iter().chain(own).collect(),
            metadata_props: metadata.into_iter().map(|(key, value)| StringStringEntryProto { key, value }).collect(),
            functions: self.functions,
        }
    }
}

/// ONNX's own operators.
fn standard() -> OperatorSetIdProto {
    OperatorSetIdProto { domain: String::new(), version: OPSET_VERSION }
}

fn value_info(name: &str, element: DataType, dims: &[Dim]) -> ValueInfoProto {
    let dim = dims
        .iter()
        .map(|dim| match *dim {
            Dim::Fixed(size) => DimensionProto { dim_value: Some(size as i64), dim_param: None },
            Dim::Named(name) => DimensionProto { dim_value: None, dim_param: Some(name.to_owned()) },
        })
        .collect();
    let tensor_type = TensorTypeProto { elem_type: element as i32, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}
