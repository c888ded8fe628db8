//! What `compare` prints: figures, the worst pairs, and what may become of the index. Markdown, or JSON with `--json`.
//!
//! Owns what is told and its layout. Does not own the arithmetic (`statistics`).
//!
//! Invariant: both forms are written from one [`Report`], so that they cannot differ.

use std::fmt::{self, Write as _};

use ndarray::Array2;
use serde::Serialize;

use super::{
    pairs::{LeftOut, Lengths, Pairs},
    peer::shown,
    statistics::{KEPT, NEIGHBOURS, Recall, Spaces, Spread, Verdict, WITH_CARE, cosine, smallest},
};
use crate::similarity;

/// Pairs that are listed.
const WORST: usize = 5;
/// Samples that are listed as left out.
const LEFT_OUT: usize = 10;
/// Characters of a text that are shown.
const SHOWN_CHARS: usize = 100;

/// A comparison.
#[derive(Debug, Serialize)]
pub struct Report {
    ours: Ours,
    other: Other,
    /// Embeddings of two lengths: nothing else is compared then.
    #[serde(skip_serializing_if = "Option::is_none")]
    lengths: Option<Lengths>,
    pictures: Option<Compared>,
    texts: Option<Compared>,
    neighbours: Vec<Neighbours>,
    left_out: Vec<LeftOut>,
    notes: Vec<String>,
    verdict: Verdict,
    /// The verdict in a line, with its rule.
    summary: String,
}

/// Our model.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Ours {
    pub(super) model: String,
    pub(super) fingerprint: String,
    pub(super) precision: String,
}

/// The other service.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Other {
    pub(super) url: String,
    pub(super) kind: String,
    pub(super) model: Option<String>,
}

/// The pairs of one modality.
#[derive(Debug, Serialize)]
struct Compared {
    pairs: usize,
    dim: usize,
    cosine: Spread,
    worst: Vec<Worst>,
}

#[derive(Debug, Serialize)]
struct Worst {
    sample: String,
    cosine: f64,
}

/// Whose neighbours are looked for among what.
#[derive(Debug, Serialize)]
struct Neighbours {
    of: &'static str,
    among: &'static str,
    #[serde(flatten)]
    recall: Recall,
}

impl Report {
    /// Compares the pairs there are; one modality at least.
    pub(super) fn new(
        ours: Ours,
        other: Other,
        pictures: Option<Pairs>,
        texts: Option<Pairs>,
        mut notes: Vec<String>,
    ) -> Self {
        let (image_rows, text_rows) = (pictures.as_ref().map(Rows::of), texts.as_ref().map(Rows::of));
        let picture_spaces = image_rows.as_ref().map(Rows::spaces);
        let text_spaces = text_rows.as_ref().map(Rows::spaces);
        let mut neighbours = Vec::new();
        let mut add = |of, among, recall: Option<Recall>| {
            neighbours.extend(recall.map(|recall| Neighbours { of, among, recall }));
        };
        add("pictures", "pictures", picture_spaces.and_then(Recall::within));
        add("texts", "texts", text_spaces.and_then(Recall::within));
        if let (Some(pictures), Some(texts)) = (picture_spaces, text_spaces) {
            add("texts", "pictures", Recall::among(texts, pictures));
            add("pictures", "texts", Recall::among(pictures, texts));
        }
        let few = |neighbours: &Neighbours, among| neighbours.among == among && neighbours.recall.is_easy();
        for among in ["pictures", "texts"] {
            if neighbours.iter().any(|neighbours| few(neighbours, among)) {
                notes.push(format!(
                    "neighbours among so few {among} say little: most of all are among the nearest ten; give {} or more",
                    2 * NEIGHBOURS + 1
                ));
            }
        }
        let left_out = [&pictures, &texts].into_iter().flatten().flat_map(|pairs| pairs.left_out.clone()).collect();
        let (pictures, texts) = (image_rows.and_then(|rows| rows.compared), text_rows.and_then(|rows| rows.compared));
        let medians = [&pictures, &texts].into_iter().flatten().map(|compared| compared.cosine.median);
        let median = medians.fold(1.0, f64::min);
        let recall = neighbours.iter().map(|neighbours| neighbours.recall.recall).reduce(f64::min);
        let verdict = Verdict::of(median, recall);
        let summary = summary(verdict, median, recall);
        Self { ours, other, lengths: None, pictures, texts, neighbours, left_out, notes, verdict, summary }
    }

    /// Embeddings of two lengths.
    pub(super) fn of_other_model(ours: Ours, other: Other, lengths: Lengths) -> Self {
        let summary = format!(
            "The index cannot be kept: its embeddings have {} values, ours {}: that is another model.",
            lengths.theirs, lengths.ours
        );
        Self {
            ours,
            other,
            lengths: Some(lengths),
            pictures: None,
            texts: None,
            neighbours: Vec::new(),
            left_out: Vec::new(),
            notes: Vec::new(),
            verdict: Verdict::NotKept,
            summary,
        }
    }

    /// What may become of the index.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The report as one JSON object on one line.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("strings and finite numbers") + "\n"
    }
}

/// The pairs of one modality, to look for neighbours in.
struct Rows {
    compared: Option<Compared>,
    ours: Array2<f32>,
    theirs: Array2<f32>,
}

impl Rows {
    fn of(pairs: &Pairs) -> Self {
        let (mut ours, mut theirs) = (pairs.ours(), pairs.theirs());
        let compared = Compared::of(&pairs.names, &ours, &theirs);
        similarity::normalize(&mut ours);
        similarity::normalize(&mut theirs);
        Self { compared, ours, theirs }
    }

    fn spaces(&self) -> Spaces<'_> {
        Spaces { ours: &self.ours, theirs: &self.theirs }
    }
}

impl Compared {
    /// `None` without pairs.
    fn of(names: &[String], ours: &Array2<f32>, theirs: &Array2<f32>) -> Option<Self> {
        let cosines: Vec<f64> = ours.rows().into_iter().zip(theirs.rows()).map(|(a, b)| cosine(a, b)).collect();
        let worst = smallest(&cosines, WORST).into_iter();
        let worst = worst.filter_map(|at| Some(Worst { sample: names.get(at)?.clone(), cosine: *cosines.get(at)? }));
        Some(Self { pairs: cosines.len(), dim: ours.ncols(), cosine: Spread::of(&cosines)?, worst: worst.collect() })
    }
}

/// The verdict in words.
fn summary(verdict: Verdict, median: f64, recall: Option<f64>) -> String {
    let rule = |(least, least_recall): (f64, f64)| {
        format!("a median cosine of {least} and a recall@{NEIGHBOURS} of {least_recall} at least")
    };
    let ends = match verdict {
        Verdict::Kept => format!("The index may be kept ({})", rule(KEPT)),
        Verdict::KeptWithCare => format!("The index may be kept with care ({})", rule(WITH_CARE)),
        Verdict::NotKept => format!("The index cannot be kept (that takes {})", rule(WITH_CARE)),
    };
    let recall = recall.map_or("no neighbours to look at".to_owned(), |it| format!("recall {}", down(it, 4)));
    format!("{ends}: here median {}, {recall}, the lowest of each.", down(median, 6))
}

/// A number with so many decimals, cut and not rounded: what falls short of a border must not look as if it reached it.
fn down(value: f64, decimals: i32) -> String {
    let scale = 10f64.powi(decimals);
    // A hair more, for what is a decimal fraction already.
    let cut = (value * scale + 1e-6).floor() / scale;
    format!("{cut:.*}", decimals.unsigned_abs() as usize)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ours, other, .. } = self;
        let asked = other.model.as_ref().map_or(String::new(), |model| format!(", {}", shown(model, SHOWN_CHARS)));
        writeln!(
            f,
            "# clipserve compare: {} ({}{asked}) with {}, {}",
            other.url, other.kind, ours.model, ours.precision
        )?;
        let compared = [("pictures", &self.pictures), ("texts", &self.texts)];
        let compared = || compared.iter().filter_map(|(name, compared)| Some((*name, compared.as_ref()?)));
        if compared().next().is_some() {
            f.write_str("\n| cosines  | pairs |      min |      1 % |   median |     mean |\n")?;
            f.write_str("|----------|------:|---------:|---------:|---------:|---------:|\n")?;
        }
        for (name, Compared { pairs, cosine, .. }) in compared() {
            let Spread { min, percentile_1, median, mean } = *cosine;
            let [min, first, median, mean] = [min, percentile_1, median, mean].map(|value| down(value, 6));
            writeln!(f, "| {name:<8} | {pairs:>5} | {min:>8} | {first:>8} | {median:>8} | {mean:>8} |")?;
        }
        if !self.neighbours.is_empty() {
            f.write_str("\n| neighbours of | among    | of them | looked at |   stay |\n")?;
            f.write_str("|---------------|----------|--------:|----------:|-------:|\n")?;
        }
        for Neighbours { of, among, recall } in &self.neighbours {
            let Recall { candidates, neighbours, recall, .. } = recall;
            let stay = down(*recall, 4);
            writeln!(f, "| {of:<13} | {among:<8} | {candidates:>7} | {neighbours:>9} | {stay:>6} |")?;
        }
        for (name, compared) in compared() {
            writeln!(f, "\nThe worst {name}:\n")?;
            for Worst { sample, cosine } in &compared.worst {
                writeln!(f, "- {} {}", down(*cosine, 6), shown(sample, SHOWN_CHARS))?;
            }
        }
        if !self.left_out.is_empty() {
            writeln!(f, "\nLeft out:\n")?;
        }
        for LeftOut { sample, reason } in self.left_out.iter().take(LEFT_OUT) {
            writeln!(f, "- {}: {reason}", shown(sample, SHOWN_CHARS))?;
        }
        if let Some(more @ 1..) = self.left_out.len().checked_sub(LEFT_OUT) {
            writeln!(f, "- and {more} more")?;
        }
        f.write_char('\n')?;
        for note in &self.notes {
            writeln!(f, "Note: {note}.")?;
        }
        writeln!(f, "{}", self.summary)
    }
}
