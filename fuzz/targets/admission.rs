//! See [`stowaway_fuzz::admission`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stowaway_fuzz::admission(data));
