//! How busy the machine's processors were.

use std::time::Duration;

use crate::Error;

/// Time that all processors together have been busy since the boot.
pub(crate) fn busy() -> Result<Duration, Error> {
    let text = std::fs::read_to_string("/proc/stat")?;
    // SAFETY: takes and returns plain numbers.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let per_second = u32::try_from(per_second)?;
    let ticks = ticks(&text).ok_or("/proc/stat has no line of all processors")?;
    Ok(Duration::from_secs_f64(
        ticks as f64 / f64::from(per_second),
    ))
}

/// Clock ticks on the line of all processors: user, nice, system, irq and softirq.
fn ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let words: Vec<u64> = line
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = words[..] else {
        return None;
    };
    Some(user + nice + system + irq + softirq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_stolen_time_do_not_count() {
        let stat = "cpu  100 20 3 9999 7 40 50 888 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(ticks(stat), Some(213));
        assert_eq!(ticks("cpu  1 2\n"), None);
        assert_eq!(ticks("intr 1\n"), None);
    }
}
