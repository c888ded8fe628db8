//! Logs and metrics.
//!
//! Owns the `tracing` subscriber and the [`Metrics`] registry. A leaf: every layer may use it, it uses none.

mod metrics;

use std::{
    any::Any,
    io::{self, IsTerminal},
};

use tracing_subscriber::EnvFilter;

pub use metrics::{BuildInfo, Ended, LaneMetrics, Lookup, Metrics, Outcome, QueueMetrics, Reject, StoreMetrics};

use crate::config::{LogFormat, TelemetryConfig};

/// Installs the process-wide `tracing` subscriber; logs go to standard error.
///
/// ONNX Runtime's own messages (target `ort`) are kept at warnings unless the filter names them: one session load writes
/// dozens of informational lines.
///
/// # Errors
/// When the filter cannot be parsed, or a subscriber is installed already.
pub fn init(config: &TelemetryConfig) -> Result<(), String> {
    let directives = quieten_onnxruntime(&config.log_level);
    let filter = EnvFilter::try_new(&directives).map_err(|error| format!("telemetry.log_level: {error}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    match config.log_format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    }
    .map_err(|error| error.to_string())
}

/// Adds `ort=warn`, unless one of the directives is about that target already.
fn quieten_onnxruntime(log_level: &str) -> String {
    let names_ort =
        |directive: &str| directive.split(['=', '[', ':']).next().is_some_and(|target| target.trim() == "ort");
    if log_level.split(',').any(names_ort) { log_level.to_owned() } else { format!("{log_level},ort=warn") }
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
    use super::quieten_onnxruntime;

    #[test]
    fn onnxruntime_is_quiet_unless_its_target_is_named() {
        for (log_level, expected) in [
            ("info", "info,ort=warn"),
            ("info,transport=debug", "info,transport=debug,ort=warn"),
            ("info, ort=debug", "info, ort=debug"),
            ("ort::logging=trace", "ort::logging=trace"),
        ] {
            assert_eq!(quieten_onnxruntime(log_level), expected);
        }
    }
}
