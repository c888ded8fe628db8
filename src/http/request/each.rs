//! Items of a request that may fail alone, and what of their faults the client is told.
//!
//! Owns the choice (`on_error`), and putting items apart from the faults of others. Does not own what becomes of the items (the embedder),
//! nor how the faults stand in an answer (`native`).
//!
//! Invariants: an item has its place or its fault; only what is an item's own fault is taken for one: no room, no time and no memory
//! fail the request whole.

use serde::{Deserialize, Serialize};

use crate::http::{ApiError, error::MAX_MESSAGE};

/// What becomes of a request with a bad item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::http) enum OnError {
    /// It is refused whole, with the error of the first one.
    #[default]
    Fail,
    /// The others are answered, and each bad one has its error.
    Partial,
}

/// The items of a request, read so far as they can be.
#[derive(Debug)]
pub(in crate::http) struct Each<T> {
    on_error: OnError,
    items: Vec<T>,
    /// Where in the request each of them stands.
    places: Vec<usize>,
    faults: Vec<ApiError>,
}

impl<T> Each<T> {
    /// None so far.
    pub(in crate::http) fn new(on_error: OnError) -> Self {
        Self { on_error, items: Vec::new(), places: Vec::new(), faults: Vec::new() }
    }

    /// Items that can all be read.
    pub(in crate::http) fn all(items: Vec<T>, on_error: OnError) -> Self {
        Self { on_error, places: (0..items.len()).collect(), items, faults: Vec::new() }
    }

    /// The next one.
    ///
    /// # Errors
    /// Its own when that fails the request.
    pub(in crate::http) fn add(&mut self, item: Result<T, ApiError>) -> Result<(), ApiError> {
        let place = self.len();
        match item {
            Ok(item) => {
                self.items.push(item);
                self.places.push(place);
            }
            Err(error) if self.on_error == OnError::Partial && error.is_of_an_item() => {
                self.faults.push(error.at(place));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// How many the request has, good and bad.
    pub(in crate::http) fn len(&self) -> usize {
        self.places.len() + self.faults.len()
    }

    /// The items that could be read; where no other is, all.
    pub(in crate::http) fn take(&mut self) -> Vec<T> {
        std::mem::take(&mut self.items)
    }

    /// What becomes of a request with a bad item.
    pub(super) fn on_error(&self) -> OnError {
        self.on_error
    }

    /// With what became of the items that have been taken, in order.
    ///
    /// # Errors
    /// That of the first one that fails the request.
    pub(super) fn replaced<U>(self, items: Vec<Result<U, ApiError>>) -> Result<Each<U>, ApiError> {
        let Self { on_error, places, faults, .. } = self;
        let mut each = Each { on_error, items: Vec::with_capacity(items.len()), places: Vec::new(), faults };
        for (place, item) in places.into_iter().zip(items) {
            match item {
                Ok(item) => {
                    each.items.push(item);
                    each.places.push(place);
                }
                Err(error) if on_error == OnError::Partial && error.is_of_an_item() => {
                    each.faults.push(error.at(place))
                }
                Err(error) => return Err(error),
            }
        }
        Ok(each)
    }

    /// What is missing, once it is known which of the items that could be read have `failed` after all.
    pub(in crate::http) fn missing(self, failed: impl IntoIterator<Item = (usize, ApiError)>) -> Missing {
        let mut rows: Vec<Option<usize>> = vec![None; self.len()];
        self.places.iter().enumerate().for_each(|(row, &place)| rows[place] = Some(row));
        let mut errors = self.faults;
        for (row, error) in failed {
            let place = self.places[row];
            rows[place] = None;
            errors.push(error.at(place));
        }
        errors.sort_by_key(|error| error.index);
        Missing { rows, errors }
    }
}

/// Which items of a request have an embedding.
#[derive(Debug)]
pub(in crate::http) struct Missing {
    /// For each item its row among those that were computed, where it has one.
    pub(in crate::http) rows: Vec<Option<usize>>,
    /// The error of each other, with its place, in order.
    pub(in crate::http) errors: Vec<ApiError>,
}

impl Missing {
    /// Bytes of the errors of `items` in an answer at most: each of a message may have to be escaped.
    pub(in crate::http) fn written(items: usize) -> usize {
        items.saturating_mul(6 * MAX_MESSAGE + 128)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Code;

    #[test]
    fn an_item_has_its_row_or_its_error() {
        let bad = || ApiError::invalid("bad").at(0);
        let mut each = Each::new(OnError::Partial);
        for item in [Ok("a"), Err(bad()), Ok("c"), Ok("d")] {
            each.add(item).expect("taken");
        }
        assert_eq!((each.len(), each.take()), (4, vec!["a", "c", "d"]));
        let missing = each.missing([(2, ApiError::new(Code::InvalidImage, "worse"))]);
        assert_eq!(missing.rows, [Some(0), None, Some(1), None]);
        let errors: Vec<_> = missing.errors.iter().map(|error| (error.index, &*error.message)).collect();
        assert_eq!(errors, [(Some(1), "bad"), (Some(3), "worse")]);
    }

    #[test]
    fn an_item_that_fails_later_keeps_its_place() {
        let bad = |message: &'static str| ApiError::invalid(message).at(0);
        let mut each = Each::new(OnError::Partial);
        for item in [Err(bad("first")), Ok("b"), Ok("c"), Ok("d")] {
            each.add(item).expect("taken");
        }
        each.take();
        let mut each = each.replaced(vec![Ok(1), Err(bad("second")), Ok(3)]).expect("faults of their own");
        assert_eq!((each.len(), each.take()), (4, vec![1, 3]));
        let missing = each.missing([]);
        assert_eq!(missing.rows, [None, Some(0), None, Some(1)]);
        let errors: Vec<_> = missing.errors.iter().map(|error| (error.index, &*error.message)).collect();
        assert_eq!(errors, [(Some(0), "first"), (Some(2), "second")]);
        let mut each = Each::all(vec!["a"], OnError::Partial);
        each.take();
        let error = ApiError::new(Code::Overloaded, "no room");
        assert!(each.replaced::<()>(vec![Err(error)]).is_err());
    }

    #[test]
    fn what_is_not_an_items_own_fails_the_request() {
        let add = |on_error, error| Each::<()>::new(on_error).add(Err(error));
        assert!(add(OnError::Fail, ApiError::invalid("bad").at(0)).is_err());
        for code in Code::ALL {
            let own = matches!(
                code,
                Code::InvalidRequest
                    | Code::UnsupportedMediaType
                    | Code::InvalidImage
                    | Code::ImageNotFetched
                    | Code::InvalidText
            );
            assert_eq!(add(OnError::Partial, ApiError::new(code, "bad").at(0)).is_ok(), own, "{code:?}");
            assert!(add(OnError::Partial, ApiError::new(code, "of no item")).is_err());
        }
    }
}
