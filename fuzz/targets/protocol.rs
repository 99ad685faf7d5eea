//! See [`stowaway_fuzz::protocol`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stowaway_fuzz::protocol(data));
