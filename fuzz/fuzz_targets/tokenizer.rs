#![no_main]

use std::{panic, sync::Once};

/// The crate's own panics are contained where a tokenizer is read, and a fuzzer's hook would end it there all the same: only what gets out
/// of the target does now.
static CONTAINED: Once = Once::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    CONTAINED.call_once(|| panic::set_hook(Box::new(|_| {})));
    clipserve_fuzz::target("tokenizer")(bytes);
});
