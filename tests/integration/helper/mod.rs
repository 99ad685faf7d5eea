//! The helper as it runs in pods, each in its own container, and the runner's loops which talk to it.

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
        DEADLINE, LAUNCHES, LAUNCHES_OF_ROOT, OpenFolder, by,
        container::{Container, child_of, eventually, is_alive, is_root},
        nonce, strings,
    },
};

/// All launches which are possible with this user's rights.
fn launches() -> impl Iterator<Item = &'static str> {
    let of_root: &[&str] = if is_root() { &LAUNCHES_OF_ROOT } else { &[] };
    LAUNCHES.iter().chain(of_root).copied()
}

/// Bytes which do not compress.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(next).collect()
}
