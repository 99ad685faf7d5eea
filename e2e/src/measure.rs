//! What a process costs: time, CPU, peak memory, from `/proc` (proc(5)) while it runs.

use std::{
    fs,
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

/// The kernel's unit of CPU time in `/proc/PID/stat`: `USER_HZ` is 100 on every architecture that Kubernetes runs on.
const TICK: Duration = Duration::from_millis(10);
/// Peak memory is a high-water mark, so a look now and then is enough; what comes after the last one is missed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What processes that worked together cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// From the start of the first to the end of the last.
    pub elapsed: Duration,
    /// Of all of them, in user and kernel mode.
    pub cpu: Duration,
    /// The sum of their peaks, in bytes.
    pub peak_memory: u64,
}

/// Waits until all have ended well, and says what they cost since `started`.
pub fn measure(started: Instant, mut processes: Vec<Child>) -> Result<Cost> {
    let mut costs = vec![Cost::default(); processes.len()];
    loop {
        let mut living = 0;
        for (process, cost) in processes.iter().zip(&mut costs) {
            let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap_or_default();
            let (cpu, is_over) = cpu_time(process.id())?;
            cost.cpu = cpu;
            cost.peak_memory = peak_memory(&status).unwrap_or(cost.peak_memory);
            living += usize::from(!is_over);
        }
        if living == 0 {
            break;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let elapsed = started.elapsed();
    for process in &mut processes {
        let status = process.wait()?;
        ensure!(status.success(), "a measured process ended with {status}");
    }
    let sum = |total: Cost, cost: &Cost| Cost {
        elapsed,
        cpu: total.cpu + cost.cpu,
        peak_memory: total.peak_memory + cost.peak_memory,
    };
    Ok(costs.iter().fold(Cost::default(), sum))
}

/// CPU time so far, and whether the process has ended; a zombie still tells its times.
pub fn cpu_time(pid: u32) -> Result<(Duration, bool)> {
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).context("a measured process was waited for elsewhere")?;
    // After the name, which may hold anything, in brackets: state is the first field, utime the 12th, stime the 13th.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |index: usize| fields.get(index).and_then(|field| field.parse::<u32>().ok()).context("no CPU time in stat");
    Ok((TICK * (ticks(11)? + ticks(12)?), fields.first() == Some(&"Z")))
}

fn peak_memory(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
