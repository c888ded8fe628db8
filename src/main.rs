//! The `clipserve` binary: reads the command line and the configuration, calls the library, maps the result to an exit code.
//!
//! Owns the exit codes: 0, 64 for a wrong command line or configuration, 1 for everything else. Errors are lines on standard
//! error, never a panic. No logic beyond that.

#![deny(unsafe_code)]

use std::{
    env,
    io::{self, Write},
    process::{self, ExitCode},
    thread,
};

use clipserve::{
    cli::{self, Command, EX_USAGE, ExportArgs, HealthcheckArgs, ServeArgs, TuneArgs, healthcheck},
    config::{Config, ConfigErrors},
    embedder, engine,
    export::export_checkpoint,
    server::{LoadContext, Server},
    telemetry,
    tune::tune,
};
use tokio::{
    runtime::{self, Runtime},
    signal::unix::{SignalKind, signal},
};

#[expect(clippy::print_stderr, reason = "the last line of a start that failed is for the operator")]
fn main() -> ExitCode {
    set_variables();
    let command = match cli::parse(env::args_os()) {
        Ok(command) => command,
        Err(error) => {
            // Nothing is left to be done where even this cannot be printed.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let result = match command {
        Command::Serve(args) => serve(&args),
        Command::Export(args) => export(&args),
        Command::Tune(args) => print_tuning(&args),
        Command::Healthcheck(args) => check_health(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let usage = error.is::<ConfigErrors>();
            for line in format!("{error:#}").lines() {
                eprintln!("clipserve: {line}");
            }
            if usage { ExitCode::from(EX_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    let loaded = args.load(env::vars_os())?;
    if args.print_config {
        io::stdout().write_all(loaded.effective.as_bytes())?;
        return Ok(());
    }
    if args.check_config {
        writeln!(io::stdout(), "configuration ok")?;
        return Ok(());
    }
    run(loaded.config)
}

/// Starts telemetry, then binds and runs the server until a signal.
fn run(config: Config) -> anyhow::Result<()> {
    telemetry::init(&config.telemetry).map_err(anyhow::Error::msg)?;
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let server = Server::bind(config.clone()).await?;
        let stop = stop_signal()?;
        let load = move |context: LoadContext| embedder::start(&config, context.metrics, &context.health);
        Ok(server.run(load, stop).await?)
    });
    // A load or a run that does not end must not keep the process from exiting.
    runtime.shutdown_background();
    result
}

/// Threads for I/O and JSON alone; the work is done by the preprocess threads and the sessions.
fn runtime() -> io::Result<Runtime> {
    let threads = thread::available_parallelism().map_or(2, usize::from).div_ceil(4).clamp(2, 8);
    runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

/// Resolves at the first SIGTERM or SIGINT; the second one ends the process at once.
#[expect(clippy::disallowed_methods, reason = "a second signal asks for just that: no drain")]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        let first = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = first, "stopping; a second signal stops at once");
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            process::exit(1);
        });
    })
}

/// Writes the graphs and prints their paths, one a line.
fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let exported = export_checkpoint(&args.checkpoint, &args.out, args.precision)?;
    let mut stdout = io::stdout();
    for graph in exported.graphs() {
        writeln!(stdout, "{}", graph.display())?;
    }
    Ok(())
}

/// Tries combinations and prints what is best; how far it is goes to standard error.
fn print_tuning(args: &TuneArgs) -> anyhow::Result<()> {
    let loaded = args.load(env::vars_os())?;
    let options = args.options().map_err(anyhow::Error::msg)?;
    telemetry::init(&loaded.config.telemetry).map_err(anyhow::Error::msg)?;
    // A closed standard error is no reason to stop.
    let mut progress = |line: &str| drop(writeln!(io::stderr(), "{line}"));
    let report = tune(&loaded.config, options, &runtime()?, &mut progress)?;
    io::stdout().write_all(report.as_bytes())?;
    Ok(())
}

fn check_health(args: &HealthcheckArgs) -> anyhow::Result<()> {
    healthcheck::probe(&args.url(env::vars_os())?)?;
    Ok(())
}

/// What the libraries read from the environment, where the operator has not said otherwise.
#[expect(unsafe_code, reason = "changing the environment is unsafe while other threads may read it")]
fn set_variables() {
    for (name, value) in engine::VARIABLES {
        if env::var_os(name).is_none() {
            // SAFETY: the first statement of `main`; no other thread exists yet.
            unsafe { env::set_var(name, value) };
        }
    }
}
