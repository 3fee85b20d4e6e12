//! One kind of load, and what its runs gave: minimum, median and maximum.

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Requests, one after the other, on one open connection.
    RoundTrips,
    /// A new connection for each request.
    Connections,
    /// One connection, as many bytes as it takes.
    Stream,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::RoundTrips, Self::Connections, Self::Stream];

    /// What the rows of tables call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RoundTrips => "requests/s",
            Self::Connections => "new connections/s",
            Self::Stream => "Gbit/s",
        }
    }

    /// Whoami's word for it.
    fn word(self) -> &'static str {
        match self {
            Self::RoundTrips => "rr",
            Self::Connections => "conn",
            Self::Stream => "stream",
        }
    }

    /// Connections at a time.
    fn connections(self) -> &'static str {
        match self {
            Self::RoundTrips | Self::Stream => "1",
            Self::Connections => "4",
        }
    }
}

/// One run of the load generator.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) kind: Kind,
    pub(crate) seconds: f64,
}

impl Load {
    /// Arguments of `whoami` for a load on this target (HOST:PORT).
    pub(crate) fn args(self, target: &str) -> Vec<String> {
        let words = ["load", self.kind.word(), target];
        let mut args: Vec<String> = words.map(str::to_owned).to_vec();
        args.push(self.seconds.to_string());
        args.push(self.kind.connections().to_owned());
        args
    }
}

/// The figures of all runs of one load on one side.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) per_second: Vec<f64>,
    pub(crate) p50: Vec<f64>,
    pub(crate) p99: Vec<f64>,
    pub(crate) gbit: Vec<f64>,
    pub(crate) failed: u64,
}

impl Figures {
    /// Adds the JSON line of a run.
    pub(crate) fn add(&mut self, line: &str) -> Result<()> {
        let value: Value = serde_json::from_str(line.trim())
            .with_context(|| format!("not the load generator's line: {line:?}"))?;
        let number = |name: &str| {
            value[name]
                .as_f64()
                .with_context(|| format!("no {name} in {line:?}"))
        };
        if number("requests")? == 0.0 {
            bail!("not one request was answered: {line}");
        }
        self.per_second.push(number("per_second")?);
        self.p50.push(number("p50_us")?);
        self.p99.push(number("p99_us")?);
        self.gbit.push(number("gbit_per_second")?);
        self.failed += value["failed"].as_u64().unwrap_or(0);
        Ok(())
    }

    /// The runs' main figure for this kind of load.
    pub(crate) fn main(&self, kind: Kind) -> &[f64] {
        match kind {
            Kind::RoundTrips | Kind::Connections => &self.per_second,
            Kind::Stream => &self.gbit,
        }
    }
}

/// Minimum, median and maximum.
pub(crate) fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
    (
        at(0),
        at(sorted.len() / 2),
        at(sorted.len().saturating_sub(1)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_collected() {
        let mut figures = Figures::default();
        let line = r#"{"requests":10,"failed":1,"per_second":5.0,"p50_us":1.0,"p99_us":2.0,"gbit_per_second":0.0}"#;
        figures.add(line).unwrap();
        assert_eq!(figures.main(Kind::RoundTrips), [5.0]);
        assert_eq!(figures.failed, 1);
        let none = r#"{"requests":0,"failed":3,"per_second":0}"#;
        assert!(figures.add(none).is_err());
        assert!(figures.add("curl: no").is_err());
    }

    #[test]
    fn a_spread_is_sorted() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), (1.0, 2.0, 3.0));
        assert_eq!(spread(&[]), (0.0, 0.0, 0.0));
    }
}
