//! The ranges that TensorRT plans for: without them it would build its engine anew, for minutes, for each size beyond those it has met.
//!
//! Owns what a range is and how TensorRT is told. Pure. The sizes come from our own graphs' inputs, whose dimensions have names;
//! a graph from elsewhere has none that we know, and is planned for as it comes.

use crate::model::graph_info::{Dimension, GraphInput};

/// How large the dimensions get that a graph leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Largest {
    /// Items in one run.
    pub batch: usize,
    /// Ids of one text.
    pub sequence: usize,
}

/// One range for each input: `trt_profile_min_shapes`, `trt_profile_opt_shapes`, `trt_profile_max_shapes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    pub least: String,
    /// What the engine is fastest at: full batches are what a GPU that is busy gets.
    pub best: String,
    pub most: String,
}

impl Profile {
    /// `None` where an input has an open dimension that is neither.
    pub(super) fn of(inputs: &[GraphInput], largest: Largest) -> Option<Self> {
        let shapes = |open: fn(usize) -> usize| -> Option<String> {
            let shape = |input: &GraphInput| {
                let size = |dimension: &Dimension| match dimension {
                    Dimension::Fixed(size) => Some(*size),
                    Dimension::Named(name) if name == "batch" => Some(open(largest.batch)),
                    Dimension::Named(name) if name == "sequence" => Some(open(largest.sequence)),
                    Dimension::Named(_) => None,
                };
                let sizes = input.dimensions.iter().map(size).collect::<Option<Vec<_>>>()?;
                let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
                Some(format!("{}:{}", input.name, sizes.join("x")))
            };
            Some(inputs.iter().map(shape).collect::<Option<Vec<_>>>()?.join(","))
        };
        let most = shapes(|size| size)?;
        Some(Self { least: shapes(|_| 1)?, best: most.clone(), most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, dimensions: &[Dimension]) -> GraphInput {
        GraphInput { name: name.to_owned(), dimensions: dimensions.to_vec() }
    }

    fn named(name: &str) -> Dimension {
        Dimension::Named(name.to_owned())
    }

    #[test]
    fn every_input_has_its_range() {
        let largest = Largest { batch: 64, sequence: 77 };
        let pixels = [named("batch"), Dimension::Fixed(224), Dimension::Fixed(224), Dimension::Fixed(3)];
        let profile = Profile::of(&[input("pixel_values", &pixels)], largest).expect("known dimensions");
        assert_eq!(profile.least, "pixel_values:1x224x224x3");
        assert_eq!(profile.most, "pixel_values:64x224x224x3");
        let ids = [named("batch"), named("sequence")];
        let inputs = ["input_ids", "attention_mask"].map(|name| input(name, &ids));
        let profile = Profile::of(&inputs, largest).expect("known dimensions");
        assert_eq!(profile.least, "input_ids:1x1,attention_mask:1x1");
        assert_eq!((&profile.best, &*profile.most), (&profile.most, "input_ids:64x77,attention_mask:64x77"));
    }

    #[test]
    fn a_dimension_that_nobody_knows_has_no_range() {
        let largest = Largest { batch: 64, sequence: 77 };
        assert_eq!(Profile::of(&[input("pixel_values", &[named("batch"), named("height")])], largest), None);
    }
}
