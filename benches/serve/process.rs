//! A service under test as a process: started, ready, paused while another one is measured, measured, ended.
//!
//! Owns the child and what `/proc` says of it. Does not own which program it is (`services`). Invariants: a `Service` that
//! exists is ready and dies with its value; what it logs is read to the end, so that it never blocks on its own log.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use crate::Result;

/// From the start of a process to its readiness: torch alone takes many seconds to import on a busy machine.
const START: Duration = Duration::from_secs(300);

/// How often is looked whether a service rests, and for how long at most.
const LOOK: Duration = Duration::from_millis(200);
const REST: Duration = Duration::from_secs(60);

/// A service rests when it takes no more than this in between, in hundredths of a second: one that idles may wake up.
const AT_REST: u64 = 1;

/// How many of the last lines of a log an error shows.
const LINES: usize = 20;

/// A running service.
pub(crate) struct Service {
    child: Child,
    log: Arc<Mutex<VecDeque<String>>>,
    address: SocketAddr,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Resident now (`VmRSS`), mapped files among it.
    pub(crate) resident: f64,
    /// The most there was (`VmHWM`).
    pub(crate) peak: f64,
}

impl Service {
    /// Runs `command` until `ready` finds in one line of its log that it serves, and where when that is not known already.
    ///
    /// # Errors
    /// When it ends or takes too long; the end of its log is in the error.
    pub(crate) fn start(
        mut command: Command,
        ready: impl Fn(&str) -> Option<Ready>,
        known: Option<SocketAddr>,
    ) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let log = child.stderr.take().ok_or("the log is piped")?;
        let (sender, lines) = mpsc::channel();
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&last);
        thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(std::io::Result::ok) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == LINES {
                    kept.pop_front();
                }
                kept.push_back(line.clone());
                // Nobody listens any more once it is ready.
                let _ = sender.send(line);
            }
        });
        let address = known.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut service = Self { child, log: last, address };
        loop {
            let Ok(line) = lines.recv_timeout(START) else {
                let program = command.get_program().to_string_lossy();
                return Err(format!("{program} did not start: {}", service.state()).into());
            };
            match ready(&line) {
                Some(Ready::At(address)) => service.address = address,
                Some(Ready::Serves) => return Ok(service),
                None => {}
            }
        }
    }

    /// Whether it has ended, and what it logged last: for the message of an error.
    pub(crate) fn state(&mut self) -> String {
        let state = match self.child.try_wait() {
            Ok(Some(status)) => status.to_string(),
            Ok(None) => "it still runs".to_owned(),
            Err(error) => error.to_string(),
        };
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        format!("{state}; its last lines:\n{}", Vec::from_iter(log.iter().map(String::as_str)).join("\n"))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it rests, then stops its threads, so that it takes nothing from the one that is measured. Who is stopped at
    /// work goes on with it later, and to its own clock that work has taken as long as the stop.
    #[expect(clippy::disallowed_methods, reason = "that another process rests is no event")]
    pub(crate) fn pause(&self) -> Result<()> {
        let mut before = self.ticks()?;
        for _ in 0..REST.as_millis() / LOOK.as_millis() {
            thread::sleep(LOOK);
            let now = self.ticks()?;
            if now - before <= AT_REST {
                return self.signal("-STOP");
            }
            before = now;
        }
        Err(format!("still at work {} s after the last request", REST.as_secs()).into())
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) -> Result<()> {
        self.signal("-CONT")
    }

    fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").arg(name).arg(self.child.id().to_string()).status()?;
        if status.success() { Ok(()) } else { Err(format!("kill {name}: {status}").into()) }
    }

    /// What it holds in memory.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kilobytes = |name: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("the process is gone")?;
            Ok(line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse::<f64>()? * 1024.0)
        };
        Ok(Memory { resident: kilobytes("VmRSS")?, peak: kilobytes("VmHWM")? })
    }

    /// CPU time so far, in hundredths of a second.
    fn ticks(&self) -> Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name, in brackets, may be anything; `utime` and `stime` are the twelfth and thirteenth field after it.
        let (_, fields) = stat.rsplit_once(')').ok_or("stat has no name")?;
        let times = fields.split_whitespace().skip(11).take(2);
        Ok(times.map(str::parse::<u64>).sum::<std::result::Result<_, _>>()?)
    }

    /// CPU seconds so far, summed by what `group` makes of a thread's name.
    pub(crate) fn cpu_by_thread(&self, group: fn(&str) -> &'static str) -> Result<BTreeMap<&'static str, f64>> {
        let mut groups = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let task = task?.path();
            let name = fs::read_to_string(task.join("comm"))?;
            // The first field is the time on a CPU in nanoseconds.
            let statistics = fs::read_to_string(task.join("schedstat"))?;
            let nanoseconds: f64 = statistics.split_whitespace().next().ok_or("schedstat is empty")?.parse()?;
            *groups.entry(group(name.trim())).or_insert(0.0) += nanoseconds / 1e9;
        }
        Ok(groups)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Also ends a process that is paused.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a line of a log says of a service that starts.
pub(crate) enum Ready {
    /// It has taken this address.
    At(SocketAddr),
    /// It serves.
    Serves,
}
