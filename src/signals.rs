//! What signals mean to a service: drain, and for the impatient the end at once; and to a run over files.
//!
//! Owns the meaning of SIGTERM, SIGINT, SIGHUP and SIGQUIT. Does not own the drain (`server`), nor what a run leaves (`bulk`).
//!
//! Invariants: the first of the four asks for the drain; SIGTERM or SIGINT after any of them ends the process from within the
//! signal's handler, so that no state of a runtime, a lock or a log can hold it up. The handlers are real ones: for the first
//! process of a container the kernel knows no default that ends it. SIGHUP and SIGQUIT never end the drain: a terminal that
//! closes and systemd send SIGHUP on top of another signal. A run over files takes SIGTERM and SIGINT alone: `nohup` keeps SIGHUP from it.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    flag,
};
use tokio::signal::unix::{SignalKind, signal};

/// The exit code of a process that a second signal has ended.
const CUT_SHORT: i32 = 1;

/// Handles the signals from now on; the future resolves at the first.
///
/// # Errors
/// When the system takes no handler.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn stop() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    end_at_the_second(&[SIGTERM, SIGINT, SIGHUP, SIGQUIT])?;
    Ok(async move {
        let first = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = hangup.recv() => "SIGHUP",
            _ = quit.recv() => "SIGQUIT",
        };
        tracing::info!(signal = first, "stopping; SIGTERM or SIGINT now stops at once");
    })
}

/// Handles SIGTERM and SIGINT from when it is asked for the first time; its number.
///
/// # Errors
/// When the system takes no handler.
pub async fn interrupted() -> io::Result<i32> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    end_at_the_second(&[SIGTERM, SIGINT])?;
    Ok(tokio::select! {
        _ = terminate.recv() => SIGTERM,
        _ = interrupt.recv() => SIGINT,
    })
}

/// SIGTERM or SIGINT after any of these ends the process.
fn end_at_the_second(firsts: &[i32]) -> io::Result<()> {
    let stopping = Arc::new(AtomicBool::new(false));
    // Handlers of a signal run in this order: it ends the process where the flag is up, else it raises the flag.
    for signal in [SIGTERM, SIGINT] {
        flag::register_conditional_shutdown(signal, CUT_SHORT, Arc::clone(&stopping))?;
    }
    for &signal in firsts {
        flag::register(signal, Arc::clone(&stopping))?;
    }
    Ok(())
}
