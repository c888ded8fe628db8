//! From what a client sends to what an encoder takes: pictures to crops, texts to token ids.
//!
//! Owns decoding, resizing, cropping and tokenizing, equal to the library that the model is of, and the threads that do it for pictures.
//! Knows neither HTTP nor inference.

mod clean;
mod clip_tokenizer;
mod clip_vocabulary;
pub mod image;
mod memory;
mod pipeline;
pub mod pool;
pub mod resample;
mod simple_tokenizer;
pub mod text;

pub use memory::OutOfMemory;
