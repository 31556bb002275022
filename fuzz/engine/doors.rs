//! The fuzzer of `seriatim_fuzz::doors`.
#![no_main]
#![allow(unsafe_code, missing_docs, reason = "the entry of libFuzzer")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seriatim_fuzz::doors::run(data));
