//! Crops of open_clip and Immich, against what the libraries themselves made (`onnx/formats/rules.py`).

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::*;
use crate::model::{immich::ImmichTransform, open_clip::ImageTransform};

#[derive(Deserialize)]
struct Goldens {
    open_clip: BTreeMap<String, Golden>,
    immich: BTreeMap<String, Golden>,
}

/// One `preprocess_cfg.json`, and the SHA-256 of each picture's crop.
#[derive(Deserialize)]
struct Golden {
    config: Value,
    crops: BTreeMap<String, String>,
}

/// Pictures whose decoder differs from the reference's by itself.
const LOSSY: &str = "cat_lossy.webp";

fn differing(folder: &Path, preparation: &PicturePreparation, golden: &Golden) -> Vec<String> {
    // Nobody but `transformers` turns a picture, whatever is set.
    let options = ImageOptions { exif_orientation: true, fast_decode: false, max_pixels: u64::MAX };
    let mut processor = ImageProcessor::new(preparation, options).unwrap();
    let differs = |(file, sha256): &(&String, &String)| {
        let crop = processor.process(&fs::read(folder.join(file)).unwrap());
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let digest = crop.map(|crop| hex(&Sha256::digest(crop.as_bytes())));
        digest.as_ref() != Ok(*sha256)
    };
    golden.crops.iter().filter(differs).map(|(file, _)| file.clone()).collect()
}

fn check(folder: &Path, goldens: &Path) {
    let goldens: Goldens = serde_json::from_str(&fs::read_to_string(goldens).unwrap()).unwrap();
    let preparation = |config: &Value| ImageTransform::from_json(&config.to_string()).unwrap();
    assert_eq!((goldens.open_clip.len(), goldens.immich.len()), (5, 3));
    let of_open_clip = goldens.open_clip.values().flat_map(|golden| {
        // OpenAI's differ from these in nothing.
        let transform = preparation(&golden.config);
        let ways = [PicturePreparation::OpenClip(transform.clone()), PicturePreparation::OpenAi(transform)];
        ways.map(|way| (way, golden))
    });
    let of_immich = goldens.immich.values().map(|golden| {
        let transform = ImmichTransform::from_json(&golden.config.to_string()).unwrap();
        (PicturePreparation::Immich(transform), golden)
    });
    for (preparation, golden) in of_open_clip.chain(of_immich) {
        assert!(golden.crops.len() >= 30);
        let differing = differing(folder, &preparation, golden);
        assert!(differing.iter().all(|file| file == LOSSY), "{preparation:?}: {differing:?}");
    }
}

#[test]
fn every_crop_of_open_clip_and_immich_equals_theirs_to_the_byte() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    check(&fixtures.join("images"), &fixtures.join("golden/rules.json"));
}
