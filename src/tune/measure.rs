//! One trial: start an embedder with some knobs, ask it as fast as it answers, stop it.
//!
//! Owns what is asked, the two closed loops (one client for latency, enough clients for throughput) and what is read off them.
//! Does not own which knobs are tried (`search`). There is no HTTP in between: its cost does not depend on the knobs.
//!
//! Invariants: what is counted was answered after every client had its first answer; nothing of a trial is left when it returns.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{runtime::Runtime, task::JoinSet, time};

use super::{
    TuneError,
    knobs::{Knob, Knobs},
    search::Sample,
};
use crate::{
    config::Config,
    embedder::{self, EmbedError, Embedder, Modality, StartError, Terms},
    health::Health,
    telemetry::Metrics,
};

/// Of a trial's time, what goes to the one client.
const LATENCY_SHARE: f64 = 1.0 / 3.0;
/// Answers that a latency is told from, at least, however long they take.
const LEAST_LATENCIES: usize = 5;
/// Full rounds of all sessions that a rate is told from, at least, however long they take.
const LEAST_BATCHES: usize = 2;
/// A trial is asked how fast it is, not whether it is fast enough for a deadline.
const NO_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

/// What is asked in turn: the lengths of search queries and captions, some longer.
const TEXTS: [&str; 8] = [
    "a photo of a cat",
    "red running shoes, size 42, side view on a white background",
    "sunset over the harbour",
    "two children build a snowman in front of a wooden house while a dog watches them from the stairs",
    "invoice",
    "an aerial view of a city at night, with a river and several bridges that are lit in different colours",
    "a bowl of ramen with a soft egg",
    "close-up of a circuit board",
];

/// What all trials have in common.
#[derive(Debug)]
pub(super) struct Trials<'a> {
    config: Config,
    runtime: &'a Runtime,
    picture: Bytes,
    seconds: Duration,
}

impl<'a> Trials<'a> {
    /// Trials of `config` that take about `seconds` each, besides the start; images are copies of `picture`.
    pub(super) fn new(config: &Config, runtime: &'a Runtime, picture: Bytes, seconds: Duration) -> Self {
        Self { config: without_shortcuts(config), runtime, picture, seconds }
    }

    /// Measures `knobs`.
    ///
    /// # Errors
    /// When the model does not start with them, or a picture or text has no embedding.
    pub(super) fn measure(&self, modality: Modality, knobs: &Knobs) -> Result<Sample, TuneError> {
        let config = self.with_small_other(modality, knobs);
        // The first start of all has logged what there is to say.
        let silent = tracing::subscriber::NoSubscriber::new();
        let embedder = Arc::new(tracing::subscriber::with_default(silent, || start(&config))?);
        let (sessions, batch, lane) = match modality {
            Modality::Image => (Knob::VisionSessions, Knob::VisionBatch, &config.batch.vision),
            Modality::Text => (Knob::TextSessions, Knob::TextBatch, &config.batch.text),
        };
        // While one batch of each session runs, the next one is there, and what follows is being decoded.
        let running = knobs[sessions] * knobs[batch];
        let clients = (2 * running + knobs[Knob::PreprocessThreads]).min(lane.max_queue_size);
        let measured = self.runtime.block_on(async {
            let one = Load { clients: 1, window: self.seconds.mul_f64(LATENCY_SHARE), least: LEAST_LATENCIES };
            let many =
                Load { clients, window: self.seconds.mul_f64(1.0 - LATENCY_SHARE), least: LEAST_BATCHES * running };
            let alone = self.closed_loop(&embedder, modality, one).await?;
            let crowded = self.closed_loop(&embedder, modality, many).await?;
            Ok::<_, EmbedError>((alone, crowded))
        });
        let resident = resident_memory();
        if let Some(embedder) = Arc::into_inner(embedder) {
            embedder.shut_down();
        }
        let (alone, crowded) = measured?;
        let rate = slope(&crowded.iter().map(|answer| answer.at.as_secs_f64()).collect::<Vec<_>>());
        Ok(Sample { rate, latencies: alone.into_iter().map(|answer| answer.took).collect(), resident })
    }

    /// The configuration of a trial. The other encoder is as small as it gets: it has nothing to do but its first runs.
    fn with_small_other(&self, modality: Modality, knobs: &Knobs) -> Config {
        let (sessions, batch) = match modality {
            Modality::Image => (Knob::TextSessions, Knob::TextBatch),
            Modality::Text => (Knob::VisionSessions, Knob::VisionBatch),
        };
        knobs.with(sessions, 1).with(batch, 1).apply(&self.config)
    }

    /// What was answered in the load's window.
    async fn closed_loop(
        &self,
        embedder: &Arc<Embedder>,
        modality: Modality,
        load: Load,
    ) -> Result<Vec<Answered>, EmbedError> {
        let (started, answers) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
        let mut clients = JoinSet::new();
        for client in 0..load.clients {
            let (embedder, answers, picture) = (Arc::clone(embedder), Arc::clone(&answers), self.picture.clone());
            clients.spawn(async move {
                let mut texts = TEXTS.iter().cycle().skip(client % TEXTS.len());
                loop {
                    let asked = Instant::now();
                    let text = texts.next().copied().unwrap_or_default();
                    if let Err(error) = ask(&embedder, modality, &picture, text).await {
                        return error;
                    }
                    let answer = Answered { at: started.elapsed(), took: asked.elapsed() };
                    answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
                }
            });
        }
        let answered = || answers.lock().unwrap_or_else(PoisonError::into_inner).len();
        let observe = async {
            let poll = async |enough: usize| {
                while answered() < enough {
                    time::sleep(Duration::from_millis(1)).await;
                }
            };
            poll(load.clients).await;
            let settled = answered();
            time::sleep(load.window).await;
            poll(settled + load.least).await;
            settled
        };
        let settled = tokio::select! {
            settled = observe => settled,
            // A client ends by an error alone, or by a panic, which has been printed.
            Some(failed) = clients.join_next() => return Err(failed.unwrap_or_else(|e| EmbedError::Internal(e.to_string()))),
        };
        // Drops what is still asked, and with it the clients' hold on the embedder.
        clients.shutdown().await;
        Ok(answers.lock().unwrap_or_else(PoisonError::into_inner).split_off(settled))
    }
}

/// Clients that each ask again when they are answered.
#[derive(Clone, Copy)]
struct Load {
    clients: usize,
    /// How long is counted.
    window: Duration,
    /// Answers that are waited for beyond that.
    least: usize,
}

/// One answer.
struct Answered {
    /// Since the loop began.
    at: Duration,
    took: Duration,
}

/// Brings an embedder to where it can be asked.
pub(super) fn start(config: &Config) -> Result<Embedder, StartError> {
    embedder::start(config, Arc::new(Metrics::new()), &Health::new(config.engine.stall_timeout))
}

/// One request of one item.
pub(super) async fn ask(
    embedder: &Embedder,
    modality: Modality,
    picture: &Bytes,
    text: &str,
) -> Result<(), EmbedError> {
    let deadline = Instant::now() + NO_DEADLINE;
    match modality {
        Modality::Image => embedder.embed_images(vec![picture.clone()], Terms::patient(deadline)).await.map(drop),
        Modality::Text => embedder.embed_texts(&[text], true, Terms::patient(deadline)).await.map(drop),
    }
}

/// `config` without what would let a trial measure something else than decoding and encoding: all trials ask for the same few
/// items, and the first start has fetched what comes from the hub.
fn without_shortcuts(config: &Config) -> Config {
    let mut config = config.clone();
    config.model.hub.offline = true;
    config.cache.max_bytes = 0;
    // Runs as long as the knobs make them: what is asked is what they are worth.
    config.limits.max_queue_wait = NO_DEADLINE;
    config
}

/// Items a second from the times of the answers, in seconds: the slope of the line that fits their count best. Answers come in
/// batches, and a batch that an end of the window cuts moves this less than it moves count over time.
fn slope(times: &[f64]) -> f64 {
    let n = times.len() as f64;
    let mean_time = times.iter().sum::<f64>() / n;
    let mean_count = (n - 1.0) / 2.0;
    let (mut both, mut time) = (0.0, 0.0);
    for (count, at) in times.iter().enumerate() {
        both += (at - mean_time) * (count as f64 - mean_count);
        time += (at - mean_time) * (at - mean_time);
    }
    if time > 0.0 { both / time } else { 0.0 }
}

/// Memory of this process that is in RAM, bytes.
pub(super) fn resident_memory() -> Option<u64> {
    kibibytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Memory that this process could still take, bytes: of the machine, and of its cgroups (version 2) where one has a limit.
pub(super) fn available_memory() -> Option<u64> {
    let machine = kibibytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(cgroup_memory(Path::new("/sys/fs/cgroup"), &groups).map_or(machine, |cgroup| machine.min(cgroup)))
}

/// What the tightest has left of the cgroup and those around it, which lie below `root`; `None` without a limit.
fn cgroup_memory(root: &Path, groups: &str) -> Option<u64> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let left = |folder: &Path| -> Option<u64> {
        let read = |name: &str| -> Option<u64> { fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok() };
        Some(read("memory.max")?.saturating_sub(read("memory.current")?))
    };
    root.join(group).ancestors().take_while(|folder| folder.starts_with(root)).filter_map(left).min()
}

/// The value of a line such as `VmRSS:   1234 kB`, bytes.
fn kibibytes(table: &str, name: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_the_rate_also_where_answers_come_in_batches() {
        let even: Vec<f64> = (0..50).map(|i| 3.0 + f64::from(i) * 0.02).collect();
        assert!((slope(&even) - 50.0).abs() < 1e-9);
        // Eight every 0.4 s are 20/s.
        let batches: Vec<f64> = (0..40).map(|i| f64::from(i / 8) * 0.4).collect();
        assert!((slope(&batches) - 20.0).abs() < 1e-9);
        // Half of the first batch is missing; count over time would say 22.5 or 17.5.
        assert!((slope(&batches[4..]) - 20.0).abs() < 1.0, "{}", slope(&batches[4..]));
        assert_eq!((slope(&[]), slope(&[1.0])), (0.0, 0.0));
    }

    #[test]
    fn the_tightest_cgroup_around_the_process_counts() {
        let root = tempfile::tempdir().expect("a folder");
        let limit = |group: &str, max: &str, current: &str| {
            let folder = root.path().join(group);
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join("memory.max"), max).expect("a file");
            fs::write(folder.join("memory.current"), current).expect("a file");
        };
        limit("pod/container", "max\n", "100\n");
        let left = || cgroup_memory(root.path(), "1:cpu:/x\n0::/pod/container\n");
        assert_eq!(left(), None);
        limit("pod", "5000\n", "1000\n");
        assert_eq!(left(), Some(4000));
        limit("pod/container", "2000\n", "2001\n");
        assert_eq!(left(), Some(0));
        assert_eq!(cgroup_memory(root.path(), "0::/\n"), None);
    }

    #[test]
    fn memory_is_read_off_the_tables_of_the_system() {
        let table = "Name:\tclipserve\nVmRSS:\t  123456 kB\nVmSwap:\t       0 kB\n";
        assert_eq!(kibibytes(table, "VmRSS:"), Some(123_456 * 1024));
        assert_eq!(kibibytes(table, "VmPeak:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_some_memory_and_could_have_more() {
        assert!(resident_memory().unwrap() > 1 << 20);
        assert!(available_memory().unwrap() > 0);
    }
}
