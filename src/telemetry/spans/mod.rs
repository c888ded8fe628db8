//! The spans of a service: one for each request and one for each run of an encoder, which names the requests in it.
//!
//! Owns what a span says, which requests have one, and OpenTelemetry's libraries, which nothing else in this program names. Does not own who
//! asks for a span, nor the way to the collector (`collector`).
//!
//! A run is of several requests, so it is a trace of its own with a link to each of them. It is there when one of them is traced; those
//! that are not have no link. A request whose item is computed for another one, or known, is in no run.
//!
//! Invariants: without `telemetry.otlp_endpoint` there is no thread, no lock and no allocation; nobody waits for a collector; what a client
//! chooses has a bound in every span.

mod collector;
mod context;

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use opentelemetry::{
    Context, KeyValue,
    trace::{
        Link, Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
        Tracer, TracerProvider,
    },
};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SamplingResult, SdkTracer, SdkTracerProvider, ShouldSample, Span},
};
use prometheus::IntCounter;
use ureq::{config::ConfigBuilder, typestate::AgentScope};
use uuid::Uuid;

use crate::config::OtlpConfig;

/// Bytes of a path in a span.
const MAX_PATH: usize = 256;

/// Requests that a run names.
const MAX_LINKS: usize = 128;

/// Bytes of the reason of a run that failed.
const MAX_REASON: usize = 256;

/// Begins spans, where they are wanted. Clones are of one.
#[derive(Clone, Debug, Default)]
pub struct Spans(Option<Arc<On>>);

#[derive(Debug)]
struct On {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// The head of a request.
#[derive(Clone, Debug)]
pub struct RequestHead<'a, S> {
    /// One of those that HTTP defines; `None` for any other.
    pub method: Option<&'static str>,
    /// `http`, or `https` where TLS ends here.
    pub scheme: &'static str,
    /// The template that its path has matched.
    pub route: Option<&'static str>,
    /// Without the query.
    pub path: &'a str,
    /// Its id in the log and in the answer.
    pub id: &'a str,
    /// The one header of that name.
    pub traceparent: Option<&'a str>,
    /// The values of all headers of that name.
    pub tracestate: S,
}

/// The span of a request, until it is dropped.
#[derive(Debug)]
pub struct RequestSpan(Span);

/// The span of a run, until it is dropped.
#[derive(Debug)]
pub struct RunSpan(Span);

/// A request that is traced, for the runs that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    trace: TraceId,
    span: SpanId,
}

/// One item of a run.
#[derive(Clone, Copy, Debug)]
pub struct RunItem {
    /// Its request, where that is traced.
    pub trace: Option<Trace>,
    /// How long it waited, for a preprocess thread and for a session.
    pub waited: Duration,
}

impl Spans {
    /// As `config` says; the collector is dialled as `network` says, and `dropped` counts the spans that it does not get.
    ///
    /// # Errors
    /// When no client can be made of it, in one line.
    pub fn start(config: &OtlpConfig, network: ConfigBuilder<AgentScope>, dropped: IntCounter) -> Result<Self, String> {
        let attributes = config.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
        let resource = Resource::builder_empty()
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", Uuid::now_v7().to_string()))
            .with_attributes(attributes);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(collector::processor(config, network, dropped)?)
            .with_sampler(Traced(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio)))))
            .with_resource(resource.build())
            .build();
        Ok(Self(Some(Arc::new(On { tracer: provider.tracer("clipserve"), provider }))))
    }

    /// Whether there are any.
    pub fn are_on(&self) -> bool {
        self.0.is_some()
    }

    /// A request begins; `None` where there are no spans at all. One that is not sampled has ids and is not sent.
    pub fn request<'a>(&self, head: RequestHead<'a, impl Iterator<Item = &'a str>>) -> Option<RequestSpan> {
        let On { tracer, .. } = self.0.as_deref()?;
        let RequestHead { method, scheme, route, path, id, traceparent, tracestate } = head;
        // As the conventions have a method that they do not know.
        let verb = method.unwrap_or("HTTP");
        let name = route.map_or(Cow::Borrowed(verb), |route| Cow::Owned(format!("{verb} {route}")));
        let path = path.get(..path.floor_char_boundary(MAX_PATH)).unwrap_or_default();
        let mut attributes = vec![
            KeyValue::new("http.request.method", method.unwrap_or("_OTHER")),
            KeyValue::new("url.path", path.to_owned()),
            KeyValue::new("url.scheme", scheme),
            KeyValue::new("clipserve.request_id", id.to_owned()),
        ];
        attributes.extend(route.map(|route| KeyValue::new("http.route", route)));
        let parent = traceparent.and_then(|traceparent| context::parent(traceparent, tracestate));
        let parent = parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
        let builder = tracer.span_builder(name).with_kind(SpanKind::Server).with_attributes(attributes);
        Some(RequestSpan(tracer.build_with_context(builder, &parent)))
    }

    /// A run of items of `modality` begins; `None` where none of their requests is traced.
    pub(super) fn run(&self, modality: &'static str, items: impl ExactSizeIterator<Item = RunItem>) -> Option<RunSpan> {
        let On { tracer, .. } = self.0.as_deref()?;
        let (size, mut longest) = (items.len(), Duration::ZERO);
        let mut requests: Vec<(Trace, i64, Duration)> = Vec::new();
        for RunItem { trace, waited } in items {
            longest = longest.max(waited);
            let Some(trace) = trace else { continue };
            if let Some((_, items, longest)) = requests.iter_mut().find(|(request, ..)| *request == trace) {
                (*items, *longest) = (*items + 1, waited.max(*longest));
            } else if requests.len() < MAX_LINKS {
                requests.push((trace, 1, waited));
            }
        }
        if requests.is_empty() {
            return None;
        }
        let wait = |waited: Duration| KeyValue::new("clipserve.queue.wait", waited.as_secs_f64());
        let link = |(trace, items, waited): (Trace, i64, Duration)| {
            Link::new(trace.context(), vec![KeyValue::new("clipserve.items", items), wait(waited)], 0)
        };
        let attributes = vec![
            KeyValue::new("clipserve.modality", modality),
            KeyValue::new("clipserve.batch.size", i64::try_from(size).unwrap_or(i64::MAX)),
            wait(longest),
        ];
        let builder = tracer.span_builder(format!("run {modality}")).with_kind(SpanKind::Internal);
        let builder = builder.with_attributes(attributes).with_links(requests.into_iter().map(link).collect());
        Some(RunSpan(tracer.build_with_context(builder, &Context::new())))
    }

    /// Sends what waits, for so long at most; blocks. There are no spans from then on.
    pub fn shut_down(&self, timeout: Duration) {
        let Some(on) = self.0.as_deref() else { return };
        if on.provider.shutdown_with_timeout(timeout).is_err() {
            tracing::warn!("the last spans were not sent in time");
        }
    }
}

/// Which requests are traced: those whose client says so, and a part of those without a trace. A run is, once it has a link.
#[derive(Clone, Debug)]
struct Traced(Sampler);

impl ShouldSample for Traced {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let sampler = if links.is_empty() { &self.0 } else { &Sampler::AlwaysOn };
        sampler.should_sample(parent, trace, name, kind, attributes, links)
    }
}

impl RequestSpan {
    /// The id of its trace, as W3C writes it.
    pub fn trace_id(&self) -> impl fmt::Display + use<> {
        self.0.span_context().trace_id()
    }

    /// Its own id, as W3C writes it.
    pub fn span_id(&self) -> impl fmt::Display + use<> {
        self.0.span_context().span_id()
    }

    /// For the runs that it is in; `None` where it is not sampled.
    pub fn trace(&self) -> Option<Trace> {
        let context = self.0.span_context();
        context.is_sampled().then(|| Trace { trace: context.trace_id(), span: context.span_id() })
    }

    /// What the header `traceresponse` says.
    pub fn traceresponse(&self) -> String {
        let sampled = u8::from(self.0.span_context().is_sampled());
        format!("00-{}-{}-{sampled:02x}", self.trace_id(), self.span_id())
    }

    /// It was answered with `status`, 499 where its client went away, and with the error of this code.
    pub fn end(mut self, status: u16, error: Option<&'static str>) {
        self.0.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if let Some(error) = error {
            self.0.set_attribute(KeyValue::new("error.type", error));
        }
        // The fault of a client is no error of a server's span.
        if status >= 500 {
            self.0.set_status(Status::error(""));
        }
    }
}

impl RunSpan {
    /// It has failed.
    pub fn fail(mut self, reason: &str) {
        let reason = reason.get(..reason.floor_char_boundary(MAX_REASON)).unwrap_or_default();
        self.0.set_status(Status::error(reason.to_owned()));
    }

    /// It was ended for others: the items in it are in another run, too.
    pub fn interrupted(mut self) {
        self.0.set_attribute(KeyValue::new("clipserve.interrupted", true));
    }
}

impl Trace {
    fn context(self) -> SpanContext {
        SpanContext::new(self.trace, self.span, TraceFlags::SAMPLED, false, TraceState::default())
    }
}
