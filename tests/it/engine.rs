//! ONNX Runtime itself, through the engine: what the service's own routes cannot show.

use std::sync::Arc;

use clipserve::{
    config::Precision,
    encoder::{Encoder, Tokens},
    engine::Engine,
    export::export_checkpoint,
    model::Graphs,
};

use crate::support::{configuration, fixture};

#[test]
fn an_interrupted_run_fails_and_the_session_goes_on() {
    let engine = Arc::new(Engine::start(&configuration(&[]).engine).expect("the CPU provider"));
    let graphs = Graphs::Embedding(fixture("tiny-clip/onnx/text_model.onnx"));
    let mut encoder = engine.text(&graphs).expect("the fixture");
    let text = [Tokens::new(vec![49406, 320, 49407])];
    let before = encoder.encode(&text).expect("an embedding");
    // The stop flag is sticky, so raising it before the run is as good as during it, and needs no timing.
    (encoder.interrupt())();
    let error = encoder.encode(&text).expect_err("interrupted").to_string();
    assert!(error.contains("terminate"), "{error}");
    assert_eq!(encoder.encode(&text).expect("the flag is lowered again"), before);
}

#[test]
fn a_graph_from_elsewhere_pads_and_one_of_our_own_export_says_that_it_does_not() {
    let engine = Arc::new(Engine::start(&configuration(&[]).engine).expect("the CPU provider"));
    let pads = |graph| engine.text(&Graphs::Embedding(graph)).expect("a text graph").pads();
    assert!(pads(fixture("tiny-clip/onnx/text_model.onnx")));
    let folder = tempfile::tempdir().expect("a folder");
    for (precision, expected) in [(Precision::F32, false), (Precision::Int8, false), (Precision::F16, true)] {
        let out = folder.path().join(precision.name());
        let exported = export_checkpoint(&fixture("tiny-clip"), &out, precision).expect("the fixture");
        assert_eq!(pads(exported.text.expect("a text tower")), expected, "{}", precision.name());
    }
}
