//! Crops of open_clip and Immich, against what the libraries themselves made (`onnx/formats/rules.py`).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

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
#[derive(Clone, Deserialize)]
struct Golden {
    config: Value,
    crops: BTreeMap<String, String>,
}

/// Pictures that differ: one by its decoder; two of numbers beyond a byte, which Pillow resizes before it cuts them at 255; and one
/// whose palette Pillow loses while it resizes.
const OTHERS: [&str; 4] = ["cat_lossy.webp", "float_predictor.tif", "palette_alpha.tif", "signed16_packbits.tif"];

fn differing(folders: &[PathBuf], preparation: &PicturePreparation, golden: &Golden) -> Vec<String> {
    // Nobody but `transformers` turns a picture, whatever is set.
    let options = ImageOptions { exif_orientation: true, fast_decode: false, max_pixels: u64::MAX };
    let mut processor = ImageProcessor::new(preparation, options).unwrap();
    let differs = |(file, sha256): &(&String, &String)| {
        let path = folders.iter().map(|folder| folder.join(file)).find(|path| path.exists()).unwrap();
        let crop = processor.process(&fs::read(path).unwrap());
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let digest = crop.map(|crop| hex(&Sha256::digest(crop.as_bytes())));
        digest.as_ref() != Ok(*sha256)
    };
    golden.crops.iter().filter(differs).map(|(file, _)| file.clone()).collect()
}

/// Each way to prepare a picture with its golden.
fn ways(goldens: &Path) -> Vec<(PicturePreparation, Golden)> {
    let Goldens { open_clip, immich } = serde_json::from_str(&fs::read_to_string(goldens).unwrap()).unwrap();
    assert_eq!((open_clip.len(), immich.len()), (5, 3));
    let of_open_clip = open_clip.into_values().flat_map(|golden| {
        // OpenAI's differ from these in nothing.
        let transform = ImageTransform::from_json(&golden.config.to_string()).unwrap();
        let ways = [PicturePreparation::OpenClip(transform.clone()), PicturePreparation::OpenAi(transform)];
        ways.map(|way| (way, golden.clone()))
    });
    let of_immich = immich.into_values().map(|golden| {
        let transform = ImmichTransform::from_json(&golden.config.to_string()).unwrap();
        (PicturePreparation::Immich(transform), golden)
    });
    of_open_clip.chain(of_immich).collect()
}

#[test]
fn every_crop_of_open_clip_and_immich_equals_theirs_to_the_byte() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let folders = ["images", "pictures/tiff"].map(|folder| fixtures.join(folder));
    for (preparation, golden) in ways(&fixtures.join("golden/rules.json")) {
        assert!(golden.crops.len() >= 45);
        let differing = differing(&folders, &preparation, &golden);
        assert!(differing.iter().all(|file| OTHERS.contains(&file.as_str())), "{preparation:?}: {differing:?}");
    }
}

/// Says how many differ by kind, which `--random` puts at the beginning of a name.
#[test]
#[ignore = "wants target/bench/rules, made by onnx/formats/rules.py"]
fn crops_equal_other_goldens() {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/rules");
    let mut kinds = BTreeMap::<_, usize>::new();
    let mut crops = 0;
    for (preparation, golden) in ways(&made.join("goldens.json")) {
        crops += golden.crops.len();
        for file in differing(&[made.join("pictures")], &preparation, &golden) {
            *kinds.entry(file.rsplitn(3, '-').last().map(str::to_owned)).or_default() += 1;
        }
    }
    assert!(kinds.is_empty(), "of {crops} crops: {kinds:#?}");
}
