//! What a dialect costs beside the native route: CPU time of the service for one request, with the same carrier on both sides.
//!
//! The model costs nothing: every request of a kind is the same, and its embedding is in the cache. What is left is what the two differ
//! in, reading a request and writing its answer, and what they share. Rounds of the two alternate; the figure is the median of the
//! ratios of the rounds.

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Parser;
use serde_json::json;
use tokio::task::LocalSet;

use crate::{
    PICTURE, Result,
    arithmetic::Arithmetic,
    figures::{figure, median},
    load::{connection::Connection, request::Template},
    machine,
    process::Service,
    services::{self, Places},
};

/// What a dialect may cost at most, as a ratio to the native route.
const BAR: f64 = 1.15;

/// Requests before those that count, of each kind.
const WARM_UP: u64 = 50;

const JSON: &str = "application/json";

#[derive(Parser)]
pub(crate) struct Options {
    /// Rounds, each with the native route and the dialect.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Requests of each of the two in each round.
    #[arg(long, default_value_t = 1000)]
    requests: u64,
}

/// The same asked in two ways.
struct Pair {
    name: &'static str,
    native: Template,
    dialect: Template,
}

/// Every dialect with each of its carriers: one line each.
fn pairs(picture: &[u8]) -> Result<Vec<Pair>> {
    let base64 = STANDARD.encode(picture);
    let url = format!("data:image/jpeg;base64,{base64}");
    let texts: Vec<String> = (0..32).map(|number| format!("a photo of a cat, number {number}")).collect();
    let pair =
        |name, (native, native_body): (_, serde_json::Value), (path, body): (_, serde_json::Value)| -> Result<Pair> {
            let template = |path, body: serde_json::Value| Template::fixed(path, JSON, body.to_string());
            Ok(Pair { name, native: template(native, native_body)?, dialect: template(path, body)? })
        };
    let of_texts = |count: usize, format| ("/embed/text", json!({"texts": texts[..count], "encoding_format": format}));
    let of_picture = |format| ("/embed/image", json!({"images": [base64], "encoding_format": format}));
    let openai = |input: serde_json::Value, format| {
        ("/v1/embeddings", json!({"model": "emoji-clip", "input": input, "encoding_format": format}))
    };
    let cohere = |what: &str, value: serde_json::Value| {
        ("/v2/embed", json!({"model": "emoji-clip", what: value, "input_type": "image", "embedding_types": ["float"]}))
    };
    let voyage =
        json!({"model": "emoji-clip", "inputs": [{"content": [{"type": "image_base64", "image_base64": url}]}]});
    let infer = |name: &str, value: &str, output: &str| {
        let input = json!({"name": name, "datatype": "BYTES", "shape": [1], "data": [value]});
        let output = json!({"name": output, "parameters": {"binary_data": false}});
        ("/v2/models/emoji-clip/infer", json!({"inputs": [input], "outputs": [output]}))
    };
    Ok(vec![
        pair("OpenAI, a text, floats", of_texts(1, "float"), openai(json!(texts[..1]), "float"))?,
        pair("OpenAI, a text, base64", of_texts(1, "base64"), openai(json!(texts[..1]), "base64"))?,
        pair("OpenAI, 32 texts, base64", of_texts(32, "base64"), openai(json!(texts), "base64"))?,
        pair("OpenAI, a picture as data URL, floats", of_picture("float"), openai(json!([url]), "float"))?,
        pair("OpenAI, a picture as data URL, base64", of_picture("base64"), openai(json!([url]), "base64"))?,
        pair("Jina, a picture, base64", of_picture("base64"), openai(json!([{"image": base64}]), "base64"))?,
        pair("Cohere, 32 texts", of_texts(32, "float"), cohere("texts", json!(texts)))?,
        pair("Cohere, a picture", of_picture("float"), cohere("images", json!([url])))?,
        pair("Voyage, a picture", of_picture("float"), ("/v1/multimodalembeddings", voyage))?,
        pair("TEI, 32 texts", of_texts(32, "float"), ("/embed", json!({"inputs": texts})))?,
        pair("Weaviate, a text", of_texts(1, "float"), ("/vectorize", json!({"texts": texts[..1], "images": []})))?,
        pair("Weaviate, a picture", of_picture("float"), ("/vectorize", json!({"texts": [], "images": [base64]})))?,
        pair("Open Inference Protocol, a text", of_texts(1, "float"), infer("texts", &texts[0], "text_embeds"))?,
        pair("Open Inference Protocol, a picture", of_picture("float"), infer("images", &base64, "image_embeds"))?,
        Pair {
            name: "Immich, a picture as multipart",
            native: form("/embed/image", &[("image", picture)])?,
            dialect: form("/predict", &[("entries", IMMICHS), ("image", picture)])?,
        },
    ])
}

/// What Immich's server asks of the box's model.
const IMMICHS: &[u8] = br#"{"clip":{"visual":{"modelName":"emoji-clip"}}}"#;

/// A form of these fields, of which `image` is a file.
fn form(path: &'static str, fields: &[(&str, &[u8])]) -> Result<Template> {
    const BOUNDARY: &str = "a-boundary-of-the-benchmark";
    let mut body = Vec::new();
    for (name, value) in fields {
        let file = if *name == "image" { "; filename=\"a.jpg\"" } else { "" };
        let head = format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
        body.extend([head.as_bytes(), value, b"\r\n"].concat());
    }
    body.extend(format!("--{BOUNDARY}--\r\n").into_bytes());
    Ok(Template::fixed(path, &format!("multipart/form-data; boundary={BOUNDARY}"), body)?)
}

pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    println!("machine: {}\n", machine::describe()?);
    let picture = std::fs::read(places.root.join(PICTURE))?;
    let set = ["cache.max_bytes=64MiB".to_owned()];
    let service = services::clipserve(places, &places.box_model(), Arithmetic::F32, &set)?;
    println!(
        "| CPU per request, µs (median of {} rounds of {}) | native | dialect | ratio | bar |",
        options.rounds, options.requests
    );
    println!("|---|---:|---:|---:|---:|");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut connection = Connection::open(service.address()).await?;
        for pair in pairs(&picture)? {
            let sides = [&pair.native, &pair.dialect];
            for template in sides {
                ask(&mut connection, template, WARM_UP).await?;
            }
            let (mut samples, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
            for round in 0..options.rounds {
                let mut costs = [0.0; 2];
                // Who is first in a round is second in the next.
                for side in [round % 2, 1 - round % 2] {
                    let before = cpu(&service)?;
                    ask(&mut connection, sides[side], options.requests).await?;
                    costs[side] = (cpu(&service)? - before) / options.requests as f64 * 1e6;
                    samples[side].push(costs[side]);
                }
                ratios.push(costs[1] / costs[0]);
            }
            let [native, dialect] = samples.map(|samples| figure(median(&samples)));
            println!("| {} | {native} | {dialect} | {:.3} | {BAR} |", pair.name, median(&ratios));
        }
        Ok(())
    })
}

/// The same request again and again, each when the last one is answered.
pub(crate) async fn ask(connection: &mut Connection, template: &Template, requests: u64) -> Result<()> {
    for number in 0..requests {
        connection.fetch(template.request(number)).await?;
    }
    Ok(())
}

/// Seconds of CPU so far, of all threads.
pub(crate) fn cpu(service: &Service) -> Result<f64> {
    Ok(service.cpu_by_thread(|_| "all")?.values().sum())
}
