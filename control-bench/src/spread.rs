//! Many readings of one thing, and what is said of them.

use std::time::Duration;

use serde_json::{Value, json};

/// Durations, sorted.
#[derive(Debug)]
pub(crate) struct Spread(Vec<Duration>);

impl Spread {
    pub(crate) fn of(mut readings: Vec<Duration>) -> Self {
        readings.sort_unstable();
        Self(readings)
    }

    /// The smallest reading that `part` of all (0 to 1) do not exceed.
    pub(crate) fn quantile(&self, part: f64) -> Duration {
        let rank = (part * self.0.len() as f64).ceil() as usize;
        let at = rank.clamp(1, self.0.len().max(1)) - 1;
        self.0.get(at).copied().unwrap_or_default()
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "readings": self.0.len(),
            "p50_ms": millis(self.quantile(0.5)),
            "p99_ms": millis(self.quantile(0.99)),
            "max_ms": millis(self.quantile(1.0)),
        })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "p50 {:.1} ms, p99 {:.1}, max {:.1} ({} readings)",
            millis(self.quantile(0.5)),
            millis(self.quantile(0.99)),
            millis(self.quantile(1.0)),
            self.0.len()
        )
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_readings() {
        let spread = Spread::of((1..=100).rev().map(Duration::from_millis).collect());
        let at = |part| spread.quantile(part).as_millis();
        assert_eq!((at(0.0), at(0.5), at(0.99), at(1.0)), (1, 50, 99, 100));
        let one = Spread::of(vec![Duration::from_millis(7)]);
        assert_eq!(one.quantile(0.5), one.quantile(1.0));
        assert_eq!(Spread::of(Vec::new()).quantile(0.99), Duration::ZERO);
    }
}
