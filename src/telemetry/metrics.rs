//! Every metric of the service, as one typed struct that owns its registry; beside them the spans, so that a stage which sees something
//! happen tells both in one place.
//!
//! Owns names, labels, buckets and help texts. Does not own when a value changes: the stage that sees it happen does; nor what a span is
//! (`spans`).
//!
//! Invariants: names follow Prometheus' rules (`clipserve_` prefix, base units, `_total` for counters); every label value
//! comes from a closed set (route templates, status codes, reasons; names of API keys, whose file is bounded), so the number of series is
//! bounded; counters with known labels are exported at zero from the start; two servers in one process share nothing but what is the
//! process's own.

use std::{convert::Infallible, sync::LazyLock, time::Duration};

use prometheus::{
    Encoder as _, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};

use super::{
    keys::{ByKey, KeyMetrics},
    reasons::{Ended, Fetch, FileKind, Handshake, Reject},
    register::Register,
    spans::{RunItem, RunSpan, Spans},
};

/// Latency buckets in seconds, 0.5 ms to 30 s: they straddle one image on a GPU and a full queue on a small CPU.
const LATENCY: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Buckets for one stage, 50 us to 10 s: tokenizing one text is at the bottom, a large decode at the top.
const STAGE: &[f64] =
    &[0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Batch sizes.
const BATCH: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// So much of a fingerprint is in `clipserve_build_info`: tells models apart, and fits into a legend.
const SHORT_FINGERPRINT: usize = "sha256:".len() + 12;

/// The outcomes of reading a file again.
const RELOADS: [&str; 2] = ["ok", "refused"];

/// Lines of the log that were lost. The log is the process's, so every registry has the same counter.
#[expect(clippy::expect_used, reason = "the name is a constant, checked by every test that starts a server")]
pub(super) static LOG_LINES_DROPPED: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Lines of the log that standard error did not take, or not in time";
    IntCounter::with_opts(Register::opts("log_lines_dropped_total", help)).expect("a constant name")
});

/// How an item's way through a lane ended: the values of `clipserve_items_total`'s `outcome` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An embedding was made.
    Ok,
    /// The input itself cannot be encoded.
    Invalid,
    /// Its deadline passed while it waited.
    Expired,
    /// Its client went away while it waited.
    Cancelled,
    /// The encoder failed, or there was no memory to prepare the input with.
    Failed,
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Ok, Self::Invalid, Self::Expired, Self::Cancelled, Self::Failed];

    fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Invalid => "invalid",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// What a cache knew of an item: the values of `clipserve_cache_lookups_total`'s `result` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Its embedding.
    Hit,
    /// Nothing: it is computed.
    Miss,
    /// That it is being computed: the answer is shared.
    Joined,
}

impl Lookup {
    const ALL: [Self; 3] = [Self::Hit, Self::Miss, Self::Joined];

    fn label(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Joined => "joined",
        }
    }
}

/// What is in one store of the cache.
#[derive(Clone, Debug)]
pub struct StoreMetrics {
    entries: IntGauge,
    bytes: IntGauge,
}

impl StoreMetrics {
    /// An entry of `bytes` came.
    pub fn add(&self, bytes: u32) {
        self.entries.inc();
        self.bytes.add(bytes.into());
    }

    /// An entry of `bytes` went.
    pub fn remove(&self, bytes: u32) {
        self.entries.dec();
        self.bytes.sub(bytes.into());
    }
}

/// The metrics of one queue.
#[derive(Clone, Debug)]
pub struct QueueMetrics {
    /// Items waiting.
    pub depth: IntGauge,
    /// How long each waited.
    pub wait: Histogram,
}

/// The metrics of one modality's lane, with its label already applied.
#[derive(Clone, Debug)]
pub struct LaneMetrics {
    /// The items that wait for a session.
    pub queue: QueueMetrics,
    /// Items in one run.
    pub batch_size: Histogram,
    /// Time of one run.
    pub inference: Histogram,
    /// Runs of the second class that were ended for the first.
    pub interrupted: IntCounter,
    /// Panics caught while a batch ran.
    pub panics: IntCounter,
    outcomes: [IntCounter; 5],
    lookups: [IntCounter; 3],
    modality: &'static str,
    spans: Spans,
}

impl LaneMetrics {
    /// A run begins; `None` where none of the requests in it is traced.
    pub fn begin_run(&self, items: impl ExactSizeIterator<Item = RunItem>) -> Option<RunSpan> {
        self.spans.run(self.modality, items)
    }

    /// The counter of items that ended so.
    pub fn items(&self, outcome: Outcome) -> &IntCounter {
        &self.outcomes[outcome as usize]
    }

    /// The counter of lookups in the cache with this result.
    pub fn lookups(&self, lookup: Lookup) -> &IntCounter {
        &self.lookups[lookup as usize]
    }
}

/// What the process is, for `clipserve_build_info`.
#[derive(Clone, Debug)]
pub struct BuildInfo {
    /// The execution provider really in use.
    pub provider: String,
    /// The precision in use.
    pub precision: String,
    /// ONNX Runtime's version.
    pub onnxruntime: String,
    /// The model's name.
    pub model: String,
    /// The model's fingerprint, whole.
    pub fingerprint: String,
}

/// Every metric. Cloning a field's handle is cheap; the registry is the struct's own.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    http_requests: IntCounterVec,
    http_duration: HistogramVec,
    /// Requests between their head and the end of their answer.
    pub in_flight: IntGauge,
    /// Open connections on the main listener.
    pub connections: IntGauge,
    /// 1 when `/readyz` answers 200.
    pub ready: IntGauge,
    rejected: IntCounterVec,
    connections_ended: IntCounterVec,
    web_pictures: IntCounterVec,
    tls_handshakes: IntCounterVec,
    by_key: ByKey,
    file_reloads: IntCounterVec,
    file_refused: IntGaugeVec,
    /// Images refused by the decoder, by format and reason.
    pub image_rejected: IntCounterVec,
    /// Panics caught in a decoder.
    pub preprocess_panics: IntCounter,
    /// Panics caught in a request handler.
    pub http_panics: IntCounter,
    /// Decode, from bytes to oriented RGB.
    pub decode: Histogram,
    /// Resize and crop.
    pub resize: Histogram,
    /// Tokenizing the texts of one request.
    pub tokenize: Histogram,
    /// Texts cut to the model's context length.
    pub text_truncated: IntCounter,
    /// The images that wait for a preprocess thread.
    pub preprocess_queue: QueueMetrics,
    /// The image lane.
    pub vision: LaneMetrics,
    /// The lane of images that come as floats.
    pub pixels: LaneMetrics,
    /// Embeddings in the cache.
    pub cached_embeddings: StoreMetrics,
    /// Token ids in the cache.
    pub cached_tokens: StoreMetrics,
    /// The text lane.
    pub text: LaneMetrics,
    build_info: IntGaugeVec,
    /// The spans.
    pub spans: Spans,
}

impl Metrics {
    /// A fresh set, all at zero, without spans.
    pub fn new() -> Self {
        match Self::with_spans(|_| Ok::<_, Infallible>(Spans::default())) {
            Ok(metrics) => metrics,
            Err(never) => match never {},
        }
    }

    /// A fresh set, all at zero, and the spans that `start` makes around the counter of those that are lost.
    ///
    /// # Errors
    /// Those of `start`.
    ///
    /// # Panics
    /// Never in practice: names and labels are constants, which the tests register.
    #[expect(clippy::expect_used, reason = "metric names are constants, checked by every test that starts a server")]
    pub fn with_spans<E>(start: impl FnOnce(IntCounter) -> Result<Spans, E>) -> Result<Self, E> {
        let registry = Registry::new();
        let register = Register(&registry);
        let dropped = "Spans that the collector did not take, or not in time";
        let spans = start(register.counter("spans_dropped_total", dropped))?;
        let http_requests =
            register.counters("http_requests_total", "HTTP requests answered", &["route", "method", "status"]);
        let http_duration = register.histograms(
            "http_request_duration_seconds",
            "Time from the head of a request to the end of its answer",
            &["route"],
            LATENCY,
        );
        let rejected = register.counters("rejected_total", "Requests refused at the door", &["reason"]);
        for reason in Reject::ALL {
            rejected.with_label_values(&[reason.label()]);
        }
        let connections_ended = register.counters(
            "connections_ended_total",
            "Connections of the main listener that were ended for others",
            &["reason"],
        );
        for reason in Ended::ALL {
            connections_ended.with_label_values(&[reason.label()]);
        }
        let web_pictures = register.counters(
            "web_pictures_total",
            "Pictures that were to be fetched from the web, by what became of that",
            &["outcome"],
        );
        for outcome in Fetch::ALL {
            web_pictures.with_label_values(&[outcome.label()]);
        }
        let tls_handshakes =
            register.counters("tls_handshakes_total", "TLS handshakes, by how they ended", &["outcome"]);
        for outcome in Handshake::ALL {
            tls_handshakes.with_label_values(&[outcome.label()]);
        }
        let by_key = ByKey {
            requests: register.counters(
                "key_requests_total",
                "Requests that brought an API key, by its name and their status (4xx is without 429)",
                &["key", "status"],
            ),
            in_flight: register.gauges(
                "key_requests_in_flight",
                "Requests that hold a place of that API key",
                &["key"],
            ),
        };
        let file_reloads = register.counters(
            "file_reloads_total",
            "Files that changed and were read again, by whether they are in use",
            &["file", "outcome"],
        );
        let file_refused =
            register.gauges("file_refused", "1 while a file is not what is in use, because it cannot be", &["file"]);
        for file in FileKind::ALL {
            for outcome in RELOADS {
                file_reloads.with_label_values(&[file.label(), outcome]);
            }
            file_refused.with_label_values(&[file.label()]);
        }
        let queue_depth =
            register.gauges("queue_depth", "Items waiting for a session, or for a preprocess thread", &["queue"]);
        let queue_wait =
            register.histograms("queue_wait_seconds", "Time an item waited in that queue", &["queue"], STAGE);
        let batch_size = register.histograms("batch_size", "Items in one run", &["modality"], BATCH);
        let interrupted = register.counters(
            "runs_interrupted_total",
            "Runs of the second class that were ended for the first, whose items waited again",
            &["modality"],
        );
        let stages = register.histograms("stage_duration_seconds", "Time spent in one stage", &["stage"], STAGE);
        let items = register.counters("items_total", "Images and texts, by how they ended", &["modality", "outcome"]);
        let panics = register.counters("panics_total", "Panics that were contained", &["where"]);
        let lookups = register.counters(
            "cache_lookups_total",
            "Images and texts, by what the cache knew of them",
            &["modality", "result"],
        );
        let cache_entries = register.gauges("cache_entries", "Entries in the cache", &["store"]);
        let cache_bytes = register.gauges("cache_bytes", "Bytes that they count as", &["store"]);
        let stored = |name: &str| StoreMetrics {
            entries: cache_entries.with_label_values(&[name]),
            bytes: cache_bytes.with_label_values(&[name]),
        };
        let queue = |name: &str| QueueMetrics {
            depth: queue_depth.with_label_values(&[name]),
            wait: queue_wait.with_label_values(&[name]),
        };
        let lane = |modality: &'static str, inference: &str| LaneMetrics {
            queue: queue(modality),
            batch_size: batch_size.with_label_values(&[modality]),
            inference: stages.with_label_values(&[inference]),
            interrupted: interrupted.with_label_values(&[modality]),
            panics: panics.with_label_values(&[inference]),
            outcomes: Outcome::ALL.map(|outcome| items.with_label_values(&[modality, outcome.label()])),
            lookups: Lookup::ALL.map(|lookup| lookups.with_label_values(&[modality, lookup.label()])),
            modality,
            spans: spans.clone(),
        };
        let metrics = Self {
            http_requests,
            http_duration,
            in_flight: register
                .gauge("http_requests_in_flight", "Requests between their head and the end of their answer"),
            connections: register.gauge("connections", "Open connections on the main listener"),
            ready: register.gauge("ready", "1 when the server is ready"),
            rejected,
            connections_ended,
            web_pictures,
            tls_handshakes,
            by_key,
            file_reloads,
            file_refused,
            image_rejected: register.counters(
                "image_rejected_total",
                "Images that could not be decoded",
                &["format", "reason"],
            ),
            preprocess_panics: panics.with_label_values(&["decode"]),
            http_panics: panics.with_label_values(&["http"]),
            decode: stages.with_label_values(&["decode"]),
            resize: stages.with_label_values(&["resize"]),
            tokenize: stages.with_label_values(&["tokenize"]),
            text_truncated: register.counter("text_truncated_total", "Texts cut to the model's context length"),
            preprocess_queue: queue("preprocess"),
            cached_embeddings: stored("embeddings"),
            cached_tokens: stored("tokens"),
            vision: lane("image", "image_inference"),
            pixels: lane("pixel_values", "pixel_values_inference"),
            text: lane("text", "text_inference"),
            build_info: register.gauges(
                "build_info",
                "Always 1; its labels say what runs",
                &["version", "provider", "precision", "onnxruntime", "model", "fingerprint"],
            ),
            registry: registry.clone(),
            spans: spans.clone(),
        };
        register.add(LOG_LINES_DROPPED.clone());
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("the process collector registers once");
        Ok(metrics)
    }

    /// Counts one finished request; `status` 499 stands for a client that went away before its answer.
    pub fn observe_request(&self, route: &str, method: &str, status: u16, duration: Duration) {
        self.http_requests.with_label_values(&[route, method, &status.to_string()]).inc();
        self.http_duration.with_label_values(&[route]).observe(duration.as_secs_f64());
    }

    /// Counts one refusal.
    pub fn reject(&self, reason: Reject) {
        self.rejected.with_label_values(&[reason.label()]).inc();
    }

    /// Counts one connection that was ended for others.
    pub fn connections_ended(&self, reason: Ended) {
        self.connections_ended.with_label_values(&[reason.label()]).inc();
    }

    /// Counts one picture that was to be fetched.
    pub fn web_picture(&self, outcome: Fetch) {
        self.web_pictures.with_label_values(&[outcome.label()]).inc();
    }

    /// The metrics of the API key of that name, from now on.
    pub fn key(&self, name: &str) -> KeyMetrics {
        self.by_key.of(name)
    }

    /// There is no API key of that name any more.
    pub fn retire_key(&self, name: &str) {
        self.by_key.retire(name);
    }

    /// Counts one file that changed; `used` says whether it is in use now.
    pub fn file_read_again(&self, file: FileKind, used: bool) {
        let [ok, refused] = RELOADS;
        self.file_reloads.with_label_values(&[file.label(), if used { ok } else { refused }]).inc();
        self.file_refused.with_label_values(&[file.label()]).set(i64::from(!used));
    }

    /// Counts one TLS handshake.
    pub fn tls_handshake(&self, outcome: Handshake) {
        self.tls_handshakes.with_label_values(&[outcome.label()]).inc();
    }

    /// Says what runs, once the model is loaded.
    pub fn set_build_info(&self, info: &BuildInfo) {
        self.build_info.reset();
        let BuildInfo { provider, precision, onnxruntime, model, fingerprint } = info;
        let fingerprint = fingerprint.get(..SHORT_FINGERPRINT).unwrap_or(fingerprint);
        let labels = [env!("CARGO_PKG_VERSION"), provider, precision, onnxruntime, model, fingerprint];
        self.build_info.with_label_values(&labels).set(1);
    }

    /// All metrics in Prometheus' text format, and its content type.
    pub fn render(&self) -> (String, String) {
        let encoder = TextEncoder::new();
        let mut out = Vec::new();
        if let Err(error) = encoder.encode(&self.registry.gather(), &mut out) {
            tracing::error!(%error, "the metrics could not be rendered");
        }
        (String::from_utf8_lossy(&out).into_owned(), encoder.format_type().to_owned())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_with_known_labels_start_at_zero() {
        let (text, _) = Metrics::new().render();
        assert!(text.contains("clipserve_rejected_total{reason=\"image_queue\"} 0"), "{text}");
        assert!(text.contains("clipserve_items_total{modality=\"text\",outcome=\"expired\"} 0"), "{text}");
        assert!(text.contains("clipserve_cache_lookups_total{modality=\"image\",result=\"hit\"} 0"), "{text}");
        assert!(text.contains("clipserve_cache_bytes{store=\"tokens\"} 0"), "{text}");
        assert!(text.contains("clipserve_log_lines_dropped_total 0"), "{text}");
        assert!(text.contains("clipserve_spans_dropped_total 0"), "{text}");
    }

    #[test]
    fn build_info_has_one_series_however_often_it_is_set() {
        let metrics = Metrics::new();
        let mut info = BuildInfo {
            provider: "cuda".into(),
            precision: "f32".into(),
            onnxruntime: "1.32.0".into(),
            model: "m".into(),
            fingerprint: format!("sha256:0123456789ab{}", "c".repeat(52)),
        };
        metrics.set_build_info(&info);
        info.provider = "cpu".into();
        metrics.set_build_info(&info);
        let (text, _) = metrics.render();
        assert_eq!(text.matches("clipserve_build_info{").count(), 1, "{text}");
        assert!(text.contains("provider=\"cpu\""), "{text}");
        assert!(text.contains("fingerprint=\"sha256:0123456789ab\""), "{text}");
    }
}
