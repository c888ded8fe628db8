//! What training scripts wrap their weights in.
//!
//! Owns the dictionaries around them and the `module.` before each name; whose names are inside, the other files of this folder know.

use std::collections::BTreeMap;

/// Under these a training script keeps the weights, beside its optimizer's state and whatever else it wants back.
/// Flax has `params` twice, the outer one of its `TrainState`.
const WRAPPERS: [&str; 4] = ["state_dict.", "model_state_dict.", "params.", "params."];
/// What `DistributedDataParallel` and `DataParallel` put before each name.
const PARALLEL: &str = "module.";

/// The weights alone: what lies beside a wrapped dictionary of them is left out.
pub(super) fn unwrapped<T>(mut tensors: BTreeMap<String, T>) -> BTreeMap<String, T> {
    for wrapper in WRAPPERS {
        if tensors.keys().any(|name| name.starts_with(wrapper)) {
            tensors.retain(|name, _| name.starts_with(wrapper));
            tensors = without(tensors, wrapper);
        }
    }
    if tensors.keys().all(|name| name.starts_with(PARALLEL)) {
        tensors = without(tensors, PARALLEL);
    }
    tensors
}

/// All tensors, without `prefix` where their names begin with it.
fn without<T>(tensors: BTreeMap<String, T>, prefix: &str) -> BTreeMap<String, T> {
    let short = |name: String| name.strip_prefix(prefix).map_or_else(|| name.clone(), str::to_owned);
    tensors.into_iter().map(|(name, tensor)| (short(name), tensor)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrapped_is_taken_out() {
        for (given, expected) in [
            (&["text_model.a", "logit_scale"][..], &["logit_scale", "text_model.a"][..]),
            (&["state_dict.module.text_model.a", "optimizer.state.0.exp_avg"], &["text_model.a"]),
            (&["model_state_dict.encoder.x", "epoch"], &["encoder.x"]),
            (&["module.logit_scale", "module.text_model.a"], &["logit_scale", "text_model.a"]),
            (&["module.a", "b"], &["b", "module.a"]),
            (&["params.params.logit_scale", "opt_state.0.mu.logit_scale", "step"], &["logit_scale"]),
        ] {
            let named = unwrapped(given.iter().map(|name| ((*name).to_owned(), ())).collect());
            assert_eq!(named.keys().map(String::as_str).collect::<Vec<_>>(), expected, "{given:?}");
        }
    }
}
