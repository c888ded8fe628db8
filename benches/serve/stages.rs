//! Where clipserve's time goes, by its own account: its threads by what they do, and the stages in its metrics.
//!
//! Owns the names of both. Does not own the process (`process`) nor what is made of the numbers.

use std::collections::BTreeMap;

use crate::{Result, load::connection::Connection};

/// What the threads of a session's pool are called: as the thread that opened the session, which lives no longer than the start.
const POOLS: [&str; 2] = ["load", "start"];

/// Whose work a thread of the service does, once it is ready.
pub(crate) fn group(thread: &str) -> &'static str {
    match thread {
        name if name.starts_with("preprocess") => "preprocess",
        name if name.starts_with("vision") || name.starts_with("text") || POOLS.contains(&name) => "session",
        _ => "io",
    }
}

/// Seconds by the clock so far in each stage.
pub(crate) async fn stages(connection: &mut Connection) -> Result<BTreeMap<String, f64>> {
    let text = String::from_utf8(connection.get("/metrics").await?.to_vec())?;
    let stage = |line: &str| {
        let (name, value) = line.strip_prefix("clipserve_stage_duration_seconds_sum{stage=\"")?.split_once("\"} ")?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    Ok(text.lines().filter_map(stage).collect())
}
