//! The service under attack: how it is started, what it must still be afterwards, and what it may hold in memory.
//!
//! Owns the child and what it looked like before the attack. Does not own any attack.

use std::{
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use super::{finding::Finding, leaking::Leak, raw};
use crate::{
    PICTURE, Result,
    arithmetic::Arithmetic,
    process::{Memory, Reader, Service},
    services::{self, Places},
};

pub(crate) const MIB: f64 = (1 << 20) as f64;

/// What the service may hold for each connection, and besides everything that is counted.
const PER_CONNECTION: f64 = 64.0 * 1024.0;
const SLACK: f64 = 128.0 * MIB;

/// Open files may differ by so many afterwards.
pub(crate) const DESCRIPTORS: usize = 5;

/// Rounds of requests before the attack.
const WARM_UP: usize = 3;

/// How long one request of a check may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is served.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Model {
    /// The model in the box.
    Box,
    /// The checkpoint of ViT-B/32's size.
    Large(Arithmetic),
}

impl Model {
    /// For the names of findings.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Box => "box model".to_owned(),
            Self::Large(arithmetic) => format!("ViT-B/32 {}", arithmetic.name()),
        }
    }
}

/// A running service and what it was before the attack.
pub(crate) struct Target {
    service: Service,
    base: Memory,
    descriptors: usize,
}

impl Target {
    /// Starts it with these `section.key=value`, and has it answer some requests first. The embedding cache is off unless they
    /// say otherwise.
    pub(crate) fn start(places: &Places, model: Model, set: &[&str]) -> Result<Self> {
        Self::start_logging(places, model, set, Reader::Stays)?.warmed_up(places)
    }

    /// The same, by a command that `change` makes of the usual one.
    pub(crate) fn start_with(
        places: &Places,
        model: Model,
        set: &[&str],
        change: impl FnOnce(&std::process::Command) -> std::process::Command,
    ) -> Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let command = change(&command(places, model, set, any));
        Self::of(services::logging_clipserve(command, Reader::Stays)?)?.warmed_up(places)
    }

    /// The same, but a server that leaks, with the model in the box.
    pub(crate) fn start_leaking(places: &Places, leak: Leak, set: &[&str]) -> Result<Self> {
        let command = services::leaking_clipserve(places, leak.name(), &owned(set))?;
        Self::of(services::logging_clipserve(command, Reader::Stays)?)?.warmed_up(places)
    }

    fn warmed_up(mut self, places: &Places) -> Result<Self> {
        let picture = fs::read(places.root.join(PICTURE))?;
        for number in 0..WARM_UP {
            let text = format!("{{\"texts\": [\"a warm-up {number}\"]}}");
            for request in [
                raw::post("/embed/text", "application/json", text.as_bytes()),
                raw::post("/embed/image", "image/jpeg", &picture),
                raw::get("/metrics"),
            ] {
                let answer = raw::exchange(self.address(), &request, PATIENCE, false)?;
                if answer.status != 200 {
                    return Err(format!("a first request is answered {}", answer.status).into());
                }
            }
        }
        self.look_again()?;
        Ok(self)
    }

    /// Takes what it is now for what it was before the attack.
    pub(crate) fn look_again(&mut self) -> Result<()> {
        self.base = self.service.memory()?;
        self.descriptors = self.service.descriptors()?;
        Ok(())
    }

    /// The same without any request, and with another reader of its log.
    pub(crate) fn start_logging(places: &Places, model: Model, set: &[&str], reader: Reader) -> Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::of(services::logging_clipserve(command(places, model, set, any), reader)?)
    }

    /// The same with a full disk as its log. Ready, or `None` when it ended.
    pub(crate) fn start_on_full_disk(places: &Places, model: Model, set: &[&str]) -> Result<Option<Self>> {
        let address = services::free_address()?;
        let full = fs::File::create("/dev/full")?;
        let mut service = Service::spawn(&mut command(places, model, set, address), address, full.into())?;
        let ready = || raw::exchange(address, &raw::get("/readyz"), PATIENCE, false).is_ok_and(|it| it.status == 200);
        let mut ended = false;
        let ready = wait(Duration::from_secs(30), || {
            ended = !service.runs();
            ended || ready()
        });
        if ready && !ended { Self::of(service).map(Some) } else { Ok(None) }
    }

    fn of(service: Service) -> Result<Self> {
        let (base, descriptors) = (service.memory()?, service.descriptors()?);
        Ok(Self { service, base, descriptors })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.service.address()
    }

    /// The process.
    pub(crate) fn service(&mut self) -> &mut Service {
        &mut self.service
    }

    /// What it holds now.
    pub(crate) fn memory(&self) -> Result<Memory> {
        self.service.memory()
    }

    /// Open files before the attack.
    pub(crate) fn files_before(&self) -> usize {
        self.descriptors
    }

    /// What it may hold with so many connections: what it held before, its budgets of bodies and outputs, and a little for
    /// each connection. A budget that `/info` does not say is its default.
    pub(crate) fn formula(&self, connections: usize) -> f64 {
        let info = raw::exchange(self.address(), &raw::get("/info"), PATIENCE, false).map(|answer| answer.text);
        let info = info.ok().and_then(|text| serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok());
        let info: serde_json::Value = info.unwrap_or_default();
        let budget = |key: &str| info["limits"][key].as_f64().unwrap_or(256.0 * MIB);
        let budgets = budget("max_inflight_body_bytes") + budget("max_inflight_output_bytes");
        self.base.resident + budgets + connections as f64 * PER_CONNECTION + SLACK
    }

    /// The peak against the formula.
    pub(crate) fn memory_finding(&self, finding: Finding, connections: usize) -> Result<Finding> {
        let memory = self.memory()?;
        let now = format!("{:.0} MiB before, {:.0} now, peak", self.base.resident / MIB, memory.resident / MIB);
        Ok(finding.at_most(&now, " MiB", memory.peak / MIB, self.formula(connections) / MIB))
    }

    /// Requests in flight, that of the question left out; `None` when it does not say.
    fn in_flight(&self) -> Option<f64> {
        let answer = raw::exchange(self.address(), &raw::get("/metrics"), PATIENCE, false).ok()?;
        let value = answer.text.lines().find_map(|line| line.strip_prefix("clipserve_http_requests_in_flight "))?;
        Some(value.trim().parse::<f64>().ok()? - 1.0)
    }

    /// Panics that were contained so far; `None` when it does not say.
    pub(crate) fn panics(&self) -> Option<f64> {
        let answer = raw::exchange(self.address(), &raw::get("/metrics"), PATIENCE, false).ok()?;
        let counters = answer.text.lines().filter(|line| line.starts_with("clipserve_panics_total{"));
        counters.map(|line| line.rsplit_once(' ')?.1.trim().parse::<f64>().ok()).sum()
    }

    /// Waits until nothing is in flight.
    pub(crate) fn settle(&self, limit: Duration) -> bool {
        wait(limit, || self.in_flight() == Some(0.0))
    }

    /// What every attack ends with: the same process, ready, nothing in flight, no file left open.
    pub(crate) fn unharmed(&mut self, name: &str, limit: Duration) -> Finding {
        let finding = Finding::new(format!("{name}: afterwards"));
        if !self.service.runs() {
            let state = self.service.state();
            return finding.check(
                format!("ended: {}", state.lines().next().unwrap_or_default()),
                "same process",
                false,
            );
        }
        self.settle(limit);
        let most = self.descriptors + DESCRIPTORS;
        wait(limit, || self.service.descriptors().is_ok_and(|open| open <= most));
        let ready = raw::exchange(self.address(), &raw::get("/readyz"), PATIENCE, false);
        let ready = ready.map_or_else(|error| error.to_string(), |answer| answer.status.to_string());
        let open = self.service.descriptors().unwrap_or_default();
        // What was asked just now counts until the last byte of its answer is written, and so does every look at the count.
        let in_flight = match self.settle(limit) {
            true => "0".to_owned(),
            false => self.in_flight().map_or("unknown".to_owned(), |count| count.to_string()),
        };
        finding
            .check(if self.service.runs() { "same process" } else { "ended" }, "same process", self.service.runs())
            .check(format!("/readyz {ready}"), "200", ready == "200")
            .check(format!("in flight {in_flight}"), "0", in_flight == "0")
            .check(format!("open files {} → {open}", self.descriptors), format!("≤ +{DESCRIPTORS}"), open <= most)
    }
}

fn command(places: &Places, model: Model, set: &[&str], listen: SocketAddr) -> std::process::Command {
    let (model, arithmetic) = match model {
        Model::Box => (places.box_model(), Arithmetic::F32),
        Model::Large(arithmetic) => (places.checkpoint(), arithmetic),
    };
    services::clipserve_command(places, &model, arithmetic, &owned(set), listen)
}

fn owned(set: &[&str]) -> Vec<String> {
    set.iter().map(ToString::to_string).collect()
}

/// Looks again and again until `done`, at most for `limit`; whether it was.
pub(crate) fn wait(limit: Duration, done: impl FnMut() -> bool) -> bool {
    wait_looking(Duration::from_millis(20), limit, done)
}

/// The same, as often as that.
#[expect(clippy::disallowed_methods, reason = "what another process does is no event here")]
pub(crate) fn wait_looking(every: Duration, limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if done() {
            return true;
        }
        if started.elapsed() >= limit {
            return false;
        }
        thread::sleep(every.min(limit));
    }
}

/// Lets the attack go on for so long.
pub(crate) fn hold(time: Duration) {
    wait(time, || false);
}
