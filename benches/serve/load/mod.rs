//! The load generator: closed loop and open loop over HTTP/1.1, on one thread.
//!
//! Owns who asks when, and what of it counts. Does not own what is asked ([`request`]), one connection ([`connection`]), the
//! arrival times ([`schedule`]) or the numbers ([`summary`]).
//!
//! **Closed loop**: each of n connections asks again when it is answered. It finds the capacity, and its latencies are those of
//! n patient clients. A connection that is refused with 429 waits as long as `Retry-After` says.
//!
//! **Open loop**: requests arrive at times that were drawn beforehand, whether or not earlier ones have been answered, and a
//! latency counts from the arrival, not from the moment a connection was free to send it. So a service that falls behind shows
//! it (no coordinated omission). Of the connections that are idle the one that was used last is taken, as the pools of clients and of
//! balancers do: taken in turn, a thousand of them cost service and generator several times as much for each request, since none is
//! in a cache any more.
//!
//! Invariants: an answer counts when its status is 200 and its body is about as long as that of a first request of its kind,
//! made and looked at before the load. Every request of the window has exactly one outcome. One thread and no TLS, pool or redirects:
//! on a small machine the generator takes from what it measures, so it also says how much CPU it took.

pub(crate) mod connection;
pub(crate) mod request;
pub(crate) mod schedule;
pub(crate) mod summary;
pub(crate) mod table;

use std::{
    cell::{Cell, RefCell},
    fs,
    net::SocketAddr,
    ops::RangeInclusive,
    rc::Rc,
    sync::{Arc, mpsc as blocking},
    thread,
    time::{Duration, Instant},
};

use http::StatusCode;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::{JoinSet, LocalSet},
    time::{sleep, sleep_until, timeout, timeout_at},
};

use self::{
    connection::{Answer, Connection},
    request::Template,
    schedule::Schedule,
    summary::{Outcome, Recorder, Summary},
};
use crate::Result;

/// How long the clients of a benchmark wait for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a connection does after a fault of the transport, and after a 429 that does not say: it must not turn into a busy loop.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers that make a rate: a whole batch of the services that we know. A slow one may not give that many in a short window.
const ENOUGH: usize = 32;

/// By how much a window that does not hold enough answers is prolonged.
const MORE: Duration = Duration::from_millis(250);

/// Arrivals that may wait between the schedule and the connections: more than any backlog that is still worth measuring.
const BACKLOG: usize = 1 << 17;

/// Arrivals within this time go out together, which counts into their latencies: a pause for each is two changes of threads, and at
/// thousands a second a tenth of a core that the service does not have.
const TOGETHER: Duration = Duration::from_millis(1);

/// One measurement.
pub(crate) struct Load<'a> {
    /// The service.
    pub(crate) address: SocketAddr,
    /// What is asked.
    pub(crate) template: &'a Template,
    /// Connections: all of them busy (closed loop), or as many as may be in use at once (open loop).
    pub(crate) connections: usize,
    /// When a request is made.
    pub(crate) pace: Pace,
    /// Before the window.
    pub(crate) warm_up: Duration,
    /// The window. That of a closed loop goes on until it holds an answer for each connection, or [`ENOUGH`].
    pub(crate) window: Duration,
    /// What is in flight when the window ends may take so long to finish; then its connections are cut.
    pub(crate) drain: Duration,
    /// A request that takes longer has failed, and a closed loop's window is prolonged by no more.
    pub(crate) patience: Duration,
    /// Answers within this time are the goodput.
    pub(crate) slo: Duration,
}

/// When a request is made.
pub(crate) enum Pace {
    /// When the last one of the same connection is answered.
    Closed,
    /// At these times after the start.
    Open(Schedule),
}

/// Runs one measurement on the calling thread.
///
/// # Errors
/// When the first request of a kind is not answered with 200; one that is refused is made again. What fails later is counted.
pub(crate) fn run(load: &Load<'_>) -> Result<Summary> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let plausible = timeout(load.patience, probe(load.address, load.template))
            .await
            .map_err(|_| format!("{}: no first answer within {:?}", load.template.name(), load.patience))??;
        let started = Instant::now();
        let window = started + load.warm_up..started + load.warm_up + load.window;
        let recorder = Recorder::new(started, window.clone(), load.slo);
        let clients = Rc::new(Clients {
            address: load.address,
            plausible,
            patience: load.patience,
            recorder: RefCell::new(recorder),
        });
        let cpu = thread_cpu()?;
        let other_cpu = match &load.pace {
            Pace::Closed => {
                closed(&clients, load, window.end).await;
                Duration::ZERO
            }
            Pace::Open(schedule) => open(&clients, load, schedule.clone(), started, window.end).await?,
        };
        let cpu = thread_cpu()? - cpu + other_cpu;
        let recorder = clients.recorder.borrow();
        let mut summary =
            recorder.summary(matches!(load.pace, Pace::Open(_)), cpu.as_secs_f64() / started.elapsed().as_secs_f64());
        // The first request of each kind has been answered before.
        summary.all += load.template.kinds() as u64;
        Ok(summary)
    })
}

/// One request of each kind before the load: fails early and whole, and says how long an answer is.
async fn probe(address: SocketAddr, template: &Template) -> Result<Vec<RangeInclusive<usize>>> {
    let mut connection = Connection::open(address).await?;
    let mut plausible = Vec::new();
    while plausible.len() < template.kinds() {
        let answer = connection.ask(template.request(plausible.len() as u64)).await?;
        match answer.status {
            // The digits of floats vary.
            StatusCode::OK => plausible.push(answer.length / 2..=answer.length * 2),
            StatusCode::TOO_MANY_REQUESTS => sleep(answer.retry_after.unwrap_or(PAUSE)).await,
            status => {
                let error = String::from_utf8_lossy(&answer.start);
                return Err(format!("{}: {status} {error}", template.name()).into());
            }
        }
    }
    Ok(plausible)
}

/// What all connections of one measurement share.
struct Clients {
    address: SocketAddr,
    /// Of each kind.
    plausible: Vec<RangeInclusive<usize>>,
    patience: Duration,
    recorder: RefCell<Recorder>,
}

impl Clients {
    /// Asks once, on a new connection where `connection` has none. What kind of answer it was, and how long to wait before
    /// asking again.
    async fn ask(&self, connection: &mut Option<Connection>, template: &Template, number: u64) -> (Outcome, Duration) {
        let answer = timeout(self.patience, async {
            if connection.as_ref().is_none_or(Connection::is_closed) {
                *connection = Some(Connection::open(self.address).await?);
            }
            let open = connection.as_mut().ok_or("just opened")?;
            open.ask(template.request(number)).await
        });
        let failure = match answer.await {
            Ok(Ok(answer)) => match self.judge(&answer, number) {
                Ok(()) => return (Outcome::Answered, Duration::ZERO),
                Err(_) if answer.status == StatusCode::TOO_MANY_REQUESTS => {
                    return (Outcome::Refused(answer.retry_after), answer.retry_after.unwrap_or(PAUSE));
                }
                Err(failure) => failure,
            },
            Ok(Err(error)) => with_sources(&*error),
            Err(_) => format!("no answer within {:?}", self.patience),
        };
        *connection = None;
        (Outcome::Failed(failure), PAUSE)
    }

    fn judge(&self, answer: &Answer, number: u64) -> std::result::Result<(), String> {
        if answer.status != StatusCode::OK {
            return Err(format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.start)));
        }
        let plausible = &self.plausible[number as usize % self.plausible.len()];
        if !plausible.contains(&answer.length) {
            return Err(format!("an answer of {} bytes, where {plausible:?} are expected", answer.length));
        }
        Ok(())
    }
}

async fn closed(clients: &Rc<Clients>, load: &Load<'_>, mut end: Instant) {
    let mut tasks = JoinSet::new();
    let numbers = Rc::new(Cell::new(0));
    let (finish, over) = watch::channel(false);
    for _ in 0..load.connections {
        let (clients, numbers, template) = (Rc::clone(clients), Rc::clone(&numbers), load.template.clone());
        let mut over = over.clone();
        tasks.spawn_local(async move {
            let mut connection = None;
            while !*over.borrow() {
                numbers.set(numbers.get() + 1);
                let asked = Instant::now();
                let (outcome, pause) = clients.ask(&mut connection, &template, numbers.get()).await;
                clients.recorder.borrow_mut().closed(asked, Instant::now(), outcome);
                if !pause.is_zero() {
                    let _ = timeout(pause, over.wait_for(|over| *over)).await;
                }
            }
        });
    }
    let (enough, last_end) = (load.connections.min(ENOUGH) as u64, end + load.patience);
    sleep_until(end.into()).await;
    while clients.recorder.borrow().answered() < enough && end < last_end {
        end += MORE;
        clients.recorder.borrow_mut().prolong(end);
        sleep_until(end.into()).await;
    }
    let _ = finish.send(true);
    let _ = timeout(load.drain, async { while tasks.join_next().await.is_some() {} }).await;
}

/// The CPU time of the thread that keeps the schedule.
async fn open(
    clients: &Rc<Clients>,
    load: &Load<'_>,
    schedule: Schedule,
    started: Instant,
    end: Instant,
) -> Result<Duration> {
    // A thread of its own: tokio's timer ticks in milliseconds, which is more than a short answer takes.
    let (arrive, mut arrivals) = mpsc::channel(BACKLOG);
    let (stop, stopped) = blocking::channel::<()>();
    let pacer = thread::spawn(move || pace(schedule, started, end, &arrive, &stopped));
    let (idle, places) = (Rc::new(RefCell::new(Vec::new())), Arc::new(Semaphore::new(load.connections)));
    let all = async {
        let mut tasks = JoinSet::new();
        // The place comes first: what no connection can take stays among the arrivals.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await
            && let Some((number, arrival)) = arrivals.recv().await
        {
            clients.recorder.borrow_mut().arrived(arrival);
            let (clients, idle, template) = (Rc::clone(clients), Rc::clone(&idle), load.template.clone());
            tasks.spawn_local(async move {
                let mut connection = idle.borrow_mut().pop();
                let (outcome, _) = clients.ask(&mut connection, &template, number).await;
                clients.recorder.borrow_mut().open(arrival, Instant::now(), outcome);
                idle.borrow_mut().extend(connection);
                drop(place);
            });
            while tasks.try_join_next().is_some() {}
        }
        while tasks.join_next().await.is_some() {}
    };
    let _ = timeout_at((end + load.drain).into(), all).await;
    // Arrivals that no connection has taken are the window's too.
    while let Ok((_, arrival)) = arrivals.try_recv() {
        clients.recorder.borrow_mut().arrived(arrival);
    }
    drop(stop);
    pacer.join().map_err(|_| "the schedule's thread failed")?
}

/// Sends each arrival at its time; late ones at once. Returns the thread's CPU time.
fn pace(
    schedule: Schedule,
    started: Instant,
    end: Instant,
    arrive: &mpsc::Sender<(u64, Instant)>,
    stopped: &blocking::Receiver<()>,
) -> Result<Duration> {
    for (number, after) in (1..).zip(schedule) {
        let arrival = started + after;
        if arrival >= end {
            break;
        }
        let wait = arrival.saturating_duration_since(Instant::now());
        let wait = if wait.is_zero() { wait } else { wait.max(TOGETHER) };
        // Waiting on a channel that nobody sends to is a sleep that can be ended.
        if !wait.is_zero() && stopped.recv_timeout(wait) == Err(blocking::RecvTimeoutError::Disconnected) {
            break;
        }
        if arrive.blocking_send((number, arrival)).is_err() {
            break;
        }
    }
    thread_cpu()
}

/// An error and what it came from: the transport's own errors say next to nothing.
fn with_sources(error: &(dyn std::error::Error + 'static)) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The time that the calling thread has spent on a CPU.
fn thread_cpu() -> Result<Duration> {
    // The first field is in nanoseconds.
    let statistics = fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(statistics.split_whitespace().next().ok_or("schedstat is empty")?.parse()?))
}
