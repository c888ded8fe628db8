//! `kill -9` at any time: nothing is left that a next start trips over.
//!
//! Owns what is killed, when, and what the next start is held to: it is ready without help, its embeddings are those of a start that
//! nobody killed, and the folders hold the same files as after such a start: what a killed process left behind is gone. The instants are
//! spread over the time that an unharmed run takes, by a seed.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    Attack,
    bodies::{JSON, object},
    finding::Finding,
    hub_stand_in::{HubStandIn, ID},
    raw,
    target::hold,
};
use crate::{
    Result, checkpoint,
    process::{Reader, Service},
    services,
};

/// Kills of each kind.
const KILLS: usize = 25;

/// The latest instant, of the time that an unharmed run takes.
const LATEST: f64 = 1.1;

/// The age of a file from which on its checksum is remembered, and some.
const SETTLED: Duration = Duration::from_secs(3);

/// What is killed, in a folder of its own.
struct Case<'a> {
    name: &'static str,
    folder: PathBuf,
    /// Brings the folder to where the process starts.
    prepare: &'a dyn Fn(&Path) -> Result<()>,
    command: &'a dyn Fn(&Path) -> Command,
    /// Lets the same be done again, and gives what came of it.
    again: &'a dyn Fn(&Path) -> Result<Outcome>,
}

/// What an unharmed run leaves, and answers.
#[derive(Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) files: BTreeSet<PathBuf>,
    pub(super) answers: Vec<serde_json::Value>,
}

pub(crate) fn run(attack: &mut Attack<'_>) -> Result<()> {
    let places = attack.places;
    checkpoint::make_small(places)?;
    let checkpoint = places.small_checkpoint();
    // What is younger than the clock of a file system is coarse is not remembered.
    let weights = fs::metadata(checkpoint.join("model.safetensors"))?.modified()?;
    hold(SETTLED.saturating_sub(weights.elapsed().unwrap_or_default()));
    let nothing = |_: &Path| Ok(());
    let serve = |folder: &Path| service(&checkpoint, folder);
    let picture = &attack.picture.clone();
    let serve_again = |folder: &Path| start(serve(folder), folder, picture);
    let export = |folder: &Path| {
        let mut command = services::dying_with_us(Path::new(env!("CARGO_BIN_EXE_clipserve")));
        command.arg("export").arg(&checkpoint).arg(folder.join("out"));
        command
    };
    let export_again = |folder: &Path| exported(export(folder), folder);
    let damage = |folder: &Path| {
        start(serve(folder), folder, picture)?;
        damage(&folder.join("cache"))
    };
    let whole = |folder: &Path| start(serve(folder), folder, picture).map(|_| ());
    let files = fs::read_dir(&checkpoint)?.map(|entry| {
        let entry = entry?;
        Ok((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?))
    });
    let hub = HubStandIn::start(files.collect::<Result<_>>()?);
    let download = |folder: &Path| {
        let mut command = service(Path::new(ID), folder);
        command.env("HF_ENDPOINT", hub.endpoint().expose()).env("HF_HOME", folder.join("hub"));
        command
    };
    let download_again = |folder: &Path| start(download(folder), folder, picture);

    let folder = places.made().join("kills");
    let case = |name, prepare, command, again| Case { name, folder: folder.clone(), prepare, command, again };
    for case in [
        case("a first start, which makes the graphs", &nothing, &serve, &serve_again),
        case("a start with the graphs in the cache", &whole, &serve, &serve_again),
        case("a start with damaged graphs in the cache", &damage, &serve, &serve_again),
        case("clipserve export", &nothing, &export, &export_again),
        case("a first start from the hub", &nothing, &download, &download_again),
    ] {
        let finding = case.run(attack)?;
        attack.found(finding);
    }
    Ok(())
}

impl Case<'_> {
    fn run(&self, attack: &Attack<'_>) -> Result<Finding> {
        self.afresh()?;
        let started = Instant::now();
        let expected = (self.again)(&self.folder)?;
        let takes = started.elapsed();
        let mut random = fastrand::Rng::with_seed(1);
        let (mut well, mut left, mut first) = (0, 0, None);
        for _ in 0..KILLS {
            self.afresh()?;
            let after = takes.mul_f64(random.f64() * LATEST);
            kill(&mut (self.command)(&self.folder), after)?;
            let leftovers = files(&self.folder)?.difference(&expected.files).count();
            left += usize::from(leftovers > 0);
            match (self.again)(&self.folder) {
                Ok(outcome) if outcome == expected => well += 1,
                Ok(outcome) => {
                    let odd: Vec<_> = outcome.files.symmetric_difference(&expected.files).collect();
                    first.get_or_insert(format!("{after:?}: other answers or files: {odd:?}"));
                }
                Err(error) => {
                    first.get_or_insert(format!("{after:?}: {error}"));
                }
            }
        }
        fs::remove_dir_all(&self.folder)?;
        attack.say(format!("  {} of {KILLS} left something, of {:.0} ms", left, takes.as_secs_f64() * 1e3));
        let first = first.map(|first| format!(" (killed after {first})")).unwrap_or_default();
        let finding = Finding::new(format!("{KILLS} times kill -9: {}", self.name));
        Ok(finding.check(
            format!("{well} of {KILLS} starts afterwards are whole{first}; {left} found leftovers"),
            "all",
            well == KILLS,
        ))
    }

    /// The folder as the process finds it.
    fn afresh(&self) -> Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir_all(&self.folder)?,
        }
        (self.prepare)(&self.folder)
    }
}

/// Starts it and kills it after that time, or later than it ended by itself.
fn kill(command: &mut Command, after: Duration) -> Result<()> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let service = Service::spawn(command, any, Stdio::null())?;
    hold(after);
    // To drop it is SIGKILL.
    drop(service);
    Ok(())
}

/// `model` on any port, with everything that is written below `folder`.
pub(super) fn service(model: &Path, folder: &Path) -> Command {
    let mut command = services::dying_with_us(Path::new(env!("CARGO_BIN_EXE_clipserve")));
    command.args(["serve", "--listen", "127.0.0.1:0", "--provider", "cpu", "--precision", "f32", "--model"]).arg(model);
    command.arg("--cache-dir").arg(folder.join("cache")).args(["--set", "cache.max_bytes=0"]);
    command
}

/// A start, and what it answers and leaves.
pub(super) fn start(command: Command, folder: &Path, picture: &[u8]) -> Result<Outcome> {
    let service = services::logging_clipserve(command, Reader::Stays)?;
    let requests = [
        raw::post("/embed/image", "image/jpeg", picture),
        raw::post("/embed/text", JSON, &object("texts", "[\"a photo of a cat\"]")),
    ];
    let answers = requests.iter().map(|request| raw::embeddings(service.address(), request));
    let answers = answers.collect::<Result<_>>()?;
    drop(service);
    Ok(Outcome { files: files(folder)?, answers })
}

/// `clipserve export`, and what it leaves; that the folder is there already is well where it is whole.
fn exported(mut command: Command, folder: &Path) -> Result<Outcome> {
    let output = command.output()?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() && !error.contains("is not empty") {
        return Err(error.into());
    }
    let record = fs::read_to_string(folder.join("out/onnx/checksums.json"))?;
    let record: serde_json::Value = serde_json::from_str(&record)?;
    let digests = clipserve::model::Digests::default();
    digests.check_export(&folder.join("out/onnx"))?;
    Ok(Outcome { files: files(folder)?, answers: vec![record] })
}

/// Changes a byte in the largest file below `folder`.
fn damage(folder: &Path) -> Result<()> {
    let mut largest = None;
    for path in files(folder)? {
        let path = folder.join(path);
        largest = largest.max(Some((fs::metadata(&path)?.len(), path)));
    }
    let (_, path) = largest.ok_or("nothing was written")?;
    let mut bytes = fs::read(&path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Ok(fs::write(path, bytes)?)
}

/// Every file below `folder`, and every empty folder.
pub(super) fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(at) = folders.pop() {
        let mut empty = true;
        for entry in fs::read_dir(&at)? {
            let entry = entry?;
            empty = false;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                found.insert(entry.path().strip_prefix(folder)?.to_owned());
            }
        }
        if empty {
            found.insert(at.strip_prefix(folder)?.to_owned());
        }
    }
    Ok(found)
}
