//! Where a request of the protocol goes by its path, and how its errors look.
//!
//! Owns the model's name, the version and the verb in a path. A name may have slashes in it, as those on a hub do, and Triton's clients
//! leave them as they are: so the path is read from its end.

use schemars::JsonSchema;
use serde::Serialize;

use crate::http::{
    ApiError, Code,
    error::{ErrorShape, Shaped},
    quoted::Quoted,
};

/// Errors as Triton writes them: `{"error": ".."}`.
pub(in crate::http) const ERRORS: ErrorShape = ErrorShape::of::<Envelope<'static>>(error);

/// What its routes stand under in the OpenAPI document.
pub(super) const TAG: &str = "Open Inference Protocol";

/// The only version of a model.
pub(super) const VERSION: &str = "1";

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OipError")]
struct Envelope<'a> {
    error: &'a str,
}

fn error(error: &ApiError, _request_id: &str) -> Shaped {
    Shaped::json(error.code.status(), &Envelope { error: &error.message })
}

/// What is asked of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// Its metadata.
    Describe,
    /// Whether it is ready.
    Ready,
    /// Its configuration, as Triton has one.
    Configuration,
    /// To run it.
    Infer,
}

/// A path below `/v2/models/`, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) model: &'a str,
    pub(super) verb: Verb,
}

impl<'a> Target<'a> {
    /// `{model}[/versions/{version}][/ready|/config|/infer]`.
    ///
    /// # Errors
    /// 404 for another version.
    pub(super) fn read(path: &'a str) -> Result<Self, ApiError> {
        let verbs = [("/ready", Verb::Ready), ("/config", Verb::Configuration), ("/infer", Verb::Infer)];
        let (path, verb) = verbs
            .into_iter()
            .find_map(|(end, verb)| Some((path.strip_suffix(end)?, verb)))
            .unwrap_or((path, Verb::Describe));
        let model = match path.rsplit_once("/versions/") {
            Some((model, VERSION)) => model,
            Some((model, version)) => {
                let message = format!(
                    "the model `{}` has no version `{}`; its only one is {VERSION}, so name that one or none",
                    Quoted(model),
                    Quoted(version)
                );
                return Err(ApiError::new(Code::ModelNotFound, message));
            }
            None => path,
        };
        Ok(Self { model, verb })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_from_its_end() {
        for (path, model, verb) in [
            ("clip", "clip", Verb::Describe),
            ("clip/ready", "clip", Verb::Ready),
            ("clip/infer", "clip", Verb::Infer),
            ("clip/config", "clip", Verb::Configuration),
            ("openai/clip-vit/versions/1/config", "openai/clip-vit", Verb::Configuration),
            ("clip/versions/1", "clip", Verb::Describe),
            ("openai/clip-vit/versions/1/infer", "openai/clip-vit", Verb::Infer),
        ] {
            assert_eq!(Target::read(path).expect(path), Target { model, verb });
        }
        for path in ["clip/versions/2", "clip/versions/2/infer", "clip/versions/1/stats", "clip/versions/"] {
            let error = Target::read(path).expect_err(path);
            assert_eq!(error.code, Code::ModelNotFound);
            assert!(error.message.contains("only one is 1"), "{}", error.message);
        }
    }
}
