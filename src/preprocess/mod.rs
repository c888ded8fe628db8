//! From what a client sends to what an encoder takes: pictures to crops, texts to token ids.
//!
//! Owns decoding, resizing, cropping and tokenizing, equal to `CLIPProcessor`, and the threads that do it for pictures.
//! Knows neither HTTP nor inference.

mod clip_tokenizer;
pub mod image;
mod memory;
pub mod pool;
pub mod resample;
pub mod text;

pub use memory::OutOfMemory;
