//! Whose a path is: the label that its requests are counted by, and the shape of what is refused before anybody has read their body.
//!
//! Owns the look-up. Does not own the table, which stands with the routes.

use super::error::{ErrorShape, NATIVE};

/// Every route template with the shape of its first owner's errors, and those of paths that are no route.
#[derive(Debug)]
pub(super) struct Routes {
    /// The closed set of the `route` label.
    pub(super) templates: &'static [(&'static str, ErrorShape)],
    /// Of what is not among them, by the start of the path; all else has ours.
    pub(super) prefixes: &'static [(&'static str, ErrorShape)],
}

impl Routes {
    /// The label and the shape of a request for `path`, which was matched by `template` if any.
    pub(super) fn of(&self, template: Option<&str>, path: &str) -> (&'static str, ErrorShape) {
        let found = template.and_then(|template| self.templates.iter().find(|(route, _)| *route == template));
        let unknown = || {
            let prefix = self.prefixes.iter().find(|(prefix, _)| path.starts_with(prefix));
            ("other", prefix.map_or(NATIVE, |(_, shape)| *shape))
        };
        found.copied().unwrap_or_else(unknown)
    }
}
