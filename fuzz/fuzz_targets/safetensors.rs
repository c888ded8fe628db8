#![no_main]

use clipserve::model::Weights;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clipserve_fuzz::open(Weights::Safetensors, bytes));
