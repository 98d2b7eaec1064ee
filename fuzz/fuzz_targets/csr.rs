#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outrigger_ca::fuzz::csr(data));
