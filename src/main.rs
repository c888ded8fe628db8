//! The `clipserve` binary: reads the command line and the configuration, calls the library, maps the result to an exit code.
//!
//! Owns the exit codes: 0, 64 for a wrong command line or configuration, 2 where `compare` finds that an index cannot be kept and where
//! `embed` has embedded all but some items, 128 and its number where a signal has ended `embed`, 1 for everything else. Errors are lines on
//! standard error, written at the end of what the log has, never a panic. No logic beyond that.

#![deny(unsafe_code)]

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
    thread,
};

use clipserve::{
    bulk::{self, BulkError},
    cli::{
        self, Command, CompareArgs, EX_USAGE, EmbedArgs, ExportArgs, HealthcheckArgs, ServeArgs, TuneArgs, healthcheck,
    },
    compare::{Verdict, compare},
    config::{Config, ConfigErrors},
    embedder, engine,
    export::export_checkpoint,
    health::Health,
    model::checkpoint_in,
    server::{self, LoadContext, Probes, Server, UnknownPath},
    signals,
    telemetry::{self, Metrics},
    tune::tune,
};
use tokio::runtime::{self, Runtime};

/// The exit code of `compare` for an index that must be filled anew.
const NOT_KEPT: u8 = 2;

/// The exit code of `embed` where all is done and some items have no embedding.
const WITH_ERRORS: u8 = 2;

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
        Command::Embed(args) => embed(&args),
        Command::Tune(args) => print_tuning(&args),
        Command::Compare(args) => print_comparison(&args),
        Command::Healthcheck(args) => check_health(&args),
    };
    let code = match result {
        Ok(code) => code,
        Err(error) => {
            let (text, of_config) = (format!("{error:#}"), error.is::<ConfigErrors>());
            // These alone are several, a line each; elsewhere a line end is part of a name, and is escaped.
            let lines = if of_config { text.lines().collect() } else { vec![&text[..]] };
            for line in lines {
                telemetry::print_line(&format!("clipserve: {line}"));
            }
            if of_config { ExitCode::from(EX_USAGE) } else { failed(&error) }
        }
    };
    telemetry::flush();
    code
}

/// The exit code of a command that ended by `error`.
fn failed(error: &anyhow::Error) -> ExitCode {
    if error.is::<UnknownPath>() {
        return ExitCode::from(EX_USAGE);
    }
    match error.downcast_ref::<BulkError>() {
        Some(BulkError::Usage(_)) => ExitCode::from(EX_USAGE),
        // As of a process that a signal ends.
        Some(error) => error
            .signal()
            .map_or(ExitCode::FAILURE, |signal| u8::try_from(128 + signal).map_or(ExitCode::FAILURE, ExitCode::from)),
        None => ExitCode::FAILURE,
    }
}

fn serve(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let loaded = args.load(env::vars_os())?;
    if args.print_config {
        io::stdout().write_all(loaded.effective.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    server::check(&loaded.config)?;
    if args.check_config {
        writeln!(io::stdout(), "configuration ok")?;
        return Ok(ExitCode::SUCCESS);
    }
    run(loaded.config)?;
    Ok(ExitCode::SUCCESS)
}

/// Starts telemetry, then binds and runs the server until a signal.
fn run(config: Config) -> anyhow::Result<()> {
    telemetry::init(&config.telemetry).map_err(anyhow::Error::msg)?;
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let stop = signals::stop()?;
        let server = Server::bind(config.clone()).await?;
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

/// Writes the graphs and prints their paths, one a line.
fn export(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let checkpoint = checkpoint_in(&args.checkpoint)?;
    let exported = export_checkpoint(&checkpoint, &args.out, args.precision)?;
    let mut stdout = io::stdout();
    for graph in exported.graphs() {
        writeln!(stdout, "{}", graph.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Embeds files into files and prints what it came to; how far it is goes to standard error.
fn embed(args: &EmbedArgs) -> anyhow::Result<ExitCode> {
    let loaded = args.load(env::vars_os())?;
    let options = args.options(env::vars_os()).map_err(BulkError::Usage)?;
    telemetry::init(&loaded.config.telemetry).map_err(anyhow::Error::msg)?;
    let config = Arc::new(loaded.config);
    let health = Arc::new(Health::new(config.engine.stall_timeout));
    let context = LoadContext { metrics: Arc::new(Metrics::new()), health };
    let probes = Probes::start(&config, &context)?;
    if let Some(probes) = &probes {
        tracing::info!(address = %probes.local_addr(), "metrics and probes are answered");
    }
    let LoadContext { metrics, health } = context;
    let (runtime, stop) = (runtime()?, signals::interrupted());
    let summary = bulk::embed(&config, &options, &runtime, metrics, &health, stop, &mut telemetry::print_line)?;
    write!(io::stdout(), "{summary}")?;
    Ok(if summary.errors == 0 { ExitCode::SUCCESS } else { ExitCode::from(WITH_ERRORS) })
}

/// Tries combinations and prints what is best; how far it is goes to standard error.
fn print_tuning(args: &TuneArgs) -> anyhow::Result<ExitCode> {
    let loaded = args.load(env::vars_os())?;
    let options = args.options().map_err(anyhow::Error::msg)?;
    telemetry::init(&loaded.config.telemetry).map_err(anyhow::Error::msg)?;
    let report = tune(&loaded.config, options, &runtime()?, &mut telemetry::print_line)?;
    io::stdout().write_all(report.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Asks both services and prints how near they are; how far it is goes to standard error.
fn print_comparison(args: &CompareArgs) -> anyhow::Result<ExitCode> {
    let loaded = args.load(env::vars_os())?;
    let options = args.options(env::vars_os()).map_err(anyhow::Error::msg)?;
    telemetry::init(&loaded.config.telemetry).map_err(anyhow::Error::msg)?;
    let report = compare(&loaded.config, options, &runtime()?, &mut telemetry::print_line)?;
    let text = if args.json { report.json() } else { report.to_string() };
    io::stdout().write_all(text.as_bytes())?;
    Ok(match report.verdict() {
        Verdict::Kept | Verdict::KeptWithCare => ExitCode::SUCCESS,
        Verdict::NotKept => ExitCode::from(NOT_KEPT),
    })
}

fn check_health(args: &HealthcheckArgs) -> anyhow::Result<ExitCode> {
    healthcheck::probe(&args.url(env::vars_os())?)?;
    Ok(ExitCode::SUCCESS)
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
