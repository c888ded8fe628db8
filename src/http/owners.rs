//! Whose a path is: the label that its requests are counted by, the shape of what is refused before anybody has read their body, and
//! whether it is a probe.
//!
//! Owns the look-up. Does not own the table, which stands with the routes.

use super::error::{ErrorShape, NATIVE};

/// What is known of a request by its path alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    /// The template, which is also the value of the `route` label.
    pub(super) template: &'static str,
    /// The shape of its first owner's errors.
    pub(super) errors: ErrorShape,
    /// Whether platforms ask it all the time: the spans of these would be most that a service at rest has.
    pub(super) is_probe: bool,
}

impl Route {
    /// What clients ask.
    pub(super) const fn of(template: &'static str, errors: ErrorShape) -> Self {
        Self { template, errors, is_probe: false }
    }

    /// What platforms ask.
    pub(super) const fn probe(template: &'static str, errors: ErrorShape) -> Self {
        Self { template, errors, is_probe: true }
    }
}

/// Every route, and whose the paths are that are none.
#[derive(Debug)]
pub(super) struct Routes {
    /// Their templates are the closed set of the `route` label.
    pub(super) routes: &'static [Route],
    /// The shape of errors of what is not among them, by the start of the path; all else has ours.
    pub(super) prefixes: &'static [(&'static str, ErrorShape)],
}

impl Routes {
    /// The route of a request for `path`, which was matched by `template` if any; one of the label `other` where it is none.
    pub(super) fn of(&self, template: Option<&str>, path: &str) -> Route {
        let found = template.and_then(|template| self.routes.iter().find(|route| route.template == template));
        let unknown = || {
            let prefix = self.prefixes.iter().find(|(prefix, _)| path.starts_with(prefix));
            Route::of("other", prefix.map_or(NATIVE, |(_, shape)| *shape))
        };
        found.copied().unwrap_or_else(unknown)
    }
}
