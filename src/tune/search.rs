//! Which combinations are tried, in which order, and which of them is better.
//!
//! Owns the stages, the candidates of each, the interleaving of rounds and the rule of choice. Does not own how a combination is
//! measured: that is a function it is given, so that it can be tested with one that costs nothing.
//!
//! The full product of all values would take hours. The knobs are turned one after the other instead, each from the best values
//! of those before: threads first, which decide most, then the batch, then the preprocess threads; images before texts, because
//! both encoders share `engine.intra_threads` and an image costs many times a text.
//!
//! Invariants: a stage's first candidate is what holds so far, and it stays unless another one is clearly better; all candidates
//! of a stage are measured once before any is measured again, so that a noisy minute of the machine hits all of them.

use std::time::Duration;

use super::knobs::{Knob, Knobs};
use crate::embedder::Modality;

/// What another combination has to gain before it replaces the one that holds: less than this is the same.
pub(super) const MARGIN: f64 = 0.03;

/// Images in one run, on a CPU and on a GPU, which starts to be busy where a CPU's caches end.
const VISION_BATCHES: [&[usize]; 2] = [&[1, 2, 4, 8, 16, 32], &[8, 16, 32, 64, 128]];
/// The same for texts.
const TEXT_BATCHES: [&[usize]; 2] = [&[1, 4, 16, 32, 64], &[32, 64, 128, 256]];
/// Sessions on a GPU: two can overlap copying with computing, more only take memory.
const GPU_SESSIONS: usize = 2;

/// How the items of a tower with embeddings run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runs {
    /// One at a time, so that there are no batches to try.
    OneByOne,
    /// As many together as a batch has.
    Together,
}

/// What may be tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    /// CPUs that the process may use.
    pub cpus: usize,
    /// Whether the encoders run on a GPU.
    pub gpu: bool,
    /// Sessions of an encoder that there is memory for.
    pub max_sessions: usize,
    /// How images run, where they are embedded.
    pub images: Option<Runs>,
    /// The same of texts.
    pub texts: Option<Runs>,
    /// How often each combination is measured.
    pub rounds: usize,
}

/// One measurement of one combination.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// Items a second, with enough clients to keep everything busy.
    pub rate: f64,
    /// From request to answer, with one client.
    pub latencies: Vec<Duration>,
    /// Of the whole process, bytes, where the system says it.
    pub resident: Option<u64>,
}

/// One combination with its measurements, one for each round.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// The combination.
    pub knobs: Knobs,
    /// The measurements.
    pub samples: Vec<Sample>,
}

impl Row {
    /// Items a second: the median of the rounds.
    pub(super) fn rate(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.rate).collect())
    }

    /// The `p`-th quantile of the latencies of all rounds together.
    pub(super) fn latency(&self, p: f64) -> Duration {
        quantile(self.samples.iter().flat_map(|sample| &sample.latencies).copied().collect(), p)
    }

    /// The most memory that was seen.
    pub(super) fn resident(&self) -> Option<u64> {
        self.samples.iter().filter_map(|sample| sample.resident).max()
    }
}

/// Combinations that differ in one or two knobs.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    /// What was embedded.
    pub modality: Modality,
    /// The knobs that differ.
    pub varied: Vec<Knob>,
    /// The combinations; the first is what held before.
    pub rows: Vec<Row>,
    /// The row with the most items a second.
    pub fastest: usize,
    /// The row with the shortest answer to one client.
    pub quickest: usize,
}

/// What came out.
#[derive(Clone, Debug)]
pub(super) struct Findings {
    /// All that was measured, in order.
    pub stages: Vec<Stage>,
    /// The most items a second.
    pub throughput: Knobs,
    /// The shortest answer to one client. Nothing but the threads matters to it: a lone item is a batch of one, and is decoded by
    /// one thread.
    pub latency: Knobs,
}

/// Tries what `space` allows, from `start`, by `measure`.
///
/// # Errors
/// The first one of `measure`.
pub(super) fn search<E>(
    start: Knobs,
    space: &Space,
    mut measure: impl FnMut(Modality, &Knobs) -> Result<Sample, E>,
) -> Result<Findings, E> {
    let mut findings = Findings { stages: Vec::new(), throughput: start, latency: start };
    let mut run = |findings: &mut Findings, modality, varied: &[Knob], candidates: Vec<Vec<usize>>| -> Result<(), E> {
        let stage = stage(findings.throughput, modality, varied, &candidates, space.rounds, &mut measure)?;
        findings.throughput = stage.rows[stage.fastest].knobs;
        findings.stages.push(stage);
        Ok(())
    };
    let one = |values: &[usize]| values.iter().map(|&value| vec![value]).collect();
    let lanes = [
        (space.images, Modality::Image, Knob::VisionSessions, Knob::VisionBatch, VISION_BATCHES),
        (space.texts, Modality::Text, Knob::TextSessions, Knob::TextBatch, TEXT_BATCHES),
    ];
    for (runs, modality, sessions, batch, batches) in lanes {
        let Some(runs) = runs else { continue };
        if findings.stages.is_empty() && !space.gpu {
            run(&mut findings, modality, &[sessions, Knob::IntraThreads], thread_shares(space))?;
            let threads = &findings.stages[0];
            findings.latency = threads.rows[threads.quickest].knobs;
        } else {
            let most = if space.gpu { GPU_SESSIONS } else { space.cpus / findings.throughput[Knob::IntraThreads] };
            run(&mut findings, modality, &[sessions], one(&halves(most.min(space.max_sessions))))?;
        }
        if runs == Runs::Together {
            run(&mut findings, modality, &[batch], one(batches[usize::from(space.gpu)]))?;
        }
        if modality == Modality::Image {
            let threads = [1, space.cpus.div_ceil(2), space.cpus, 2 * space.cpus];
            run(&mut findings, modality, &[Knob::PreprocessThreads], one(&threads))?;
        }
    }
    Ok(findings)
}

/// How many measurements [`search`] makes when what holds stays what holds.
pub(super) fn trials(start: Knobs, space: &Space) -> usize {
    let mut count = 0;
    let same = |_, _: &Knobs| {
        count += 1;
        Ok::<_, std::convert::Infallible>(Sample { rate: 1.0, latencies: Vec::new(), resident: None })
    };
    let Ok(_) = search(start, space, same);
    count
}

/// Sessions and threads in each of them: one session with all CPUs and with fewer, then all CPUs in equal shares.
fn thread_shares(space: &Space) -> Vec<Vec<usize>> {
    let alone = halves(space.cpus).into_iter().rev().map(|threads| vec![1, threads]);
    let shared = halves(space.cpus.min(space.max_sessions)).into_iter().map(|n| vec![n, space.cpus / n]);
    alone.chain(shared).collect()
}

/// `n` and the powers of two below it, ascending; 1 at least.
fn halves(n: usize) -> Vec<usize> {
    let n = n.max(1);
    std::iter::successors(Some(1), |power| Some(power * 2)).take_while(|&power| power < n).chain([n]).collect()
}

/// Measures what holds and every other one of `candidates` (a value for each of `varied`), simple ones first.
fn stage<E>(
    holds: Knobs,
    modality: Modality,
    varied: &[Knob],
    candidates: &[Vec<usize>],
    rounds: usize,
    measure: &mut impl FnMut(Modality, &Knobs) -> Result<Sample, E>,
) -> Result<Stage, E> {
    let mut rows = vec![Row { knobs: holds, samples: Vec::new() }];
    for values in candidates {
        let knobs = varied.iter().zip(values).fold(holds, |knobs, (&knob, &value)| knobs.with(knob, value));
        if rows.iter().all(|row| row.knobs != knobs) {
            rows.push(Row { knobs, samples: Vec::new() });
        }
    }
    for _ in 0..rounds {
        for row in &mut rows {
            row.samples.push(measure(modality, &row.knobs)?);
        }
    }
    let fastest = pick(&rows, |sample| sample.rate);
    let quickest = pick(&rows, |sample| 1.0 / quantile(sample.latencies.clone(), 0.5).as_secs_f64());
    Ok(Stage { modality, varied: varied.to_owned(), rows, fastest, quickest })
}

/// The first row, unless a later one is clearly better by `value`, of which more is better.
fn pick(rows: &[Row], value: impl Fn(&Sample) -> f64) -> usize {
    let mut best = 0;
    for other in 1..rows.len() {
        let pairs = rows[other].samples.iter().zip(&rows[best].samples);
        if is_clear(pairs.map(|(other, best)| value(other) / value(best)).collect()) {
            best = other;
        }
    }
    best
}

/// Of fewer rounds nothing is clear.
pub(super) const LEAST_ROUNDS: usize = 3;

/// Whether gains, one for each round, are more than noise: more than [`MARGIN`] in the median, and there at all in four rounds
/// of five (with fewer than five, in all [`LEAST_ROUNDS`] and more).
fn is_clear(gains: Vec<f64>) -> bool {
    let rounds = gains.len();
    if rounds < LEAST_ROUNDS {
        return false;
    }
    let won = gains.iter().filter(|&&gain| gain > 1.0).count();
    won * 5 >= rounds * 4 && median(gains) > 1.0 + MARGIN
}

/// Of an even number the mean of the two in the middle; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// The value that a share `p` of all does not exceed; zero of none.
fn quantile(mut values: Vec<Duration>, p: f64) -> Duration {
    values.sort();
    let rank = (p * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::BatchSizes;

    const SPACE: Space = Space {
        cpus: 8,
        gpu: false,
        max_sessions: 64,
        images: Some(Runs::Together),
        texts: Some(Runs::Together),
        rounds: 3,
    };

    fn start() -> Knobs {
        let defaults = Knobs::defaults(BatchSizes { images: 8, texts: 64 }).unwrap();
        Knob::ALL.into_iter().zip([8, 8, 1, 1, 8, 64]).fold(defaults, |knobs, (knob, value)| knobs.with(knob, value))
    }

    fn sample(rate: f64, latency_us: u64) -> Sample {
        Sample { rate, latencies: vec![Duration::from_micros(latency_us); 3], resident: None }
    }

    /// Searches with a model of a machine.
    fn found(space: &Space, machine: impl Fn(Modality, &Knobs) -> Sample) -> Findings {
        let Ok(findings) = search(start(), space, |m, k| Ok::<_, std::convert::Infallible>(machine(m, k)));
        findings
    }

    fn tried(stage: &Stage) -> Vec<Vec<usize>> {
        stage.rows.iter().map(|row| stage.varied.iter().map(|&knob| row.knobs[knob]).collect()).collect()
    }

    #[test]
    fn nothing_changes_where_nothing_matters() {
        let findings = found(&SPACE, |_, _| sample(10.0, 100));
        assert_eq!((findings.throughput, findings.latency), (start(), start()));
        let stages: Vec<_> = findings.stages.iter().map(|stage| (stage.modality, stage.varied.clone())).collect();
        use Knob::*;
        use Modality::{Image, Text};
        assert_eq!(
            stages,
            [
                (Image, vec![VisionSessions, IntraThreads]),
                (Image, vec![VisionBatch]),
                (Image, vec![PreprocessThreads]),
                (Text, vec![TextSessions]),
                (Text, vec![TextBatch]),
            ]
        );
        assert_eq!(
            tried(&findings.stages[0]),
            [[1, 8], [1, 4], [1, 2], [1, 1], [2, 4], [4, 2], [8, 1]].map(|pair| pair.to_vec())
        );
        assert_eq!(tried(&findings.stages[2]), [[8], [1], [4], [16]].map(|one| one.to_vec()));
        let measured: usize = findings.stages.iter().flat_map(|stage| &stage.rows).map(|row| row.samples.len()).sum();
        assert_eq!(measured, trials(start(), &SPACE));
    }

    #[test]
    fn each_goal_finds_its_best_and_later_stages_go_on_from_there() {
        // Throughput wants 4 sessions of 2 threads and batches of 16; one client wants all threads but the last doubling.
        let machine = |modality: Modality, knobs: &Knobs| {
            let (sessions, batch, best) = match modality {
                Modality::Image => (knobs[Knob::VisionSessions], knobs[Knob::VisionBatch], 16),
                Modality::Text => (knobs[Knob::TextSessions], knobs[Knob::TextBatch], 4),
            };
            let rate = 100.0 - 10.0 * sessions.abs_diff(4) as f64 - (batch as f64 / best as f64).log2().abs();
            sample(
                if batch == best { rate * 1.1 } else { rate },
                1000 + 500 * knobs[Knob::IntraThreads].abs_diff(4) as u64,
            )
        };
        let findings = found(&SPACE, machine);
        let expected = start().with(Knob::VisionSessions, 4).with(Knob::IntraThreads, 2).with(Knob::VisionBatch, 16);
        assert_eq!(findings.throughput, expected.with(Knob::TextSessions, 4).with(Knob::TextBatch, 4));
        assert_eq!(findings.latency, start().with(Knob::IntraThreads, 4));
        let texts = &findings.stages[3];
        assert_eq!(texts.rows[0].knobs, expected, "texts begin where images ended");
        assert_eq!(tried(texts), [[1], [2], [4]].map(|one| one.to_vec()), "as many as 2 threads each leave room for");
    }

    #[test]
    fn less_than_the_margin_keeps_what_holds() {
        for (gain, batch) in [(1.0 + MARGIN - 0.001, 8), (1.0 + MARGIN + 0.001, 16)] {
            let findings =
                found(&SPACE, |_, knobs| sample(if knobs[Knob::VisionBatch] == 16 { 10.0 * gain } else { 10.0 }, 100));
            assert_eq!(findings.throughput[Knob::VisionBatch], batch);
        }
    }

    #[test]
    fn a_gain_that_some_rounds_do_not_have_is_noise() {
        assert!(is_clear(vec![1.2, 1.01, 1.1]));
        assert!(!is_clear(vec![1.2, 0.99, 1.1]));
        assert!(is_clear(vec![1.2, 0.9, 1.1, 1.05, 1.3]));
        assert!(!is_clear(vec![1.2, 0.9, 1.1, 0.9, 1.3]));
        assert!(!is_clear(vec![f64::NAN; 3]) && !is_clear(vec![]));
        assert!(!is_clear(vec![2.0, 2.0]));
    }

    #[test]
    fn rounds_are_interleaved() {
        let mut order = Vec::new();
        let space = Space { images: None, rounds: 2, cpus: 2, ..SPACE };
        let Ok(_) = search(start().with(Knob::IntraThreads, 2), &space, |_, knobs| {
            order.push((knobs[Knob::TextSessions], knobs[Knob::IntraThreads]));
            Ok::<_, std::convert::Infallible>(sample(1.0, 1))
        });
        assert_eq!(order[..6], [(1, 2), (1, 1), (2, 1), (1, 2), (1, 1), (2, 1)]);
    }

    #[test]
    fn a_model_of_texts_alone_has_its_threads_tuned_by_texts() {
        let findings = found(&Space { images: None, ..SPACE }, |_, _| sample(1.0, 1));
        assert!(findings.stages.iter().all(|stage| stage.modality == Modality::Text));
        assert_eq!(findings.stages[0].varied, [Knob::TextSessions, Knob::IntraThreads]);
    }

    #[test]
    fn no_batches_are_tried_of_what_runs_one_by_one() {
        let findings = found(&Space { images: Some(Runs::OneByOne), ..SPACE }, |_, _| sample(1.0, 1));
        let varies = |knob| findings.stages.iter().any(|stage| stage.varied.contains(&knob));
        assert!(!varies(Knob::VisionBatch) && varies(Knob::TextBatch) && varies(Knob::PreprocessThreads));
    }

    #[test]
    fn a_gpu_gets_few_sessions_and_large_batches_and_keeps_its_threads() {
        let findings = found(&Space { gpu: true, ..SPACE }, |_, _| sample(1.0, 1));
        assert!(findings.stages.iter().all(|stage| !stage.varied.contains(&Knob::IntraThreads)));
        assert_eq!(tried(&findings.stages[0]), [[1], [2]].map(|one| one.to_vec()));
        assert_eq!(tried(&findings.stages[1]).last(), Some(&vec![128]));
    }

    #[test]
    fn no_more_sessions_than_there_is_memory_for() {
        let findings = found(&Space { max_sessions: 2, ..SPACE }, |_, _| sample(1.0, 1));
        assert_eq!(tried(&findings.stages[0]).last(), Some(&vec![2, 4]));
    }

    #[test]
    fn an_error_ends_the_search() {
        assert_eq!(search(start(), &SPACE, |_, _| Err("no")).unwrap_err(), "no");
    }

    #[test]
    fn quantiles_and_medians() {
        let ms = |values: &[u64]| values.iter().map(|&value| Duration::from_millis(value)).collect::<Vec<_>>();
        assert_eq!(quantile(ms(&[3, 1, 2]), 0.5), Duration::from_millis(2));
        assert_eq!(quantile(ms(&[4, 1, 2, 3]), 0.99), Duration::from_millis(4));
        assert_eq!(quantile(vec![], 0.5), Duration::ZERO);
        assert_eq!(median(vec![3.0, 1.0, 2.0, 10.0]), 2.5);
    }
}
