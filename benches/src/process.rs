//! CPU time and memory of a process, read from /proc.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::Context;
use doorward_testkit::program::Bounded;

/// Nanoseconds of CPU that all threads of a process have used.
pub fn cpu_nanos(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("the process is gone")? {
        let stat = fs::read_to_string(task?.path().join("schedstat"))?;
        sum += stat.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// Resident memory in bytes.
pub fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kilobytes * 1024)
}

/// Pins a process and all its threads to one core.
pub fn pin(pid: u32, core: usize) -> anyhow::Result<()> {
    let pinned =
        Command::new("taskset").args(["-a", "-p", "-c", &core.to_string(), &pid.to_string()]).run()?;
    anyhow::ensure!(pinned.status.success(), "taskset: {}", String::from_utf8_lossy(&pinned.stderr));
    Ok(())
}

/// Nanoseconds of CPU that each kind of thread of a process has used, by the threads' names.
pub fn cpu_by_thread(pid: u32) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("the process is gone")? {
        let path = task?.path();
        // A thread that ends meanwhile has nothing to tell.
        let (Ok(name), Ok(stat)) =
            (fs::read_to_string(path.join("comm")), fs::read_to_string(path.join("schedstat")))
        else {
            continue;
        };
        let nanos = stat.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
        *all.entry(name.trim().to_owned()).or_default() += nanos;
    }
    Ok(all)
}
