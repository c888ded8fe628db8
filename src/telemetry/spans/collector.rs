//! The way of spans to the collector: a bounded number that wait, one thread that sends, and a count of what did not arrive.
//!
//! Owns the bound, the requests to the collector by the client that all of this program has, the count, and the line of the log that says
//! of it. Does not own batching, encoding or retries, which are OpenTelemetry's own, nor what a span is (`super`).
//!
//! Invariants: whoever ends a span never waits; a span that does not arrive is counted once, whether there was no room for it, the
//! collector did not answer, or it took a batch only in part; the log says of that once a minute at most.

use std::{
    future::{self, Future},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use opentelemetry::Context;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter as Otlp, WithExportConfig, WithHttpConfig};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor},
};
use prometheus::IntCounter;
use prost::Message;
use ureq::{
    Agent,
    config::ConfigBuilder,
    http::{HeaderMap, HeaderName, HeaderValue},
    typestate::AgentScope,
};

use crate::config::{Address, OtlpConfig, Secret, without_passwords};

/// Spans that may wait, those that are being sent among them.
const MAX_WAITING: usize = 2048;

/// Spans in one request to the collector, and how long the first one waits for others.
const BATCH: usize = 512;
const DELAY: Duration = Duration::from_secs(5);

/// One request to the collector; and from its beginning on it is not tried again.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of the collector's answer.
const MAX_ANSWER: u64 = 64 << 10;

/// Between two lines of the log.
const QUIET: Duration = Duration::from_secs(60);

/// What sends spans to the collector of `config`, dialled as `network` says.
///
/// # Errors
/// When a client cannot be made of it.
pub(super) fn processor(
    config: &OtlpConfig,
    network: ConfigBuilder<AgentScope>,
    dropped: IntCounter,
) -> Result<impl SpanProcessor + use<>, String> {
    let tally = Arc::new(Tally::new(&config.endpoint, dropped));
    let client = Client::new(config, network, Arc::clone(&tally))?;
    let exporter = Otlp::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(&config.endpoint)
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(TIMEOUT)
        .build()
        .map_err(|error| error.to_string())?;
    Ok(Bounded::new(exporter, tally, MAX_WAITING))
}

/// The client of the exporter.
#[derive(Debug)]
struct Client {
    agent: Agent,
    /// With every request.
    headers: HeaderMap,
    tally: Arc<Tally>,
}

impl Client {
    fn new(config: &OtlpConfig, network: ConfigBuilder<AgentScope>, tally: Arc<Tally>) -> Result<Self, String> {
        let header = |(name, value): &(String, Secret)| -> Result<_, String> {
            let mut value = HeaderValue::from_str(value.expose()).map_err(|error| error.to_string())?;
            value.set_sensitive(true);
            Ok((name.parse::<HeaderName>().map_err(|error| error.to_string())?, value))
        };
        let headers = config.headers.iter().map(header).collect::<Result<HeaderMap, _>>()?;
        let agent = network.timeout_global(Some(TIMEOUT)).max_redirects(0).build().into();
        Ok(Self { agent, headers, tally })
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (mut head, body) = request.into_parts();
        head.headers.extend(self.headers.clone());
        let response = self.agent.run(Request::from_parts(head, &body[..]))?;
        let (head, mut body) = response.into_parts();
        let body = body.with_config().limit(MAX_ANSWER).read_to_vec()?;
        if head.status.is_success() {
            self.tally.answered(&body);
        } else {
            self.tally.failed(format!("it answers {}", head.status));
        }
        Ok(Response::from_parts(head, body.into()))
    }
}

type Sent<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Client {
    /// Blocks: it is called by the thread that sends, which has nothing else to do.
    fn send_bytes<'client, 'sent>(&'client self, request: Request<Bytes>) -> Sent<'sent>
    where
        'client: 'sent,
        Self: 'sent,
    {
        let sent = self.send(request).inspect_err(|error| self.tally.failed(without_passwords(&error.to_string())));
        Box::pin(future::ready(sent))
    }
}

/// What did not arrive, and what was said of it.
#[derive(Debug)]
struct Tally {
    endpoint: Address,
    dropped: IntCounter,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// Of all that were dropped, those that the log has told of.
    spans: u64,
    last: Option<Instant>,
    /// Why the collector took nothing the last time.
    fault: Option<String>,
}

impl Tally {
    fn new(endpoint: &str, dropped: IntCounter) -> Self {
        Self { endpoint: Address::new(endpoint), dropped, told: Mutex::default() }
    }

    /// An attempt has failed; others may follow.
    fn failed(&self, fault: String) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).fault = Some(fault);
    }

    /// The collector has taken a batch, or a part of it.
    fn answered(&self, body: &[u8]) {
        let rejected = ExportTraceServiceResponse::decode(body).ok().and_then(|answer| answer.partial_success);
        let rejected = rejected.and_then(|partial| u64::try_from(partial.rejected_spans).ok()).unwrap_or_default();
        self.told.lock().unwrap_or_else(PoisonError::into_inner).fault =
            (rejected > 0).then(|| "it refuses some of them".to_owned());
        self.dropped.inc_by(rejected);
    }

    /// Logs what was dropped since the last time, unless that was just now.
    fn tell(&self) {
        let dropped = self.dropped.get();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if dropped == told.spans || told.last.is_some_and(|last| last.elapsed() < QUIET) {
            return;
        }
        let (spans, reason) = (dropped - told.spans, told.fault.as_deref().unwrap_or("it takes them too slowly"));
        tracing::warn!(spans, endpoint = %self.endpoint, reason, "spans were dropped: the collector did not take them");
        (told.spans, told.last) = (dropped, Some(Instant::now()));
    }
}

/// OpenTelemetry's batching in front of `exporter`, with a bound that counts.
#[derive(Debug)]
struct Bounded {
    batches: BatchSpanProcessor,
    /// Ended and not yet sent or given up.
    waiting: Arc<AtomicUsize>,
    most: usize,
    tally: Arc<Tally>,
}

impl Bounded {
    fn new(exporter: impl SpanExporter + 'static, tally: Arc<Tally>, most: usize) -> Self {
        let waiting = Arc::<AtomicUsize>::default();
        let exporter = Counted { exporter, waiting: Arc::clone(&waiting), tally: Arc::clone(&tally) };
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(most)
            .with_max_export_batch_size(BATCH.min(most))
            .with_scheduled_delay(DELAY)
            .build();
        Self { batches: BatchSpanProcessor::builder(exporter).with_batch_config(config).build(), waiting, most, tally }
    }
}

impl SpanProcessor for Bounded {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < self.most {
            self.batches.on_end(span);
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.tally.dropped.inc();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// `exporter`, whose batches make room when they are done with.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    waiting: Arc<AtomicUsize>,
    tally: Arc<Tally>,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        if result.is_err() {
            self.tally.dropped.inc_by(spans as u64);
        }
        self.tally.tell();
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver, Sender};

    use opentelemetry::trace::{Tracer, TracerProvider};
    use opentelemetry_sdk::{error::OTelSdkError, trace::SdkTracerProvider};

    use super::*;

    /// Says how many spans it has been given, and waits for the test to say what became of them.
    #[derive(Debug)]
    struct Asking {
        given: Sender<usize>,
        leave: Mutex<Receiver<OTelSdkResult>>,
    }

    impl SpanExporter for Asking {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.given.send(batch.len()).expect("the test listens");
            self.leave.lock().expect("one thread").recv().expect("the test answers")
        }
    }

    struct Fixture {
        provider: SdkTracerProvider,
        dropped: IntCounter,
        given: Receiver<usize>,
        leave: Sender<OTelSdkResult>,
    }

    fn fixture(most: usize) -> Fixture {
        let dropped = IntCounter::new("dropped", "spans").expect("a name");
        let ((given, seen), (leave, asked)) = (mpsc::channel(), mpsc::channel());
        let exporter = Asking { given, leave: Mutex::new(asked) };
        let processor = Bounded::new(exporter, Arc::new(Tally::new("http://c", dropped.clone())), most);
        let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
        Fixture { provider, dropped, given: seen, leave }
    }

    impl Fixture {
        fn end_spans(&self, count: usize) {
            let tracer = self.provider.tracer("test");
            (0..count).for_each(|_| drop(tracer.start("span")));
        }
    }

    #[test]
    fn spans_that_find_no_room_are_counted_and_nobody_waits() {
        let fixture = fixture(4);
        fixture.end_spans(4);
        // All four are being sent now, and are still there.
        assert_eq!(fixture.given.recv(), Ok(4));
        fixture.end_spans(3);
        assert_eq!(fixture.dropped.get(), 3);
        fixture.leave.send(Ok(())).expect("it waits");
        fixture.leave.send(Ok(())).expect("it will wait");
        fixture.provider.force_flush().expect("nothing is left");
        fixture.end_spans(1);
        fixture.provider.shutdown().expect("sent");
        assert_eq!((fixture.given.recv(), fixture.dropped.get()), (Ok(1), 3), "there is room again");
    }

    #[test]
    fn a_batch_that_fails_is_counted_once() {
        let fixture = fixture(4);
        fixture.end_spans(3);
        fixture.leave.send(Err(OTelSdkError::InternalFailure("gone".to_owned()))).expect("it will wait");
        assert!(fixture.provider.force_flush().is_err());
        assert_eq!((fixture.given.recv(), fixture.dropped.get()), (Ok(3), 3));
    }

    #[test]
    fn what_a_collector_refuses_of_a_batch_is_counted() {
        let tally = Tally::new("http://c", IntCounter::new("dropped", "spans").expect("a name"));
        // partial_success { rejected_spans: 7 }
        tally.answered(&[0x0a, 0x02, 0x08, 0x07]);
        tally.answered(&[]);
        tally.answered(b"no protobuf");
        assert_eq!(tally.dropped.get(), 7);
    }
}
