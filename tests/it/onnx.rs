//! Rewrites of the fixture's graphs into those that other exporters write: other names and types, static shapes, L2 norm
//! inside, both towers in one graph, weights in half precision, in 8 bits or in a file of their own.
//!
//! Owns the messages of `onnx.proto3`, as far as the fixture's graphs use them; nothing of the fixture is lost.

use std::{fs, path::Path};

use half::f16;
use prost::Message;

pub(crate) const FLOAT: i32 = 1;
const UINT8: i32 = 2;
const INT32: i32 = 6;
const INT64: i32 = 7;
const FLOAT16: i32 = 10;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Model {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(message, required, tag = "7")]
    graph: Graph,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<Opset>,
}

#[derive(Clone, PartialEq, Message)]
struct Opset {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(float, optional, tag = "2")]
    f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    i: Option<i64>,
    #[prost(message, optional, tag = "5")]
    t: Option<Tensor>,
    #[prost(int64, repeated, tag = "8")]
    ints: Vec<i64>,
    #[prost(int32, tag = "20")]
    r#type: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", optional, tag = "9")]
    raw_data: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<Entry>,
    #[prost(int32, optional, tag = "14")]
    data_location: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, required, tag = "2")]
    r#type: Type,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, required, tag = "1")]
    tensor: TensorType,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    element: i32,
    #[prost(message, required, tag = "2")]
    shape: Shape,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dim>,
}

#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(int64, optional, tag = "1")]
    value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    param: Option<String>,
}

/// A value; a dimension below 0 is dynamic.
fn value(name: &str, element: i32, dims: &[i64]) -> Value {
    let dim = |(at, &size): (usize, &i64)| match size {
        0.. => Dim { value: Some(size), param: None },
        _ => Dim { value: None, param: Some(format!("{name}_{at}")) },
    };
    let shape = Shape { dim: dims.iter().enumerate().map(dim).collect() };
    Value { name: name.to_owned(), r#type: Type { tensor: TensorType { element, shape } } }
}

fn node(op_type: &str, input: &[&str], output: &str, attribute: Vec<Attribute>) -> Node {
    let input = input.iter().map(ToString::to_string).collect();
    Node { input, output: vec![output.to_owned()], name: String::new(), op_type: op_type.to_owned(), attribute }
}

fn int(name: &str, i: i64) -> Attribute {
    Attribute { name: name.to_owned(), i: Some(i), r#type: 2, ..Attribute::default() }
}

fn ints(name: &str, ints: &[i64]) -> Attribute {
    Attribute { name: name.to_owned(), ints: ints.to_vec(), r#type: 7, ..Attribute::default() }
}

impl Model {
    pub(crate) fn read(path: &Path) -> Self {
        Self::decode(fs::read(path).expect("the fixture").as_slice()).expect("a graph")
    }

    pub(crate) fn write(&self, path: &Path) {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, self.encode_to_vec()).expect("written");
    }

    /// Writes the weights into `<name>_data` beside the graph.
    pub(crate) fn write_with_external_data(mut self, path: &Path) {
        let location = format!("{}_data", path.file_name().expect("a name").to_str().expect("UTF-8"));
        let mut data = Vec::new();
        for tensor in &mut self.graph.initializer {
            let bytes = tensor.raw_data.take().expect("raw data");
            data.resize(data.len().next_multiple_of(64), 0);
            let entry = |key: &str, value: String| Entry { key: key.to_owned(), value };
            tensor.external_data = vec![
                entry("location", location.clone()),
                entry("offset", data.len().to_string()),
                entry("length", bytes.len().to_string()),
            ];
            tensor.data_location = Some(1);
            data.extend(bytes);
        }
        self.write(path);
        fs::write(path.with_file_name(location), data).expect("written");
    }

    fn rename(&mut self, from: &str, to: &str) {
        let nodes = self.graph.node.iter_mut().flat_map(|node| node.input.iter_mut().chain(&mut node.output));
        let values = self.graph.input.iter_mut().chain(&mut self.graph.output).map(|value| &mut value.name);
        nodes.chain(values).filter(|name| *name == from).for_each(|name| *name = to.to_owned());
    }

    /// The one input, under another name, of another type and shape; what the graph reads is cast from it.
    pub(crate) fn input(mut self, name: &str, element: i32, dims: &[i64]) -> Self {
        let old = self.graph.input[0].clone();
        let inner = format!("{name}_as_before");
        self.rename(&old.name, &inner);
        let to = int("to", old.r#type.tensor.element.into());
        self.graph.node.insert(0, node("Cast", &[name], &inner, vec![to]));
        self.graph.input = vec![value(name, element, dims)];
        self
    }

    /// The one output, under another name and of another type.
    pub(crate) fn output(mut self, name: &str, element: i32, dims: &[i64]) -> Self {
        let old = self.graph.output[0].name.clone();
        let inner = format!("{name}_as_before");
        self.rename(&old, &inner);
        self.graph.node.push(node("Cast", &[&inner], name, vec![int("to", element.into())]));
        self.graph.output = vec![value(name, element, dims)];
        self
    }

    /// Scales the one output to length 1, as `CLIPModel` and open_clip's exports do.
    pub(crate) fn normalized(mut self) -> Self {
        let name = self.graph.output[0].name.clone();
        let output = self.graph.output[0].clone();
        self.rename(&name, "unscaled");
        self.graph.node.push(node("LpNormalization", &["unscaled"], &name, vec![int("axis", 1), int("p", 2)]));
        self.graph.output = vec![output];
        self
    }

    /// Immich's visual graph: static batch 1, normalised, names of its own.
    pub(crate) fn immich_visual(self) -> Self {
        self.normalized().input("image", FLOAT, &[1, 3, 224, 224]).output("embedding", FLOAT, &[1, 48])
    }

    /// Immich's textual graph: the same, ids of 32 bits padded to the context length.
    pub(crate) fn immich_textual(self) -> Self {
        self.normalized().input("text", INT32, &[1, 77]).output("embedding", FLOAT, &[1, 48])
    }

    /// A text graph that takes an `attention_mask`, which it really reads (a token that is not attended to is as good as none,
    /// so what the mask says about padding changes nothing), and has the tower's other output too.
    pub(crate) fn with_mask_and_states(mut self) -> Self {
        let output = self.graph.output[0].clone();
        let name = output.name.clone();
        self.rename(&name, "raw");
        let float = vec![int("to", FLOAT.into())];
        let axes = Tensor { dims: vec![1], data_type: INT64, name: "mask_axes".to_owned(), ..Tensor::default() };
        self.graph.initializer.push(Tensor { raw_data: Some(1i64.to_le_bytes().to_vec()), ..axes });
        self.graph.node.extend([
            node("Cast", &["attention_mask"], "mask", float),
            // Every text has a token that is attended to: the maximum is 1.
            node("ReduceMax", &["mask"], "any", vec![ints("axes", &[1]), int("keepdims", 1)]),
            node("Mul", &["raw", "any"], &name, Vec::new()),
            node("Unsqueeze", &[&name, "mask_axes"], "last_hidden_state", Vec::new()),
        ]);
        self.graph.input.push(value("attention_mask", INT64, &[-1, -1]));
        self.graph.output = vec![output, value("last_hidden_state", FLOAT, &[-1, -1, 48])];
        self
    }

    /// Both towers in one graph with the logits, as Optimum exports `CLIPModel`.
    pub(crate) fn merged(vision: Self, text: Self) -> Self {
        let (mut vision, mut text) = (vision.normalized(), text.with_mask_and_states().normalized());
        text.graph.output.truncate(1);
        for (model, tower) in [(&mut vision, "vision"), (&mut text, "text")] {
            let ports = model.graph.input.iter().chain(&model.graph.output).map(|value| value.name.clone());
            let ports: Vec<String> = ports.collect();
            let initializers = model.graph.initializer.iter_mut().map(|tensor| &mut tensor.name);
            let nodes = model.graph.node.iter_mut();
            let nodes = nodes.flat_map(|node| node.input.iter_mut().chain(&mut node.output).chain([&mut node.name]));
            nodes.chain(initializers).filter(|name| !name.is_empty() && !ports.contains(name)).for_each(|name| {
                *name = format!("/{tower}/{name}");
            });
        }
        let mut graph = text.graph;
        graph.node.extend(vision.graph.node);
        graph.initializer.extend(vision.graph.initializer);
        graph.node.extend([
            node("Transpose", &["image_embeds"], "image_columns", Vec::new()),
            node("MatMul", &["text_embeds", "image_columns"], "logits_per_text", Vec::new()),
            node("Transpose", &["logits_per_text"], "logits_per_image", Vec::new()),
        ]);
        graph.input.insert(1, vision.graph.input.remove(0));
        graph.output.insert(0, value("logits_per_image", FLOAT, &[-1, -1]));
        graph.output.insert(1, value("logits_per_text", FLOAT, &[-1, -1]));
        graph.output.extend(vision.graph.output);
        Self { graph, ..text }
    }

    /// Weights in half precision, and half-precision floats in and out.
    pub(crate) fn half(mut self) -> Self {
        let mut casts = Vec::new();
        for tensor in self.graph.initializer.iter_mut().filter(|tensor| tensor.data_type == FLOAT) {
            let halves = tensor.raw_data.iter().flat_map(|bytes| bytes.as_chunks::<4>().0);
            let halves = halves.flat_map(|&bytes| f16::from_f32(f32::from_le_bytes(bytes)).to_le_bytes());
            tensor.raw_data = Some(halves.collect());
            tensor.data_type = FLOAT16;
            let name = tensor.name.clone();
            tensor.name.push_str("_half");
            casts.push(node("Cast", &[&tensor.name], &name, vec![int("to", FLOAT.into())]));
        }
        self.graph.node.splice(0..0, casts);
        let input = self.graph.input[0].clone();
        let output = self.graph.output[0].name.clone();
        let halved = self.output(&output, FLOAT16, &[-1, 48]);
        match input.r#type.tensor.element {
            FLOAT => halved.input(&input.name, FLOAT16, &[-1, 3, 224, 224]),
            _ => halved,
        }
    }

    /// Every product with weights as `onnxruntime.quantization.quantize_dynamic` writes it (`weight_type=QUInt8`): the weights in 8 bits with
    /// one scale, the activations in 8 bits with one that `DynamicQuantizeLinear` measures while the graph runs.
    pub(crate) fn dynamically_quantized(mut self) -> Self {
        let mut nodes = Vec::new();
        for product in std::mem::take(&mut self.graph.node) {
            let weights = product.input.get(1);
            let weights = self
                .graph
                .initializer
                .iter_mut()
                .find(|tensor| Some(&tensor.name) == weights && tensor.dims.len() == 2);
            let (Some(weights), "MatMul") = (weights, product.op_type.as_str()) else {
                nodes.push(product);
                continue;
            };
            let raw = weights.raw_data.as_deref().expect("raw data");
            let values: Vec<f32> = raw.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
            let range = values.iter().fold((0f32, 0f32), |(low, high), &value| (low.min(value), high.max(value)));
            let scale = (range.1 - range.0) / 255.0;
            let zero_point = (-range.0 / scale).round();
            let level = |value: &f32| (value / scale + zero_point).round() as u8;
            *weights = Tensor {
                data_type: UINT8,
                raw_data: Some(values.iter().map(level).collect()),
                ..std::mem::take(weights)
            };
            let (input, weights, output) = (&product.input[0], weights.name.clone(), &product.output[0]);
            let name = |what: &str| format!("{output}_{what}");
            let scalar = |what: &str, data_type, bytes: &[u8]| Tensor {
                data_type,
                name: name(what),
                raw_data: Some(bytes.to_vec()),
                ..Tensor::default()
            };
            self.graph.initializer.extend([
                scalar("weights_scale", FLOAT, &scale.to_le_bytes()),
                scalar("weights_zero_point", UINT8, &[zero_point as u8]),
            ]);
            let [levels, measured, zero, scales, sums, floats, weights_scale, weights_zero] =
                ["levels", "scale", "zero_point", "scales", "sums", "floats", "weights_scale", "weights_zero_point"]
                    .map(name);
            let mut quantize = node("DynamicQuantizeLinear", &[input], &levels, Vec::new());
            quantize.output.extend([measured.clone(), zero.clone()]);
            nodes.extend([
                quantize,
                node("MatMulInteger", &[&levels, &weights, &zero, &weights_zero], &sums, Vec::new()),
                node("Cast", &[&sums], &floats, vec![int("to", FLOAT.into())]),
                node("Mul", &[&measured, &weights_scale], &scales, Vec::new()),
                node("Mul", &[&floats, &scales], output, Vec::new()),
            ]);
        }
        self.graph.node = nodes;
        self
    }

    /// The same graph with its embedding called what an unprojected one is called.
    pub(crate) fn pooled(self) -> Self {
        self.output("pooler_output", FLOAT, &[-1, 48])
    }
}
