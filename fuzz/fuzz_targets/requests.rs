#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outrigger_xds::fuzz::requests(data));
