//! ONNX Runtime itself, through the engine: what the service's own routes cannot show.

use std::{
    fs, iter,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use clipserve::{
    config::Precision,
    encoder::{Encoder, Interrupt, Role, Runner, Tokens},
    engine::{Engine, TextEncoder},
    export::{export_checkpoint, write_synthetic_model},
    model::{Graphs, clip_config::ClipConfig},
};

use crate::support::{configuration, fixture};

#[test]
fn an_interrupted_run_fails_and_the_next_one_does_not() {
    let engine = Arc::new(Engine::start(&configuration(&[]).engine).expect("the CPU provider"));
    let graphs = Graphs::Embedding(fixture("tiny-clip/onnx/text_model.onnx"));
    let mut encoder = engine.text(&graphs, 1).expect("the fixture").remove(0).encoder;
    let text = [Tokens::new(vec![49406, 320, 49407])];
    let before = encoder.encode(&text).expect("an embedding");
    assert!(encoder.ends_soon());
    let interrupt = encoder.interrupt();
    interrupt();
    let error = encoder.encode(&text).expect_err("it was to end before it began").to_string();
    assert!(error.contains("terminate"), "{error}");
    // Raised too late for the run that it was meant for, it ends no other one.
    interrupt();
    assert_eq!(encoder.encode(&text).expect("another run"), before);
    // Of those that end one while it goes on, each comes at another moment.
    let (ends, ended) = mpsc::channel::<Interrupt>();
    thread::scope(|scope| {
        scope.spawn(move || ended.iter().for_each(|interrupt| interrupt()));
        for _ in 0..200 {
            ends.send(encoder.interrupt()).expect("somebody listens");
            if let Ok(answer) = encoder.encode(&text) {
                assert_eq!(answer, before);
            }
        }
        drop(ends);
    });
    assert_eq!(encoder.encode(&text).expect("another run"), before);
}

#[test]
fn runs_of_one_session_that_go_on_at_the_same_time_answer_what_one_alone_does() {
    let folder = tempfile::tempdir().expect("a folder");
    for precision in [Precision::F32, Precision::Int8] {
        let out = folder.path().join(precision.name());
        let exported = export_checkpoint(&fixture("tiny-clip"), &out, precision).expect("the fixture");
        let graphs = Graphs::Embedding(exported.text.expect("a text tower"));
        let opened = |threads: &str, graphs, sessions| {
            let config = configuration(&[&format!("engine.intra_threads={threads}")]);
            let engine = Arc::new(Engine::start(&config.engine).expect("the CPU provider"));
            engine.text(graphs, sessions).expect("a text graph")
        };
        let roles = |runners: &[Runner<TextEncoder>]| runners.iter().map(|runner| runner.role).collect::<Vec<_>>();
        // A graph of all outputs has a session of its own in each run, and a canary for each.
        let outputs = Graphs::Outputs(exported.text_outputs.expect("a graph of all outputs"));
        assert_eq!(roles(&opened("1", &outputs, 2)), [Role::Own; 2]);
        assert_eq!(roles(&opened("2", &outputs, 1)), [Role::Own]);
        let mut alone = opened("2", &graphs, 1).remove(0).encoder;
        let shared = opened("1", &graphs, 5);
        assert_eq!(roles(&shared), [[Role::Own].as_slice(), &[Role::Shared; 4]].concat());
        answer_what_one_alone_does(shared, &mut alone);
        let beside = opened("5", &graphs, 1);
        assert_eq!(roles(&beside), [[Role::Own].as_slice(), &[Role::Beside; 4]].concat());
        answer_what_one_alone_does(beside, &mut alone);
        assert_eq!(opened("2", &graphs, 3).len(), 6, "two of each session");
    }
}

#[test]
fn an_int8_graph_s_own_operators_are_our_kernels_and_mean_what_the_graph_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = Arc::new(Engine::start(&configuration(&[]).engine).expect("the CPU provider"));
    let text = |length: u32| Tokens::new((1..length).map(|i| i * 37 % 90).chain([99]).collect::<Vec<_>>());
    let texts = [3, 9, 20].map(text);
    for activation in ["quick_gelu", "gelu", "gelu_new", "relu", "selu"] {
        let tower = r#""hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2"#;
        let ids = r#""vocab_size": 100, "max_position_embeddings": 24, "eos_token_id": 99"#;
        let text = format!(r#"{{{tower}, {ids}, "hidden_act": "{activation}"}}"#);
        let config = format!(r#"{{"projection_dim": 32, "text_config": {text}}}"#);
        let config = ClipConfig::from_json(&config).expect("a configuration");
        let out = folder.path().join(activation);
        let model = write_synthetic_model(&config, Precision::Int8, 3, &fixture("tiny-clip"), &out).expect("a model");
        let graph = model.text.expect("a text tower");
        let bytes = fs::read(&graph).expect("the graph");
        // What the graph computes where such words stand for others of the same length, in its nodes and its functions.
        let embed = |words: &[(&str, &str)]| {
            let changed = words.iter().fold(bytes.clone(), |bytes, (from, to)| replaced(&bytes, from, to));
            let path = graph.with_file_name("changed.onnx");
            fs::write(&path, changed).expect("a file");
            let mut encoder = engine.text(&Graphs::Embedding(path), 1).expect("a graph").remove(0).encoder;
            encoder.encode(&texts).expect("embeddings")
        };
        let ours = embed(&[]);
        // Of another name they have no kernel, and the runtime computes their functions.
        let functions = [("Rows", "Rowz")];
        let written = embed(&functions);
        let distance = (&ours - &written).iter().map(|x| x * x).sum::<f32>().sqrt()
            / written.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!(distance < 5e-3, "{activation}: {distance}");
        // What is in the functions does not matter where there are kernels.
        let floor = ("Round", "Floor");
        assert_eq!(embed(&[floor]), ours, "{activation}");
        assert_ne!(embed(&[floor, functions[0]]), written, "{activation}");
    }
}

/// `bytes` with `to` for every `from`, which is as long.
fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let places: Vec<_> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(from.as_bytes())).collect();
    assert!(!places.is_empty(), "{from} is not in the graph");
    places.into_iter().for_each(|at| bytes[at..at + to.len()].copy_from_slice(to.as_bytes()));
    bytes
}

/// `runners` all run at the same time; what the last of them runs is ended again and again.
fn answer_what_one_alone_does(runners: Vec<Runner<TextEncoder>>, alone: &mut TextEncoder) {
    let text = |thread: usize, round: usize| {
        let middle = (0..1 + (thread + round) % 9).map(|at| (thread * 977 + round * 31 + at * 7) as u32 % 49_000);
        Tokens::new(iter::once(49406).chain(middle).chain([49407]).collect::<Vec<_>>())
    };
    let batch = |thread, round| (0..1 + round % 3).map(|more| text(thread, round + more)).collect::<Vec<_>>();
    let mut encoders: Vec<_> = runners.into_iter().map(|runner| runner.encoder).collect();
    let mut interrupted = encoders.pop().expect("several");
    let is_over = AtomicBool::new(false);
    let (ends, ended) = mpsc::channel::<Interrupt>();
    let answers = thread::scope(|scope| {
        // What ends the runs of one ends none of the others'.
        scope.spawn(move || ended.iter().for_each(|interrupt| interrupt()));
        let is_over = &is_over;
        scope.spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                ends.send(interrupted.interrupt()).expect("somebody listens");
                let _ = interrupted.encode(&batch(9, 2));
            }
        });
        let run = |(thread, mut encoder): (usize, TextEncoder)| {
            let encode = move |round| encoder.encode(&batch(thread, round)).expect("an embedding");
            scope.spawn(move || (0..200).map(encode).collect::<Vec<_>>())
        };
        let threads: Vec<_> = encoders.into_iter().enumerate().map(run).collect();
        let answers: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        is_over.store(true, Ordering::Relaxed);
        answers
    });
    for (thread, answers) in answers.iter().enumerate() {
        for (round, answer) in answers.iter().enumerate() {
            let expected = alone.encode(&batch(thread, round)).expect("an embedding");
            assert_eq!(*answer, expected, "{thread} {round}");
        }
    }
}

/// What a broken session is replaced with is one session again, of all that had it.
#[test]
fn runs_of_one_session_that_are_made_anew_answer_what_they_did() {
    let config = configuration(&["engine.intra_threads=3"]);
    let engine = Arc::new(Engine::start(&config.engine).expect("the CPU provider"));
    let graphs = Graphs::Embedding(fixture("tiny-clip/onnx/text_model.onnx"));
    let text = [Tokens::new(vec![49406, 320, 49407])];
    let mut runners = engine.text(&graphs, 1).expect("the fixture");
    let before = runners[0].encoder.encode(&text).expect("an embedding");
    for _ in 0..2 {
        for at in [2, 0, 1] {
            runners[at].encoder = (runners[at].rebuild)().expect("a session");
            for runner in &mut runners {
                assert_eq!(runner.encoder.encode(&text).expect("an embedding"), before);
            }
        }
    }
}

#[test]
fn a_graph_from_elsewhere_pads_and_one_of_our_own_export_says_that_it_does_not() {
    let engine = Arc::new(Engine::start(&configuration(&[]).engine).expect("the CPU provider"));
    let pads = |graph| engine.text(&Graphs::Embedding(graph), 1).expect("a text graph")[0].encoder.pads();
    assert!(pads(fixture("tiny-clip/onnx/text_model.onnx")));
    let folder = tempfile::tempdir().expect("a folder");
    for (precision, expected) in [(Precision::F32, false), (Precision::Int8, false), (Precision::F16, true)] {
        let out = folder.path().join(precision.name());
        let exported = export_checkpoint(&fixture("tiny-clip"), &out, precision).expect("the fixture");
        assert_eq!(pads(exported.text.expect("a text tower")), expected, "{}", precision.name());
    }
}
