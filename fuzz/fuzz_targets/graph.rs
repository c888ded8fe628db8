#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clipserve_fuzz::target("graph")(bytes));
