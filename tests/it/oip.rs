//! The Open Inference Protocol v2 over HTTP: tensors in JSON and behind it, health and metadata, and what is refused.
//!
//! Owns the wire by hand, byte for byte; Triton's own client has its test in `tests/clients`.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ndarray::ArrayD;
use ndarray_npy::NpzReader;
use reqwest::Response;
use serde_json::{Value, json};

use crate::{
    checkpoint::{checkpoint, start},
    support::{TestServer, fixture, json, matrix, picture},
};

const INFER: &str = "/v2/models/tiny-clip/infer";
const PICTURES: [&str; 2] = ["cat_420.jpg", "cat_422.jpg"];
const TEXTS: [&str; 2] = ["a photo of a cat", "an astronaut in an orange suit on the moon"];

/// Distance to `transformers`, relative to its norm.
const BAR: f32 = 1e-5;

fn tensor(name: &str, datatype: &str, shape: Value, data: Value) -> Value {
    json!({"name": name, "datatype": datatype, "shape": shape, "data": data})
}

fn images() -> Value {
    let data = PICTURES.map(|name| BASE64_STANDARD.encode(picture(name)));
    tensor("images", "BYTES", json!([2]), json!(data))
}

fn texts() -> Value {
    tensor("texts", "BYTES", json!([2]), json!(TEXTS))
}

/// The strings as BYTES are sent.
fn bytes(strings: &[Vec<u8>]) -> Vec<u8> {
    strings.iter().flat_map(|string| [&(string.len() as u32).to_le_bytes()[..], string].concat()).collect()
}

/// `{"error"}` and nothing else.
async fn error(response: Response, status: u16) -> String {
    let body = json(response, status).await;
    assert_eq!(body.as_object().expect("an object").len(), 1, "{body}");
    body["error"].as_str().expect("a message").to_owned()
}

fn output<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let outputs = answer["outputs"].as_array().expect("outputs");
    outputs.iter().find(|output| output["name"] == name).unwrap_or_else(|| panic!("no {name} in {answer}"))
}

/// The flat values of an output.
fn values(answer: &Value, name: &str) -> Vec<f32> {
    let data = output(answer, name)["data"].as_array().expect("data");
    data.iter().map(|value| value.as_f64().expect("a number") as f32).collect()
}

async fn infer(server: &TestServer, body: &Value) -> Value {
    json(server.post_json(INFER, body).await, 200).await
}

/// A request with bytes behind its JSON.
async fn send(server: &TestServer, header: &Value, behind: &[u8]) -> Response {
    let header = header.to_string();
    let body = [header.as_bytes(), behind].concat();
    let request = server.post(INFER).header("inference-header-content-length", header.len().to_string());
    request.header("content-type", "application/octet-stream").body(body).send().await.expect("an answer")
}

/// The JSON of an answer with bytes behind it, and those of each output as f32.
async fn received(response: Response) -> (Value, Vec<Vec<f32>>) {
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["content-type"], "application/octet-stream");
    let header: usize =
        response.headers()["inference-header-content-length"].to_str().expect("text").parse().expect("a number");
    let body = response.bytes().await.expect("a body");
    let answer: Value = serde_json::from_slice(&body[..header]).expect("JSON");
    let mut behind = body[header..].iter().copied();
    let sizes =
        answer["outputs"].as_array().expect("outputs").iter().map(|output| {
            usize::try_from(output["parameters"]["binary_data_size"].as_u64().unwrap_or(0)).expect("a size")
        });
    let outputs = sizes
        .map(|size| {
            let bytes: Vec<u8> = behind.by_ref().take(size).collect();
            bytes.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four"))).collect()
        })
        .collect();
    assert_eq!(behind.next(), None, "every byte is some output's");
    (answer, outputs)
}

#[tokio::test(flavor = "multi_thread")]
async fn server_and_model_say_what_they_are() {
    let server = TestServer::start(&["model.aliases=openai/clip"]).await;
    let meta = json(server.get("/v2").await, 200).await;
    assert_eq!(meta["name"], "clipserve");
    assert_eq!(meta["extensions"], json!(["binary_tensor_data", "model_configuration"]));
    assert_eq!(json(server.get("/v2/health/live").await, 200).await, json!({"live": true}));
    assert_eq!(json(server.get("/v2/health/ready").await, 200).await, json!({"ready": true}));
    for path in ["tiny-clip", "tiny-clip/versions/1", "openai/clip", "openai%2Fclip/versions/1"] {
        let model = json(server.get(&format!("/v2/models/{path}")).await, 200).await;
        assert_eq!((&model["name"], &model["versions"]), (&json!("tiny-clip"), &json!(["1"])), "{path}");
        let inputs = model["inputs"].as_array().expect("inputs");
        assert!(inputs.contains(&json!({"name": "images", "datatype": "BYTES", "shape": [-1]})), "{model}");
        assert!(inputs.contains(&json!({"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]})), "{model}");
        let embeds = json!({"name": "image_embeds", "datatype": "FP32", "shape": [-1, 48]});
        let outputs = model["outputs"].as_array().expect("outputs");
        assert!(outputs.contains(&embeds) && outputs.len() == 4, "a graph from elsewhere: {model}");
    }
    let ready = json(server.get("/v2/models/tiny-clip/versions/1/ready").await, 200).await;
    assert_eq!(ready, json!({"name": "tiny-clip", "ready": true}));
    for path in ["/v2/models/other", "/v2/models/other/ready", "/v2/models/tiny-clip/versions/2", "/v2/health/other"] {
        error(server.get(path).await, 404).await;
    }
    error(server.post_json("/v2/models/other/infer", &json!({"inputs": [texts()]})).await, 404).await;
    let wrong = server.get(INFER).await;
    assert_eq!(wrong.headers()["allow"], "POST");
    assert!(error(wrong, 405).await.contains("a POST"));
    let wrong = server.post_json("/v2/models/tiny-clip", &json!({})).await;
    assert_eq!(wrong.headers()["allow"], "GET");
    assert!(error(wrong, 405).await.contains("a GET"));
    for path in ["/v2/models/%ff", "/v2/models/%ff/config"] {
        assert!(error(server.get(path).await, 400).await.contains("not UTF-8"), "{path}");
    }
    let posted = server.post_json("/v2/models/%ff/infer", &json!({})).await;
    assert!(error(posted, 400).await.contains("not UTF-8"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_and_the_index_are_those_of_triton() {
    let server = TestServer::start(&["model.aliases=openai/clip"]).await;
    let metadata = json(server.get("/v2/models/tiny-clip").await, 200).await;
    for path in ["tiny-clip/config", "openai/clip/versions/1/config"] {
        let config = json(server.get(&format!("/v2/models/{path}")).await, 200).await;
        assert_eq!((&config["name"], &config["platform"]), (&json!("tiny-clip"), &json!("onnxruntime_onnx")), "{path}");
        assert_eq!(config["max_batch_size"], 0, "shapes are whole");
        let image_embeds = json!({"name": "image_embeds", "data_type": "TYPE_FP32", "dims": [-1, 48]});
        assert!(config["output"].as_array().expect("outputs").contains(&image_embeds), "{config}");
        let texts = json!({"name": "texts", "data_type": "TYPE_STRING", "dims": [-1], "optional": true});
        assert!(config["input"].as_array().expect("inputs").contains(&texts), "{config}");
        for (of_config, of_metadata) in [("input", "inputs"), ("output", "outputs")] {
            let names = |list: &Value| -> Vec<Value> {
                list.as_array().expect("tensors").iter().map(|tensor| tensor["name"].clone()).collect()
            };
            assert_eq!(names(&config[of_config]), names(&metadata[of_metadata]));
        }
    }
    error(server.get("/v2/models/other/config").await, 404).await;
    for body in ["", "{}", r#"{"ready": true}"#] {
        let index = server.post("/v2/repository/index").body(body).send().await.expect("an answer");
        assert_eq!(json(index, 200).await, json!([{"name": "tiny-clip", "version": "1", "state": "READY"}]), "{body}");
    }
    let wrong = server.get("/v2/repository/index").await;
    assert_eq!(wrong.headers()["allow"], "POST");
    error(wrong, 405).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_and_logits_are_those_of_the_native_routes() {
    let server = TestServer::start(&[]).await;
    let pictures = PICTURES.map(|name| BASE64_STANDARD.encode(picture(name)));
    let native = json!({"images": pictures, "texts": TEXTS, "return_embeds": true});
    let native = json(server.post_json("/similarity", &native).await, 200).await;
    let names = ["image_embeds", "text_embeds", "logits_per_image", "logits_per_text"];
    let outputs = names.map(|name| json!({"name": name}));
    let answer = infer(&server, &json!({"id": "7", "inputs": [images(), texts()], "outputs": outputs})).await;
    assert_eq!(
        (&answer["id"], &answer["model_name"], &answer["model_version"]),
        (&json!("7"), &json!("tiny-clip"), &json!("1"))
    );
    for name in names {
        assert_eq!(values(&answer, name), matrix(&native[name]).concat(), "{name}");
        assert_eq!(output(&answer, name)["datatype"], "FP32");
    }
    assert_eq!(output(&answer, "image_embeds")["shape"], json!([2, 48]));
    assert_eq!(output(&answer, "logits_per_text")["shape"], json!([2, 2]));
    // A side that nothing is asked of is not computed: here it could not be.
    let no_picture = tensor("images", "BYTES", json!([1]), json!(["QUJD"]));
    let body = json!({"inputs": [no_picture, texts()], "outputs": [{"name": "text_embeds"}]});
    assert_eq!(values(&infer(&server, &body).await, "text_embeds"), matrix(&native["text_embeds"]).concat());
    // Without names, what follows from the inputs; nested as the shape is, or flat.
    let nested = json!({"name": "texts", "datatype": "BYTES", "shape": [2, 1], "data": TEXTS.map(|text| [text])});
    let answer = infer(&server, &json!({"inputs": [nested]})).await;
    assert_eq!(answer["outputs"].as_array().expect("outputs").len(), 1);
    assert_eq!(values(&answer, "text_embeds"), matrix(&native["text_embeds"]).concat());
    let (answer, behind) = received(
        send(&server, &json!({"inputs": [images(), texts()], "parameters": {"binary_data_output": true}}), b"").await,
    )
    .await;
    assert_eq!(answer["outputs"][1]["name"], "text_embeds");
    assert_eq!(behind, ["image_embeds", "text_embeds"].map(|name| matrix(&native[name]).concat()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_stand_behind_the_json_in_both_directions() {
    let server = TestServer::start(&[]).await;
    let plain = infer(&server, &json!({"inputs": [images(), texts()]})).await;
    let images = bytes(&PICTURES.map(picture));
    let texts = bytes(&TEXTS.map(|text| text.as_bytes().to_vec()));
    let header = json!({
        "inputs": [
            {"name": "texts", "datatype": "BYTES", "shape": [2, 1], "parameters": {"binary_data_size": texts.len()}},
            {"name": "images", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": images.len()}},
        ],
        "outputs": [
            {"name": "text_embeds", "parameters": {"binary_data": true}},
            {"name": "logits_per_image"},
            {"name": "image_embeds", "parameters": {"binary_data": true}},
        ],
    });
    let (answer, behind) = received(send(&server, &header, &[texts, images].concat()).await).await;
    assert_eq!(behind[0], values(&plain, "text_embeds"));
    assert_eq!(behind[2], values(&plain, "image_embeds"));
    assert_eq!(values(&answer, "logits_per_image").len(), 4);
    assert!(output(&answer, "text_embeds").get("data").is_none(), "{answer}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tensor_that_is_none_is_named_with_what_was_expected() {
    let server = TestServer::start(&["limits.max_images=2", "limits.max_texts=3"]).await;
    let text = |shape: Value, data: Value| tensor("texts", "BYTES", shape, data);
    let ids = |shape: Value, data: Value| tensor("input_ids", "INT64", shape, data);
    let two = json!([[49406, 320, 49407], [49406, 49407, 49407]]);
    let mask =
        |data: Value| json!([ids(json!([2, 3]), two.clone()), tensor("attention_mask", "INT64", json!([2, 3]), data)]);
    for (inputs, status, expected) in [
        (json!([]), 400, "no inputs"),
        (json!({}), 400, "inputs is no list"),
        (json!([1]), 400, "inputs[0] is a number, expected an object"),
        (json!([{"datatype": "BYTES"}]), 400, "inputs[0] has no name"),
        (
            json!([tensor("text", "BYTES", json!([1]), json!(["a"]))]),
            400,
            "text is no input; there are images, pixel_values, texts",
        ),
        (json!([tensor("texts", "FP32", json!([1]), json!([1]))]), 400, "the datatype \"FP32\", expected \"BYTES\""),
        (json!([{"name": "texts", "datatype": "BYTES", "data": ["a"]}]), 400, "texts has no shape"),
        (json!([{"name": "texts", "datatype": "BYTES", "shape": [1]}]), 400, "texts has no data"),
        (json!([text(json!([1, 2]), json!(["a", "b"]))]), 400, "texts has the shape [1, 2], expected [n] or [n, 1]"),
        (json!([text(json!([0]), json!([]))]), 400, "texts has the shape [0]"),
        (json!([text(json!([-1]), json!(["a"]))]), 400, "texts has no shape"),
        (json!([text(json!([4_294_967_296_u64, 4_294_967_296_u64]), json!(["a"]))]), 400, "texts has no shape"),
        (json!([text(json!([4]), json!(["a"]))]), 413, "the request has 4 texts, the limit is 3"),
        (json!([text(json!([2]), json!(["a"]))]), 400, "texts has another number of elements"),
        (json!([text(json!([2]), json!(["a", "b", "c"]))]), 400, "texts has another number of elements"),
        (json!([text(json!([2]), json!(["a", 1]))]), 400, "texts[1]: "),
        (json!([text(json!([1]), json!("a"))]), 400, "texts has data that is a string, expected a list"),
        (json!([texts(), texts()]), 400, "texts is there twice"),
        (json!([tensor("images", "BYTES", json!([3]), json!(["", "", ""]))]), 413, "3 images, the limit is 2"),
        (json!([tensor("images", "BYTES", json!([1]), json!(["!"]))]), 400, "images[0]: the picture is not base64"),
        (json!([tensor("images", "BYTES", json!([1]), json!(["QUJD"]))]), 415, "images[0]: "),
        (json!([ids(json!([3]), json!([1, 2, 3]))]), 400, "input_ids has the shape [3], expected [n, L]"),
        (json!([ids(json!([1, 78]), json!([vec![1; 78]]))]), 400, "[1, 78], expected [n, L] with L from 1 to 77"),
        (json!([ids(json!([4, 1]), json!([1, 1, 1, 1]))]), 413, "4 input_ids, the limit is 3"),
        (
            json!([ids(json!([1, 2]), json!([49406, 49408]))]),
            422,
            "input_ids[0]: the id 49408 is no token of the model",
        ),
        (json!([ids(json!([1, 2]), json!([-1, 49407]))]), 422, "input_ids[0]: the id -1 is no token"),
        (
            json!([ids(json!([1, 2]), json!([49406, 1.5]))]),
            400,
            "input_ids has data that is no list of numbers of INT64",
        ),
        (
            json!([ids(json!([1, 2]), json!([[49406], [49407], [1]]))]),
            400,
            "input_ids has more, its shape [1, 2] takes 2",
        ),
        (json!([ids(json!([1, 1]), json!(49406))]), 400, "input_ids has data that is a number, expected a list"),
        (json!([ids(json!([1, 2]), json!([49406]))]), 400, "input_ids has 1, its shape [1, 2] takes 2"),
        (json!([ids(json!([2, 3]), two.clone()), texts()]), 400, "both texts and input_ids"),
        (json!([tensor("attention_mask", "INT64", json!([1, 1]), json!([1]))]), 400, "belongs to input_ids"),
        (mask(json!([[1, 1, 1], [1, 0, 1]])), 400, "attention_mask: the mask is not ones and then zeros"),
        (mask(json!([[1, 0, 0], [1, 1, 1]])), 422, "input_ids[0]: the mask shuts out the token"),
        (
            json!([
                ids(json!([2, 3]), two.clone()),
                tensor("attention_mask", "INT64", json!([3, 2]), json!([1, 1, 1, 1, 1, 1]))
            ]),
            400,
            "attention_mask has the shape [3, 2], expected that of input_ids, [2, 3]",
        ),
    ] {
        let message = error(server.post_json(INFER, &json!({"inputs": inputs})).await, status).await;
        assert!(message.contains(expected), "{inputs}: {message}");
    }
    for (outputs, expected) in [
        (json!([{"name": "embeddings"}]), "embeddings is no output; there are image_embeds"),
        (json!([{"name": "image_embeds"}]), "image_embeds follows from images or pixel_values"),
        (json!([{"name": "text_embeds"}, {"name": "text_embeds"}]), "text_embeds is asked for twice"),
        (json!([{"name": "text_embeds", "parameters": {"classification": 3}}]), "classification"),
        (json!([{"name": "text_embeds", "parameters": {"shared_memory_region": "r"}}]), "shared memory"),
        (json!(["text_embeds"]), "outputs[0] is a string, expected an object"),
    ] {
        let body = json!({"inputs": [texts()], "outputs": outputs});
        let message = error(server.post_json(INFER, &body).await, 400).await;
        assert!(message.contains(expected), "{outputs}: {message}");
    }
    let body = json!({"inputs": [texts()], "parameters": {"sequence_id": 1}});
    assert!(error(server.post_json(INFER, &body).await, 400).await.contains("sequence_id"));
    let body = json!({"inputs": [texts()], "parameters": {"timeout": 1}});
    let late = server.post_json(INFER, &body).await;
    assert!([429, 504].contains(&late.status().as_u16()), "a microsecond: {}", late.status());
    let body = json!({"inputs": [texts()], "parameters": {"timeout": u64::MAX, "priority": 1, "unknown": [1]}});
    infer(&server, &body).await;
    let body = json!({"inputs": [texts()], "outputs": [{"name": "last_hidden_state"}]});
    assert!(error(server.post_json(INFER, &body).await, 501).await.contains("embeddings only"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_do_not_add_up_are_refused() {
    let server = TestServer::start(&[]).await;
    let strings = bytes(&TEXTS.map(|text| text.as_bytes().to_vec()));
    let header = |size: usize| json!({"inputs": [{"name": "texts", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": size}}]});
    let mut lying = strings.clone();
    lying[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let no_utf8 = bytes(&[vec![0xff], vec![b'a']]);
    for (header, behind, expected) in [
        (header(strings.len() + 1), strings.clone(), "texts has a binary_data_size of"),
        (header(strings.len() - 1), strings.clone(), "texts ends in its element 1 of 2"),
        (header(strings.len()), [&strings[..], b"x"].concat(), "1 bytes behind the JSON belong to no input"),
        (header(strings.len() + 1), [&strings[..], b"x"].concat(), "texts has another number of elements"),
        (header(lying.len()), lying.clone(), "texts ends in its element 0 of 2"),
        (header(3), vec![0; 3], "texts ends in its element 0 of 2"),
        (header(usize::MAX), strings.clone(), "texts has a binary_data_size of"),
        (header(no_utf8.len()), no_utf8.clone(), "texts[0]: the text is not UTF-8"),
        (
            json!({"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 2], "parameters": {"binary_data_size": 8}}]}),
            vec![0; 8],
            "input_ids has 8 bytes, its shape [1, 2] takes 2 numbers of INT64",
        ),
    ] {
        let message = error(send(&server, &header, &behind).await, 400).await;
        assert!(message.contains(expected), "{header}: {message}");
    }
    for (length, expected) in
        [("99999999", "says 99999999 bytes"), ("x", "is not the number of bytes"), ("5", "the JSON body")]
    {
        let request = server.post(INFER).header("inference-header-content-length", length).body("{\"inputs\": []}");
        let message = error(request.send().await.expect("an answer"), 400).await;
        assert!(message.contains(expected), "{length}: {message}");
    }
    server.stop().await;
}

struct Golden(NpzReader<std::fs::File>);

impl Golden {
    fn open() -> Self {
        let file = std::fs::File::open(fixture("golden/outputs.npz")).expect("the goldens");
        Self(NpzReader::new(file).expect("an archive"))
    }

    fn floats(&mut self, name: &str) -> ArrayD<f32> {
        self.0.by_name(name).expect("a golden")
    }

    /// An input of INT64 that is a golden.
    fn input(&mut self, name: &str) -> Value {
        let array: ArrayD<i64> = self.0.by_name(name).expect("a golden");
        tensor(name, "INT64", json!(array.shape()), json!(array.iter().collect::<Vec<_>>()))
    }
}

#[track_caller]
fn assert_close(name: &str, answer: &Value, expected: &ArrayD<f32>) {
    assert_eq!(output(answer, name)["shape"], json!(expected.shape()), "{name}");
    let actual = values(answer, name);
    let distance = actual.iter().zip(expected).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
    let norm = expected.iter().map(|value| value * value).sum::<f32>().sqrt();
    assert!(distance < BAR * norm, "{name}: {:e}", distance / norm);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_ids_give_what_the_reference_gives_for_them() {
    let (model, cache) = (checkpoint(), tempfile::tempdir().expect("a folder"));
    let server = start(model.path(), cache.path(), &["model.name=tiny-clip"]).await;
    let mut golden = Golden::open();
    let (ids, mask) = (golden.input("input_ids"), golden.input("attention_mask"));
    let plain = infer(&server, &json!({"inputs": [texts()]})).await;
    // The one that is shorter is padded, and padding changes no embedding, attended to or not.
    for inputs in [json!([ids]), json!([mask, ids])] {
        let answer = infer(&server, &json!({"inputs": inputs})).await;
        let close =
            values(&answer, "text_embeds").iter().zip(values(&plain, "text_embeds")).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close, "{inputs}");
    }
    let outputs = ["pooler_output", "last_hidden_state", "hidden_states", "attentions"];
    let names: Vec<Value> = outputs.iter().map(|name| json!({"name": name})).collect();
    for inputs in [json!([ids, mask]), json!([texts()])] {
        let answer = infer(&server, &json!({"inputs": inputs, "outputs": names})).await;
        for name in outputs {
            // Under the name that was asked for, which is what a client looks for.
            assert_close(name, &answer, &golden.floats(&format!("text.{name}")));
        }
    }
    let both = json!([{"name": "pooler_output"}, {"name": "text_model_output.pooler_output"}]);
    let twice = server.post_json(INFER, &json!({"inputs": [texts()], "outputs": both})).await;
    assert!(error(twice, 400).await.contains("asked for twice"));
    // Without an end token the reference's argmax is that of zeros, so the first position is pooled, whoever is in the same batch.
    let no_end = tensor("input_ids", "INT64", json!([2, 3]), json!([[320, 49406, 539], [320, 49406, 49407]]));
    let outputs = json!([{"name": "pooler_output"}, {"name": "last_hidden_state"}]);
    let answer = infer(&server, &json!({"inputs": [no_end], "outputs": outputs})).await;
    let (pooled, states) = (values(&answer, "pooler_output"), values(&answer, "last_hidden_state"));
    let width = pooled.len() / 2;
    assert_near("no end token", &pooled[..width], &states[..width]);
    assert_near("an end token", &pooled[width..], &states[5 * width..]);
    let asked = json!([{"name": "attention_mask"}, {"name": "text_model_output.pooler_output"}]);
    let answer = infer(&server, &json!({"inputs": [texts()], "outputs": asked})).await;
    assert_eq!(output(&answer, "attention_mask")["data"], mask["data"]);
    assert_eq!(output(&answer, "attention_mask")["datatype"], "INT64");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_of_both_sides_have_the_names_of_the_reference() {
    let (model, cache) = (checkpoint(), tempfile::tempdir().expect("a folder"));
    let server = start(model.path(), cache.path(), &["model.name=tiny-clip"]).await;
    let mut golden = Golden::open();
    let names = [
        ("vision_model_output.last_hidden_state", "image.last_hidden_state"),
        ("vision_model_output.hidden_states", "image.hidden_states"),
        ("text_model_output.pooler_output", "text.pooler_output"),
        ("logits_per_image", "logits_per_image"),
    ];
    let outputs = names.map(|(name, _)| json!({"name": name}));
    let answer = infer(&server, &json!({"inputs": [images(), texts()], "outputs": outputs})).await;
    for (name, expected) in names {
        assert_close(name, &answer, &golden.floats(expected));
    }
    let bare = json!({"inputs": [images(), texts()], "outputs": [{"name": "pooler_output"}]});
    let message = error(server.post_json(INFER, &bare).await, 400).await;
    assert!(message.contains("vision_model_output.pooler_output or text_model_output.pooler_output"), "{message}");
    let metadata = json(server.get("/v2/models/tiny-clip").await, 200).await;
    for (name, shape) in [
        ("vision_model_output.hidden_states", json!([4, -1, 50, 64])),
        ("text_model_output.attentions", json!([3, -1, 4, -1, -1])),
        ("attention_mask", json!([-1, -1])),
        ("logits_per_text", json!([-1, -1])),
    ] {
        assert_eq!(output(&metadata, name)["shape"], shape, "{name}");
    }
    server.stop().await;
}

/// Height and width of the crops.
const SIDE: usize = 224;

/// What `CLIPImageProcessor` makes of the crops of these pictures.
pub(crate) fn pixel_values(names: &[&str]) -> Vec<f32> {
    let (mean, std) = ([0.48145466, 0.4578275, 0.40821073], [0.268_629_54, 0.261_302_6, 0.275_777_1]);
    let file = std::fs::File::open(fixture("golden/crops.npz")).expect("the goldens");
    let mut crops = NpzReader::new(file).expect("an archive");
    let picture = |name: &&str| -> Vec<f32> {
        let crop: ArrayD<u8> = crops.by_name(name).expect("a crop");
        let pixel = |(channel, at): (usize, usize)| {
            let level = (f64::from(crop[[at / SIDE, at % SIDE, channel]]) * (1.0 / 255.0)) as f32;
            (level - mean[channel]) / std[channel]
        };
        (0..3).flat_map(|channel| (0..SIDE * SIDE).map(move |at| (channel, at))).map(pixel).collect()
    };
    names.iter().flat_map(picture).collect()
}

/// Floats behind the JSON of a request.
async fn send_pixels(server: &TestServer, values: &[f32], shape: Value, outputs: Value) -> Response {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let input = json!({"name": "pixel_values", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": bytes.len()}});
    send(server, &json!({"inputs": [input], "outputs": outputs}), &bytes).await
}

pub(crate) async fn embed_pixels(server: &TestServer, values: &[f32]) -> Vec<f32> {
    let n = values.len() / (3 * SIDE * SIDE);
    let answer = send_pixels(server, values, json!([n, 3, SIDE, SIDE]), json!([])).await;
    values_of(answer).await
}

async fn values_of(answer: Response) -> Vec<f32> {
    values(&json(answer, 200).await, "image_embeds")
}

#[track_caller]
fn assert_near(name: &str, actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len(), "{name}");
    let distance = actual.iter().zip(expected).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
    let norm = expected.iter().map(|value| value * value).sum::<f32>().sqrt();
    assert!(distance < BAR * norm, "{name}: {:e}", distance / norm);
}

/// A value that no byte stands for, everywhere.
fn no_bytes() -> Vec<f32> {
    (0..3 * SIDE * SIDE).map(|at| (at as f32 * 0.37).sin() * 3.7 - 0.4).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pixel_values_are_taken_by_graphs_of_bytes_and_of_floats_alike() {
    let (model, cache) = (checkpoint(), tempfile::tempdir().expect("a folder"));
    let ours = start(model.path(), cache.path(), &["model.name=tiny-clip"]).await;
    let elsewhere = TestServer::start(&[]).await;
    let pixels = pixel_values(&PICTURES);
    let native = values(&infer(&elsewhere, &json!({"inputs": [images()]})).await, "image_embeds");
    assert_eq!(embed_pixels(&elsewhere, &pixels).await, native, "the same values into the same graph");
    assert_near("ours", &embed_pixels(&ours, &pixels).await, &native);
    // What comes from no picture: the answer for it is no picture's, and the same of both.
    let odd = no_bytes();
    let (own, other) = (embed_pixels(&ours, &odd).await, embed_pixels(&elsewhere, &odd).await);
    assert_near("floats", &own, &other);
    let rounded: Vec<f32> = odd.iter().map(|value| value.round()).collect();
    let rounded = embed_pixels(&ours, &rounded).await;
    assert!(own.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).sum::<f32>() > 0.01, "they are taken as they are");

    let mut golden = Golden::open();
    let names = ["pooler_output", "last_hidden_state", "hidden_states", "attentions"];
    let outputs = names.map(|name| json!({"name": name}));
    let answer = send_pixels(&ours, &pixels, json!([2, 3, SIDE, SIDE]), json!(outputs)).await;
    let answer = json(answer, 200).await;
    for name in names {
        assert_close(name, &answer, &golden.floats(&format!("image.{name}")));
    }
    let input = json!({"name": "pixel_values", "datatype": "FP32", "shape": [-1, 3, SIDE, SIDE]});
    for server in [&ours, &elsewhere] {
        let metadata = json(server.get("/v2/models/tiny-clip").await, 200).await;
        assert!(metadata["inputs"].as_array().expect("inputs").contains(&input), "{metadata}");
    }
    // In JSON, nested as the shape is.
    let nested = ndarray::ArrayView4::from_shape((1, 3, SIDE, SIDE), &odd).expect("as many");
    let data: Vec<Vec<Vec<Vec<f32>>>> = nested
        .outer_iter()
        .map(|picture| {
            picture.outer_iter().map(|plane| plane.rows().into_iter().map(|row| row.to_vec()).collect()).collect()
        })
        .collect();
    let body = json!({"inputs": [tensor("pixel_values", "FP32", json!([1, 3, SIDE, SIDE]), json!(data))]});
    assert_eq!(values(&infer(&ours, &body).await, "image_embeds"), own);
    ours.stop().await;
    elsewhere.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pixel_values_that_cannot_be_taken_are_refused() {
    let server = TestServer::start(&["limits.max_images=1"]).await;
    let pixels = no_bytes();
    for (shape, status, expected) in [
        (json!([3, SIDE, SIDE]), 400, "pixel_values has the shape [3, 224, 224], expected [n, 3, 224, 224]"),
        (json!([1, SIDE, SIDE, 3]), 400, "expected [n, 3, 224, 224]"),
        (json!([1, 3, SIDE, 336]), 400, "expected [n, 3, 224, 224]"),
        (json!([2, 3, SIDE, SIDE]), 413, "2 pixel_values, the limit is 1"),
        (json!([0, 3, SIDE, SIDE]), 400, "with n from 1"),
    ] {
        let message = error(send_pixels(&server, &pixels, shape, json!([])).await, status).await;
        assert!(message.contains(expected), "{message}");
    }
    let shape = json!([1, 3, SIDE, SIDE]);
    let few = send_pixels(&server, &pixels[1..], shape.clone(), json!([])).await;
    assert!(error(few, 400).await.contains("takes 150528 numbers of FP32"));
    for bad in [f32::NAN, f32::NEG_INFINITY, 1e30] {
        let mut values = pixels.clone();
        values[77] = bad;
        let message = error(send_pixels(&server, &values, shape.clone(), json!([])).await, 422).await;
        assert!(message.starts_with("pixel_values[0]: the value ") && message.contains("-1000"), "{message}");
    }
    server.stop().await;

    let (model, cache) = (checkpoint(), tempfile::tempdir().expect("a folder"));
    let integers = start(model.path(), cache.path(), &["model.name=tiny-clip", "engine.precision=int8"]).await;
    let message = error(send_pixels(&integers, &pixels, shape, json!([])).await, 501).await;
    assert!(message.contains("int8") && message.contains("send the pictures themselves"), "{message}");
    let metadata = json(integers.get("/v2/models/tiny-clip").await, 200).await;
    assert!(!metadata["inputs"].to_string().contains("pixel_values"), "{metadata}");
    integers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_before_the_body_is_read_has_its_clients_shape() {
    let server = TestServer::start(&["server.api_key=secret", "limits.max_body_bytes=1KiB"]).await;
    assert_eq!(server.get("/v2/health/live").await.status(), 200, "a probe has no key");
    let message = error(server.post_json(INFER, &json!({"inputs": [texts()]})).await, 401).await;
    assert!(message.contains("Authorization"), "{message}");
    error(server.get("/v2/models/tiny-clip").await, 401).await;
    let large = server.post(INFER).bearer_auth("secret").body(vec![b' '; 2048]).send().await.expect("an answer");
    error(large, 413).await;
    let multipart = server.post(INFER).bearer_auth("secret").multipart(reqwest::multipart::Form::new().text("a", "b"));
    error(multipart.send().await.expect("an answer"), 415).await;
    server.stop().await;
}
