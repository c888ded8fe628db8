//! Room in the byte budgets, taken before what fills it is made.
//!
//! Owns what a request may take besides its body, and how it is told that there is no room. Does not own the budgets
//! (`AppState`), nor the room of the body itself (`body`).
//!
//! Invariants: nothing waits for room; what can never have it is told so (413) and not to come back (429).

use crate::{
    budget::{ByteBudget, Reservation},
    http::{ApiError, AppState, Code, connection::body::BodyError},
    telemetry::{Metrics, Reject},
};

/// What a request takes of `limits.max_inflight_body_bytes`: its body, and what is made of it.
#[derive(Debug)]
pub(in crate::http) struct Claim<'a> {
    budget: &'a ByteBudget,
    metrics: &'a Metrics,
    /// Bytes so far.
    taken: usize,
}

impl<'a> Claim<'a> {
    /// Of a request whose body has so many bytes.
    pub(in crate::http) fn new(state: &'a AppState, body: usize) -> Self {
        Self { budget: &state.bodies, metrics: &state.metrics, taken: body }
    }

    /// Room for `bytes` more.
    ///
    /// # Errors
    /// 413 when the request would take more than all together may, 429 when others hold what it needs.
    pub(in crate::http) fn reserve(&mut self, bytes: usize) -> Result<Reservation, ApiError> {
        let taken = self.taken.saturating_add(bytes);
        if taken > self.budget.capacity() {
            return Err(too_much(taken, self.budget));
        }
        let reservation = self.budget.reserve(bytes).ok_or_else(|| exhausted(self.metrics))?;
        self.taken = taken;
        Ok(reservation)
    }
}

/// A request takes more than all together may.
pub(super) fn too_much(takes: usize, budget: &ByteBudget) -> ApiError {
    let message = format!(
        "the body and what is read from it take {takes} bytes, the limit is {} (limits.max_inflight_body_bytes); send \
         fewer or smaller items in one request",
        budget.capacity()
    );
    ApiError::new(Code::PayloadTooLarge, message)
}

/// Others hold what a request needs, which is counted.
pub(super) fn exhausted(metrics: &Metrics) -> ApiError {
    metrics.reject(Reject::BodyBytes);
    BodyError::BudgetExhausted.into()
}

#[cfg(test)]
pub(in crate::http) mod tests {
    use super::*;

    /// A claim of a request whose body has `taken` bytes.
    pub(in crate::http) fn claim_on<'a>(budget: &'a ByteBudget, metrics: &'a Metrics, taken: usize) -> Claim<'a> {
        Claim { budget, metrics, taken }
    }

    /// A claim of a request with an empty body on a budget of `bytes`, handed to `test`.
    pub(in crate::http) fn with_claim<T>(bytes: usize, test: impl FnOnce(&mut Claim<'_>) -> T) -> T {
        test(&mut claim_on(&ByteBudget::new(bytes), &Metrics::new(), 0))
    }

    #[test]
    fn what_can_never_have_room_is_413_and_what_others_hold_is_429() {
        with_claim(4 << 10, |claim| {
            let half = claim.reserve(2 << 10).expect("room");
            let error = claim.reserve((2 << 10) + 1).expect_err("more than there is");
            assert_eq!(error.code, Code::PayloadTooLarge);
            assert!(error.message.contains("4097 bytes, the limit is 4096"), "{}", error.message);
            let _other = claim.budget.reserve(1 << 10).expect("room");
            assert_eq!(claim.reserve(2 << 10).expect_err("held by another").code, Code::Overloaded);
            drop(half);
            claim.reserve(2 << 10).expect("given back");
        });
    }
}
