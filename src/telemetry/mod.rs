//! Logs, metrics and spans.
//!
//! Owns the `tracing` subscriber, the way to standard error, the [`Metrics`] registry, and the [`Spans`] with their way to a collector. A
//! leaf: every layer may use it, it uses none.
//!
//! Spans are OpenTelemetry's own and not made of those of `tracing`, which are there for the log: they have links, outlive the filter of the
//! log, and belong to a server instead of the process.
//!
//! Invariant: everything that this process writes to standard error goes through one queue, which never blocks, fails or ends
//! anything; but for what comes before [`init`] (a wrong command line, a panic), when there is nothing to block yet, and the
//! bar of a download, which the thread that loads draws on a terminal.

mod keys;
mod limit;
mod line;
#[cfg(test)]
mod logged;
mod metrics;
mod queue;
mod reasons;
mod register;
mod spans;

use std::{
    any::Any,
    io::{self, IsTerminal},
    panic::{self, PanicHookInfo},
    thread,
};

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter,
    fmt::{MakeWriter, format::JsonFields},
    util::SubscriberInitExt,
};

pub use keys::KeyMetrics;
pub use limit::LogLimit;
pub use line::is_hostile;
use line::{JsonLine, TextFields, TextLine};
#[cfg(test)]
pub(crate) use logged::logged;
pub use metrics::{BuildInfo, LaneMetrics, Lookup, Metrics, Outcome, QueueMetrics, StoreMetrics};
pub use queue::flush;
pub use reasons::{Ended, Fetch, FileKind, Handshake, Reject};
pub use spans::{RequestHead, RequestSpan, RunItem, RunSpan, Spans, Trace};

use crate::config::{LogFormat, TelemetryConfig};

/// Installs the process-wide `tracing` subscriber and the hook that logs panics; both go to standard error, see [`flush`].
///
/// ONNX Runtime's own messages (target `ort`) are kept at warnings unless the filter names them: one session load writes
/// dozens of informational lines. The raw bytes of requests to the hub, token and all, are never logged.
///
/// # Errors
/// When the filter cannot be parsed, or a subscriber is installed already.
pub fn init(config: &TelemetryConfig) -> Result<(), String> {
    let directives = directives(&config.log_level);
    let filter = EnvFilter::try_new(&directives).map_err(|error| format!("telemetry.log_level: {error}"))?;
    let subscriber = subscriber(filter, config.log_format, io::stderr().is_terminal(), queue::stderr);
    subscriber.try_init().map_err(|error| error.to_string())?;
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Writes each event to `writer` by one call; text in colours where `ansi`.
fn subscriber(
    filter: EnvFilter,
    format: LogFormat,
    ansi: bool,
    writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
) -> Box<dyn Subscriber + Send + Sync> {
    // Its own errors it would print past the writer.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
    match format {
        LogFormat::Text => {
            Box::new(builder.with_ansi(ansi).fmt_fields(TextFields).event_format(TextLine::new(ansi)).finish())
        }
        LogFormat::Json => Box::new(builder.fmt_fields(JsonFields::new()).event_format(JsonLine::new()).finish()),
    }
}

/// Writes `text` to standard error as one line, in its turn among the lines of the log.
pub fn print_line(text: &str) {
    queue::stderr().push(line::plain(text).into_bytes());
}

/// One line for a panic, in the span that it happened in, so that the request id is with it.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let (thread, at) = (thread::current(), panic.location().map(tracing::field::display));
    tracing::error!(thread = thread.name(), at, "panicked: {}", panic_text(panic.payload()));
}

/// What is logged: as `log_level` says, but `ort=warn` unless one of its directives is about that target, and nothing of what
/// the HTTP client writes and reads.
fn directives(log_level: &str) -> String {
    let names_ort =
        |directive: &str| directive.split(['=', '[', ':']).next().is_some_and(|target| target.trim() == "ort");
    let ort = if log_level.split(',').any(names_ort) { "" } else { ",ort=warn" };
    format!("{log_level}{ort},ureq_proto::util=off")
}

/// What a panic said, as far as it said it with a string.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::directives;

    #[test]
    fn onnxruntime_is_quiet_unless_its_target_is_named() {
        for (log_level, expected) in [
            ("info", "info,ort=warn"),
            ("info,transport=debug", "info,transport=debug,ort=warn"),
            ("info, ort=debug", "info, ort=debug"),
            ("ort::logging=trace", "ort::logging=trace"),
        ] {
            assert_eq!(directives(log_level), format!("{expected},ureq_proto::util=off"));
        }
    }
}
