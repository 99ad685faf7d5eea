//! The webhook. (A stub beside `trust`: the server comes with another change.)

pub mod certificates;
pub mod trust;
