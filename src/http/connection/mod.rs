//! The connections underneath: sockets, clocks, and who makes room for whom.
//!
//! Owns everything between the listener and a request whose head has come, and again from its answer to the last byte of it: how
//! many connections there are and how they end (`accept`, `transport`, `guarded_io`, `exchange`, `framing`, `seat`), who is ended for
//! whom (`peers`, `progress`), the arrival of a body (`request_body`, `body`) and its coding (`coding`), and what is kept until the answer
//! has gone (`held`). Does not own what the bytes mean, the status that an error becomes, nor routes.
//!
//! Invariant: it names nothing of http but itself. What a request asks, and what is answered, makes no difference to its connection.

pub mod accept;
pub mod body;
pub(super) mod coding;
mod exchange;
mod framing;
mod guarded_io;
pub(super) mod held;
pub(super) mod peers;
mod progress;
mod request_body;
pub(super) mod seat;
mod transport;
