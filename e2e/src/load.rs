//! Keeps every core busy, because a busy node is more likely to drop the end of an exec stream.

use std::{
    hint,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// Busy threads, one for each core. Dropping this ends the threads.
pub struct Load(Arc<AtomicBool>);

impl Load {
    /// Starts one busy thread for each core.
    pub fn on_every_core() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            let stop = stop.clone();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
