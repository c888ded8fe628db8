//! Dynamic batching: from many requests' items to few runs of an encoder, and back.
//!
//! Owns admission (bounded permits, bounded waits), turns between requests and classes, jobs (input, reply, deadline, permit in one value), the pure batching policy, the queue,
//! and the worker thread that owns one encoder. Knows neither HTTP nor ONNX Runtime: it drives any [`crate::encoder::Encoder`].
//!
//! ```text
//! Admission::try_admit(works) -> permits        all or none, never waits; refuses what would wait longer than it may
//! Job::new(input, permit, ..) -> (Job, Ticket)  the ticket is the future of the answer
//! JobQueue::push(job)                           refused once closed
//! worker: take_batch -> encode -> answer each   one thread, one encoder
//!         a run of the second class is ended for the first: put_back
//! ```
//!
//! Invariants, each with a test of its own in `tests`:
//!
//! * **I1** Live jobs never outnumber permits: a job cannot be made without one, and gives it back only when it is gone.
//! * **I2** Every job is answered exactly once: answering consumes it, and dropping it unanswered answers [`JobError::Lost`].
//! * **I3** An answer belongs to its own input, whatever else was in the batch and however the batch was ordered.
//! * **I4** A dead job (client gone, deadline passed) never reaches a decoder or an encoder.
//! * **I5** After close, queued jobs finish and new ones are refused.
//! * **I6** One job's failure fails that job only; a failed batch fails that batch only.

mod admission;
mod class;
mod floor;
mod flow;
mod job;
mod policy;
mod queue;
mod quota;
mod second;
mod speed;
mod turn;
mod worker;

#[cfg(test)]
mod tests;

pub use admission::{Admission, Capacity, Permit, Refused, Terms};
pub use class::{Activity, Class};
pub use floor::{Floor, Room, Wake};
pub use flow::{RunGuard, Speeds, Work};
pub use job::{Answer, Encoded, Job, JobError, JobHead, Ticket, Timings};
pub use policy::{BatchPolicy, Decision, LastRun, Waiting};
pub use queue::{Batch, Cost, JobQueue, Pace, Taker, Takes};
pub use quota::Quota;
pub use speed::Speed;
pub use worker::{Worker, WorkerContext};
