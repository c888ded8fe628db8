//! HTTP: the route table, what surrounds the handlers, and the connections underneath.
//!
//! Owns everything that speaks HTTP. Does not own a model: handlers call the [`crate::embedder::Embedder`] facade.
//!
//! Four wings, each of which names only those behind it: `dialects` (other services' routes), `native` (our own), `request` (from a request to its items),
//! [`connection`] (sockets and clocks); beside them `page`, which a browser is given. What stands here surrounds them or is shared by them:
//!
//! ```text
//! layers, probes, root -> dialects -> native -> door, request -> reply -> answer -> state -> gate -> error -> connection
//! ```
//!
//! The way of a request:
//!
//! ```text
//! accept (connections, clocks) -> observe (id, log, metrics, error bodies) -> cors -> catch panics
//!   -> authenticate -> admit (request gate) -> receive (body gate, parsing) -> handler -> reply
//! ```

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
mod owners;
mod page;
mod probes;
mod quoted;
mod reply;
mod request;
mod root;
mod state;

use std::{any::Any, sync::Arc};

use axum::{
    Router, middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

pub use connection::peers::Peers;
pub use error::{ApiError, Code};
pub use state::AppState;

use self::{
    dialects::{immich, openai, tei, weaviate},
    error::NATIVE,
    native::{classify, embed},
    owners::Routes,
};
use crate::telemetry::panic_text;

/// Every route, and in whose shape it refuses what nobody has read yet.
const ROUTES: Routes = Routes {
    templates: &[
        ("/embed/image", NATIVE),
        ("/embed/text", NATIVE),
        ("/similarity", NATIVE),
        ("/classify", NATIVE),
        ("/info", NATIVE),
        ("/page/{name}", NATIVE),
        ("/livez", NATIVE),
        ("/readyz", NATIVE),
        ("/metrics", NATIVE),
        ("/v1/embeddings", openai::ERRORS),
        ("/embeddings", openai::ERRORS),
        ("/vectorize", weaviate::ERRORS),
        ("/meta", weaviate::ERRORS),
        ("/.well-known/live", weaviate::ERRORS),
        ("/.well-known/ready", weaviate::ERRORS),
        ("/predict", immich::ERRORS),
        ("/ping", immich::ERRORS),
        ("/embed", tei::ERRORS),
        ("/", tei::ERRORS),
        ("/tokenize", tei::ERRORS),
        ("/decode", tei::ERRORS),
    ],
    prefixes: &[("/v1/", openai::ERRORS)],
};

/// The service on the main listener.
pub fn router(state: Arc<AppState>) -> Router {
    let gated = Router::new()
        .route("/embed/image", post(embed::embed_image))
        .route("/embed/text", post(embed::embed_text))
        .route("/similarity", post(tei::similarity))
        .route("/classify", post(classify::classify))
        .route("/v1/embeddings", post(dialects::embed::<openai::Embeddings>))
        .route("/embeddings", post(dialects::embed::<openai::Embeddings>))
        .route("/vectorize", post(dialects::embed::<weaviate::Vectorize>))
        .route("/predict", post(dialects::embed::<immich::Predict>))
        .route("/embed", post(dialects::embed::<tei::Embed>))
        .route("/", post(dialects::embed::<tei::Embed>))
        .route("/tokenize", post(tei::tokens::tokenize))
        .route("/decode", post(tei::tokens::decode))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&state), layers::admit));
    let keyed = gated
        .route("/info", get(tei::info::info))
        .route("/meta", get(weaviate::meta))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&state), layers::authenticate));
    let open = Router::new()
        .route("/", get(root::root))
        .route("/page/{name}", get(page::asset))
        .route("/ping", get(immich::ping))
        .route("/.well-known/live", get(weaviate::live))
        .route("/.well-known/ready", get(weaviate::ready));
    surround(keyed.merge(open).merge(probe_routes()), state)
}

/// The service on the admin listener: probes and metrics alone.
pub fn admin_router(state: Arc<AppState>) -> Router {
    surround(probe_routes(), state)
}

fn probe_routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/livez", get(probes::livez))
        .route("/readyz", get(probes::readyz))
        .route("/metrics", get(probes::metrics))
}

fn surround(routes: Router<Arc<AppState>>, state: Arc<AppState>) -> Router {
    let metrics = Arc::clone(&state.metrics);
    let on_panic = move |panic: Box<dyn Any + Send>| -> Response {
        metrics.http_panics.inc();
        ApiError::internal(format!("the handler panicked: {}", panic_text(panic.as_ref()))).into_response()
    };
    routes
        .fallback(|| async { ApiError::new(Code::NotFound, "no such route; GET /info says what runs here") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(Code::MethodNotAllowed, "the route exists with the methods in the Allow header")
        })
        .layer(
            ServiceBuilder::new()
                .layer(middleware::from_fn_with_state((Arc::clone(&state), &ROUTES), layers::observe))
                .option_layer(cors::layer(&state.config.server.cors_origins))
                .layer(CatchPanicLayer::custom(on_panic)),
        )
        .with_state(state)
}
