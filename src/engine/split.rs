//! One tower out of a graph that holds both: the part of it that `image_embeds` or `text_embeds` depends on.
//!
//! Owns telling such a graph from others, and cutting the part out. Runs nothing.
//!
//! ONNX Runtime does not leave out what an output does not need, and wants every input fed: a graph of both towers, as Optimum
//! exports `CLIPModel`, would run both for every image. What is kept is copied as it is, byte for byte, so that nothing which
//! this module does not know is lost (operators, quantisation, functions, external data). Of the weights only those of the
//! tower are ever read.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Read, Seek},
    path::Path,
};

use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};

use super::graph_file::{GraphFile, damaged, is_damaged};

/// Which encoder a graph is opened as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tower {
    Vision,
    Text,
}

impl Tower {
    /// As errors call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Vision => "vision",
            Self::Text => "text",
        }
    }

    /// The output, as every exporter of both towers names it.
    fn output(self) -> &'static str {
        match self {
            Self::Vision => "image_embeds",
            Self::Text => "text_embeds",
        }
    }
}

/// Field numbers of `onnx.proto3`: `ModelProto.graph`, then those of `GraphProto`, then the names inside its fields.
mod number {
    pub(super) const GRAPH: u32 = 7;
    pub(super) const NODE: u32 = 1;
    pub(super) const INITIALIZER: u32 = 5;
    pub(super) const INPUT: u32 = 11;
    pub(super) const OUTPUT: u32 = 12;
    pub(super) const VALUE_INFO: u32 = 13;
    pub(super) const VALUE_INFO_NAME: u32 = 1;
    pub(super) const TENSOR_NAME: u32 = 8;
}

/// What of a `NodeProto` says which values it connects. Everything else in it is skipped.
#[derive(Clone, PartialEq, prost::Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

/// The bodies of `If`, `Loop`, `Scan`, which may name values of the graph around them.
#[derive(Clone, PartialEq, prost::Message)]
struct Attribute {
    #[prost(message, optional, tag = "6")]
    g: Option<Body>,
    #[prost(message, repeated, tag = "11")]
    graphs: Vec<Body>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Body {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<Named>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

impl Node {
    /// Every value that the node, or a body in it, reads; a body's own values are among them, which does no harm.
    fn reads(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.input.iter().map(String::as_str).collect();
        for body in self.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs)) {
            names.extend(body.node.iter().flat_map(Self::reads));
            names.extend(body.output.iter().map(|output| output.name.as_str()));
        }
        names
    }
}

/// The graph of `tower` alone, as the bytes of a model file, when the graph at `path` holds both; `None` when it does not, or
/// is no graph (the runtime will say what is wrong with it).
///
/// # Errors
/// When the file cannot be read.
pub(super) fn tower_of_both(path: &Path, tower: Tower) -> io::Result<Option<Vec<u8>>> {
    match split(&mut GraphFile::open(path)?, tower) {
        Err(error) if is_damaged(&error) => Ok(None),
        result => result,
    }
}

fn split<R: Read + Seek>(file: &mut GraphFile<R>, tower: Tower) -> io::Result<Option<Vec<u8>>> {
    let model = file.fields(file.whole())?;
    let Some(&graph) = model.iter().find(|field| field.number == number::GRAPH) else { return Ok(None) };
    let fields = file.fields(graph.payload())?;
    let mut names = HashMap::new();
    for field in fields.iter().filter(|field| field.number == number::OUTPUT) {
        names.insert(file.name(field, number::VALUE_INFO_NAME)?, field.start);
    }
    let Some(&output) = names.get(tower.output()) else { return Ok(None) };
    if ![Tower::Vision, Tower::Text].iter().all(|tower| names.contains_key(tower.output())) {
        return Ok(None);
    }
    let mut nodes = Vec::new();
    for field in fields.iter().filter(|field| field.number == number::NODE) {
        let node = file.read(field.payload())?;
        nodes.push((field.start, Node::decode(node.as_slice()).map_err(|_| damaged())?));
    }
    let (kept_nodes, values) = reachable(&nodes, tower.output());
    let mut kept = Vec::with_capacity(fields.len());
    for field in fields {
        let keep = match field.number {
            number::NODE => kept_nodes.contains(&field.start),
            number::INITIALIZER => values.contains(&file.name(&field, number::TENSOR_NAME)?),
            number::INPUT | number::VALUE_INFO => values.contains(&file.name(&field, number::VALUE_INFO_NAME)?),
            number::OUTPUT => field.start == output,
            _ => true,
        };
        if keep {
            kept.push(field);
        }
    }
    let graph_length: u64 = kept.iter().map(|field| field.end - field.start).sum();
    let mut bytes = Vec::with_capacity(usize::try_from(graph_length).map_err(|_| damaged())?);
    for field in model {
        if field.start == graph.start {
            encode_key(number::GRAPH, WireType::LengthDelimited, &mut bytes);
            encode_varint(graph_length, &mut bytes);
            for field in &kept {
                file.append(field.start..field.end, &mut bytes)?;
            }
        } else {
            file.append(field.start..field.end, &mut bytes)?;
        }
    }
    Ok(Some(bytes))
}

/// The nodes that `output` depends on, and every value that they and it name.
fn reachable(nodes: &[(u64, Node)], output: &str) -> (HashSet<u64>, HashSet<String>) {
    let producers: HashMap<&str, usize> = nodes
        .iter()
        .enumerate()
        .flat_map(|(index, (_, node))| node.output.iter().map(move |name| (name.as_str(), index)))
        // An optional output that is left out has the name "", and so has an optional input.
        .filter(|(name, _)| !name.is_empty())
        .collect();
    let (mut kept, mut values) = (HashSet::new(), HashSet::new());
    let mut wanted = vec![output];
    while let Some(value) = wanted.pop() {
        if !values.insert(value.to_owned()) {
            continue;
        }
        let Some((start, node)) = producers.get(value).and_then(|&index| nodes.get(index)) else { continue };
        if kept.insert(*start) {
            // Other outputs of a node are there, whether or not somebody reads them.
            values.extend(node.output.iter().cloned());
            wanted.extend(node.reads());
        }
    }
    (kept, values)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::graph_file::field, *};

    fn node(input: &[&str], output: &[&str], attribute: Vec<Attribute>) -> Vec<u8> {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        // Field 4, the operator, is one that `Node` does not know: it must come through.
        let operator = field(4, b"Operator");
        field(
            number::NODE,
            &[Node { input: names(input), output: names(output), attribute }.encode_to_vec(), operator].concat(),
        )
    }

    fn value(number: u32, name: &str) -> Vec<u8> {
        field(number, &field(number::VALUE_INFO_NAME, name.as_bytes()))
    }

    /// Weights before their name, as they may be.
    fn weights(name: &str) -> Vec<u8> {
        field(number::INITIALIZER, &[field(9, &[7; 20_000]), field(number::TENSOR_NAME, name.as_bytes())].concat())
    }

    fn model(graph: &[Vec<u8>]) -> Vec<u8> {
        [field(2, b"exporter"), field(number::GRAPH, &graph.concat()), field(8, b"opset")].concat()
    }

    fn split(bytes: &[u8], tower: Tower) -> Option<Vec<u8>> {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("model.onnx");
        fs::write(&path, bytes).expect("a file");
        tower_of_both(&path, tower).expect("readable")
    }

    #[test]
    fn each_tower_keeps_what_it_depends_on_as_it_was_and_nothing_else() {
        let body = Body {
            node: vec![Node { input: vec!["v_inside".to_owned()], ..Node::default() }],
            output: vec![Named { name: "v_out".to_owned() }],
        };
        let branch = vec![Attribute { g: Some(body), graphs: Vec::new() }];
        let vision = [
            node(&["pixel_values", "v_weights", ""], &["v_1", ""], Vec::new()),
            node(&["v_1"], &["image_embeds", "v_unused"], branch),
            weights("v_weights"),
            weights("v_inside"),
            weights("v_out"),
            value(number::INPUT, "pixel_values"),
            value(number::OUTPUT, "image_embeds"),
            value(number::VALUE_INFO, "v_1"),
        ];
        let text = [
            node(&["input_ids", "t_weights"], &["text_embeds", ""], Vec::new()),
            weights("t_weights"),
            value(number::INPUT, "input_ids"),
            value(number::OUTPUT, "text_embeds"),
        ];
        let logits = [
            node(&["text_embeds", "image_embeds"], &["logits_per_text"], Vec::new()),
            value(number::OUTPUT, "logits_per_text"),
        ];
        let name = [field(2, b"name of the graph")];
        let both = model(&[&logits[..], &vision, &name, &text].concat());
        assert_eq!(split(&both, Tower::Vision), Some(model(&[&vision[..], &name].concat())));
        assert_eq!(split(&both, Tower::Text), Some(model(&[&name[..], &text].concat())));
        // One tower is not split, whatever it is opened as.
        for tower in [Tower::Vision, Tower::Text] {
            assert_eq!(split(&model(&vision), tower), None);
        }
        // Cut anywhere it is no graph of both any more, or at least the part of a whole one.
        for length in (0..both.len()).step_by(997) {
            assert_eq!(split(&both[..length], Tower::Text), None, "{length}");
        }
    }

    #[test]
    fn what_is_no_graph_is_left_to_the_runtime() {
        for bytes in
            [&b""[..], b"garbage", &[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], &[0xff; 64]]
        {
            assert_eq!(split(bytes, Tower::Vision), None);
        }
    }
}
