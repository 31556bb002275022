//! The fuzzer of `seriatim_fuzz::stored`.
#![no_main]
#![allow(unsafe_code, missing_docs, reason = "the entry of libFuzzer")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seriatim_fuzz::stored::run(data));
