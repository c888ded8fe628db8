//! A server that leaks, for the soak's negative control: the library's own, in this program, with a thread beside it that keeps
//! something for every request that was answered.
//!
//! Owns what is leaked and how fast. Nothing in the product can leak like this: the thread is not part of it.

use std::{ffi::OsString, fs::File, sync::Arc, thread, time::Duration};

use clap::ValueEnum;
use clipserve::{
    cli::{self, Command},
    embedder,
    server::{LoadContext, Server},
    signals, telemetry,
    telemetry::Metrics,
};

use super::target::hold;
use crate::Result;

/// What is leaked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Leak {
    /// 1 KiB a request.
    Memory,
    /// An open file every 1,000 requests.
    Files,
}

/// Bytes of a request, and requests of a file.
const BYTES: usize = 1024;
const REQUESTS: u64 = 1000;

/// How often is looked how many requests there were.
const LOOK: Duration = Duration::from_millis(100);

impl Leak {
    /// As the command line spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Files => "files",
        }
    }

    /// In words.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Memory => "1 KiB a request",
            Self::Files => "an open file every 1,000 requests",
        }
    }
}

/// `clipserve` with these arguments, leaking, until a signal.
///
/// # Errors
/// As `clipserve serve`.
pub(crate) fn serve(leak: Leak, arguments: &[String]) -> Result<()> {
    let arguments = ["clipserve"].map(OsString::from).into_iter().chain(arguments.iter().map(OsString::from));
    let Command::Serve(arguments) = cli::parse(arguments)? else { return Err("only a service leaks".into()) };
    let config = arguments.load(std::env::vars_os())?.config;
    telemetry::init(&config.telemetry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = signals::stop()?;
        let server = Server::bind(config.clone()).await?;
        let metrics = Arc::clone(&server.context().metrics);
        thread::spawn(move || drip(leak, &metrics));
        let load = move |context: LoadContext| embedder::start(&config, context.metrics, &context.health);
        Ok(server.run(load, stop).await?)
    })
}

fn drip(leak: Leak, metrics: &Metrics) {
    let (mut bytes, mut files, mut seen) = (Vec::new(), Vec::new(), 0);
    loop {
        hold(LOOK);
        let requests = answered(metrics);
        for number in seen..requests {
            match leak {
                // Written to, or it would take no memory.
                Leak::Memory => bytes.push(vec![1_u8; BYTES]),
                Leak::Files if number % REQUESTS == 0 => files.extend(File::open("/dev/null").ok()),
                Leak::Files => {}
            }
        }
        seen = requests;
    }
}

/// Requests so far.
fn answered(metrics: &Metrics) -> u64 {
    let (text, _) = metrics.render();
    let counts = text.lines().filter(|line| line.starts_with("clipserve_http_requests_total{"));
    counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>() as u64
}
