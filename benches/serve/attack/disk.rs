//! Disks that are full.
//!
//! Owns a small file system in memory, which needs root to mount, and what is written to it: graphs, checksums that are remembered, a
//! download, a log. Held to: what cannot go on ends with one line that names the file and says what to do, and leaves nothing under a
//! final name; where only a cache cannot be written, the service serves; with room again, the next start needs no help.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use super::{
    Attack,
    bodies::{JSON, object},
    finding::Finding,
    hub_stand_in::{HubStandIn, ID},
    kills, raw,
    target::wait,
};
use crate::{Result, checkpoint, process::Service, services};

/// Less than the small checkpoint's graphs; more than they and the checkpoint together.
const LITTLE: &str = "8m";
const ENOUGH: &str = "400m";

/// How long a start may take to end.
const ENDS: Duration = Duration::from_secs(10);

/// How long a request may take, and a start to be ready.
const PATIENCE: Duration = Duration::from_secs(2);
const READY: Duration = Duration::from_secs(30);

/// What is counted when the log has no room, and how long it may take until it has none.
const DROPPED: &str = "clipserve_log_lines_dropped_total";
const FULL: Duration = Duration::from_secs(20);

/// Requests that fill the log.
const REQUESTS: usize = 400;

/// Starts until the checksums of a checkpoint that was made just now are remembered, at most.
const STARTS: usize = 50;

/// A file system in memory, mounted as long as the value lives.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, size: &str) -> Result<Self> {
        // One that was left mounted by a run that was killed.
        let _ = Command::new("umount").arg("--lazy").arg(&at).output();
        fs::create_dir_all(&at)?;
        mount(&[&format!("size={size}")], &at)?;
        Ok(Self(at))
    }

    fn resize(&self, size: &str) -> Result<()> {
        mount(&["remount", &format!("size={size}")], &self.0)
    }

    /// Takes all the room that there is.
    fn fill(&self) -> Result<()> {
        let mut file = fs::File::create(self.0.join("filler"))?;
        let zeros = vec![0; 1 << 16];
        while file.write_all(&zeros).is_ok() {}
        // The last bytes of the last page.
        while file.write(&[0]).is_ok() {}
        Ok(())
    }

    fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn mount(options: &[&str], at: &Path) -> Result<()> {
    let options = options.join(",");
    let output = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output()?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("mount: {}; root can", String::from_utf8_lossy(&output.stderr).trim()).into())
    }
}

pub(crate) fn run(attack: &mut Attack<'_>) -> Result<()> {
    checkpoint::make_small(attack.places)?;
    let checkpoint = attack.places.small_checkpoint();
    let at = attack.places.made().join("disk");
    for finding in [
        export(&checkpoint, &at)?,
        first_start(&checkpoint, &at, &attack.picture)?,
        checksums(&checkpoint, &at, &attack.picture)?,
        download(&checkpoint, &at, &attack.picture)?,
        log(attack, &at)?,
    ] {
        attack.found(finding);
    }
    Ok(())
}

/// `clipserve export` to it.
fn export(checkpoint: &Path, at: &Path) -> Result<Finding> {
    let disk = Disk::mount(at.to_owned(), LITTLE)?;
    let export = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clipserve"));
        command.arg("export").arg(checkpoint).arg(disk.0.join("out"));
        command
    };
    let started = Instant::now();
    let output = export().output()?;
    let finding = ended(Finding::new("disk full: clipserve export"), &output, started, &["out", "make room"]);
    let left = kills::files(&disk.0)?;
    let finding = finding.check(format!("left {left:?}"), "nothing", left.len() == 1 && left.contains(Path::new("")));
    disk.resize(ENOUGH)?;
    let again = export().output()?;
    Ok(finding.check(format!("with room: {}", again.status), "exit status: 0", again.status.success()))
}

/// A first start with its cache there.
fn first_start(checkpoint: &Path, at: &Path, picture: &[u8]) -> Result<Finding> {
    let disk = Disk::mount(at.to_owned(), LITTLE)?;
    let started = Instant::now();
    let output = kills::service(checkpoint, &disk.0).output()?;
    let finding = Finding::new("disk full: a first start, which makes the graphs");
    let finding = ended(finding, &output, started, &["cache", "make room", "--cache-dir"]);
    let left = kills::files(&disk.0.join("cache"))?;
    let left: Vec<_> = left.iter().filter(|path| !path.starts_with("digests")).collect();
    let nothing = left.iter().all(|path| path.as_os_str().is_empty());
    let finding = finding.check(format!("left {left:?} besides checksums"), "nothing", nothing);
    disk.resize(ENOUGH)?;
    let again = kills::start(kills::service(checkpoint, &disk.0), &disk.0, picture);
    Ok(ready(finding, "with room", again.map(|_| ())))
}

/// A start with the graphs there, and no room for the checksums that it would remember.
fn checksums(checkpoint: &Path, at: &Path, picture: &[u8]) -> Result<Finding> {
    let disk = Disk::mount(at.to_owned(), ENOUGH)?;
    let digests = disk.0.join("cache/digests");
    let start = || kills::start(kills::service(checkpoint, &disk.0), &disk.0, picture);
    let mut with_room = start()?;
    // What was written just now is not remembered, since it may change once more without a trace; the checkpoint may be as new.
    for _ in 0..STARTS {
        if digests.exists() {
            break;
        }
        with_room = start()?;
    }
    fs::remove_dir_all(&digests)?;
    // Room for the folder's own entry, and for no file in it.
    fs::create_dir(&digests)?;
    disk.fill()?;
    let full = start()?;
    disk.empty()?;
    let finding = Finding::new("disk full: checksums that a start remembers");
    let half: Vec<_> = full.files.iter().filter(|path| path.parent() == Some(Path::new("cache/digests"))).collect();
    let finding = finding.check("serves", "serves", full.answers == with_room.answers);
    Ok(finding.check(format!("left {half:?}"), "no half of a record", half.iter().all(|path| is_whole(&disk.0, path))))
}

fn is_whole(root: &Path, path: &Path) -> bool {
    let text = fs::read(root.join(path)).unwrap_or_default();
    serde_json::from_slice::<serde_json::Value>(&text).is_ok()
}

/// A download from a stand-in of a hub.
fn download(checkpoint: &Path, at: &Path, picture: &[u8]) -> Result<Finding> {
    let disk = Disk::mount(at.to_owned(), LITTLE)?;
    let files = fs::read_dir(checkpoint)?.map(|entry| {
        let entry = entry?;
        Ok((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?))
    });
    let hub = HubStandIn::start(files.collect::<Result<_>>()?);
    let service = || {
        let mut command = kills::service(Path::new(ID), &disk.0);
        command.env("HF_ENDPOINT", hub.endpoint().expose()).env("HF_HOME", disk.0.join("hub"));
        command
    };
    let started = Instant::now();
    let output = service().output()?;
    let finding = Finding::new("disk full: a first start from the hub");
    let finding = ended(finding, &output, started, &["model.safetensors", "hub", "make room", "HF_HOME"]);
    let blobs = kills::files(&disk.0.join("hub"))?;
    let linked: Vec<_> = blobs.iter().filter(|path| path.ends_with("model.safetensors")).collect();
    let finding = finding.check(format!("under its name: {linked:?}"), "nothing", linked.is_empty());
    disk.resize(ENOUGH)?;
    let again = kills::start(service(), &disk.0, picture);
    let resumed = hub.ranges("model.safetensors").iter().any(|range| !range.is_empty());
    let finding = ready(finding, "with room", again.map(|_| ()));
    Ok(finding.check(if resumed { "goes on where it ended" } else { "begins anew" }, "goes on", resumed))
}

/// A log in a file there.
fn log(attack: &Attack<'_>, at: &Path) -> Result<Finding> {
    let disk = Disk::mount(at.to_owned(), "64k")?;
    let path = disk.0.join("log");
    let address = services::free_address()?;
    let mut command = services::clipserve_command(
        attack.places,
        &attack.places.box_model(),
        crate::arithmetic::Arithmetic::F32,
        &[],
        SocketAddr::from(([127, 0, 0, 1], address.port())),
    );
    let mut service = Service::spawn(&mut command, address, fs::File::create(&path)?.into())?;
    let get = |path| raw::exchange(address, &raw::get(path), PATIENCE, false).is_ok_and(|it| it.status == 200);
    if !wait(READY, || get("/readyz")) {
        return Ok(Finding::new("disk full: a log in a file").check("not ready", "serves", false));
    }
    // A request that is refused has a line.
    let request = raw::post("/embed/text", JSON, &object(&"k".repeat(500), "[]"));
    let refused = |count: usize| {
        let asked = (0..count).map(|_| raw::exchange(address, &request, PATIENCE, false));
        asked.filter(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 400)).count()
    };
    let answered = refused(REQUESTS);
    // So many of them have a line in a second, and no more: it takes some seconds until there is no room.
    let loses = || {
        raw::exchange(address, &raw::get("/metrics"), PATIENCE, false)
            .is_ok_and(|it| it.text.lines().any(|line| line.starts_with(DROPPED) && !line.ends_with(" 0")))
    };
    if !wait(FULL, || refused(1) == 1 && loses()) {
        return Ok(Finding::new("disk full: a log in a file").check("the disk is not full", "full", false));
    }
    let full = fs::metadata(&path)?.len();
    disk.resize(ENOUGH)?;
    let goes_on = wait(PATIENCE, || refused(1) == 1 && fs::metadata(&path).is_ok_and(|it| it.len() > full));
    let says = || fs::read_to_string(&path).is_ok_and(|text| text.contains("the log has a gap"));
    let says_so = wait(PATIENCE, || refused(1) == 1 && says());
    Ok(Finding::new("disk full: a log in a file")
        .all("requests", answered, REQUESTS)
        .check(if service.runs() { "same process" } else { "ended" }, "same process", service.runs())
        .check(if goes_on { "goes on with room" } else { "is silent" }, "goes on", goes_on)
        .check(if says_so { "says that lines are missing" } else { "does not say so" }, "says so", says_so))
}

/// A process that ended: with 1, soon, by one line with these words.
fn ended(finding: Finding, output: &Output, started: Instant, words: &[&str]) -> Finding {
    let log = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = log.lines().filter(|line| line.starts_with("clipserve: ")).collect();
    let line = lines.first().copied().unwrap_or_default();
    let missing: Vec<_> = words.iter().filter(|word| !line.contains(**word)).collect();
    let panicked = log.contains("panicked");
    let well = lines.len() == 1 && missing.is_empty() && !panicked;
    let measured =
        if well { "one line".to_owned() } else { format!("{} lines, without {missing:?}: {log}", lines.len()) };
    finding
        .check(output.status.to_string(), "exit status: 1", output.status.code() == Some(1))
        .within("after", started.elapsed(), ENDS)
        .check(measured, format!("one line with {words:?}"), well)
}

fn ready(finding: Finding, when: &str, outcome: Result<()>) -> Finding {
    let measured = outcome.as_ref().map_or_else(ToString::to_string, |()| "ready".to_owned());
    finding.check(format!("{when}: {measured}"), "ready", outcome.is_ok())
}
