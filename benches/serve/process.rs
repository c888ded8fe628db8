//! A service under test as a process: started, ready, paused while another one is measured, measured, ended.
//!
//! Owns the child and what `/proc` says of it. Does not own which program it is (`services`). Invariants: a `Service` that
//! exists is ready (but see [`Service::spawn`]) and dies with its value; what it logs is read to the end, so that it never
//! blocks on its own log, unless [`Reader`] says otherwise.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
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
    log: Arc<Mutex<Log>>,
    address: SocketAddr,
    /// Holds the log that nobody reads.
    _reader: Option<JoinHandle<Option<BufReader<ChildStderr>>>>,
}

/// What was read of a log.
struct Log {
    last: VecDeque<String>,
    /// So many of the last lines are kept.
    kept: usize,
}

/// What becomes of the log's reader once the service is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Reads on.
    Stays,
    /// Leaves the pipe open and reads no more.
    Sleeps,
    /// Closes the pipe.
    Goes,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Resident now (`VmRSS`), mapped files among it.
    pub(crate) resident: f64,
    /// The most there was (`VmHWM`).
    pub(crate) peak: f64,
    /// Mapped (`VmSize`).
    pub(crate) mapped: f64,
}

impl Service {
    /// Runs `command` until `ready` finds in one line of its log that it serves, and where when that is not known already.
    ///
    /// # Errors
    /// When it ends or takes too long; the end of its log is in the error.
    pub(crate) fn start(
        mut command: Command,
        ready: impl Fn(&str) -> Option<Ready> + Send + 'static,
        known: Option<SocketAddr>,
        reader: Reader,
    ) -> Result<Self> {
        let address = known.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut service = Self::spawn(&mut command, address, Stdio::piped())?;
        let log = service.child.stderr.take().ok_or("the log is piped")?;
        let (sender, states) = mpsc::channel();
        let kept = Arc::clone(&service.log);
        service._reader = Some(thread::spawn(move || {
            let (mut log, mut line, mut serves) = (BufReader::new(log), Vec::new(), false);
            while log.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned();
                line.clear();
                let state = if serves { None } else { ready(&text) };
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                serves |= matches!(state, Some(Ready::Serves));
                // Nobody listens any more once it is ready.
                let _ = state.map(|state| sender.send(state));
                match reader {
                    Reader::Sleeps if serves => return Some(log),
                    Reader::Goes if serves => return None,
                    _ => {}
                }
            }
            None
        }));
        loop {
            match states.recv_timeout(START) {
                Ok(Ready::At(address)) => service.address = address,
                Ok(Ready::Serves) => return Ok(service),
                Err(_) => {
                    let program = command.get_program().to_string_lossy();
                    return Err(format!("{program} did not start: {}", service.state()).into());
                }
            }
        }
    }

    /// Runs `command`, which will listen on `address`, with `log` as its standard error. Whether it is ready, the caller sees.
    ///
    /// # Errors
    /// When there is no such program.
    pub(crate) fn spawn(command: &mut Command, address: SocketAddr, log: Stdio) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let log = Arc::new(Mutex::new(Log { last: VecDeque::new(), kept: LINES }));
        Ok(Self { child, log, address, _reader: None })
    }

    /// Keeps so many of the last lines of its log from now on.
    pub(crate) fn keep_lines(&self, lines: usize) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).kept = lines;
    }

    /// Takes the kept lines of its log.
    pub(crate) fn take_lines(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).last.drain(..).collect()
    }

    /// Whether it has ended, and what it logged last: for the message of an error.
    pub(crate) fn state(&mut self) -> String {
        let state = self.how_it_ended();
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        format!("{state}; its last lines:\n{}", Vec::from_iter(log.last.iter().map(String::as_str)).join("\n"))
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

    /// Its exit code or signal, or that it still runs.
    pub(crate) fn how_it_ended(&mut self) -> String {
        match self.child.try_wait() {
            Ok(Some(status)) => status.to_string(),
            Ok(None) => "it still runs".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal by its name, such as `-TERM`.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
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
        Ok(Memory { resident: kilobytes("VmRSS")?, peak: kilobytes("VmHWM")?, mapped: kilobytes("VmSize")? })
    }

    /// Makes what is resident now the most there was.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?)
    }

    /// Lets it map no more than `room` bytes beyond what it has mapped (`RLIMIT_AS`).
    pub(crate) fn limit_memory(&self, room: u64) -> Result<()> {
        let mapped = self.memory()?.mapped as u64;
        let limit = format!("--as={}", mapped + room);
        let status = Command::new("prlimit").args(["--pid", &self.child.id().to_string(), &limit]).status()?;
        if status.success() { Ok(()) } else { Err(format!("prlimit {limit}: {status}").into()) }
    }

    /// Lets it have no more than so many files open (`RLIMIT_NOFILE`).
    pub(crate) fn limit_files(&self, files: usize) -> Result<()> {
        let limit = format!("--nofile={files}:");
        let status = Command::new("prlimit").args(["--pid", &self.child.id().to_string(), &limit]).status()?;
        if status.success() { Ok(()) } else { Err(format!("prlimit {limit}: {status}").into()) }
    }

    /// Open files.
    pub(crate) fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// Threads.
    pub(crate) fn threads(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/task", self.child.id()))?.count())
    }

    /// CPU time so far, in hundredths of a second.
    pub(crate) fn ticks(&self) -> Result<u64> {
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

impl Log {
    fn push(&mut self, line: String) {
        while self.last.len() >= self.kept {
            self.last.pop_front();
        }
        self.last.push_back(line);
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
