//! The helper as it goes into pods, each in a container of its own, and our loops that speak with it.

mod dump;
mod holder;
pub mod remote;
mod restore;
mod runner;
mod size;

use self::remote::Remote;
use crate::{
    at_once,
    shell::{
        DEADLINE, DETOURS, DETOURS_OF_ROOT, OpenFolder, by,
        container::{Container, child_of, eventually, is_alive, is_root},
        nonce, words,
    },
};

/// All detours that can be tried.
fn detours() -> impl Iterator<Item = &'static str> {
    let of_root: &[&str] = if is_root() { &DETOURS_OF_ROOT } else { &[] };
    DETOURS.iter().chain(of_root).copied()
}

/// Bytes that do not shrink.
pub fn noise(length: usize) -> Vec<u8> {
    let mut word = 0x9e37_79b9_u32;
    let next = |_| {
        word ^= word << 13;
        word ^= word >> 17;
        word ^= word << 5;
        word.to_le_bytes()[0]
    };
    (0..length).map(next).collect()
}
