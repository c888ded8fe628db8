//! Restarts under load: nothing is lost.
//!
//! Owns two kinds of clients. **Behind a balancer**: two instances, of which one at a time is ended by SIGTERM and started again; what
//! stands before them asks `/readyz` and sends requests in turn to those that are ready, never the same one twice. Not one may fail.
//! **Without one**: clients that keep their connections to one instance and look at nothing. What they sent before the listener closed
//! must be answered; that nobody listens afterwards they see when they connect.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{
    task::LocalSet,
    time::{sleep, sleep_until, timeout},
};

use super::{
    Attack, Client,
    finding::{Finding, percentile},
    raw, still,
    target::{Model, Target, hold, wait, wait_looking},
};
use crate::{
    Result,
    load::{
        connection::Connection,
        request::{Ask, Template},
        schedule::{Arrivals, Schedule},
    },
};

/// Restarts of each kind.
const RESTARTS: usize = 20;

/// Of the capacity of one instance.
const LOAD: f64 = 0.8;

/// Seconds in which that is found, and the connections.
const CAPACITY_SECONDS: f64 = 5.0;
const CONNECTIONS: usize = 16;

/// From the signal until `/readyz` says so, and until the end: `server.shutdown_delay` and `server.drain_timeout`, and one second.
const SAYS_SO: Duration = Duration::from_millis(100);
const ENDS: Duration = Duration::from_secs(9);

/// How often an instance that ends is looked at.
const OFTEN: Duration = Duration::from_millis(2);

/// How often the balancer asks, and how long it waits.
const PROBE: Duration = Duration::from_millis(50);
const PROBE_PATIENCE: Duration = Duration::from_millis(500);

/// From one restart to the next.
const REST: Duration = Duration::from_millis(500);

/// What a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the log says when the listener closes.
const CLOSES: &str = "the listener closes";

const LINES: usize = 1000;

pub(crate) fn run(attack: &mut Attack<'_>) -> Result<()> {
    let template = attack.template(Ask::Mix)?;
    let target = Target::start(attack.places, Model::Box, &[])?;
    let capacity = attack.measure("capacity", &target, &template, Client::Closed(CONNECTIONS), CAPACITY_SECONDS)?.rate;
    drop(target);
    balanced(attack, &template, capacity * LOAD)?;
    direct(attack, &template)
}

/// What was seen of the restarts.
#[derive(Default)]
struct Restarts {
    says_so: Vec<Duration>,
    ends: Vec<Duration>,
    clean: usize,
}

impl Restarts {
    /// Ends it as a platform does.
    fn end(&mut self, target: &mut Target, mut at_end: impl FnMut(&mut Target)) -> Result<()> {
        let started = Instant::now();
        target.service().signal("-TERM")?;
        let not_ready = || {
            let answer = raw::exchange(target.address(), &raw::get("/readyz"), PROBE_PATIENCE, false);
            answer.is_ok_and(|answer| answer.status == 503)
        };
        let says_so = wait_looking(OFTEN, PROBE_PATIENCE, not_ready);
        self.says_so.push(if says_so { started.elapsed() } else { ENDS });
        let ended = wait_looking(OFTEN, ENDS + REST, || {
            at_end(target);
            !target.service().runs()
        });
        self.ends.push(if ended { started.elapsed() } else { 2 * ENDS });
        let how = target.service().how_it_ended();
        self.clean += usize::from(how == "exit status: 0");
        Ok(())
    }

    fn findings(self, finding: Finding) -> Finding {
        finding
            .all("exit code 0", self.clean, RESTARTS)
            .within("/readyz 503, slowest", percentile(&self.says_so, 1.0), SAYS_SO)
            .within("to the end, slowest", percentile(&self.ends, 1.0), ENDS)
    }
}

fn balanced(attack: &mut Attack<'_>, template: &Template, rate: f64) -> Result<()> {
    let name = format!("{RESTARTS} restarts of one of two instances behind a balancer");
    let start = || Target::start(attack.places, Model::Box, &[]);
    let mut targets = [start()?, start()?];
    let shared = Arc::new(Shared::new(targets.each_ref().map(Target::address)));
    let running = start_load(Arc::clone(&shared), template.clone(), rate);
    hold(2 * REST);
    let mut restarts = Restarts::default();
    for number in 0..RESTARTS {
        let which = number % targets.len();
        restarts.end(&mut targets[which], |_| {})?;
        targets[which] = Target::start(attack.places, Model::Box, &[])?;
        shared.instances()[which].address = targets[which].address();
        if !wait(PATIENCE, || shared.instances()[which].ready) {
            return Err("an instance did not come back".into());
        }
        hold(REST);
    }
    let seen = running.stop(&shared)?;
    attack.say(format!("  {}", seen.describe()));
    let counts = format!("{} answered, {} refused with 429", seen.answered, seen.refused);
    let finding = Finding::new(&name).check(counts, "some", seen.answered > 0).check(
        format!("{} failed{}", seen.failed(), seen.first()),
        "0",
        seen.failed() == 0,
    );
    attack.found(restarts.findings(finding));
    for mut target in targets {
        attack.found(target.unharmed(&name, Duration::from_secs(5)));
    }
    Ok(())
}

fn direct(attack: &mut Attack<'_>, template: &Template) -> Result<()> {
    let name = format!("{RESTARTS} restarts under {CONNECTIONS} clients that keep their connections");
    let mut restarts = Restarts::default();
    let (mut answered, mut refused, mut before, mut after, mut first) = (0, 0, 0, 0, None);
    for number in 0..RESTARTS {
        let mut target = Target::start(attack.places, Model::Box, &[])?;
        target.service().keep_lines(LINES);
        let shared = Arc::new(Shared::new([target.address()]));
        let template = template.clone().starting_at((number as u64) << 32);
        let running = start_clients(Arc::clone(&shared), template);
        hold(REST);
        let mut closes = None;
        restarts.end(&mut target, |target| {
            if closes.is_none() && target.service().take_lines().iter().any(|line| line.contains(CLOSES)) {
                closes = Some(Instant::now());
            }
        })?;
        let seen = running.stop(&shared)?;
        let closes = closes.ok_or("the log does not say when the listener closed")?;
        (answered, refused) = (answered + seen.answered, refused + seen.refused);
        for (sent, failure) in &seen.failures {
            if *sent < closes {
                before += 1;
                first.get_or_insert_with(|| failure.clone());
            } else {
                after += 1;
            }
        }
    }
    let first = first.map(|first| format!(" ({first})")).unwrap_or_default();
    attack.say(format!("  {after} requests on connections that were just being closed"));
    let finding = Finding::new(&name)
        .check(format!("{answered} answered, {refused} refused with 429"), "some", answered > 0)
        .check(format!("{before} failed of those sent before the listener closed{first}"), "0", before == 0);
    attack.found(restarts.findings(finding));
    Ok(())
}

/// One instance, as the balancer knows it.
#[derive(Clone, Copy)]
struct Instance {
    address: SocketAddr,
    ready: bool,
}

/// What the load and who restarts share.
struct Shared {
    instances: Mutex<Vec<Instance>>,
    over: AtomicBool,
}

impl Shared {
    fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let instances = addresses.into_iter().map(|address| Instance { address, ready: true }).collect();
        Self { instances: Mutex::new(instances), over: AtomicBool::new(false) }
    }

    fn instances(&self) -> std::sync::MutexGuard<'_, Vec<Instance>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// What came of the requests.
#[derive(Default)]
struct Seen {
    answered: u64,
    refused: u64,
    /// With the time when each was sent.
    failures: Vec<(Instant, String)>,
    /// Those that failed while the machine stood still.
    stood_still: u64,
}

/// When a request was sent, and how often the machine had stood still by then.
#[derive(Clone, Copy)]
struct Sent {
    at: Instant,
    stood_still: u64,
}

impl Sent {
    fn now() -> Self {
        Self { at: Instant::now(), stood_still: still::times() }
    }
}

impl Seen {
    fn failed(&self) -> usize {
        self.failures.len()
    }

    fn first(&self) -> String {
        self.failures.first().map(|(_, failure)| format!(" ({failure})")).unwrap_or_default()
    }

    fn describe(&self) -> String {
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        self.failures.iter().for_each(|(_, failure)| *kinds.entry(failure).or_default() += 1);
        let (answered, refused, still) = (self.answered, self.refused, self.stood_still);
        format!(
            "{answered} answered, {refused} refused, {still} while all stood still, {} failed {kinds:?}",
            self.failed()
        )
    }
}

/// A load that goes on.
struct Running(JoinHandle<Result<Seen>>);

impl Running {
    fn stop(self, shared: &Shared) -> Result<Seen> {
        shared.over.store(true, Ordering::Relaxed);
        self.0.join().map_err(|_| "the load failed")?
    }
}

/// Requests at `rate`, each to the next instance that is ready.
fn start_load(shared: Arc<Shared>, template: Template, rate: f64) -> Running {
    on_a_thread(async move |seen: Rc<RefCell<Seen>>| {
        let instances = shared.instances().len();
        for which in 0..instances {
            tokio::task::spawn_local(probe(Arc::clone(&shared), which));
        }
        let idle = Rc::new(RefCell::new(Vec::new()));
        let mut started = tokio::time::Instant::now();
        let (mut next, mut tasks) = (0, Vec::new());
        for (number, after) in (0_u64..).zip(Schedule::new(Arrivals::Poisson, rate, 1)) {
            let late = tokio::time::Instant::now().saturating_duration_since(started + after);
            if late > still::LATE {
                started += late;
            }
            sleep_until(started + after).await;
            if shared.is_over() {
                break;
            }
            let instances = shared.instances().clone();
            let chosen = (0..instances.len()).map(|step| instances[(next + step) % instances.len()]);
            let Some(instance) = chosen.into_iter().find(|instance| instance.ready) else {
                seen.borrow_mut().failures.push((Instant::now(), "no instance is ready".to_owned()));
                continue;
            };
            next += 1;
            let (seen, idle, request) = (Rc::clone(&seen), Rc::clone(&idle), template.request(number));
            tasks.push(tokio::task::spawn_local(async move {
                let sent = Sent::now();
                let kept: Option<Connection> = take(&idle, instance.address);
                let outcome = timeout(PATIENCE, async {
                    let mut connection = match kept {
                        Some(connection) => connection,
                        None => Connection::open(instance.address).await?,
                    };
                    let answer = connection.ask(request).await?;
                    Result::Ok((connection, answer))
                });
                match outcome.await {
                    Ok(Ok((connection, answer))) => {
                        seen.borrow_mut().take_down(sent, answer.status.as_u16());
                        idle.borrow_mut().push((instance.address, connection));
                    }
                    Ok(Err(error)) => Seen::fail(&seen, sent, error.to_string()).await,
                    Err(_) => Seen::fail(&seen, sent, "no answer".to_owned()).await,
                }
            }));
            tasks.retain(|task| !task.is_finished());
        }
        for task in tasks {
            let _ = task.await;
        }
    })
}

/// A connection to `address` that is open.
fn take(idle: &RefCell<Vec<(SocketAddr, Connection)>>, address: SocketAddr) -> Option<Connection> {
    let mut idle = idle.borrow_mut();
    idle.retain(|(_, connection)| !connection.is_closed());
    let at = idle.iter().rposition(|(of, _)| *of == address)?;
    Some(idle.swap_remove(at).1)
}

/// Asks the instance whether it is ready, again and again.
async fn probe(shared: Arc<Shared>, which: usize) {
    loop {
        let address = shared.instances()[which].address;
        let answer = timeout(PROBE_PATIENCE, async {
            // A new connection, as most balancers do.
            Connection::open(address).await?.get("/readyz").await
        });
        let ready = matches!(answer.await, Ok(Ok(_)));
        // Who was asked may have been replaced meanwhile.
        let note = |instance: &mut Instance| {
            if instance.address == address {
                instance.ready = ready;
            }
        };
        note(&mut shared.instances()[which]);
        sleep(PROBE).await;
    }
}

/// Clients that ask one after the other on a connection that they keep.
fn start_clients(shared: Arc<Shared>, template: Template) -> Running {
    on_a_thread(async move |seen: Rc<RefCell<Seen>>| {
        let address = shared.instances()[0].address;
        let clients = (0..CONNECTIONS as u64).map(|client| {
            let (seen, shared, template) = (Rc::clone(&seen), Arc::clone(&shared), template.clone());
            async move {
                let mut connection: Option<Connection> = None;
                for number in (0_u64..).map(|number| number * CONNECTIONS as u64 + client) {
                    if shared.is_over() {
                        return;
                    }
                    if connection.as_ref().is_none_or(Connection::is_closed) {
                        connection = Connection::open(address).await.ok();
                    }
                    let Some(open) = &mut connection else {
                        // Nobody listens: nothing was sent.
                        sleep(PROBE).await;
                        continue;
                    };
                    let sent = Sent::now();
                    match timeout(PATIENCE, open.ask(template.request(number))).await {
                        Ok(Ok(answer)) => seen.borrow_mut().take_down(sent, answer.status.as_u16()),
                        Ok(Err(error)) => {
                            Seen::fail(&seen, sent, error.to_string()).await;
                            connection = None;
                        }
                        Err(_) => {
                            Seen::fail(&seen, sent, "no answer".to_owned()).await;
                            connection = None;
                        }
                    }
                }
            }
        });
        futures_util::future::join_all(clients).await;
    })
}

impl Seen {
    fn take_down(&mut self, sent: Sent, status: u16) {
        match status {
            200 => self.answered += 1,
            429 => self.refused += 1,
            other => self.failures.push((sent.at, other.to_string())),
        }
    }

    async fn fail(seen: &RefCell<Self>, sent: Sent, failure: String) {
        sleep(2 * still::LOOK).await;
        let mut seen = seen.borrow_mut();
        if still::times() == sent.stood_still { seen.failures.push((sent.at, failure)) } else { seen.stood_still += 1 }
    }
}

fn on_a_thread(load: impl AsyncFnOnce(Rc<RefCell<Seen>>) + Send + 'static) -> Running {
    Running(thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let seen = Rc::new(RefCell::new(Seen::default()));
        LocalSet::new().block_on(&runtime, load(Rc::clone(&seen)));
        Ok(seen.take())
    }))
}
