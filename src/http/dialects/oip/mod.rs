//! The Open Inference Protocol v2 (KServe), as Triton speaks it over HTTP, with Triton's extension for binary tensors.
//!
//! Owns tensors: which go in (`tensor`, `request`), which come out (`output`, `answer`), what is said of them (`metadata`), and the
//! handler between (`infer`). It asks for outputs by name where the other dialects ask for embeddings, so it is no
//! [`Dialect`](super::Dialect). Does not own a model, nor what an output means: names and values are those of `CLIPModel.forward`.
//!
//! ```text
//! metadata, infer -> request -> tensor, output -> route
//!           infer -> answer  -> output
//! ```
//!
//! Invariants: a tensor's size follows from its shape, and is looked at before its data; nothing is cut but a text that is too long for the
//! model, as its own processor cuts it; an error names the tensor, and the item where there is one.

mod answer;
pub(in crate::http) mod infer;
pub(in crate::http) mod metadata;
mod output;
mod request;
pub(in crate::http) mod route;
mod tensor;
