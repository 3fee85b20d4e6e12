//! One kind of load, what a run of it gave, and the spread of several.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Messages there and back, one after the other, on one open connection.
    RoundTrips,
    /// A new connection for each request, four at a time.
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

    /// What processor time is reported for.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::RoundTrips | Self::Connections => "request",
            Self::Stream => "MB",
        }
    }

    /// Whoami's port for it: HTTP, or the echo.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::RoundTrips => crate::ECHO,
            Self::Connections | Self::Stream => crate::HTTP,
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
    /// Arguments of `whoami` for a load on this host.
    pub(crate) fn args(self, host: &str) -> Vec<String> {
        [
            "load",
            self.kind.word(),
            &format!("{host}:{}", self.kind.port()),
            &self.seconds.to_string(),
            self.kind.connections(),
        ]
        .map(str::to_owned)
        .to_vec()
    }
}

/// What one run gave.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// Requests, connections or gigabits a second.
    pub(crate) rate: f64,
    /// Median time of a request, microseconds.
    pub(crate) p50: f64,
    /// Time that one request in a hundred takes longer than, microseconds.
    pub(crate) p99: f64,
    /// Processor time of the whole machine for each [`Kind::unit`], microseconds.
    pub(crate) cpu: f64,
    pub(crate) failed: u64,
    /// The part of the processors' time that a hypervisor took meanwhile.
    pub(crate) stolen: f64,
}

impl Sample {
    /// From the JSON line of a run.
    pub(crate) fn read(kind: Kind, line: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(line.trim())
            .with_context(|| format!("not the load generator's line: {line:?}"))?;
        let number = |name: &str| {
            value[name]
                .as_f64()
                .with_context(|| format!("no {name} in {line:?}"))
        };
        let requests = number("requests")?;
        if requests == 0.0 {
            bail!("not one request was answered: {line}");
        }
        let (rate, units) = match kind {
            Kind::RoundTrips | Kind::Connections => (number("per_second")?, requests),
            Kind::Stream => (number("gbit_per_second")?, number("bytes")? / 1e6),
        };
        Ok(Self {
            rate,
            p50: number("p50_us")?,
            p99: number("p99_us")?,
            cpu: number("cpu_us")? / units,
            failed: value["failed"].as_u64().context("no count of failures")?,
            stolen: 0.0,
        })
    }
}

/// Minimum, median and maximum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            min: *sorted.first()?,
            median: sorted[sorted.len() / 2],
            max: *sorted.last()?,
        })
    }

    pub(crate) fn json(self) -> Value {
        json!({ "min": self.min, "median": self.median, "max": self.max })
    }
}

/// A figure of one side as a multiple of another side's in the same round.
pub(crate) fn ratio(
    own: &[Sample],
    other: &[Sample],
    figure: fn(&Sample) -> f64,
) -> Option<Spread> {
    Spread::of(
        own.iter()
            .zip(other)
            .map(|(a, b)| figure(a) / figure(b))
            .filter(|ratio| ratio.is_finite()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_read() {
        let line = r#"{"requests":10,"failed":1,"per_second":5.0,"p50_us":1.0,"p99_us":2.0,"bytes":2000000,"gbit_per_second":8.0,"cpu_us":400}"#;
        let sample = Sample::read(Kind::RoundTrips, line).unwrap();
        assert_eq!((sample.rate, sample.cpu, sample.failed), (5.0, 40.0, 1));
        let sample = Sample::read(Kind::Stream, line).unwrap();
        assert_eq!((sample.rate, sample.cpu), (8.0, 200.0));
        let none = r#"{"requests":0,"failed":3,"per_second":0}"#;
        assert!(Sample::read(Kind::RoundTrips, none).is_err());
        assert!(Sample::read(Kind::RoundTrips, "curl: no").is_err());
    }

    #[test]
    fn a_spread_is_sorted() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.0, 3.0));
        assert!(Spread::of([]).is_none());
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let samples = |rates: [f64; 3]| {
            rates.map(|rate| Sample {
                rate,
                p50: 0.0,
                p99: 0.0,
                cpu: 0.0,
                failed: 0,
                stolen: 0.0,
            })
        };
        let spread = ratio(
            &samples([1.0, 4.0, 9.0]),
            &samples([2.0, 4.0, 6.0]),
            |sample| sample.rate,
        );
        let spread = spread.unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (0.5, 1.0, 1.5));
    }
}
