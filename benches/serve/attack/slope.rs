//! Whether something grows: the slope of its samples, and how sure that is.
//!
//! Pure. Theil and Sen's estimate: the median of the slopes of all pairs, which no single step or spike moves. Its interval of 95 %
//! is that of Kendall's rank correlation (Sen, J. Amer. Statist. Assoc. 63, 1968). Both take samples that do not depend on each other;
//! those of a second ago do, so the caller gives medians over some time.

/// A slope, in the samples' unit per step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Slope {
    /// The lower end of the interval.
    pub(crate) low: f64,
    /// The estimate.
    pub(crate) middle: f64,
    /// The upper end.
    pub(crate) high: f64,
}

/// Standard deviations of a normal distribution that hold 95 % of it.
const CONFIDENCE: f64 = 1.96;

/// The slope of samples at equal steps; `None` of fewer than three.
pub(crate) fn theil_sen(samples: &[f64]) -> Option<Slope> {
    if samples.len() < 3 {
        return None;
    }
    let mut slopes = Vec::with_capacity(samples.len() * (samples.len() - 1) / 2);
    for (at, from) in samples.iter().enumerate() {
        slopes.extend(samples.iter().enumerate().skip(at + 1).map(|(to_at, to)| (to - from) / (to_at - at) as f64));
    }
    slopes.sort_by(f64::total_cmp);
    let (n, pairs) = (samples.len() as f64, slopes.len() as f64);
    let half = CONFIDENCE * (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt() / 2.0;
    let at = |rank: f64| slopes[(rank.max(0.0) as usize).min(slopes.len() - 1)];
    let middle = (at(((pairs - 1.0) / 2.0).floor()) + at(((pairs - 1.0) / 2.0).ceil())) / 2.0;
    Some(Slope { low: at((pairs / 2.0 - half).floor()), middle, high: at((pairs / 2.0 + half).ceil()) })
}
