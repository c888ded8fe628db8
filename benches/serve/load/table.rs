//! One measurement of the load generator as a row of Markdown.

use super::summary::Summary;
use crate::figures::{figure, milliseconds};

/// The header of [`row`].
pub(crate) fn header(slo: u64) -> String {
    let columns = [
        "what",
        "load",
        "answers/s",
        &format!("within {slo} ms/s"),
        "p50 ms",
        "p90",
        "p99",
        "p99.9",
        "max",
        "answers",
        "429",
        "429 p99 ms",
        "failed",
        "generator CPU",
    ]
    .join(" | ");
    format!("| {columns} |\n|---|---|{}", "---:|".repeat(12))
}

/// One measurement. A failure is told below the row.
pub(crate) fn row(what: &str, connections: usize, summary: &Summary) -> String {
    let load = match summary.offered {
        Some(rate) => format!("{} arrivals/s", figure(rate)),
        None => format!("{connections} connections"),
    };
    let latencies = [0.5, 0.9, 0.99, 0.999, 1.0].map(|part| figure(milliseconds(summary.latency(part)))).join(" | ");
    let (rate, goodput) = (figure(summary.rate), figure(summary.goodput));
    let counts = format!(
        "{} | {} | {} | {} | {:.0} %",
        summary.answered,
        summary.refused,
        figure(milliseconds(summary.refusal(0.99))),
        summary.failed,
        summary.generator_cpu * 100.0
    );
    let failure =
        summary.first_failure.as_ref().map(|failure| format!("\n  first failure: {failure}")).unwrap_or_default();
    format!("| {what} | {load} | {rate} | {goodput} | {latencies} | {counts} |{failure}")
}
