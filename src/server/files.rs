//! Open files: as many connections as the process may have beside everything else that it opens.
//!
//! Owns the sum, and asking the system for as many as it gives. Invariant: a listener with this many connections leaves files for the
//! admin listener, for pictures that are fetched and for the process itself, so that none of them ever finds that there is none left.

use rustix::process::{Resource, getrlimit, setrlimit};

use super::error::ServeError;
use crate::{config::Config, http::connection::accept::RESERVE};

/// Connections of the admin listener, besides its reserve: probes of a platform, and who scrapes.
pub(super) const ADMIN_CONNECTIONS: usize = 64;

/// Files of the process itself: the log, the runtimes' own, the model's and its shards while they are read.
const OWN: usize = 64;

/// Of one picture that is fetched: its connection, and what the system's resolver opens.
const PER_FETCH: usize = 2;

/// How many connections there may be: `server.max_connections`, or fewer where the system allows fewer open files, which is logged.
///
/// # Errors
/// When the system allows none.
pub(super) fn connections(config: &Config) -> Result<usize, ServeError> {
    let wanted = config.server.max_connections;
    let fetches = if config.web.allow_hosts.is_empty() { 0 } else { config.web.max_connections };
    let others = others(config.server.admin_listen.is_some(), fetches);
    let limit = limit(wanted.saturating_add(others));
    let allowed = allowed(wanted, others, limit)?;
    if allowed < wanted {
        tracing::warn!(
            limit,
            connections = allowed,
            "the system allows the process fewer open files than server.max_connections = {wanted} needs, {} in all: fewer connections are \
             taken (`ulimit -n`, `docker run --ulimit nofile=`, LimitNOFILE= raise it)",
            wanted + others
        );
    }
    Ok(allowed)
}

/// Files that are not those of the main listener's connections.
fn others(admin: bool, fetches: usize) -> usize {
    OWN + RESERVE + if admin { ADMIN_CONNECTIONS + RESERVE } else { 0 } + fetches * PER_FETCH
}

fn allowed(wanted: usize, others: usize, limit: usize) -> Result<usize, ServeError> {
    match limit.saturating_sub(others) {
        0 => Err(ServeError::Files { limit, least: others + 1 }),
        allowed => Ok(allowed.min(wanted)),
    }
}

/// The process's limit, raised towards `wanted` as far as it may be.
fn limit(wanted: usize) -> usize {
    let limits = getrlimit(Resource::Nofile);
    // Without a number there is no limit.
    let number = |limit: Option<u64>| limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let (now, most) = (number(limits.current), number(limits.maximum));
    let raised = wanted.min(most);
    if raised <= now {
        return now;
    }
    let mut limits = limits;
    limits.current = u64::try_from(raised).ok();
    if setrlimit(Resource::Nofile, limits).is_ok() { raised } else { now }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_what_the_limit_leaves() {
        for (wanted, others, limit, expected) in
            [(1024, 96, 4096, 1024), (1024, 96, 1120, 1024), (1024, 96, 1119, 1023), (1024, 96, 97, 1)]
        {
            assert_eq!(allowed(wanted, others, limit).expect("some"), expected, "{limit}");
        }
        let error = allowed(1024, 96, 96).expect_err("none").to_string();
        assert!(error.contains("96") && error.contains("97") && error.contains("ulimit -n"), "{error}");
    }

    #[test]
    fn what_else_is_opened_counts() {
        assert_eq!(others(false, 0), OWN + RESERVE);
        assert_eq!(others(true, 0), OWN + 2 * RESERVE + ADMIN_CONNECTIONS);
        assert_eq!(others(false, 32), OWN + RESERVE + 64);
    }
}
