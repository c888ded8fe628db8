//! HTTP: the route table, what surrounds the handlers, and the connections underneath.
//!
//! Owns everything that speaks HTTP. Does not own a model: handlers call the [`crate::embedder::Embedder`] facade.
//!
//! Four wings, each of which names only those behind it: `dialects` (other services' routes), `native` (our own), `request` (from a request to its items),
//! [`connection`] (sockets and clocks); beside them `page`, which a browser is given. What stands here surrounds them or is shared by them:
//!
//! ```text
//! reference -> openapi -> layers, probes, root -> dialects -> native -> door, request -> reply -> answer -> state -> gate
//!     -> access, operation, schema -> error, trace -> connection
//! ```
//!
//! The way of a request:
//!
//! ```text
//! accept (connections, clocks) -> observe (id, log, metrics, error bodies) -> cors -> catch panics
//!   -> authenticate -> admit (request gate) -> receive (body gate, parsing) -> handler -> reply
//! ```

pub mod access;
mod answer;
pub mod connection;
mod cors;
mod dialects;
mod door;
mod embedding;
mod error;
mod gate;
mod layers;
mod native;
mod numpy;
mod openapi;
mod operation;
mod owners;
mod page;
mod path;
mod probes;
mod quoted;
mod reference;
mod reply;
mod request;
mod root;
mod schema;
mod state;
mod trace;

use std::{any::Any, sync::Arc};

use axum::{
    Router, middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::Method;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

pub use connection::peers::Peers;
pub use error::{ApiError, Code};
pub use state::AppState;

use self::{
    access::{Access, AccessError, UnknownPath},
    dialects::{cohere, immich, infinity, jina, nim, oip, openai, tei, voyage, weaviate},
    error::NATIVE,
    layers::Observer,
    native::{classify, embed},
    owners::{Route, Routes},
};
use crate::{
    config::ServerConfig,
    telemetry::{Metrics, panic_text},
    watched::Watched,
};

/// Every route, in whose shape it refuses what nobody has read yet, and whether it is a probe.
const ROUTES: Routes = Routes {
    routes: &[
        Route::of("/embed/image", NATIVE),
        Route::of("/embed/text", NATIVE),
        Route::of("/similarity", NATIVE),
        Route::of("/classify", NATIVE),
        Route::of("/info", NATIVE),
        Route::of("/page/{name}", NATIVE),
        Route::probe("/livez", NATIVE),
        Route::probe("/readyz", NATIVE),
        Route::probe("/metrics", NATIVE),
        Route::of("/openapi.json", NATIVE),
        Route::of("/docs", NATIVE),
        Route::of("/v1/embeddings", openai::UNREAD),
        Route::of("/embeddings", openai::ERRORS),
        Route::of("/vectorize", weaviate::ERRORS),
        Route::of("/meta", weaviate::ERRORS),
        Route::probe("/.well-known/live", weaviate::ERRORS),
        Route::probe("/.well-known/ready", weaviate::ERRORS),
        Route::of("/predict", immich::ERRORS),
        Route::probe("/ping", immich::ERRORS),
        Route::of("/embed", tei::ERRORS),
        Route::of("/", tei::ERRORS),
        Route::of("/tokenize", tei::ERRORS),
        Route::of("/decode", tei::ERRORS),
        Route::of("/v1/models", openai::ERRORS),
        Route::of("/v1/models/{*id}", openai::ERRORS),
        Route::of("/models", openai::ERRORS),
        Route::probe("/health", openai::ERRORS),
        Route::probe("/v1/health/ready", openai::ERRORS),
        Route::probe("/v1/health/live", openai::ERRORS),
        Route::of("/v1/embed", cohere::ERRORS),
        Route::of("/v2/embed", cohere::ERRORS),
        Route::of("/v1/multimodalembeddings", voyage::ERRORS),
        Route::of("/v1/classify", jina::ERRORS),
        Route::of("/v2", oip::route::ERRORS),
        Route::probe("/v2/health/live", oip::route::ERRORS),
        Route::probe("/v2/health/ready", oip::route::ERRORS),
        Route::of("/v2/models/{*path}", oip::route::ERRORS),
        Route::of("/v2/repository/index", oip::route::ERRORS),
    ],
    prefixes: &[
        ("/v1/", openai::ERRORS),
        ("/v2/health", oip::route::ERRORS),
        ("/v2/models", oip::route::ERRORS),
        ("/v2/repository", oip::route::ERRORS),
    ],
};

/// Whether every path that the configuration names is a route; the module that reads the configuration knows no routes.
///
/// # Errors
/// [`UnknownPath`].
pub fn check(server: &ServerConfig) -> Result<(), UnknownPath> {
    Access::check(server, templates())
}

/// Who may ask, as configured, and the file that is to be watched for it, where there is one.
///
/// # Errors
/// One line for the operator.
pub fn start_access(server: &ServerConfig, metrics: &Arc<Metrics>) -> Result<(Access, Option<Watched>), AccessError> {
    Access::start(server, metrics, templates())
}

fn templates() -> impl Iterator<Item = &'static str> {
    ROUTES.routes.iter().map(|route| route.template)
}

/// The service on the main listener.
pub fn router(state: Arc<AppState>) -> Router {
    let gated = Router::new()
        .route("/embed/image", post(embed::embed_image))
        .route("/embed/text", post(embed::embed_text))
        .route("/similarity", post(tei::similarity))
        .route("/classify", post(classify::classify))
        .route("/v1/embeddings", post(dialects::embed::<openai::Embeddings>))
        .route("/embeddings", post(dialects::embed::<openai::Embeddings>))
        .route("/v1/embed", post(dialects::embed::<cohere::Embed<1>>))
        .route("/v2/embed", post(dialects::embed::<cohere::Embed<2>>))
        .route("/v1/multimodalembeddings", post(dialects::embed::<voyage::Multimodal>))
        .route("/v1/classify", post(dialects::embed::<jina::Classify>))
        .route("/vectorize", post(dialects::embed::<weaviate::Vectorize>))
        .route("/predict", post(dialects::embed::<immich::Predict>))
        .route("/embed", post(dialects::embed::<tei::Embed>))
        .route("/", post(dialects::embed::<tei::Embed>))
        .route("/tokenize", post(tei::tokens::tokenize))
        .route("/decode", post(tei::tokens::decode))
        .route("/v2/models/{*path}", post(oip::infer::infer))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&state), layers::admit));
    let keyed = gated
        .route("/info", get(tei::info::info))
        .route("/meta", get(weaviate::meta))
        .route("/v1/models", get(infinity::openais_models))
        .route("/v1/models/{*id}", get(infinity::openais_model))
        .route("/models", get(infinity::models))
        .route("/v2", get(oip::metadata::server))
        .route("/v2/models/{*path}", get(oip::metadata::model))
        .route("/v2/repository/index", post(oip::metadata::index))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&state), layers::authenticate));
    let open = probe_routes()
        .route("/", get(root::root))
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(reference::page))
        .route("/page/{name}", get(page::asset))
        .route("/ping", get(immich::ping))
        .route("/health", get(infinity::health))
        .route("/.well-known/live", get(weaviate::live))
        .route("/.well-known/ready", get(weaviate::ready))
        .route("/v1/health/ready", get(nim::ready))
        .route("/v1/health/live", get(nim::live))
        .route("/v2/health/live", get(oip::metadata::live))
        .route("/v2/health/ready", get(oip::metadata::ready));
    let scheme = if state.config.server.tls.is_some() { "https" } else { "http" };
    surround(keyed.merge(open), state, scheme, "no such route; GET /docs lists them")
}

/// The service on the admin listener: probes and metrics alone.
pub fn admin_router(state: Arc<AppState>) -> Router {
    surround(probe_routes(), state, "http", "no such route; this listener has /livez, /readyz and /metrics")
}

fn probe_routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/livez", get(probes::livez))
        .route("/readyz", get(probes::readyz))
        .route("/metrics", get(probes::metrics))
}

/// `unknown` is said of a path that is none.
fn surround(
    routes: Router<Arc<AppState>>,
    state: Arc<AppState>,
    scheme: &'static str,
    unknown: &'static str,
) -> Router {
    let metrics = Arc::clone(&state.metrics);
    let on_panic = move |panic: Box<dyn Any + Send>| -> Response {
        metrics.http_panics.inc();
        ApiError::internal(format!("the handler panicked: {}", panic_text(panic.as_ref()))).into_response()
    };
    let observer = Observer { state: Arc::clone(&state), routes: &ROUTES, scheme };
    routes
        .fallback(move || async move { ApiError::new(Code::NotFound, unknown) })
        .method_not_allowed_fallback(method_not_allowed)
        .layer(
            ServiceBuilder::new()
                .layer(middleware::from_fn_with_state(observer, layers::observe))
                .option_layer(cors::layer(&state.config.server.cors_origins))
                .layer(CatchPanicLayer::custom(on_panic)),
        )
        .with_state(state)
}

/// Every path takes GET, POST, or both, so what it takes follows from what it does not. Axum adds the `Allow` header behind all of this.
async fn method_not_allowed(method: Method) -> ApiError {
    let message = match method {
        Method::GET | Method::HEAD => "the path takes POST",
        Method::POST => "the path takes GET",
        _ => "the path does not take this method; the Allow header says what it takes",
    };
    ApiError::new(Code::MethodNotAllowed, message)
}
