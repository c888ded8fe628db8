//! No file left that may be opened.
//!
//! Owns processes with few of them. Held to: a limit that is too small for a start is one line; with one that is too small for
//! `server.max_connections` fewer connections are taken, so that a flood takes nothing from probes and metrics on their own listener; and
//! where files are lacking all the same, as when others in the process hold them, nothing spins, and it is over when they are back.

use std::{
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    Attack,
    crowd::{Crowd, Guest},
    finding::Finding,
    raw::{self, Prober},
    target::{Model, Target, hold, wait},
};
use crate::Result;

/// `ulimit -n` of the floods, and of a process that cannot even start.
const FEW: u64 = 320;
const TOO_FEW: u64 = 64;

/// Probes on their own listener, p99.
const PROBE: Duration = Duration::from_millis(100);

/// Of a core, while nothing comes.
const IDLE: f64 = 0.2;
const LOOK: Duration = Duration::from_secs(4);

/// From the end of the flood to an answer.
const RECOVERS: Duration = Duration::from_secs(1);

const PATIENCE: Duration = Duration::from_secs(2);
const ENDS: Duration = Duration::from_secs(5);

/// Files that a process gets beyond what it has open, where they are taken from it.
const SPARE: usize = 8;

pub(crate) fn run(attack: &mut Attack<'_>) -> Result<()> {
    let finding = too_few()?;
    attack.found(finding);
    flood(attack)?;
    taken_away(attack)
}

/// A start that cannot be.
fn too_few() -> Result<Finding> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipserve"));
    command.args(["serve", "--listen", "127.0.0.1:0"]).stdin(Stdio::null());
    let (started, output) = (Instant::now(), limited(&command, TOO_FEW).output()?);
    let log = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = log.lines().filter(|line| line.starts_with("clipserve: ")).collect();
    let says_so = lines.len() == 1 && lines[0].contains("open files") && lines[0].contains("ulimit -n");
    Ok(Finding::new(format!("a start with {TOO_FEW} files"))
        .check(output.status.to_string(), "exit status: 1", output.status.code() == Some(1))
        .within("after", started.elapsed(), ENDS)
        .check(if says_so { "says so".to_owned() } else { log.into_owned() }, "one line that says so", says_so))
}

/// Many more connections than files.
fn flood(attack: &mut Attack<'_>) -> Result<()> {
    let admin = crate::services::free_address()?;
    let set = format!("server.admin_listen={admin}");
    let mut target = Target::start_with(attack.places, Model::Box, &[&set], |command| limited(command, FEW))?;
    let drips = Guest::Drips { length: 100_000, piece: 1, every: Duration::from_secs(2) };
    let prober = Prober::start(admin, &["/livez", "/readyz", "/metrics"]);
    // Those that the kernel alone has taken, and those that hold a place.
    let crowd = Crowd::gather(target.address(), vec![(600, drips), (600, Guest::Idle)])?;
    let busy = busy(&mut target)?;
    let probes = prober.stop()?;
    attack.say(format!("  {}; {}", crowd.describe(), probes.describe()));
    let recovers = recovers(&target, || drop(crowd));
    let name = format!("1,200 connections with {FEW} files");
    let finding = Finding::new(&name)
        .within("probes on their own listener p99", probes.p99(), PROBE)
        .check(format!("{} probes failed", probes.failed()), "0", probes.failed() == 0)
        .at_most("busy meanwhile, of a core,", "", busy, IDLE)
        .within("to an answer afterwards", recovers, RECOVERS);
    attack.found(finding);
    attack.found(target.unharmed(&name, Duration::from_secs(5)));
    Ok(())
}

/// Fewer files than the process has counted on, from one moment to the next.
fn taken_away(attack: &mut Attack<'_>) -> Result<()> {
    let mut target = Target::start(attack.places, Model::Box, &[])?;
    let limit = target.service().descriptors()? + SPARE;
    target.service().limit_files(limit)?;
    // They are connected by the kernel, whoever takes them then.
    let crowd: Vec<_> =
        (0..4 * SPARE).map_while(|_| TcpStream::connect_timeout(&target.address(), PATIENCE).ok()).collect();
    let busy = busy(&mut target)?;
    let recovers = recovers(&target, || drop(crowd));
    let name = format!("{} connections with {SPARE} files left", 4 * SPARE);
    let finding = Finding::new(&name).at_most("busy meanwhile, of a core,", "", busy, IDLE).within(
        "to an answer afterwards",
        recovers,
        RECOVERS,
    );
    attack.found(finding);
    attack.found(target.unharmed(&name, Duration::from_secs(5)));
    Ok(())
}

/// What the service takes of a core while nothing is asked of it.
fn busy(target: &mut Target) -> Result<f64> {
    let before = target.service().ticks()?;
    hold(LOOK);
    Ok((target.service().ticks()? - before) as f64 / 100.0 / LOOK.as_secs_f64())
}

/// How long it takes to an answer after `end`.
fn recovers(target: &Target, end: impl FnOnce()) -> Duration {
    end();
    let started = Instant::now();
    let request = raw::post("/embed/text", "application/json", b"{\"texts\": [\"after the flood\"]}");
    let address: SocketAddr = target.address();
    wait(2 * RECOVERS, || raw::exchange(address, &request, PATIENCE, false).is_ok_and(|answer| answer.status == 200));
    started.elapsed()
}

/// `command` with so many files, by `prlimit`.
fn limited(command: &Command, files: u64) -> Command {
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--nofile={files}:{files}")).arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        limited.current_dir(folder);
    }
    limited
}
