//! ONNX Runtime itself, through the engine: what the service's own routes cannot show.

use std::{
    iter,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use clipserve::{
    config::Precision,
    encoder::{Encoder, Tokens},
    engine::Engine,
    export::export_checkpoint,
    model::Graphs,
};

use crate::support::{configuration, fixture};

#[test]
fn an_interrupted_run_fails_and_the_next_one_does_not() {
    let engine = Arc::new(Engine::start(&configuration(&[]).engine).expect("the CPU provider"));
    let graphs = Graphs::Embedding(fixture("tiny-clip/onnx/text_model.onnx"));
    let mut encoder = engine.text(&graphs).expect("the fixture");
    let text = [Tokens::new(vec![49406, 320, 49407])];
    let before = encoder.encode(&text).expect("an embedding");
    let interrupt = encoder.interrupt();
    let is_over = AtomicBool::new(false);
    let error = thread::scope(|scope| {
        // Raised again and again, so that it also comes while a run goes on.
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                interrupt();
            }
        });
        let error = iter::repeat_with(|| encoder.encode(&text)).find_map(Result::err);
        is_over.store(true, Ordering::Relaxed);
        error
    });
    let error = error.expect("an interrupted run").to_string();
    assert!(error.contains("terminate"), "{error}");
    // Raised too late for the run that it was meant for, it ends no other one.
    interrupt();
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
