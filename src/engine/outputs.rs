//! Running a graph of all outputs for those that are wanted, and taking its answer apart by input.
//!
//! Owns the second graph of our own export (`vision_outputs.onnx`, `text_outputs.onnx`). Does not own what goes in.
//!
//! Only the wanted outputs are bound, so that no other outlives the node that needs it last: attention probabilities of all
//! blocks can be hundreds of megabytes an image.

use ndarray::{ArrayD, ArrayViewD, Axis, Slice, stack};
use ort::{
    memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType},
    session::{Session, SessionOutputs},
    value::{DynValue, PrimitiveTensorElementType, Tensor, TensorElementType},
};

use super::graph::{NamedInput, StopHandle, runtime};
use crate::encoder::{EncodeError, Output, OutputSet, TowerOutputs};

/// What the projected embedding is called, where there is one.
const EMBEDDINGS: [&str; 2] = ["image_embeds", "text_embeds"];

/// A session of a graph of all outputs.
pub(super) struct OutputsSession {
    session: Session,
    embedding: Option<String>,
    /// How many outputs of a kind that comes per block there are: hidden states, attentions.
    blocks: [usize; 2],
    options: StopHandle,
}

impl OutputsSession {
    pub(super) fn new(session: Session, options: StopHandle) -> Result<Self, String> {
        let names: Vec<&str> = session.outputs().iter().map(|output| output.name()).collect();
        let has = |name: &str| names.contains(&name);
        for output in [Output::PoolerOutput, Output::LastHiddenState] {
            if !has(output.name()) {
                return Err(format!("it has no output {}; its outputs are {}", output.name(), names.join(", ")));
            }
        }
        let blocks = [Output::HiddenStates, Output::Attentions]
            .map(|output| (0..).take_while(|&index| has(&output.of_block(index))).count());
        let embedding = EMBEDDINGS.into_iter().find(|name| has(name)).map(str::to_owned);
        Ok(Self { session, embedding, blocks, options })
    }

    /// Runs the graph. `positions` has for each input how many positions of its answer are its own; `None`: all.
    pub(super) fn run(
        &mut self,
        inputs: Vec<NamedInput<'_>>,
        positions: &[Option<usize>],
        outputs: OutputSet,
    ) -> Result<Vec<TowerOutputs>, EncodeError> {
        let [hidden_states, attentions] = self.blocks;
        let wanted: Vec<(Output, Vec<String>)> = outputs
            .iter()
            .map(|output| {
                let names = match output {
                    Output::PoolerOutput | Output::LastHiddenState => vec![output.name().to_owned()],
                    Output::HiddenStates => (0..hidden_states).map(|index| output.of_block(index)).collect(),
                    Output::Attentions => (0..attentions).map(|index| output.of_block(index)).collect(),
                };
                (output, names)
            })
            .collect();
        let bind = || -> ort::Result<_> {
            let mut binding = self.session.create_binding()?;
            for (name, value) in &inputs {
                binding.bind_input(name.as_ref(), &owned(value)?)?;
            }
            let cpu = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)?;
            for name in self.embedding.iter().chain(wanted.iter().flat_map(|(_, names)| names)) {
                binding.bind_output_to_device(name, &cpu)?;
            }
            Ok(binding)
        };
        let binding = bind().map_err(|error| runtime(&error))?;
        let options = self.options.begin()?;
        let run = self.session.run_binding_with_options(&binding, &options).map_err(|error| runtime(&error))?;
        let embeddings = self.embedding.as_ref().map(|name| view(&run, name)).transpose()?;
        let wanted: Vec<(Output, Vec<ArrayViewD<'_, f32>>)> = wanted
            .iter()
            .map(|(output, names)| Ok((*output, names.iter().map(|name| view(&run, name)).collect::<Result<_, _>>()?)))
            .collect::<Result<_, EncodeError>>()?;
        let views = wanted.iter().flat_map(|(_, views)| views).chain(&embeddings);
        for answered in views {
            if answered.shape().first() != Some(&positions.len()) {
                let actual = answered.shape().iter().map(|&size| size as i64).collect();
                return Err(EncodeError::Shape { actual, expected: vec![positions.len() as i64] });
            }
        }
        let one = |(input, &positions): (usize, &Option<usize>)| TowerOutputs {
            embedding: embeddings.as_ref().map(|rows| rows.index_axis(Axis(0), input).iter().copied().collect()),
            arrays: wanted.iter().map(|(output, views)| of_input(*output, views, input, positions)).collect(),
        };
        Ok(positions.iter().enumerate().map(one).collect())
    }
}

/// A tensor that owns its values. A binding copies borrowed ones by a session that binds its input too, and in `ort`
/// 2.0.0-rc.15 waits there for itself for ever.
fn owned(value: &DynValue) -> ort::Result<DynValue> {
    fn copy<T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static>(
        value: &DynValue,
    ) -> ort::Result<DynValue> {
        let (shape, values) = value.try_extract_tensor::<T>()?;
        Ok(Tensor::from_array((shape.to_vec(), values.to_vec()))?.into_dyn())
    }
    match value.dtype().tensor_type() {
        Some(TensorElementType::Uint8) => copy::<u8>(value),
        Some(TensorElementType::Float32) => copy::<f32>(value),
        // The ids and the mask of a text; anything else says what it is instead.
        _ => copy::<i64>(value),
    }
}

fn view<'a>(run: &'a SessionOutputs<'_>, name: &str) -> Result<ArrayViewD<'a, f32>, EncodeError> {
    let value = run.get(name).ok_or_else(|| EncodeError::Runtime(format!("the output {name} is missing")))?;
    value.try_extract_array::<f32>().map_err(|error| runtime(&error))
}

/// One input's part of `output`, whose `views` are `[batch, ..]`, one for each block or one alone.
fn of_input(output: Output, views: &[ArrayViewD<'_, f32>], input: usize, positions: Option<usize>) -> ArrayD<f32> {
    let axes: &[usize] = match output {
        Output::PoolerOutput => &[],
        Output::LastHiddenState | Output::HiddenStates => &[0],
        Output::Attentions => &[1, 2],
    };
    let own: Vec<ArrayViewD<'_, f32>> = views
        .iter()
        .map(|view| {
            let mut own = view.index_axis(Axis(0), input);
            for (&axis, positions) in axes.iter().zip(std::iter::repeat(positions)) {
                if let Some(positions) = positions {
                    own.slice_axis_inplace(Axis(axis), Slice::from(..positions));
                }
            }
            own
        })
        .collect();
    match own.as_slice() {
        [alone] if !output.is_per_block() => alone.to_owned(),
        // Equal shapes by construction, and at least the state before the first block.
        blocks => stack(Axis(0), blocks).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array, IxDyn};

    use super::*;

    #[test]
    fn an_input_gets_its_own_positions_of_every_block() {
        let blocks: Vec<ArrayD<f32>> = [0.0, 100.0]
            .map(|base| Array::from_iter((0..24).map(|i| base + i as f32)).into_shape_with_order(IxDyn(&[2, 3, 4])))
            .into_iter()
            .collect::<Result<_, _>>()
            .expect("24 values");
        let views: Vec<_> = blocks.iter().map(|block| block.view()).collect();
        let states = of_input(Output::HiddenStates, &views, 1, Some(2));
        assert_eq!(states.shape(), [2, 2, 4]);
        assert_eq!((states[[0, 0, 0]], states[[1, 1, 3]]), (12.0, 119.0));
        let all = of_input(Output::LastHiddenState, &views[..1], 0, None);
        assert_eq!(all.shape(), [3, 4]);
    }

    #[test]
    fn attentions_are_cut_in_both_positions() {
        let block = Array::from_iter((0..32).map(|i| i as f32)).into_shape_with_order(IxDyn(&[2, 1, 4, 4]));
        let block = block.expect("32 values");
        let own = of_input(Output::Attentions, &[block.view()], 1, Some(2));
        assert_eq!(own.shape(), [1, 1, 2, 2]);
        assert_eq!(own.iter().copied().collect::<Vec<_>>(), [16.0, 17.0, 20.0, 21.0]);
    }
}
