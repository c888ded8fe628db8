//! clipserve: CLIP over HTTP, with the numbers of Hugging Face `transformers`, batched across requests, on ONNX Runtime.
//!
//! # The path of a request
//!
//! ```text
//!  tokio I/O threads                         preprocess threads          session threads (one per session)
//!
//!  accept -> observe -> admit -> receive      image queue                 vision queue
//!                                   |           |                           |
//!                  images ----------+--------->[ ]-> decode -> crop ------>[ ]-> batch -> run -> split --.
//!                                   |                                                                    |
//!                  texts -> tokenize +------------------------------------>[ ]-> batch -> run -> split --+
//!                                                                          text queue                    |
//!  reply <- similarity <- join(tickets, deadline) <------------------------------------------------------'
//! ```
//!
//! An image crosses threads three times, a text twice; nothing returns to the handler in between. An embedding that is in the
//! cache, or on its way for another request, is taken before the item gate: it needs no place, no thread and no run. Refusals happen at the two
//! gates on the left (requests and body bytes, then items), a bad picture is answered from its preprocess thread, and what
//! died in a queue is dropped there.
//!
//! # Modules
//!
//! | module | what it owns |
//! |---|---|
//! | [`server`] | assembly, readiness, the drain |
//! | [`bulk`] | files of pictures and texts to files of embeddings |
//! | [`tune`] | which threads, sessions and batches are best, measured |
//! | [`compare`] | whether an index that another service filled may be kept |
//! | [`http`] | routes, connections, limits, wire shapes, the error table |
//! | [`tls`] | certificates, and the handshake that is made with them |
//! | [`web`] | pictures that are fetched from hosts that are allowed, on threads of their own |
//! | [`embedder`] | the facade that handlers call; one is one loaded model |
//! | [`preprocess`] | pictures to crops, texts to ids, equal to `CLIPProcessor` |
//! | [`batch`] | admission, jobs, the batching policy, queues, workers |
//! | [`engine`] | everything that touches ONNX Runtime |
//! | [`encoder`] | the seam between `batch` and `engine` |
//! | [`model`] | a model's directory, its download from the hub, configuration, fingerprint |
//! | [`export`] | CLIP's ONNX graphs, built without Python |
//! | [`similarity`] | logits, softmax, loss |
//! | [`config`], [`cli`], [`telemetry`], [`health`], [`signals`], [`budget`], [`heavy`], [`regular`], [`watched`] | what every service has |
//!
//! Dependencies point one way, `http -> {embedder, tls, web}`, `embedder -> {preprocess, batch, engine} -> {encoder, model}`,
//! `web -> model`, and so do those among the files of a module; a test holds them to it, and lists where it is not so yet.

pub mod batch;
pub mod budget;
pub mod bulk;
pub mod cli;
pub mod compare;
pub mod config;
pub mod embedder;
pub mod encoder;
pub mod engine;
pub mod export;
pub mod health;
pub mod heavy;
pub mod http;
pub mod model;
pub mod preprocess;
pub mod regular;
pub mod server;
pub mod signals;
pub mod similarity;
pub mod telemetry;
pub mod tls;
pub mod tune;
pub mod watched;
pub mod web;
