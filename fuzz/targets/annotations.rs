//! See [`stowaway_fuzz::annotations`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stowaway_fuzz::annotations(data));
