//! What one picture costs: core-milliseconds in each part of a service, and the table of them.
//!
//! Pure: takes CPU times and counts, gives numbers and text. Invariants: the parts of a picture and what is left of it add up to all
//! that the process took, since each is the mean over the rounds; so `all` is also how many cores 1,000 pictures a second take.

use super::{figures::figure, report::Column};

/// What is embedded, by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    /// JPEGs of 640x480 by ViT-B/32's sizes.
    Photograph,
    /// JPEGs of 12 megapixels by the same.
    Phone,
    /// JPEGs of 640x480 by ViT-L/14's sizes.
    LargeModel,
}

impl Work {
    const ALL: [Self; 3] = [Self::Photograph, Self::Phone, Self::LargeModel];

    fn title(self) -> &'static str {
        match self {
            Self::Photograph => "ViT-B/32, 640x480",
            Self::Phone => "ViT-B/32, 12 megapixels",
            Self::LargeModel => "ViT-L/14, 640x480",
        }
    }
}

/// Core-milliseconds of one picture, where they are known apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Parts {
    pub(crate) decode: f64,
    pub(crate) resize: f64,
    pub(crate) encode: f64,
}

/// Core-milliseconds of one picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cost {
    /// Of the whole process.
    pub(crate) all: f64,
    /// Of clipserve, whose threads and stages have names.
    pub(crate) parts: Option<Parts>,
}

/// What a process took so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Account {
    /// CPU seconds.
    pub(crate) all: f64,
    /// The same of its threads.
    pub(crate) threads: Option<Threads>,
}

/// CPU seconds of clipserve's threads, and the seconds by the clock of the two stages that share theirs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Threads {
    pub(crate) preprocess: f64,
    pub(crate) sessions: f64,
    pub(crate) decode: f64,
    pub(crate) resize: f64,
}

impl Cost {
    /// Of each of `pictures` between two accounts. Decode and resize share the time of the threads that do both as the clock has it:
    /// on cores that are all busy the clock runs on while a thread waits for one, in both alike.
    pub(crate) fn between(before: &Account, after: &Account, pictures: u64) -> Self {
        let each = |seconds: f64| seconds * 1e3 / pictures as f64;
        let parts = after.threads.zip(before.threads).map(|(after, before)| {
            let preprocess = each(after.preprocess - before.preprocess);
            let (decode, resize) = (after.decode - before.decode, after.resize - before.resize);
            let decode = preprocess * decode / (decode + resize);
            Parts { decode, resize: preprocess - decode, encode: each(after.sessions - before.sessions) }
        });
        Self { all: each(after.all - before.all), parts }
    }
}

/// The mean over the rounds of `part`, where all of them know it.
fn mean(costs: &[Cost], part: impl Fn(&Cost) -> Option<f64>) -> Option<f64> {
    let values = costs.iter().map(part).collect::<Option<Vec<_>>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The table: of each work one row for each service.
pub(crate) fn table(columns: &[Column]) -> String {
    let mut table =
        "| model, JPEG | | decode | resize | encode | service | all |\n|---|---|---:|---:|---:|---:|---:|\n".to_owned();
    for work in Work::ALL {
        for column in columns {
            let Some(costs) = column.costs.get(&work) else { continue };
            let part = |part: fn(Parts) -> f64| mean(costs, |cost| cost.parts.map(part));
            let (decode, resize, encode) =
                (part(|parts| parts.decode), part(|parts| parts.resize), part(|parts| parts.encode));
            let service = mean(costs, |cost| {
                cost.parts.map(|Parts { decode, resize, encode }| cost.all - decode - resize - encode)
            });
            let all = mean(costs, |cost| Some(cost.all));
            let cells = [decode, resize, encode, service, all].map(|value| value.map_or("-".to_owned(), figure));
            table += &format!("| {} | {} | {} |\n", work.title(), column.name, cells.join(" | "));
        }
    }
    table
}
