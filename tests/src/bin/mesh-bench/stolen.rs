//! Time that a hypervisor took from the machine's processors.
//!
//! A virtual machine whose host is busy wakes up late: tails of 10 ms and a fraction of the rate, while its processors
//! look idle. A measurement that this fell on says nothing about any side, so it is taken again.

use anyhow::{Context, Result};
use procfs::{CurrentSI, KernelStats};

/// The part of the processors' time that a measurement may lose.
const BEARABLE: f64 = 0.01;

/// How often one measurement is taken at most.
const TRIES: usize = 3;

/// Measures until no more than [`BEARABLE`] was stolen meanwhile. Gives the try that lost least, and the part lost.
pub(crate) fn least<T>(mut measure: impl FnMut() -> Result<T>) -> Result<(T, f64)> {
    let mut best: Option<(T, f64)> = None;
    for _ in 0..TRIES {
        let before = Ticks::now()?;
        let measured = measure()?;
        let stolen = Ticks::now()?.stolen_since(&before);
        if best.as_ref().is_none_or(|(_, least)| stolen < *least) {
            best = Some((measured, stolen));
        }
        if stolen <= BEARABLE {
            break;
        }
    }
    best.context("nothing was measured")
}

/// Clock ticks of all processors since the boot.
#[derive(Debug, Clone, Copy)]
struct Ticks {
    stolen: u64,
    all: u64,
}

impl Ticks {
    fn now() -> Result<Self> {
        let cpu = KernelStats::current()?.total;
        let stolen = cpu.steal.unwrap_or(0);
        let rest = [cpu.iowait, cpu.irq, cpu.softirq].into_iter().flatten();
        let all = cpu.user + cpu.nice + cpu.system + cpu.idle + stolen + rest.sum::<u64>();
        Ok(Self { stolen, all })
    }

    fn stolen_since(self, before: &Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        self.stolen.saturating_sub(before.stolen) as f64 / all as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_all_time() {
        let before = Ticks {
            stolen: 5,
            all: 100,
        };
        let after = Ticks {
            stolen: 10,
            all: 200,
        };
        assert_eq!(after.stolen_since(&before), 0.05);
        assert_eq!(before.stolen_since(&before), 0.0);
    }

    #[test]
    fn a_failed_measurement_is_not_taken_again() {
        let mut taken = 0;
        let result: Result<((), f64)> = least(|| {
            taken += 1;
            anyhow::bail!("no answer")
        });
        assert!(result.is_err());
        assert_eq!(taken, 1);
    }
}
