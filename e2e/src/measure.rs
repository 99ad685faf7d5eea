//! Measures elapsed time, CPU time and peak memory of child processes, from `/proc` (proc(5)) while they run.

use std::{
    fs,
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

/// The kernel's unit of CPU time in `/proc/PID/stat`: `USER_HZ` is 100 on every architecture that Kubernetes runs on.
const TICK: Duration = Duration::from_millis(10);
/// The interval between two reads of `/proc`. Peak memory is a high-water mark, so sampling loses only what happens
/// after the last read.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

/// The cost of a group of processes that work together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// The time from the start of the first process to the end of the last one.
    pub elapsed: Duration,
    /// The CPU time of all processes, in user and kernel mode.
    pub cpu: Duration,
    /// The sum of the peak memory of all processes, in bytes.
    pub peak_memory: u64,
}

/// Waits until all processes have exited with 0, and returns their cost since `started`.
pub fn measure(started: Instant, mut processes: Vec<Child>) -> Result<Cost> {
    let mut costs = vec![Cost::default(); processes.len()];
    loop {
        let mut living = 0;
        for (process, cost) in processes.iter().zip(&mut costs) {
            let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap_or_default();
            let (cpu, has_ended) = cpu_time(process.id())?;
            cost.cpu = cpu;
            cost.peak_memory = peak_memory(&status).unwrap_or(cost.peak_memory);
            living += usize::from(!has_ended);
        }
        if living == 0 {
            break;
        }
        std::thread::sleep(SAMPLE_INTERVAL);
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

/// The CPU time so far, and whether the process has ended. `/proc` still contains the times of a zombie.
pub fn cpu_time(pid: u32) -> Result<(Duration, bool)> {
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).context("a measured process was waited for elsewhere")?;
    // Counted after the name in parentheses, which may contain anything: state is the first field, utime the 12th,
    // stime the 13th.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |index: usize| fields.get(index).and_then(|field| field.parse::<u32>().ok()).context("no CPU time in stat");
    Ok((TICK * (ticks(11)? + ticks(12)?), fields.first() == Some(&"Z")))
}

fn peak_memory(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
