//! The one integration target: a real server on port 0, real ONNX Runtime, the fixture model, the real binary.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails loudly, in its helpers too")]

mod architecture;
mod benchmarks;
mod bulk;
mod bundled;
mod cache;
mod checkpoint;
mod collector_stand_in;
mod command_line;
mod compare;
mod containers;
mod deploy;
#[cfg(target_os = "linux")]
mod dist;
mod documentation;
mod engine;
mod errors;
mod fuzzed;
#[cfg(target_os = "linux")]
mod gpu_check;
mod hub;
mod hub_stand_in;
mod keys;
mod layouts;
mod lifecycle;
mod logs;
#[cfg(target_os = "linux")]
mod memory;
mod mutations;
mod neighbours;
mod odd_requests;
mod oip;
mod onnx;
mod openai;
mod outputs;
mod overload;
mod page;
mod partial;
mod peers;
mod pipelines;
mod reference;
mod routes;
mod sizes;
mod spans;
mod starting;
mod support;
mod tls;
mod towers;
mod tune;
mod types;
mod web_pictures;
mod web_stand_in;
