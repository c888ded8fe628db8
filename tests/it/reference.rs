//! The reference's numbers, over HTTP: what `transformers` answers for the fixture checkpoint, every picture and every text.
//!
//! Bounds: embeddings within 1e-5 of the reference's norm (maximum absolute difference over the norm), logits within 2e-3.

use std::{collections::BTreeMap, fs};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clipserve::{model::texts::Tokenization, preprocess::text::TextTokenizer};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::{TestServer, fixture, json, matrix, picture};

pub(crate) const EMBEDDING_TOLERANCE: f32 = 1e-5;
const LOGIT_TOLERANCE: f32 = 2e-3;

/// Embeddings with and without `preprocess.fast_decode` point at least this much the same way.
const FAST_DECODE_COSINE: f32 = 0.9999;

/// The one format whose decoders may differ by a level or two.
const LOSSY: &str = "cat_lossy.webp";

/// The lossy picture's embedding may differ by what two levels of a few pixels make.
const LOSSY_TOLERANCE: f32 = 2e-2;

#[derive(Deserialize)]
struct Images {
    images: BTreeMap<String, Image>,
}

#[derive(Deserialize)]
struct Image {
    image_embeds_raw: Option<Vec<f32>>,
}

#[derive(Deserialize)]
struct Texts {
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    text_embeds_raw: Vec<f32>,
}

#[derive(Deserialize)]
struct Similarity {
    images: Vec<String>,
    texts: Vec<String>,
    logit_scale_exp: f32,
    logits_per_image: Vec<Vec<f32>>,
}

fn golden<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    let path = fixture("golden").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub(crate) fn images() -> Vec<(String, Vec<f32>)> {
    let images: Images = golden("images.json");
    let embedded = images.images.into_iter().filter_map(|(name, image)| Some((name, image.image_embeds_raw?)));
    let embedded: Vec<_> = embedded.collect();
    assert_eq!(embedded.len(), 36, "all of the reference's pictures but the one it refuses");
    embedded
}

/// Every text with its embedding.
pub(crate) fn texts() -> Vec<(String, Vec<f32>)> {
    let Texts { texts } = golden("texts.json");
    texts.into_iter().map(|text| (text.text, text.text_embeds_raw)).collect()
}

#[track_caller]
pub(crate) fn assert_close(name: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len(), "{name}");
    let norm = expected.iter().map(|v| v * v).sum::<f32>().sqrt();
    let worst = actual.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance * norm, "{name}: off by {worst}, {} of the norm", worst / norm);
}

fn tolerance(name: &str) -> f32 {
    if name == LOSSY { LOSSY_TOLERANCE } else { EMBEDDING_TOLERANCE }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_picture_has_the_embedding_of_the_reference() {
    let server = TestServer::start(&[]).await;
    for (name, expected) in images() {
        let body = json(server.post_picture("/embed/image?normalize=false", picture(&name)).await, 200).await;
        assert_eq!(body["dim"], 48);
        assert_eq!(body["model"], "tiny-clip");
        assert_close(&name, &matrix(&body["embeddings"])[0], &expected, tolerance(&name));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_has_the_same_embedding_whatever_else_is_in_the_batch_and_however_it_is_sent() {
    let server = TestServer::start(&["batch.vision.max_batch_size=7"]).await;
    let images = images();
    let base64: Vec<String> = images.iter().map(|(name, _)| BASE64_STANDARD.encode(picture(name))).collect();
    let data_urls: Vec<String> = base64.iter().map(|data| format!("data:image/png;base64,{data}")).collect();
    let mut answers = Vec::new();
    for sent in [&base64, &data_urls] {
        answers.push(
            json(server.post_json("/embed/image", &json!({"images": sent, "normalize": false})).await, 200).await,
        );
    }
    let form = images.iter().fold(reqwest::multipart::Form::new(), |form, (name, _)| {
        form.part("image", reqwest::multipart::Part::bytes(picture(name)).file_name(name.clone()))
    });
    let multipart = server.post("/embed/image?normalize=false").multipart(form).send().await.expect("an answer");
    answers.push(json(multipart, 200).await);
    for answer in &answers {
        for (row, (name, expected)) in matrix(&answer["embeddings"]).iter().zip(&images) {
            assert_close(name, row, expected, tolerance(name));
        }
        assert_eq!(answer["embeddings"].as_array().expect("rows").len(), images.len());
    }
    server.stop().await;
}

#[test]
fn every_text_has_the_input_ids_of_the_reference() {
    #[derive(Deserialize)]
    struct Entry {
        text: String,
        input_ids: Vec<u32>,
    }
    #[derive(Deserialize)]
    struct File {
        texts: Vec<Entry>,
    }
    let tokenizer =
        TextTokenizer::open(&Tokenization::Transformers(fixture("tiny-clip/tokenizer.json")), 77, 16 << 10, None)
            .expect("the fixture");
    let naughty: Vec<Entry> = golden("naughty_ids.json");
    let File { texts } = golden("texts.json");
    assert_eq!((texts.len(), naughty.len()), (24, 515));
    for Entry { text, input_ids } in texts.into_iter().chain(naughty) {
        let ids = tokenizer.tokenize(&text, true).expect("within the limits").tokens;
        assert_eq!(ids.ids(), input_ids, "{text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_text_has_the_embedding_of_the_reference_alone_and_among_all_others() {
    let server = TestServer::start(&[]).await;
    let Texts { texts } = golden("texts.json");
    assert_eq!(texts.len(), 24);
    let all: Vec<&str> = texts.iter().map(|text| text.text.as_str()).collect();
    let together = json(server.post_json("/embed/text", &json!({"texts": all, "normalize": false})).await, 200).await;
    for (row, text) in matrix(&together["embeddings"]).iter().zip(&texts) {
        assert_close(&text.text, row, &text.text_embeds_raw, EMBEDDING_TOLERANCE);
        let alone =
            json(server.post_json("/embed/text", &json!({"texts": text.text, "normalize": false})).await, 200).await;
        assert_close(&text.text, &matrix(&alone["embeddings"])[0], &text.text_embeds_raw, EMBEDDING_TOLERANCE);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn similarity_answers_the_logits_of_the_reference() {
    let server = TestServer::start(&[]).await;
    let reference: Similarity = golden("similarity.json");
    let images: Vec<String> = reference.images.iter().map(|name| BASE64_STANDARD.encode(picture(name))).collect();
    let body = json(
        server
            .post_json("/similarity", &json!({"images": images, "texts": reference.texts, "return_embeds": true}))
            .await,
        200,
    )
    .await;
    let scale = body["logit_scale"].as_f64().expect("a number") as f32;
    assert!((scale - reference.logit_scale_exp).abs() < 1e-4, "{scale}");
    let per_image = matrix(&body["logits_per_image"]);
    let per_text = matrix(&body["logits_per_text"]);
    let probs = matrix(&body["probs"]);
    assert_eq!((per_image.len(), per_text.len(), probs.len()), (36, 24, 36));
    for (i, (name, expected)) in reference.images.iter().zip(&reference.logits_per_image).enumerate() {
        let tolerance = if name == LOSSY { 2.0 } else { LOGIT_TOLERANCE };
        for (j, expected) in expected.iter().enumerate() {
            assert!((per_image[i][j] - expected).abs() <= tolerance, "{name} x {j}: {} {expected}", per_image[i][j]);
            assert_eq!(per_text[j][i], per_image[i][j]);
        }
        assert!((probs[i].iter().sum::<f32>() - 1.0).abs() < 1e-4);
        let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        assert_eq!(best(&probs[i]), best(&per_image[i]));
    }
    // The embeddings it returns, given back, make the same logits.
    let again = json!({"image_embeds": body["image_embeds"], "text_embeds": body["text_embeds"]});
    let again = json(server.post_json("/similarity", &again).await, 200).await;
    for (a, b) in matrix(&again["logits_per_image"]).concat().iter().zip(per_image.concat()) {
        assert!((a - b).abs() < 1e-3);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contrastive_loss_is_that_of_the_reference_model() {
    // golden/outputs.npz: CLIPModel(..., return_loss=True) on these two pictures and texts.
    let mut outputs = ndarray_npy::NpzReader::new(fs::File::open(fixture("golden/outputs.npz")).expect("the golden"))
        .expect("an npz file");
    let loss: ndarray::Array0<f32> = outputs.by_name("loss").expect("the loss");
    let logits: ndarray::Array2<f32> = outputs.by_name("logits_per_image").expect("the logits");
    let server = TestServer::start(&["preprocess.exif_orientation=false"]).await;
    let images = ["cat_420.jpg", "cat_422.jpg"].map(|name| BASE64_STANDARD.encode(picture(name)));
    let texts = ["a photo of a cat", "an astronaut in an orange suit on the moon"];
    let request = json!({"images": images, "texts": texts, "return_loss": true});
    let body = json(server.post_json("/similarity", &request).await, 200).await;
    for (actual, expected) in matrix(&body["logits_per_image"]).concat().iter().zip(&logits) {
        assert!((actual - expected).abs() <= LOGIT_TOLERANCE, "{actual} {expected}");
    }
    let actual = body["loss"].as_f64().expect("a number") as f32;
    assert!((actual - loss.into_scalar()).abs() <= LOGIT_TOLERANCE, "{actual}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exif_orientation_can_be_switched_off() {
    let server = TestServer::start(&["preprocess.exif_orientation=false"]).await;
    let images: BTreeMap<String, Vec<f32>> = images().into_iter().collect();
    let turned = json(server.post_picture("/embed/image?normalize=false", picture("cat_exif_6.jpg")).await, 200).await;
    let upright = json(server.post_picture("/embed/image?normalize=false", picture("cat_exif_1.jpg")).await, 200).await;
    assert_close("upright", &matrix(&upright["embeddings"])[0], &images["cat_exif_1.jpg"], EMBEDDING_TOLERANCE);
    let (turned, golden) = (&matrix(&turned["embeddings"])[0], &images["cat_exif_6.jpg"]);
    assert!(turned.iter().zip(golden).any(|(a, b)| (a - b).abs() > 0.1), "the golden is turned, this one is not");
    server.stop().await;
}

/// A JPEG of a fixture's picture, four times side by side and four times below.
fn tiled(name: &str) -> Vec<u8> {
    let format = turbojpeg::PixelFormat::RGB;
    let tile = turbojpeg::decompress(&picture(name), format).expect("a JPEG");
    let (width, height) = (tile.width * 4, tile.height * 4);
    let rows: Vec<u8> = tile.pixels.chunks(tile.pitch).flat_map(|row| row.repeat(4)).collect();
    let image = turbojpeg::Image { pixels: &rows.repeat(4)[..], width, pitch: width * 3, height, format };
    turbojpeg::compress(image, 90, turbojpeg::Subsamp::Sub2x2).expect("a JPEG").to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_decode_answers_nearly_the_same_for_large_jpegs_and_says_so_in_the_fingerprint() {
    let exact = TestServer::start(&[]).await;
    let fast = TestServer::start(&["preprocess.fast_decode=true"]).await;
    let embed = async |server: &TestServer, bytes: &[u8]| {
        let body = json(server.post_picture("/embed/image", bytes.to_vec()).await, 200).await;
        matrix(&body["embeddings"]).remove(0)
    };
    let mut large = vec![("coffee_large.jpg", picture("coffee_large.jpg"))];
    large.extend(["cat_420.jpg", "rocket.jpg", "tall_333x777.jpg"].map(|name| (name, tiled(name))));
    for (name, bytes) in large {
        let (expected, actual) = (embed(&exact, &bytes).await, embed(&fast, &bytes).await);
        let cosine: f32 = expected.iter().zip(&actual).map(|(a, b)| a * b).sum();
        assert!(cosine >= FAST_DECODE_COSINE && actual != expected, "{name}: {cosine}");
    }
    for name in ["photo_640x480.jpg", "cat_exif_6.jpg", "astronaut.png"] {
        assert_eq!(embed(&exact, &picture(name)).await, embed(&fast, &picture(name)).await, "{name}");
    }
    let fingerprint =
        async |server: &TestServer| json(server.get("/info").await, 200).await["model"]["fingerprint"].clone();
    assert_ne!(fingerprint(&exact).await, fingerprint(&fast).await);
    exact.stop().await;
    fast.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn naughty_strings_have_finite_embeddings() {
    let server = TestServer::start(&[]).await;
    let naughty: Vec<Value> = golden("naughty_ids.json");
    assert_eq!(naughty.len(), 515);
    let texts: Vec<&Value> = naughty.iter().map(|entry| &entry["text"]).collect();
    let body = json(server.post_json("/embed/text", &json!({"texts": texts})).await, 200).await;
    let rows = matrix(&body["embeddings"]);
    assert_eq!(rows.len(), 515);
    for row in rows {
        assert!((row.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-3);
    }
    server.stop().await;
}
