//! What every handler shares.
//!
//! Owns [`AppState`]: configuration, metrics, health, the request gate, and the model once it is loaded.

use std::sync::{Arc, OnceLock};

use http::HeaderValue;

use super::{ApiError, Code, Peers, access::Access, gate::Gate, quoted::Quoted};
use crate::{
    budget::ByteBudget,
    config::Config,
    embedder::Embedder,
    health::{Health, Readiness},
    telemetry::{LogLimit, Metrics, Reject},
    web::Web,
};

/// What infinity's own client names when its user names none.
const UNSPECIFIED: &str = "default/not-specified";

/// Shared by all handlers of one server.
#[derive(Debug)]
pub struct AppState {
    /// The configuration.
    pub config: Arc<Config>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Liveness and readiness.
    pub health: Arc<Health>,
    /// The connections of the main listener.
    pub peers: Peers,
    /// The request gate: `limits.max_inflight_requests`.
    pub gate: Gate,
    /// The body gate: `limits.max_inflight_body_bytes`.
    pub bodies: ByteBudget,
    /// The answers' room: `limits.max_inflight_answer_bytes`.
    pub answers: ByteBudget,
    /// Who may ask.
    pub access: Access,
    /// Lines of the log about what was refused for a fault of the client's, or for want of room.
    pub(super) refusals: LogLimit,
    /// The same about what could not be answered: a deadline of the client's is one reason.
    pub(super) unanswered: LogLimit,
    web: Option<Web>,
    embedder: OnceLock<Embedder>,
    /// Of the model, as a header.
    fingerprint: OnceLock<HeaderValue>,
}

impl AppState {
    /// The state of a server whose model is still to come.
    pub fn new(config: Arc<Config>, metrics: Arc<Metrics>, health: Arc<Health>) -> Self {
        Self {
            peers: Peers::new(Arc::clone(&metrics), config.server.body_timeout),
            gate: Gate::new(config.limits.max_inflight_requests, Arc::clone(&metrics)),
            bodies: ByteBudget::new(config.limits.max_inflight_body_bytes),
            answers: ByteBudget::new(config.limits.max_inflight_answer_bytes),
            access: Access::without_file(&config.server, &metrics),
            refusals: LogLimit::default(),
            unanswered: LogLimit::default(),
            config,
            metrics,
            health,
            web: None,
            embedder: OnceLock::new(),
            fingerprint: OnceLock::new(),
        }
    }

    /// With what fetches pictures, where there is something.
    pub fn with_web(self, web: Option<Web>) -> Self {
        Self { web, ..self }
    }

    /// With who may ask, where that is more than `server.api_key` says.
    pub fn with_access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// What fetches pictures; `None` where nothing is fetched.
    pub(super) fn web(&self) -> Option<&Web> {
        self.web.as_ref()
    }

    /// The model is loaded: from now on requests are served.
    pub fn set_embedder(&self, embedder: Embedder) {
        if let Ok(fingerprint) = HeaderValue::from_str(&embedder.info().fingerprint) {
            let _ = self.fingerprint.set(fingerprint);
        }
        if self.embedder.set(embedder).is_err() {
            tracing::error!("a second model was loaded; the first one stays");
            return;
        }
        self.health.advance(Readiness::Ready);
        self.metrics.ready.set(i64::from(self.health.readiness() == Readiness::Ready));
    }

    /// The model.
    ///
    /// # Errors
    /// `not_ready` while it loads, `shutting_down` when it never will.
    pub fn embedder(&self) -> Result<&Embedder, ApiError> {
        self.embedder.get().ok_or_else(|| match self.health.readiness() {
            Readiness::Draining => {
                self.metrics.reject(Reject::ShuttingDown);
                ApiError::shutting_down()
            }
            Readiness::Starting | Readiness::Ready => {
                self.metrics.reject(Reject::NotReady);
                ApiError::not_ready()
            }
        })
    }

    /// Whether requests are served: the model is loaded, and the server is not draining.
    ///
    /// # Errors
    /// `not_ready`, `shutting_down`.
    pub(super) fn check_ready(&self) -> Result<(), ApiError> {
        match self.health.readiness() {
            Readiness::Ready => Ok(()),
            Readiness::Starting => Err(ApiError::not_ready()),
            Readiness::Draining => Err(ApiError::shutting_down()),
        }
    }

    /// The model of that name: the one that is served, by its own name or one of `model.aliases`.
    ///
    /// # Errors
    /// `model_not_found` for another, and as [`Self::embedder`].
    pub fn resolve(&self, model: Option<&str>) -> Result<&Embedder, ApiError> {
        let embedder = self.embedder()?;
        let name = &embedder.info().name;
        let is_served = |asked: &str| {
            asked.is_empty()
                || asked == name
                || asked == UNSPECIFIED
                || self.config.model.aliases.iter().any(|alias| alias == asked)
        };
        match model {
            Some(asked) if !is_served(asked) => {
                let message = format!(
                    "the model `{}` is not served, `{}` is; name that one, leave the name out, or add the name to model.aliases",
                    Quoted(asked),
                    Quoted(name)
                );
                Err(ApiError::new(Code::ModelNotFound, message))
            }
            _ => Ok(embedder),
        }
    }

    /// The fingerprint of the model, once it is loaded.
    pub(super) fn fingerprint(&self) -> Option<HeaderValue> {
        self.fingerprint.get().cloned()
    }

    /// `/readyz` turns to 503; requests are still served.
    pub fn start_draining(&self) {
        self.health.advance(Readiness::Draining);
        self.metrics.ready.set(0);
    }

    /// Takes the model out, to shut it down, once no handler is left.
    pub fn into_embedder(self) -> Option<Embedder> {
        self.embedder.into_inner()
    }
}

#[cfg(test)]
impl AppState {
    /// Without a model, with the defaults and `set`.
    pub(super) fn of_a_test(set: &[&str]) -> Self {
        use std::time::Duration;

        let set = ["model.path=m"].iter().chain(set).map(|&key| key.to_owned()).collect();
        let loaded = crate::config::load(&crate::config::Overrides { set, ..Default::default() }, []).expect("valid");
        Self::new(loaded.config.into(), Arc::new(Metrics::new()), Arc::new(Health::new(Duration::from_secs(60))))
    }
}
