//! Watches processes that load broken models (`loader`): which loads ended one, hung, or failed in another way.
//!
//! Owns these processes, their limit of memory, and the patience with a load. A process that ends or hangs is started again behind the number
//! that it had. Invariants: every number is loaded or is among the troubles; a process dies with this program.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use super::models::Part;
use crate::Result;

/// A load may take so long.
pub(super) const LIMIT: Duration = Duration::from_secs(3);

/// And a process may take so long to come to its first one.
const START: Duration = Duration::from_secs(60);

/// What a process may map: all that it needs, and no length that a file makes up.
const MAPPED: u64 = 8 << 30;

/// So many load at once.
const PROCESSES: u64 = 2;

/// More deaths than these end it: they would take all day.
const MOST_DEATHS: usize = 200;

/// What came of all loads.
#[derive(Default)]
pub(super) struct Loads {
    pub(super) loaded: u64,
    pub(super) refused: u64,
    /// By number.
    pub(super) troubles: Vec<(u64, String)>,
    pub(super) slowest: Duration,
    /// The most that a process held, bytes.
    pub(super) peak: u64,
}

impl Loads {
    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.loaded + self.refused + self.troubles.len() as u64
    }

    fn join(&mut self, other: Self) {
        self.loaded += other.loaded;
        self.refused += other.refused;
        self.troubles.extend(other.troubles);
        self.slowest = self.slowest.max(other.slowest);
        self.peak = self.peak.max(other.peak);
    }
}

/// Loads the models of the numbers from `first` to `end`.
///
/// # Errors
/// When a process cannot be started.
pub(super) fn load(part: Part, first: u64, end: u64) -> Result<Loads> {
    let workers: Vec<_> =
        (first..end).take(PROCESSES as usize).map(|first| thread::spawn(move || worker(part, first, end))).collect();
    let mut loads = Loads::default();
    for worker in workers {
        loads.join(worker.join().map_err(|_| "a watcher panicked")??);
    }
    loads.troubles.sort();
    Ok(loads)
}

fn worker(part: Part, first: u64, end: u64) -> Result<Loads> {
    let (mut loads, mut next, mut deaths) = (Loads::default(), first, 0);
    while next < end {
        let mut loader = Loader::start(part, next, end)?;
        let mut patience = START;
        let died = loop {
            match loader.lines.recv_timeout(patience) {
                Ok(line) => match read(&line, &mut loads) {
                    Line::Load(number) => next = number + PROCESSES,
                    Line::End => break None,
                    Line::Other => loads.troubles.push((next, format!("printed {line:?}"))),
                },
                Err(mpsc::RecvTimeoutError::Timeout) => break Some(format!("no end within {patience:?}")),
                Err(mpsc::RecvTimeoutError::Disconnected) => break Some(loader.how_it_ended()),
            }
            // Making it is not loading it.
            patience = LIMIT + Duration::from_secs(1);
        };
        let Some(how) = died else { break };
        loads.troubles.push((next, how));
        next += PROCESSES;
        deaths += 1;
        if deaths > MOST_DEATHS {
            return Err(format!("{deaths} processes of {part:?} died").into());
        }
    }
    Ok(loads)
}

/// What a line of a process is.
enum Line {
    /// What came of the load of that number.
    Load(u64),
    End,
    /// Not this program's: a library printed it.
    Other,
}

/// Takes down what a line says.
fn read(line: &str, loads: &mut Loads) -> Line {
    let mut words = line.splitn(3, ' ');
    let (Some(first), Some(second)) = (words.next(), words.next()) else { return Line::Other };
    if let ("end", Ok(kilobytes)) = (first, second.parse::<u64>()) {
        loads.peak = loads.peak.max(kilobytes * 1024);
        return Line::End;
    }
    let (Ok(number), Ok(milliseconds), Some(came)) = (first.parse(), second.parse(), words.next()) else {
        return Line::Other;
    };
    let took = Duration::from_millis(milliseconds);
    loads.slowest = loads.slowest.max(took);
    if came.starts_with("failed") {
        loads.troubles.push((number, came.to_owned()));
    } else if took > LIMIT {
        loads.troubles.push((number, format!("took {took:?}")));
    } else if came == "loaded" {
        loads.loaded += 1;
    } else {
        loads.refused += 1;
    }
    Line::Load(number)
}

/// One process.
struct Loader {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Loader {
    fn start(part: Part, first: u64, end: u64) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "prlimit", &format!("--as={MAPPED}"), "--core=0"]);
        command.arg(std::env::current_exe()?).args(["loader", name(part)]);
        command.args([first, end, PROCESSES].map(|number| number.to_string()));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let stdout = child.stdout.take().ok_or("it is piped")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    fn how_it_ended(&mut self) -> String {
        self.child.wait().map_or_else(|error| error.to_string(), |status| format!("the process ended: {status}"))
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Also one that hangs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn name(part: Part) -> &'static str {
    match part {
        Part::Checkpoint => "checkpoint",
        Part::Graph => "graph",
        Part::Tokenizer => "tokenizer",
        Part::Configuration => "configuration",
    }
}
