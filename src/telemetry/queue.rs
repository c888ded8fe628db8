//! The way of a line to standard error: a bounded queue, and one thread that writes.
//!
//! Owns the queue and its bounds, what becomes of a line that finds no room or cannot be written (it is counted), and the wait
//! for the rest at the end of the process. Does not own what a line looks like (`line`), which also bounds its bytes. Written
//! here because `tracing-appender` counts only the lines that found no room, and at the end of a process whose queue is full
//! it prints to standard output, which panics where that is gone.
//!
//! Invariants: whoever has a line never waits for standard error, because the lock is not held during a write; a line that is
//! not written whole is counted once; after half a line the next one begins on a line of its own; what is read again after a
//! gap says how large the gap was.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use prometheus::IntCounter;

use super::metrics::LOG_LINES_DROPPED;

/// Lines that may wait. Each is some 8 KiB at most, so together they are 16 MiB at most.
const MAX_LINES: usize = 2048;

/// How long the end of the process waits for what is queued.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

static STDERR: OnceLock<LogQueue> = OnceLock::new();

/// The queue of this process. The first call starts its thread.
pub(super) fn stderr() -> &'static LogQueue {
    STDERR.get_or_init(|| {
        // A process that has no thread to give has no log either: its lines are counted.
        let _ = thread::Builder::new().name("log".to_owned()).spawn(|| stderr().write_to(unlocked_stderr()));
        LogQueue::new(LOG_LINES_DROPPED.clone())
    })
}

/// Waits until what is queued has been written, for about a second at most.
pub fn flush() {
    if let Some(queue) = STDERR.get() {
        queue.flush(FLUSH_TIMEOUT);
    }
}

/// Standard error without the lock of `std`, so that a write which blocks holds up nobody else who writes there.
fn unlocked_stderr() -> Box<dyn Write> {
    match io::stderr().as_fd().try_clone_to_owned() {
        Ok(stderr) => Box::new(File::from(stderr)),
        Err(_) => Box::new(io::stderr()),
    }
}

/// The lines that wait.
#[derive(Debug)]
pub(super) struct LogQueue {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
    dropped: IntCounter,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// Whether the thread has taken a line and is not done with it.
    writing: bool,
}

impl State {
    fn is_done(&self) -> bool {
        self.lines.is_empty() && !self.writing
    }
}

impl LogQueue {
    fn new(dropped: IntCounter) -> Self {
        Self { state: Mutex::default(), filled: Condvar::new(), emptied: Condvar::new(), dropped }
    }

    /// Queues a line with its line end, or counts it where there is no room.
    pub(super) fn push(&self, line: Vec<u8>) {
        let mut state = self.lock();
        if state.lines.len() >= MAX_LINES {
            drop(state);
            self.dropped.inc();
            return;
        }
        state.lines.push_back(line);
        self.filled.notify_one();
    }

    fn flush(&self, limit: Duration) {
        drop(self.emptied.wait_timeout_while(self.lock(), limit, |state| !state.is_done()));
    }

    /// Writes what comes, until the end of the process.
    fn write_to(&self, mut out: impl Write) {
        let (mut torn, mut told) = (false, 0);
        loop {
            let mut line = self.take();
            if torn {
                line.insert(0, b'\n');
            }
            match write_whole(&mut out, &line) {
                Ok(()) => {
                    torn = false;
                    told = self.tell_of_gap(told);
                }
                Err(Unwritten { began }) => {
                    torn |= began;
                    self.dropped.inc();
                }
            }
            self.done();
        }
    }

    /// Waits for a line.
    fn take(&self) -> Vec<u8> {
        let mut state =
            self.filled.wait_while(self.lock(), |state| state.lines.is_empty()).unwrap_or_else(PoisonError::into_inner);
        state.writing = true;
        state.lines.pop_front().unwrap_or_default()
    }

    fn done(&self) {
        let mut state = self.lock();
        state.writing = false;
        if state.is_done() {
            self.emptied.notify_all();
        }
    }

    /// Logs how many lines were dropped since `told`, once the queue is empty: sooner, such lines would take the places of those
    /// that are still to come. Returns how many have been told of.
    fn tell_of_gap(&self, told: u64) -> u64 {
        let dropped = self.dropped.get();
        if dropped == told || !self.lock().lines.is_empty() {
            return told;
        }
        tracing::warn!(lines = dropped - told, "the log has a gap: standard error did not take these lines");
        dropped
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call is one line: the subscriber writes an event at once.
impl Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line.to_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line that was not written whole.
#[derive(Debug, PartialEq, Eq)]
struct Unwritten {
    /// Whether a part of it was.
    began: bool,
}

fn write_whole(out: &mut impl Write, line: &[u8]) -> Result<(), Unwritten> {
    let mut rest = line;
    while !rest.is_empty() {
        match out.write(rest) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return Err(Unwritten { began: rest.len() < line.len() }),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    };

    use super::*;

    /// What the test lets a write do: take so many bytes, or fail.
    type Leave = io::Result<usize>;

    /// A standard error that asks the test before every write, and shows it what it took.
    struct Asking {
        leave: Receiver<Leave>,
        taken: Sender<Vec<u8>>,
    }

    impl Write for Asking {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // The test is over when it has hung up: its thread then waits for ever, as that of the process does.
            let Ok(leave) = self.leave.recv() else {
                loop {
                    thread::park()
                }
            };
            let taken = leave?.min(bytes.len());
            self.taken.send(bytes[..taken].to_owned()).expect("the test listens");
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue() -> (Arc<LogQueue>, Sender<Leave>, Receiver<Vec<u8>>) {
        let queue = Arc::new(LogQueue::new(IntCounter::new("dropped", "lines").expect("a name")));
        let ((leave, given), (took, taken)) = (mpsc::channel(), mpsc::channel());
        let writer = Arc::clone(&queue);
        thread::spawn(move || writer.write_to(Asking { leave: given, taken: took }));
        (queue, leave, taken)
    }

    fn full() -> io::Error {
        io::Error::from(io::ErrorKind::StorageFull)
    }

    const WHOLE: Leave = Ok(usize::MAX);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn lines_are_written_in_order_and_a_flush_waits_for_them() {
        let (queue, leave, taken) = queue();
        for line in ["a\n", "b\n"] {
            queue.push(line.into());
            leave.send(WHOLE).expect("asked");
        }
        queue.flush(LONG);
        assert_eq!(taken.try_iter().collect::<Vec<_>>(), [b"a\n", b"b\n"]);
        assert_eq!(queue.dropped.get(), 0);
    }

    #[test]
    fn a_write_that_blocks_stops_neither_those_who_log_nor_the_end_of_the_process() {
        let (queue, leave, taken) = queue();
        let lines = MAX_LINES + 10;
        for _ in 0..lines {
            (&*queue).write_all(b"x\n").expect("never an error");
        }
        queue.flush(Duration::ZERO);
        // The thread may have taken one line out of the queue, and holds it.
        let dropped = queue.dropped.get();
        assert!((9..=10).contains(&dropped), "{dropped}");
        for _ in 0..lines {
            leave.send(WHOLE).expect("asked");
        }
        queue.flush(LONG);
        assert_eq!(taken.try_iter().count() as u64, lines as u64 - dropped);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_the_next_one_goes_on() {
        let (queue, leave, taken) = queue();
        for line in ["lost\n", "lost too\n", "there\n"] {
            queue.push(line.into());
        }
        for outcome in [Err(full()), Err(full()), Err(io::ErrorKind::Interrupted.into()), WHOLE] {
            leave.send(outcome).expect("asked");
        }
        queue.flush(LONG);
        assert_eq!(taken.try_iter().collect::<Vec<_>>(), [b"there\n"]);
        assert_eq!(queue.dropped.get(), 2);
    }

    #[test]
    fn after_half_a_line_the_next_begins_on_its_own() {
        let (queue, leave, taken) = queue();
        for line in ["torn\n", "lost\n", "whole\n", "more\n"] {
            queue.push(line.into());
        }
        for outcome in [Ok(2), Err(full()), Err(full()), Ok(3), WHOLE, WHOLE] {
            leave.send(outcome).expect("asked");
        }
        queue.flush(LONG);
        assert_eq!(taken.try_iter().flatten().collect::<Vec<_>>(), b"to\nwhole\nmore\n");
        assert_eq!(queue.dropped.get(), 2);
    }
}
