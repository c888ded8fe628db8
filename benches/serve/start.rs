//! From the start of the process to readiness: how long it takes and how much memory, and what the first answers take after it.
//!
//! Owns the rounds and the table. Builds and the peer start in turn in every round, none beside another. What a start cannot do without
//! is one run of a picture and one of a text in bare sessions that are open, or, from a cold page cache, reading the export's files once;
//! both are measured in the same run. The first answers after readiness are measured against later ones: a start that leaves its work to
//! the first request is none.

use std::{
    fs::{self, File},
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use clap::Parser;
use clipserve::{
    export::{self, ExportedModel},
    model::Digests,
};
use serde_json::Value;
use tokio::task::{JoinSet, LocalSet};

use crate::{
    ENDLESS, PICTURE, Result,
    arithmetic::Arithmetic,
    bare::Bare,
    checkpoint::Size,
    figures::{figure, median, milliseconds},
    load::{
        connection::Connection,
        request::{Ask, Template, Wire},
    },
    machine,
    process::{Reader, Service},
    services::{self, Places},
};

/// Requests after the first one, and full batches after the first one: their medians are what later ones take.
const LATER: usize = 10;
const LATER_BATCHES: usize = 4;

/// A full batch of a large model takes longer than a request is let wait by default.
const PATIENCE: &str = "limits.max_queue_wait=5m";

/// Bytes that are read at once, where files are read once.
const PIECE: usize = 1 << 20;

#[derive(Parser)]
pub(crate) struct Options {
    /// Arithmetics of the encoders.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f32,bf16,int8,int8-openvino")]
    arithmetics: Vec<Arithmetic>,
    /// What a start finds.
    #[arg(long, value_enum, default_value = "page-cache")]
    from: From,
    /// A binary of another build, which starts in turn with this one.
    #[arg(long)]
    beside: Option<PathBuf>,
    /// Sizes of the model.
    #[arg(long, value_enum, default_value = "vit-b-32")]
    size: Size,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Infinity, too, which `benches/peers/install.sh` installs.
    #[arg(long)]
    infinity: bool,
}

/// What a start finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum From {
    /// The export, in the page cache.
    PageCache,
    /// The export, on the disk alone.
    Disk,
    /// The checkpoint alone, in the page cache: the start exports it.
    Checkpoint,
}

/// What was seen of one build or peer.
#[derive(Default)]
struct Seen {
    ready: Vec<f64>,
    peak: Vec<f64>,
    resident: Vec<f64>,
    /// The first answer after readiness, and the first full batch, as multiples of later ones.
    first: Vec<f64>,
    first_batch: Vec<f64>,
}

pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    println!("machine: {}\n", machine::describe()?);
    let model = options.size.make(places)?;
    let needed = if options.from == From::Disk { "reading its files once" } else { "a picture and a text" };
    println!(
        "| | ready, ms | beyond {needed}, ms | times as long as that | peak, MB | of what is held | first answer, of later ones | \
         first full batch, of later ones |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    for &arithmetic in &options.arithmetics {
        let name = arithmetic.name();
        if let Err(error) = rows(places, options, &model, arithmetic) {
            println!("| {name}: {} | | | | | | | |", error.to_string().trim().replace('\n', " "));
        }
    }
    if options.infinity {
        let mut seen = Seen::default();
        for _ in 0..options.rounds {
            let started = Instant::now();
            let service = services::infinity(places, &model)?;
            seen.look(&service, started.elapsed())?;
        }
        println!("{}", seen.row("infinity", f64::NAN));
    }
    println!("\nMedians of {} rounds in turn.", options.rounds);
    Ok(())
}

fn rows(places: &Places, options: &Options, model: &Path, arithmetic: Arithmetic) -> Result<()> {
    let starts = Starts::of(places, options.from, model, arithmetic)?;
    let mut needed = Needed::of(&starts)?;
    let mut builds = vec![(arithmetic.name().to_owned(), PathBuf::from(env!("CARGO_BIN_EXE_clipserve")))];
    builds
        .extend(options.beside.iter().map(|other| (format!("{}, the other build", arithmetic.name()), other.clone())));
    let (mut times, mut all) = (Vec::new(), Vec::new());
    all.resize_with(builds.len(), Seen::default);
    for _ in 0..options.rounds {
        times.push(milliseconds(needed.time(&starts)?));
        for ((_, binary), seen) in builds.iter().zip(&mut all) {
            starts.one(binary, seen)?;
        }
    }
    for ((name, _), seen) in builds.iter().zip(&all) {
        println!("{}", seen.row(name, median(&times)));
    }
    if let [this, other] = all.as_slice() {
        let faster: Vec<f64> = this.ready.iter().zip(&other.ready).map(|(this, other)| other / this).collect();
        println!(
            "| {}: times as fast as the other build | {} | | | | | | |",
            arithmetic.name(),
            figure(median(&faster))
        );
    }
    Ok(())
}

/// Starts with one model in one arithmetic.
struct Starts<'a> {
    places: Places,
    from: From,
    model: &'a Path,
    arithmetic: Arithmetic,
    exported: ExportedModel,
    picture: Vec<u8>,
}

impl<'a> Starts<'a> {
    fn of(places: &Places, from: From, model: &'a Path, arithmetic: Arithmetic) -> Result<Self> {
        let cache = places.cache();
        let exported = export::export_cached(model, &cache, arithmetic.graphs(), &Digests::new(Some(&cache)))?;
        let places = match from {
            From::PageCache | From::Disk => places.clone(),
            From::Checkpoint => places.with_cache(places.made().join("start-cache")),
        };
        let picture = fs::read(places.root.join(PICTURE))?;
        Ok(Self { places, from, model, arithmetic, exported, picture })
    }

    /// The files of the export that a start opens.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let folder = self.exported.vision.as_deref().and_then(Path::parent).ok_or("the model has no vision tower")?;
        let mut files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        files.sort();
        Ok(files)
    }

    /// Starts `binary` from what is to be there, and looks at it.
    fn one(&self, binary: &Path, seen: &mut Seen) -> Result<()> {
        match self.from {
            From::PageCache => {}
            From::Disk => forget(&self.files()?)?,
            From::Checkpoint if self.places.cache().exists() => fs::remove_dir_all(self.places.cache())?,
            From::Checkpoint => {}
        }
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let command =
            services::command_of(binary, &self.places, self.model, self.arithmetic, &[PATIENCE.to_owned()], any);
        let started = Instant::now();
        let service = services::logging_clipserve(command, Reader::Stays)?;
        seen.look(&service, started.elapsed())?;
        let (first, first_batch) = answers(&service, &self.picture)?;
        seen.first.push(first);
        seen.first_batch.push(first_batch);
        Ok(())
    }
}

/// What a start cannot do without.
enum Needed {
    /// A run of each tower.
    Runs(Vec<Bare>),
    /// The contents of the export.
    Reading,
}

impl Needed {
    fn of(starts: &Starts) -> Result<Self> {
        // A process that has mapped a file keeps it in the page cache.
        if starts.from == From::Disk {
            return Ok(Self::Reading);
        }
        let (vision, text) = (&starts.exported.vision, &starts.exported.text);
        let bare = |graph: &Option<PathBuf>| {
            Bare::start(graph.as_ref().ok_or("the model has not both towers")?, starts.arithmetic, None)
        };
        Ok(Self::Runs(vec![bare(vision)?, bare(text)?]))
    }

    fn time(&mut self, starts: &Starts) -> Result<Duration> {
        match self {
            Self::Runs(towers) => towers.iter_mut().map(Bare::run).sum(),
            Self::Reading => {
                let files = starts.files()?;
                forget(&files)?;
                let (started, mut piece) = (Instant::now(), vec![0; PIECE]);
                for file in files {
                    let mut file = File::open(file)?;
                    while file.read(&mut piece)? > 0 {}
                }
                Ok(started.elapsed())
            }
        }
    }
}

/// Drops the files from the page cache, after what is not on the disk yet has come there.
fn forget(files: &[PathBuf]) -> Result<()> {
    for file in files {
        File::open(file)?.sync_all()?;
        let status = Command::new("dd")
            .arg(format!("if={}", file.display()))
            .args(["iflag=nocache", "count=0", "status=none"])
            .status()?;
        if !status.success() {
            return Err(format!("dd: {status}").into());
        }
    }
    Ok(())
}

/// The times of the first answer and of the first full batch, each as a multiple of the median of later ones.
fn answers(service: &Service, picture: &[u8]) -> Result<(f64, f64)> {
    let template = Template::new(Ask::Image, Wire::Native, picture, ENDLESS)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut connection = Connection::open(service.address()).await?;
        let mut numbers = 0..;
        let mut times = Vec::new();
        for number in numbers.by_ref().take(1 + LATER) {
            let request = template.request(number);
            let started = Instant::now();
            connection.fetch(request).await?;
            times.push(milliseconds(started.elapsed()));
        }
        let info: Value = serde_json::from_slice(&connection.get("/info").await?)?;
        let full = info["limits"]["max_batch_size_image"].as_u64().ok_or("/info has no batch size")?;
        let mut connections = Vec::new();
        for _ in 0..full {
            connections.push(Connection::open(service.address()).await?);
        }
        let mut batches = Vec::new();
        for _ in 0..=LATER_BATCHES {
            let started = Instant::now();
            let mut asked = JoinSet::new();
            for mut connection in connections.drain(..) {
                let request = template.request(numbers.next().unwrap_or_default());
                asked.spawn_local(async move { connection.fetch(request).await.map(|_| connection) });
            }
            while let Some(answered) = asked.join_next().await {
                connections.push(answered??);
            }
            batches.push(milliseconds(started.elapsed()));
        }
        Ok((times[0] / median(&times[1..]), batches[0] / median(&batches[1..])))
    })
}

impl Seen {
    fn look(&mut self, service: &Service, took: Duration) -> Result<()> {
        let memory = service.memory()?;
        self.ready.push(milliseconds(took));
        self.peak.push(memory.peak / 1e6);
        self.resident.push(memory.resident / 1e6);
        Ok(())
    }

    fn row(&self, name: &str, needed: f64) -> String {
        let (ready, peak) = (median(&self.ready), median(&self.peak));
        let ratio = |values: &[f64]| if values.is_empty() { String::new() } else { figure(median(values)) };
        let (first, first_batch) = (ratio(&self.first), ratio(&self.first_batch));
        let (beyond, times) = (figure(ready - needed), figure(ready / needed));
        let (ready, held, peak) = (figure(ready), figure(peak / median(&self.resident)), figure(peak));
        format!("| {name} | {ready} | {beyond} | {times} | {peak} | {held} | {first} | {first_batch} |")
    }
}
