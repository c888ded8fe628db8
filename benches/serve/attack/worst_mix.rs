//! Everything that takes memory at once, in a control group of exactly the sum that `deploy/README.md` documents.
//!
//! Owns the sum and the mix: the largest pictures of every format, bodies that come slowly, answers and outputs that nobody reads, as many
//! connections as there may be. Held to: the kernel ends nothing, requests get answers or 429, probes are answered.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use clipserve::{export, model::Digests};

use super::{
    Attack, album, bodies,
    bodies::JSON,
    crowd::{Crowd, Guest},
    finding::Finding,
    raw::{self, Prober},
    target::{MIB, Model, Target, hold},
    unread,
};
use crate::{Result, arithmetic::Arithmetic, load::request::Template};

/// How long it goes on, with a line of progress each second part.
const SECONDS: u64 = 40;
const LOOK: Duration = Duration::from_secs(5);

/// Clients of each kind of picture.
const CLIENTS: usize = 4;

/// Clients that upload, that do not read, that ask for outputs, and that do nothing.
const UPLOADS: usize = 40;
const DEAF: usize = 300;
const OUTPUTS: usize = 40;
const IDLE: usize = 600;

/// Probes on new connections, p99: the machine decodes on all cores.
const PROBE: Duration = Duration::from_millis(500);

/// What `config/default.toml` says, where `/info` does not.
const MAX_CONNECTIONS: f64 = 1024.0;
const RESERVE: f64 = 32.0;
const QUEUE: f64 = 256.0;
const CACHE: f64 = 64.0 * MIB;

pub(crate) fn run(attack: &mut Attack<'_>) -> Result<()> {
    let name = "everything that takes memory at once";
    let sum = sum(attack)?;
    let group = Group::new(sum as u64)?;
    attack.say(format!("  the sum of deploy/README.md: {:.0} MiB", sum / MIB));
    let set = ["cache.max_bytes=64MiB"];
    let mut target = Target::start_with(attack.places, Model::Large(Arithmetic::F32), &set, |it| group.command(it))?;
    let worst = album::worst(&attack.picture)?;
    for (format, _, file) in &worst {
        let answer = raw::exchange(
            target.address(),
            &raw::post("/embed/image", "application/octet-stream", file),
            Duration::from_secs(20),
            false,
        )?;
        attack.say(format!("  {format}, {} bytes: {} in {:?}", file.len(), answer.status, answer.took));
        if answer.status != 200 {
            return Err(format!("{format}: {}", answer.text).into());
        }
    }
    let mut guests = vec![
        (IDLE, Guest::Idle),
        (DEAF, Guest::Deaf(unread::cached(&target)?.into())),
        (OUTPUTS, Guest::Deaf(outputs(attack).into())),
        (UPLOADS, Guest::Drips { length: bodies::LARGE, piece: 200_000, every: Duration::from_millis(100) }),
    ];
    for (_, content_type, file) in worst {
        let template = Template::trailing("/embed/image", content_type, file)?;
        guests.extend((0..CLIENTS as u64).map(|client| (1, Guest::Asks(template.clone().starting_at(client << 32)))));
    }
    let prober = Prober::start(target.address(), &["/livez", "/readyz"]);
    let crowd = Crowd::gather(target.address(), guests)?;
    for _ in 0..SECONDS / LOOK.as_secs() {
        hold(LOOK);
        let memory = target.memory()?;
        attack.say(format!(
            "  {:.0} MiB resident, group {:.0}; {}",
            memory.resident / MIB,
            group.now()? / MIB,
            crowd.describe()
        ));
    }
    let (probes, seen) = (prober.stop()?, crowd.describe());
    drop(crowd);
    attack.say(format!("  {}; group at most {:.0} MiB", probes.describe(), group.peak()? / MIB));
    let (peak, kills) = (target.memory()?.peak, group.kills()?);
    // The slowest upload is ended where bodies have no room.
    let strange = seen.contains("x 5");
    let finding = Finding::new(name)
        .check(format!("{kills} ended by the kernel"), "0", kills == 0)
        .at_most("resident at most", " MiB", peak / MIB, sum / MIB)
        .check(seen, "answers, 429, closed", !strange)
        .within("probes on new connections p99", probes.p99(), PROBE);
    attack.found(finding);
    attack.found(target.unharmed(name, Duration::from_secs(30)));
    Ok(())
}

/// Pictures for whose patches somebody asks and which nobody reads.
fn outputs(attack: &Attack<'_>) -> Vec<u8> {
    let images = bodies::base64_list(&attack.picture, 16);
    let body = format!("{{\"images\": {images}, \"outputs\": [\"last_hidden_state\"]}}");
    raw::post("/embed/image", JSON, body.as_bytes())
}

/// The rows of the table in `deploy/README.md`, for this machine and the checkpoint of ViT-B/32's size.
fn sum(attack: &Attack<'_>) -> Result<f64> {
    let places = attack.places;
    let precision = Arithmetic::F32.graphs();
    let exported = export::export_cached(&places.checkpoint(), &places.cache(), precision, &Digests::default())?;
    let weights = exported.weight_bytes as f64;
    let threads = std::thread::available_parallelism()?.get().max(2) as f64;
    let budgets = 3.0 * 256.0 * MIB;
    Ok(1.5 * weights
        + threads * 8.0 * 50e6
        + QUEUE * 3.0 * 224.0 * 224.0
        + CACHE
        + weights
        + budgets
        + (MAX_CONNECTIONS + RESERVE) * 320.0 * 1024.0
        + 2048.0 * 8192.0)
}

/// A control group for memory, of either version.
struct Group {
    folder: PathBuf,
    unified: bool,
}

impl Group {
    fn new(limit: u64) -> Result<Self> {
        let name = format!("clipserve-attack-{}", std::process::id());
        let (root, unified) = match fs::read_to_string("/sys/fs/cgroup/cgroup.controllers") {
            Ok(controllers) if controllers.contains("memory") => ("/sys/fs/cgroup", true),
            _ => ("/sys/fs/cgroup/memory", false),
        };
        let group = Self { folder: PathBuf::from(root).join(name), unified };
        let why = |error: std::io::Error| format!("{}: {error}; root can", group.folder.display());
        fs::create_dir(&group.folder).map_err(why)?;
        fs::write(group.file("memory.max", "memory.limit_in_bytes"), limit.to_string()).map_err(why)?;
        Ok(group)
    }

    fn file(&self, unified: &str, old: &str) -> PathBuf {
        self.folder.join(if self.unified { unified } else { old })
    }

    /// `command` inside of it.
    fn command(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.folder.join("cgroup.procs"));
        inside.arg(command.get_program()).args(command.get_args());
        if let Some(folder) = command.get_current_dir() {
            inside.current_dir(folder);
        }
        inside
    }

    fn number(&self, unified: &str, old: &str) -> Result<f64> {
        Ok(fs::read_to_string(self.file(unified, old))?.trim().parse()?)
    }

    fn now(&self) -> Result<f64> {
        self.number("memory.current", "memory.usage_in_bytes")
    }

    fn peak(&self) -> Result<f64> {
        self.number("memory.peak", "memory.max_usage_in_bytes")
    }

    /// Processes that the kernel has ended for want of memory.
    fn kills(&self) -> Result<u64> {
        let text = fs::read_to_string(self.file("memory.events", "memory.oom_control"))?;
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(kills.ok_or("the control group does not count")?.trim().parse()?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}
