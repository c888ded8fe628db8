//! ONNX Runtime itself, through the engine: what the service's own routes cannot show.

use std::sync::Arc;

use clipserve::{
    encoder::{Encoder, Tokens},
    engine::Engine,
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
