//! The model in the box: what the first command serves answers sensibly, for drawings that it was not trained on.

use std::{collections::BTreeMap, fs, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;

use crate::support::{TestServer, json, matrix};

/// `onnx/examples/expected.json`: the name of each drawing.
fn drawings() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/examples/expected.json");
    serde_json::from_str(&fs::read_to_string(path).expect("the examples")).expect("file names and names")
}

fn drawing(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/examples").join(file);
    BASE64_STANDARD.encode(fs::read(path).expect("a drawing"))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_model_path_each_drawing_ranks_its_own_name_first() {
    let cache = tempfile::tempdir().expect("a folder");
    let cache_dir = format!("model.cache_dir={}", cache.path().display());
    let server = TestServer::start(&["model.path=", &cache_dir]).await;
    let info = json(server.get("/info").await, 200).await;
    assert_eq!(info["model"]["name"], "emoji-clip");
    let drawings = drawings();
    assert!(drawings.len() >= 8, "a handful");
    let names: Vec<&String> = drawings.values().collect();
    let images: Vec<String> = drawings.keys().map(|file| drawing(file)).collect();

    let plain = json(server.post_json("/similarity", &json!({"images": images, "texts": names})).await, 200).await;
    for (i, row) in matrix(&plain["logits_per_image"]).iter().enumerate() {
        let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("a name");
        assert_eq!(names[best], names[i], "{row:?}");
    }
    for templates in [json!(["{}"]), json!(["a picture of a {}"]), json!(["a picture of a {}", "an emoji of a {}"])] {
        let request = json!({"images": images, "labels": names, "templates": templates, "top_k": 1});
        let answer = json(server.post_json("/classify", &request).await, 200).await;
        for (result, name) in answer["results"].as_array().expect("results").iter().zip(&names) {
            assert_eq!(result[0]["label"], **name, "{templates}: {result}");
        }
    }
    server.stop().await;
}
