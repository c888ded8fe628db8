//! A JSON document that nobody meant: a valid one with a value, a name or a list of it changed.
//!
//! Pure: the same generator makes the same document. Does not own which documents are valid (`bodies`, `models`).

use fastrand::Rng;
use serde_json::{Value, json};

/// Values that stand where others were meant.
fn odd_value(rng: &mut Rng) -> Value {
    let deep = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!([inner]));
    let values = [
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(1e308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0.5),
        json!(""),
        json!("\u{0}"),
        json!("data:image/png;base64,"),
        json!("data:image/png;base64,QUJD"),
        json!("data:image/"),
        json!("https://example.com/a.png"),
        json!("QUJD"),
        json!("x".repeat(3000)),
        json!([]),
        json!({}),
        json!([[]]),
        json!([{}]),
        json!([null]),
        json!([1, "a", null, {"type": "text"}]),
        json!({"type": "text", "text": "a"}),
        json!({"type": "image_url", "image_url": {"url": {}}}),
        json!({"role": "user", "content": []}),
        deep(100),
        deep(140),
    ];
    values[rng.usize(..values.len())].clone()
}

/// One value somewhere in `value`, each node as likely as another.
fn any_node<'v>(value: &'v mut Value, rng: &mut Rng) -> &'v mut Value {
    fn count(value: &Value) -> usize {
        1 + match value {
            Value::Array(values) => values.iter().map(count).sum(),
            Value::Object(members) => members.values().map(count).sum(),
            _ => 0,
        }
    }
    fn nth(value: &mut Value, mut at: usize) -> &mut Value {
        if at == 0 {
            return value;
        }
        at -= 1;
        let children: Vec<&mut Value> = match value {
            Value::Array(values) => values.iter_mut().collect(),
            Value::Object(members) => members.values_mut().collect(),
            _ => Vec::new(),
        };
        for child in children {
            let nodes = count(child);
            if at < nodes {
                return nth(child, at);
            }
            at -= nodes;
        }
        unreachable!("the node was counted")
    }
    let nodes = count(value);
    nth(value, rng.usize(..nodes))
}

fn nulls(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(nulls),
        Value::Object(members) => members.values_mut().for_each(nulls),
        leaf => *leaf = Value::Null,
    }
}

/// Breaks a document where its meaning is; of `names` one may stand where another was.
pub(crate) fn mutate(value: &mut Value, names: &[&str], rng: &mut Rng) {
    let node = any_node(value, rng);
    match rng.u8(..8) {
        0 => nulls(node),
        1 => *node = json!([node.take()]),
        2 => *node = json!({"type": "text", "text": node.take()}),
        3 => *node = Value::Array(vec![node.take(); rng.usize(..200)]),
        4 => {
            if let Value::Object(members) = node
                && let Some(key) = members.keys().nth(rng.usize(..members.len().max(1))).cloned()
                && let Some(value) = members.remove(&key)
                && rng.bool()
            {
                members.insert(names[rng.usize(..names.len())].to_owned(), value);
            }
        }
        5 => {
            if let Value::Object(members) = node {
                members.insert(names[rng.usize(..names.len())].to_owned(), odd_value(rng));
            }
        }
        _ => *node = odd_value(rng),
    }
}
