//! How near two sets of embeddings of the same samples are: cosines, and how many neighbours stay.
//!
//! Owns the arithmetic and the rule of the verdict. Knows neither samples nor services.
//!
//! Invariants: rows are finite and not zero; what is told does not depend on the length of a row, nor on the order of equal neighbours.

use std::cmp::Ordering;

use ndarray::{Array2, ArrayView1};
use serde::Serialize;

/// Neighbours that are looked at.
pub(super) const NEIGHBOURS: usize = 10;

/// Cosines that differ by less are one: twice what summing a row in f32 costs, far below what could matter to anybody.
const TIE: f32 = 1e-6;

/// Cosines in figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) min: f64,
    /// What one in a hundred does not exceed: of fewer than 101 it is the minimum.
    pub(super) percentile_1: f64,
    pub(super) median: f64,
    pub(super) mean: f64,
}

impl Spread {
    /// Of values, of which there must be one.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let count = sorted.len();
        let at = |index: usize| sorted.get(index).copied();
        Some(Self {
            min: at(0)?,
            percentile_1: at(count.div_ceil(100).saturating_sub(1))?,
            median: f64::midpoint(at((count - 1) / 2)?, at(count / 2)?),
            mean: sorted.iter().sum::<f64>() / count as f64,
        })
    }
}

/// The cosine of the angle between two rows of one length, in f64; 0 where one is zero.
pub(super) fn cosine(one: ArrayView1<'_, f32>, other: ArrayView1<'_, f32>) -> f64 {
    let (mut product, mut ones, mut others) = (0.0, 0.0, 0.0);
    for (&a, &b) in one.iter().zip(other) {
        let (a, b) = (f64::from(a), f64::from(b));
        product += a * b;
        ones += a * a;
        others += b * b;
    }
    let norms = f64::sqrt(ones) * f64::sqrt(others);
    // Rounding may leave it a little outside.
    if norms > 0.0 { (product / norms).clamp(-1.0, 1.0) } else { 0.0 }
}

/// The places of the smallest `count` values, the smallest first.
pub(super) fn smallest(values: &[f64], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..values.len()).collect();
    places.sort_by(|&a, &b| values.get(a).partial_cmp(&values.get(b)).unwrap_or(Ordering::Equal));
    places.truncate(count);
    places
}

/// The same samples in two spaces; rows have length 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spaces<'a> {
    pub(super) ours: &'a Array2<f32>,
    pub(super) theirs: &'a Array2<f32>,
}

/// How many neighbours stay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Recall {
    pub(super) queries: usize,
    /// Among how many neighbours are looked for, the query itself apart.
    pub(super) candidates: usize,
    /// How many are looked at: ten, or all where there are fewer.
    pub(super) neighbours: usize,
    /// The share of them that stays, the mean over the queries.
    pub(super) recall: f64,
}

impl Recall {
    /// Of `queries` among `candidates`; `None` without either. Neighbours are looked for in each space by itself. A neighbour in
    /// theirs stays when in ours it is as near as the last of ours, or nearer: copies of one picture may change places.
    pub(super) fn among(queries: Spaces<'_>, candidates: Spaces<'_>) -> Option<Self> {
        Self::of(queries, candidates, false)
    }

    /// Of each sample among the others.
    pub(super) fn within(samples: Spaces<'_>) -> Option<Self> {
        Self::of(samples, samples, true)
    }

    fn of(queries: Spaces<'_>, candidates: Spaces<'_>, same: bool) -> Option<Self> {
        let count = candidates.ours.nrows().checked_sub(usize::from(same))?;
        let (neighbours, asked) = (count.min(NEIGHBOURS), queries.ours.nrows());
        if neighbours == 0 || asked == 0 {
            return None;
        }
        let mut stayed = 0;
        for (at, (ours, theirs)) in queries.ours.rows().into_iter().zip(queries.theirs.rows()).enumerate() {
            let but = if same { Some(at) } else { None };
            let ours = candidates.ours.dot(&ours).to_vec();
            let theirs = candidates.theirs.dot(&theirs).to_vec();
            let last = nearest(&ours, but, neighbours).into_iter().filter_map(|place| ours.get(place));
            let last = last.fold(f32::INFINITY, |last, &value| last.min(value));
            let stays = |place: &usize| ours.get(*place).is_some_and(|&value| value >= last - TIE);
            stayed += nearest(&theirs, but, neighbours).iter().filter(|place| stays(place)).count();
        }
        Some(Self {
            queries: asked,
            candidates: count,
            neighbours,
            recall: stayed as f64 / (asked * neighbours) as f64,
        })
    }

    /// Whether it says little: where more than half of all are neighbours, most of them stay whatever happens.
    pub(super) fn is_easy(&self) -> bool {
        self.candidates < 2 * NEIGHBOURS
    }
}

/// The places of the `count` largest values, in no order, but for the place `but`.
fn nearest(values: &[f32], but: Option<usize>, count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..values.len()).filter(|&place| Some(place) != but).collect();
    let further = |a: &usize, b: &usize| values.get(*b).partial_cmp(&values.get(*a)).unwrap_or(Ordering::Equal);
    if count < places.len() {
        places.select_nth_unstable_by(count, |a, b| further(a, b).then(a.cmp(b)));
    }
    places.truncate(count);
    places
}

/// What may become of an index that holds the other service's embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nobody will see a difference.
    Kept,
    /// Rankings shift a little: good enough to go on with while it is filled anew.
    KeptWithCare,
    /// It must be filled anew.
    NotKept,
}

/// Median cosine and recall that an index must reach to be kept.
pub(super) const KEPT: (f64, f64) = (0.9999, 0.99);
/// The same, to be kept with care.
pub(super) const WITH_CARE: (f64, f64) = (0.999, 0.95);

impl Verdict {
    /// By the lowest median cosine and the lowest recall, where there is one.
    pub(super) fn of(median: f64, recall: Option<f64>) -> Self {
        let reaches = |(least, least_recall): (f64, f64)| median >= least && recall.is_none_or(|it| it >= least_recall);
        match (reaches(KEPT), reaches(WITH_CARE)) {
            (true, _) => Self::Kept,
            (_, true) => Self::KeptWithCare,
            _ => Self::NotKept,
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{array, aview1};

    use super::*;

    #[test]
    fn cosines_by_hand() {
        for (one, other, expected) in [
            ([1.0, 0.0], [5.0, 0.0], 1.0),
            ([3.0, 4.0], [4.0, 3.0], 24.0 / 25.0),
            ([1.0, 0.0], [0.0, 2.0], 0.0),
            ([1.0, 2.0], [-2.0, -4.0], -1.0),
            ([1e30, 1e30], [1e-30, 0.0], 0.5f64.sqrt()),
            ([0.0, 0.0], [1.0, 0.0], 0.0),
        ] {
            let actual = cosine(aview1(&one), aview1(&other));
            assert!((actual - expected).abs() < 1e-12, "{one:?} {other:?}: {actual}");
        }
    }

    #[test]
    fn a_spread_by_hand() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[0.5]), Some(Spread { min: 0.5, percentile_1: 0.5, median: 0.5, mean: 0.5 }));
        let four = Spread::of(&[1.0, 0.25, 0.5, 0.25]).unwrap();
        assert_eq!(four, Spread { min: 0.25, percentile_1: 0.25, median: 0.375, mean: 0.5 });
        // Of 1 to 200 the second one: 1 % of 200 are two.
        let many: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(Spread::of(&many).unwrap(), Spread { min: 1.0, percentile_1: 2.0, median: 100.5, mean: 100.5 });
        let odd: Vec<f64> = (1..=101).map(f64::from).collect();
        assert_eq!(Spread::of(&odd).unwrap(), Spread { min: 1.0, percentile_1: 2.0, median: 51.0, mean: 51.0 });
    }

    #[test]
    fn the_smallest_come_in_order_and_equal_ones_as_they_stand() {
        assert_eq!(smallest(&[0.3, 0.1, 0.2, 0.1], 3), [1, 3, 2]);
        assert_eq!(smallest(&[0.3], 3), [0]);
    }

    /// Points on the unit circle, in degrees.
    fn circle(degrees: impl IntoIterator<Item = f32>) -> Array2<f32> {
        let points: Vec<[f32; 2]> = degrees.into_iter().map(|angle| angle.to_radians().sin_cos().into()).collect();
        Array2::from(points)
    }

    #[test]
    fn recall_by_hand() {
        // Twelve points in a row: of each, the one of the eleven others that is no neighbour is the farthest.
        let ours = circle((0..12).map(|at| at as f32));
        let same = Recall::within(Spaces { ours: &ours, theirs: &ours }).unwrap();
        assert_eq!(same, Recall { queries: 12, candidates: 11, neighbours: 10, recall: 1.0 });
        // Theirs has the first where the last should be, and the other way round. To a point between them the farthest is the one
        // at the far end: it is another one now, so each of those ten loses one of ten. The two themselves: ours 0 has not 11 and
        // theirs 0 stands at 11 and has not what stands at 0, which is 11. They lose none.
        let swapped = circle([11.0].into_iter().chain((1..11).map(|at| at as f32)).chain([0.0]));
        let recall = Recall::within(Spaces { ours: &ours, theirs: &swapped }).unwrap().recall;
        assert!((recall - (2.0 + 10.0 * 0.9) / 12.0).abs() < 1e-12, "{recall}");
    }

    #[test]
    fn recall_across_looks_among_the_others_alone() {
        let pictures = circle((0..12).map(|at| at as f32 * 2.0));
        let texts = circle([-1.0]);
        let far = circle([23.0]);
        let candidates = Spaces { ours: &pictures, theirs: &pictures };
        // From the one end the two at the other end are no neighbours, from the other end the first two: eight stay.
        let recall = Recall::among(Spaces { ours: &texts, theirs: &far }, candidates).unwrap();
        assert_eq!(recall, Recall { queries: 1, candidates: 12, neighbours: 10, recall: 0.8 });
        assert!(recall.is_easy());
        let nothing = Array2::zeros((0, 2));
        assert_eq!(Recall::among(candidates, Spaces { ours: &nothing, theirs: &nothing }), None);
        assert_eq!(Recall::within(Spaces { ours: &texts, theirs: &texts }), None);
    }

    #[test]
    fn copies_of_one_sample_may_change_places() {
        // A query, ten copies of its neighbour and one more that is theirs to choose from: any ten of the eleven stay.
        let mut rows = vec![[1.0, 0.0]];
        rows.extend([[0.6, 0.8]; 11]);
        let ours = Array2::from(rows);
        let mut theirs = ours.clone();
        for (at, mut row) in theirs.rows_mut().into_iter().enumerate() {
            row[0] += at as f32 * 1e-4;
        }
        let queries = Spaces { ours: &array![[1.0, 0.0]], theirs: &array![[1.0, 0.0]] };
        assert_eq!(Recall::among(queries, Spaces { ours: &ours, theirs: &theirs }).unwrap().recall, 1.0);
    }

    #[test]
    fn the_rule_holds_at_its_borders() {
        for (median, recall, expected) in [
            (1.0, Some(1.0), Verdict::Kept),
            (0.9999, Some(0.99), Verdict::Kept),
            (0.9999, None, Verdict::Kept),
            (0.99989, Some(1.0), Verdict::KeptWithCare),
            (1.0, Some(0.989), Verdict::KeptWithCare),
            (0.999, Some(0.95), Verdict::KeptWithCare),
            (0.9989, Some(1.0), Verdict::NotKept),
            (1.0, Some(0.949), Verdict::NotKept),
            (0.5, None, Verdict::NotKept),
        ] {
            assert_eq!(Verdict::of(median, recall), expected, "{median} {recall:?}");
        }
    }
}
