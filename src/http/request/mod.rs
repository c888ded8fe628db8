//! From a request to its items: the body by its content type, and what is in it.
//!
//! Owns the encodings of a request (`payload`; `json`, `raw`, `items` and `data_url`; `form` and `multipart`), how many items there may be (`limit`), which
//! of them may fail alone (`each`), the room that is taken for what is made of a body (`room`), bringing the pictures that are elsewhere (`picture`). Does not own the arrival of the
//! body (`connection`), names and defaults of options (the shapes of each route), nor what becomes of an item (the embedder).
//!
//! Invariants: it names no route, so that any of them can read by it; what grows with a body has room in the budget of bodies
//! before it is made.

mod data_url;
pub(super) mod each;
pub(super) mod form;
mod items;
pub(super) mod json;
pub(super) mod limit;
mod multipart;
pub(super) mod payload;
pub(super) mod picture;
pub(super) mod raw;
pub(super) mod room;
