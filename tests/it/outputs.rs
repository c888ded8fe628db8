//! The other outputs of the reference classes over HTTP, against what `transformers` answered: every output, in every form.
//!
//! The goldens (`golden/outputs.npz`) are of two pictures and of texts of different lengths, padded to the longest with their
//! attention mask, so that the states of padding positions count too.

use std::{collections::BTreeMap, io::Cursor};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clipserve::encoder::Output;
use ndarray::{ArrayD, Axis, IxDyn, Slice};
use ndarray_npy::{NpzReader, ReadNpyExt};
use reqwest::Response;
use serde_json::{Value, json};

use crate::{
    checkpoint::{checkpoint, start},
    support::{TestServer, error, fixture, json, picture},
};

const PICTURES: [&str; 2] = ["cat_420.jpg", "cat_422.jpg"];

/// Distance to `transformers`, relative to its norm.
const BAR: f32 = 1e-5;

async fn serve(more: &[&str]) -> (TestServer, tempfile::TempDir, tempfile::TempDir) {
    let (model, cache) = (checkpoint(), tempfile::tempdir().expect("a folder"));
    (start(model.path(), cache.path(), more).await, model, cache)
}

struct Golden(NpzReader<std::fs::File>);

impl Golden {
    fn open() -> Self {
        let file = std::fs::File::open(fixture("golden/outputs.npz")).expect("the goldens");
        Self(NpzReader::new(file).expect("an archive"))
    }

    /// By the names of our answers.
    fn outputs(&mut self, modality: &str) -> BTreeMap<String, ArrayD<f32>> {
        let get = |output: Output| {
            let array = self.0.by_name(&format!("{modality}.{}", output.name())).expect("a golden");
            (output.name().to_owned(), array)
        };
        Output::ALL.map(get).into()
    }

    fn mask(&mut self) -> ArrayD<i64> {
        self.0.by_name("attention_mask").expect("a golden")
    }
}

/// The texts of the goldens, which keep them in a type of NumPy that the reader does not know.
const TEXTS: [&str; 2] = ["a photo of a cat", "an astronaut in an orange suit on the moon"];

fn names() -> Vec<&'static str> {
    Output::ALL.map(Output::name).into()
}

fn base64(name: &str) -> String {
    BASE64_STANDARD.encode(picture(name))
}

#[track_caller]
fn assert_close(name: &str, actual: &ArrayD<f32>, expected: &ArrayD<f32>) {
    assert_eq!(actual.shape(), expected.shape(), "{name}");
    let distance = (actual - expected).mapv(|d| d * d).sum().sqrt() / expected.mapv(|v| v * v).sum().sqrt();
    assert!(distance < BAR, "{name}: {distance:e}");
}

/// A nested list of JSON.
fn array(value: &Value) -> ArrayD<f32> {
    let (mut shape, mut at) = (Vec::new(), value);
    while let Some(list) = at.as_array() {
        shape.push(list.len());
        at = &list[0];
    }
    fn flatten(value: &Value, into: &mut Vec<f32>) {
        match value.as_array() {
            Some(list) => list.iter().for_each(|value| flatten(value, into)),
            None => into.push(value.as_f64().expect("a number") as f32),
        }
    }
    let mut values = Vec::new();
    flatten(value, &mut values);
    ArrayD::from_shape_vec(IxDyn(&shape), values).expect("lists of equal length")
}

/// `{"shape", "data"}`.
fn packed(value: &Value) -> ArrayD<f32> {
    let shape: Vec<usize> = serde_json::from_value(value["shape"].clone()).expect("a shape");
    let bytes = BASE64_STANDARD.decode(value["data"].as_str().expect("data")).expect("base64");
    let values = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    ArrayD::from_shape_vec(IxDyn(&shape), values).expect("as many values as the shape says")
}

async fn npz(response: Response) -> NpzReader<Cursor<Vec<u8>>> {
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["content-type"], "application/x-npz");
    NpzReader::new(Cursor::new(response.bytes().await.expect("a body").to_vec())).expect("an archive")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_output_of_images_equals_transformers_in_every_form() {
    let (server, _model, _cache) = serve(&[]).await;
    let golden = Golden::open().outputs("image");
    let body = json!({"images": PICTURES.map(base64), "outputs": names()});
    let plain = json(server.post_json("/embed/image", &body).await, 200).await;
    let mut wanted = body.clone();
    wanted["encoding_format"] = json!("base64");
    let base64 = json(server.post_json("/embed/image", &wanted).await, 200).await;
    let request = server.post("/embed/image").header("accept", "application/x-npz").json(&body);
    let mut archive = npz(request.send().await.expect("an answer")).await;
    for (name, expected) in &golden {
        assert_close(name, &array(&plain["outputs"][name]), expected);
        assert_close(name, &packed(&base64["outputs"][name]), expected);
        assert_close(name, &archive.by_name(name).expect("in the archive"), expected);
        let only = json!({"images": PICTURES.map(self::base64), "outputs": [name]});
        let request = server.post("/embed/image").header("accept", "application/x-npy").json(&only);
        let bytes = request.send().await.expect("an answer").bytes().await.expect("a body");
        assert_close(name, &ArrayD::<f32>::read_npy(&bytes[..]).expect("an array"), expected);
    }
    let embeddings =
        json(server.post_json("/embed/image", &json!({"images": PICTURES.map(self::base64)})).await, 200).await;
    for same in [&plain["embeddings"], &embeddings["embeddings"]] {
        assert_close("embeddings", &archive.by_name("embeddings").expect("in the archive"), &array(same));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_output_of_texts_equals_transformers_padding_included() {
    let (server, _model, _cache) = serve(&[]).await;
    let mut golden = Golden::open();
    let body = json!({"texts": TEXTS, "outputs": names()});
    let answer = json(server.post_json("/embed/text", &body).await, 200).await;
    for (name, expected) in &golden.outputs("text") {
        assert_close(name, &array(&answer["outputs"][name]), expected);
    }
    let mask = golden.mask();
    assert!(mask.iter().any(|&attended| attended == 0), "one text is shorter");
    assert_eq!(array(&answer["attention_mask"]), mask.mapv(|attended| attended as f32));
    let request = server.post("/embed/text").header("accept", "application/x-npz").json(&body);
    let mut archive = npz(request.send().await.expect("an answer")).await;
    assert_eq!(archive.by_name::<ndarray::OwnedRepr<i64>, IxDyn>("attention_mask").expect("in the archive"), mask);
    // What else is in the batch changes nothing but the padding.
    let alone = json(server.post_json("/embed/text", &json!({"texts": TEXTS[0], "outputs": names()})).await, 200).await;
    let together = array(&answer["outputs"]["last_hidden_state"]);
    let own = array(&alone["outputs"]["last_hidden_state"]);
    let cut = together
        .slice_axis(Axis(0), Slice::from(..1))
        .slice_axis(Axis(1), Slice::from(..own.len_of(Axis(1))))
        .to_owned();
    assert_close("alone", &own, &cut);
    server.stop().await;
}

/// Diffusion pipelines pad to the context length and pass no mask. Then padding is nothing but more end tokens, which a text
/// can also bring itself.
#[tokio::test(flavor = "multi_thread")]
async fn padding_to_the_context_length_without_a_mask_is_a_text_of_that_length() {
    let (server, _model, _cache) = serve(&[]).await;
    let state = async |text: &str, more: Value| {
        let mut body = json!({"texts": text, "outputs": ["last_hidden_state"]});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        array(&json(server.post_json("/embed/text", &body).await, 200).await["outputs"]["last_hidden_state"])
    };
    let unmasked = state("a cat", json!({"padding": "max_length", "attention_mask": false})).await;
    assert_eq!(unmasked.shape()[1], 77);
    let spelt_out = state(&format!("a cat{}", "<|endoftext|>".repeat(77 - 4)), json!({})).await;
    assert_close("no mask", &unmasked, &spelt_out);
    let masked = state("a cat", json!({"padding": "max_length"})).await;
    let own = |states: &ArrayD<f32>| states.slice_axis(Axis(1), Slice::from(..4)).to_owned();
    assert_close("the text's own positions", &own(&masked), &own(&unmasked));
    let distance = (&masked - &unmasked).mapv(f32::abs).sum();
    assert!(distance > 0.1, "padding's states depend on the mask: {distance}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_are_options_of_every_encoding() {
    let (server, _model, _cache) = serve(&[]).await;
    let raw = server.post_picture("/embed/image?outputs=pooler_output,attentions", picture(PICTURES[0])).await;
    let raw = json(raw, 200).await;
    let expected = Golden::open().outputs("image");
    let first = expected["pooler_output"].slice_axis(Axis(0), Slice::from(..1)).to_owned();
    assert_close("raw", &array(&raw["outputs"]["pooler_output"]), &first);
    assert_eq!(raw["outputs"].as_object().expect("an object").len(), 2);
    let form = PICTURES.into_iter().fold(reqwest::multipart::Form::new(), |form, name| {
        form.part("image", reqwest::multipart::Part::bytes(picture(name)).file_name(name))
    });
    let sent = server.post("/embed/image?outputs=pooler_output").multipart(form).send().await.expect("an answer");
    assert_close("multipart", &array(&json(sent, 200).await["outputs"]["pooler_output"]), &expected["pooler_output"]);
    let text = server.post("/embed/text?outputs=pooler_output&padding=max_length").header("content-type", "text/plain");
    let text = json(text.body("a cat").send().await.expect("an answer"), 200).await;
    assert_eq!(text["attention_mask"][0].as_array().expect("a mask").len(), 77);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_said_before_anything_runs() {
    let (server, _model, _cache) = serve(&["limits.max_output_bytes=64KiB"]).await;
    let ask = async |path: &str, body: Value, status, code: &str| {
        error(server.post_json(path, &body).await, status, code).await
    };
    let pictures = json!(PICTURES.map(base64));
    let large = json!({"images": pictures, "outputs": ["hidden_states"]});
    let message = ask("/embed/image", large, 413, "payload_too_large").await;
    assert!(message.contains("limits.max_output_bytes") && message.contains("65536"), "{message}");
    let small = json!({"images": pictures, "outputs": ["pooler_output"]});
    assert_eq!(server.post_json("/embed/image", &small).await.status(), 200);
    let long = json!({"texts": "a cat", "outputs": ["attentions"], "padding": "max_length"});
    ask("/embed/text", long, 413, "payload_too_large").await;
    let unknown = ask("/embed/text", json!({"texts": "a", "outputs": ["states"]}), 400, "invalid_request").await;
    assert!(unknown.contains("last_hidden_state"), "{unknown}");
    let idle = ask("/embed/text", json!({"texts": "a", "padding": "max_length"}), 400, "invalid_request").await;
    assert!(idle.contains("outputs"), "{idle}");
    let two = json!({"texts": "a", "outputs": ["pooler_output", "last_hidden_state"]});
    let request = server.post("/embed/text").header("accept", "application/x-npy").json(&two);
    let message = error(request.send().await.expect("an answer"), 400, "invalid_request").await;
    assert!(message.contains("application/x-npz"), "{message}");
    let bad =
        json!({"images": [base64(PICTURES[0]), BASE64_STANDARD.encode("no picture")], "outputs": ["pooler_output"]});
    ask("/embed/image", bad, 415, "unsupported_media_type").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn graphs_from_elsewhere_answer_embeddings_only() {
    let server = TestServer::start(&[]).await;
    let body = json!({"texts": "a cat", "outputs": ["pooler_output"]});
    let message = error(server.post_json("/embed/text", &body).await, 501, "not_supported").await;
    assert!(message.contains("embeddings only") && message.contains("checkpoint"), "{message}");
    assert_eq!(json(server.get("/info").await, 200).await["model"]["outputs"], json!([]));
    server.stop().await;
}
