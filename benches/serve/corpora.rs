//! `make corpora ARGS=FOLDER`: every file of a folder by every door that takes pictures, and as text and as JSON, to a release build.
//!
//! Owns what the answers are held to: the statuses of [`ANSWERS`], [`LIMIT`], and the verdict of the first door, which is the same embedding
//! or a refusal with the same status (Voyage's client knows 400 alone). One request at a time: each is alone in its run, and waits for nobody.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser;

use crate::{
    Result,
    asker::{self, Asker, LIMIT, Reply, post},
    attack::{
        self,
        finding::Finding,
        target::{Model, Target},
    },
    doors::{Carried, DOORS, Door, Gives},
    figures::{figure, milliseconds},
    services::Places,
};

/// How a file may be answered.
const ANSWERS: [u16; 5] = [200, 400, 413, 415, 422];

/// How far a value of one door's embedding may lie from the first door's: the same number of 32 bits may be written in more than one way.
const CLOSE: f64 = 1e-5;

/// So many disagreements and odd answers are shown.
const SHOWN: usize = 20;

/// Doors that have nothing to do with pictures: a file is a text, a body of JSON, or a string in one.
const OTHERS: [&str; 4] =
    ["/embed/text, text/plain", "/embed/text, JSON", "/v1/embeddings, JSON", "/embed/text, a string where it is UTF-8"];

#[derive(Parser)]
pub(crate) struct Options {
    /// With files of any kind, in folders or not.
    folder: PathBuf,
}

/// What came of one door.
#[derive(Default)]
struct Tally {
    statuses: BTreeMap<String, usize>,
    sent: usize,
    right: usize,
    compared: usize,
    agreeing: usize,
    slowest: Duration,
}

/// What a door made of a file.
#[derive(Debug)]
enum Verdict {
    Embedding(Vec<f64>),
    Something,
    Refused(u16),
    Odd(String),
}

impl Verdict {
    fn of(gives: Gives, reply: &Reply) -> Self {
        match (&reply.status, gives) {
            (Ok(200), Gives::Something) => Self::Something,
            (Ok(200), Gives::Embedding(at)) => match Door::embedding(at, &reply.body) {
                Ok(row) => Self::Embedding(row),
                Err(error) => Self::Odd(error.to_string()),
            },
            (Ok(status), _) => Self::Refused(*status),
            (Err(error), _) => Self::Odd(error.clone()),
        }
    }

    fn agrees_with(&self, first: &Self, knows_few_statuses: bool) -> bool {
        match (self, first) {
            (Self::Embedding(row), Self::Embedding(first)) => {
                row.len() == first.len() && row.iter().zip(first).all(|(a, b)| (a - b).abs() <= CLOSE)
            }
            (Self::Something, Self::Embedding(_)) => true,
            (Self::Refused(400), Self::Refused(413 | 415)) if knows_few_statuses => true,
            (Self::Refused(status), Self::Refused(first)) => status == first,
            _ => false,
        }
    }
}

impl Tally {
    fn count(&mut self, reply: &Reply) {
        self.sent += 1;
        self.slowest = self.slowest.max(reply.took);
        let status = reply.status.as_ref().map_or_else(Clone::clone, ToString::to_string);
        self.right += usize::from(matches!(reply.status, Ok(status) if ANSWERS.contains(&status)));
        *self.statuses.entry(status).or_default() += 1;
    }

    fn finding(&self, name: &str) -> Finding {
        let statuses: Vec<_> = self.statuses.iter().map(|(status, count)| format!("{count} x {status}")).collect();
        let expected = ANSWERS.map(|status| status.to_string()).join(", ");
        let finding =
            Finding::new(name).check(statuses.join(", "), expected, self.right == self.sent && self.sent > 0).check(
                format!("slowest {} ms", figure(milliseconds(self.slowest))),
                format!("≤ {}", milliseconds(LIMIT)),
                self.slowest <= LIMIT,
            );
        if self.compared == 0 { finding } else { finding.all("as the first door", self.agreeing, self.compared) }
    }
}

/// Every file below `folder`.
fn files(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, into)?;
        } else if path.is_file() {
            into.push(path);
        }
    }
    Ok(())
}

pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    let mut paths = Vec::new();
    files(&options.folder, &mut paths)?;
    paths.sort();
    eprintln!("{} files by {} doors", paths.len(), DOORS.len() + OTHERS.len());
    let mut target = Target::start(places, Model::Box, &[])?;
    let tallies: RefCell<BTreeMap<usize, Tally>> = RefCell::default();
    let shown = RefCell::new(0);
    asker::each(target.address(), 1, paths.len() as u64, async |asker, number| {
        if let Err(error) = one(asker, &paths[number as usize], &tallies, &shown).await {
            eprintln!("{}: {error}", paths[number as usize].display());
        }
    })?;
    let names = DOORS.iter().map(|door| door.name).chain(OTHERS);
    let tallies = tallies.into_inner();
    let mut findings: Vec<Finding> = names
        .enumerate()
        .map(|(place, name)| match tallies.get(&place) {
            Some(tally) => tally.finding(name),
            None => Finding::not_measured(name, "nothing was sent"),
        })
        .collect();
    let first = tallies.get(&0).map_or(0, |tally| tally.sent);
    findings.push(Finding::new("files").all("sent", first, paths.len()));
    let panics = target.panics();
    let counted = panics.map_or("unknown".to_owned(), |panics| panics.to_string());
    findings.push(Finding::new("panics that were contained").check(counted, "0", panics == Some(0.0)));
    findings.push(target.unharmed("corpora", Duration::from_secs(5)));
    attack::conclude(&findings)
}

/// One file by every door.
async fn one(
    asker: &mut Asker,
    path: &Path,
    tallies: &RefCell<BTreeMap<usize, Tally>>,
    shown: &RefCell<usize>,
) -> Result<()> {
    let show = |text: String| {
        *shown.borrow_mut() += 1;
        if *shown.borrow() <= SHOWN {
            eprintln!("{}: {text}", path.display());
        }
    };
    let bytes = fs::read(path)?;
    let carried = Carried::new(bytes.clone());
    let mut first: Option<Verdict> = None;
    for (place, door) in DOORS.iter().enumerate() {
        let reply = asker.ask(door.request(&carried)?).await;
        let verdict = Verdict::of(door.gives, &reply);
        // Nothing at all is no picture by one door, and no base64 by another.
        let both_refuse = |first: &Verdict| matches!((&verdict, first), (Verdict::Refused(_), Verdict::Refused(_)));
        let agrees = first.as_ref().is_none_or(|first| {
            verdict.agrees_with(first, door.knows_few_statuses) || bytes.is_empty() && both_refuse(first)
        });
        let body = || String::from_utf8_lossy(&reply.body[..reply.body.len().min(200)]).into_owned();
        match &verdict {
            Verdict::Odd(why) => show(format!("{}: {why}: {}", door.name, body())),
            _ if !agrees => {
                show(format!("{}: {:?}, and by the first door {first:?}: {}", door.name, reply.status, body()))
            }
            _ => {}
        }
        let mut tallies = tallies.borrow_mut();
        let tally = tallies.entry(place).or_default();
        tally.count(&reply);
        tally.compared += 1;
        tally.agreeing += usize::from(agrees);
        first.get_or_insert(verdict);
    }
    let string = std::str::from_utf8(&bytes).ok().map(|text| serde_json::json!({"texts": [text]}).to_string());
    let others = [
        Some(post("/embed/text", "text/plain", bytes.clone())?),
        Some(post("/embed/text", "application/json", bytes.clone())?),
        Some(post("/v1/embeddings", "application/json", bytes)?),
        string.map(|body| post("/embed/text", "application/json", body)).transpose()?,
    ];
    for (place, request) in others.into_iter().enumerate() {
        let Some(request) = request else { continue };
        let reply = asker.ask(request).await;
        if !matches!(reply.status, Ok(status) if ANSWERS.contains(&status)) {
            show(format!("{}: {:?}", OTHERS[place], reply.status));
        }
        tallies.borrow_mut().entry(DOORS.len() + place).or_default().count(&reply);
    }
    Ok(())
}
