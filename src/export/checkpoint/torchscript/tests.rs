//! Archives made by hand, a real one, and damage to both.

use std::{
    fs,
    io::{Cursor, Write},
};

use proptest::prelude::*;
use zip::{ZipWriter, write::SimpleFileOptions};

use super::*;
use crate::export::checkpoint::stored::Element;

/// By PyTorch itself, of a model of OpenAI's code.
const REAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/export/openai/ViT-tiny.pt");

/// An archive with this pickle, and one storage of eight bytes that are the floats 1 and 2.
fn archive(pickle: &[u8], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let storage = [1f32.to_le_bytes(), 2f32.to_le_bytes()].concat();
    for (name, bytes) in
        [("m/data.pkl", pickle), ("m/data/0", &storage), ("m/constants.pkl", b")."), ("m/version", b"3")]
    {
        zip.start_file(name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn opened(bytes: &[u8]) -> Result<Vec<(String, Stored)>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.pt");
    fs::write(&path, bytes).unwrap();
    if !is_one(&path).map_err(|error| error.to_string())? {
        return Err("none".to_owned());
    }
    open(&path).map_err(|error| error.to_string())
}

fn pickled(pickle: &[u8]) -> Result<Vec<(String, Stored)>, String> {
    opened(&archive(pickle, CompressionMethod::Stored))
}

/// A module with the attribute `w`, a tensor of the storage: this many from its first element, of these sizes and strides.
fn module(offset: u8, sizes: &[u8], strides: &[u8]) -> Vec<u8> {
    let tuple =
        |numbers: &[u8]| [b"(", numbers.iter().flat_map(|n| [b'K', *n]).collect::<Vec<_>>().as_slice(), b"t"].concat();
    [
        b"\x80\x02c__torch__.clip\nCLIP\n)\x81}(X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage\
          ctorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02tQK",
        &[offset][..],
        &tuple(sizes),
        &tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtRub.",
    ]
    .concat()
}

#[test]
fn a_tensor_is_seen_as_its_strides_say() {
    for (offset, sizes, strides, expected) in [
        (0, &[2][..], &[1][..], &[1.0, 2.0][..]),
        (1, &[], &[], &[2.0]),
        (0, &[1, 2], &[7, 1], &[1.0, 2.0]),
        (0, &[2, 1], &[1, 1], &[1.0, 2.0]),
        (0, &[2, 0], &[1, 1], &[]),
    ] {
        let tensors = pickled(&module(offset, sizes, strides)).unwrap();
        assert_eq!(tensors.len(), 1);
        assert_eq!((tensors[0].0.as_str(), &*tensors[0].1.values().unwrap()), ("w", expected), "{sizes:?} {strides:?}");
    }
}

#[test]
fn no_tensor_reaches_outside_of_its_storage() {
    for (offset, sizes, strides) in [
        (0, &[3][..], &[1][..]),
        (1, &[2], &[1]),
        (0, &[2], &[2]),
        (3, &[], &[]),
        // More elements than there are, by a stride of nothing.
        (0, &[200, 200, 200], &[0, 0, 0]),
    ] {
        let error = pickled(&module(offset, sizes, strides)).unwrap_err();
        assert!(error.contains("tensor `w` reaches outside of its storage"), "{sizes:?}: {error}");
    }
}

#[test]
fn what_is_no_such_archive_is_told_in_a_line() {
    let good = module(0, &[2], &[1]);
    let replaced = |from: &[u8], to: &[u8]| {
        let at = good.windows(from.len()).position(|window| window == from).unwrap();
        [&good[..at], to, &good[at + from.len()..]].concat()
    };
    for (pickle, part) in [
        (replaced(b"c__torch__.clip\n", b"cos\n"), "`os.CLIP`"),
        (replaced(b"ctorch._utils\n", b"c__torch__.f\n"), "no tensor"),
        (replaced(b"storage", b"storagf"), "no storage"),
        (replaced(b"\x000X", b"\x001X"), "tensor `w` has no storage"),
        (replaced(b"tQ", b"t0"), "does not write"),
        (replaced(b")\x81", b"\x81"), "from its stack"),
        (good[..good.len() - 1].to_vec(), "cut off"),
        (b"h\x07.".to_vec(), "recalls what it has not kept"),
        (Vec::new(), "cut off"),
    ] {
        match pickled(&pickle) {
            Ok(tensors) => assert!(part == "no tensor" && tensors.is_empty(), "{part}: {tensors:?}"),
            Err(error) => assert!(error.contains(part) && error.lines().count() == 1, "{part}: {error}"),
        }
    }
    let error = opened(&archive(&good, CompressionMethod::Deflated)).unwrap_err();
    assert!(error.contains("compressed"), "{error}");
    assert_eq!(opened(b"PK").unwrap_err(), "none");
    assert_eq!(opened(b"").unwrap_err(), "none");
}

/// A module that is its own attribute, and one whose attributes are twice the same module, thirty deep.
#[test]
fn modules_without_end_are_refused() {
    let circle = b"\x80\x02c__torch__\nM\n)\x81q\x00}(X\x01\0\0\0ah\x00ub.";
    assert!(pickled(circle).unwrap_err().contains("deep"));
    let mut doubled = b"c__torch__\nM\n)\x81q\x00".to_vec();
    for _ in 0..30 {
        doubled.extend(b"c__torch__\nM\n)\x81}(X\x01\0\0\0ah\x00X\x01\0\0\0bh\x00ubq\x00");
    }
    doubled.push(b'.');
    assert!(pickled(&doubled).unwrap_err().contains("attributes"));
}

#[test]
fn a_real_archive_has_its_weights_and_the_three_sizes() {
    let tensors: HashMap<String, Stored> = open(Path::new(REAL)).unwrap().into_iter().collect();
    assert!(is_one(Path::new(REAL)).unwrap());
    let tensor = |name: &str| &tensors[name];
    assert_eq!(tensor("visual.conv1.weight").element, Element::F16);
    assert_eq!(tensor("visual.ln_pre.weight").element, Element::F32);
    assert_eq!(tensor("input_resolution").element, Element::Other("Long".to_owned()));
    assert_eq!(tensor("transformer.resblocks.0.attn.in_proj_weight").shape, [192, 64]);
    assert!(!tensors.keys().any(|name| name.contains("mask")));
    assert_eq!(tensors.len(), 41);
}

proptest! {
    #[test]
    fn no_damage_makes_it_panic(at: prop::sample::Index, byte: u8, pickle_only: bool) {
        let mut bytes = fs::read(REAL).unwrap();
        if pickle_only {
            let mut pickle = Archive::open(&File::open(REAL).unwrap(), u64::MAX).unwrap().pickle;
            let at = at.index(pickle.len());
            pickle[at] = byte;
            bytes = archive(&pickle, CompressionMethod::Stored);
        } else {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for (_, tensor) in opened(&bytes).unwrap_or_default() {
            let _ = tensor.values();
        }
    }
}
