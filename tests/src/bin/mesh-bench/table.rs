//! The table that people read and the JSON that programs read.

use serde_json::{Value, json};

use crate::{
    Measured,
    figures::{Kind, Sample, Spread, ratio},
};

/// The sides that ratios are taken of.
pub(crate) const HOST: &str = "host to host";
pub(crate) const KERNEL: &str = "kernel's own";
/// What forwarding costs at least.
pub(crate) const ROUTED: &str = "routes alone";

/// Prints one block a path: sides as rows.
pub(crate) fn print(measured: &Measured) {
    let mut last = None;
    for ((path, kind), sides) in measured {
        if last != Some(*path) {
            println!("\n{}", path.name());
            last = Some(*path);
        }
        println!(
            "  {:<17} {:>9} {:>9} {:>9}  {:<17} {:<17} {:>7} {:<17} {:<17} {:>8} {:>9} {:>6}  failed",
            kind.name(),
            "min",
            "median",
            "max",
            "x host",
            "x kernel",
            "p50 us",
            "x host",
            "x kernel",
            "p99 us",
            format!("cpu us/{}", kind.unit()),
            "stolen",
        );
        for (name, samples) in sides {
            let times = *kind != Kind::Stream;
            let rate = spread(samples, |s| s.rate);
            let columns = [
                times_of(samples, sides, HOST, |s| s.rate),
                times_of(samples, sides, KERNEL, |s| s.rate),
                shown(times.then(|| times_of(samples, sides, HOST, |s| s.p50))),
                shown(times.then(|| times_of(samples, sides, KERNEL, |s| s.p50))),
            ];
            let micros = |figure: fn(&Sample) -> f64| {
                shown(times.then(|| format!("{:.1}", spread(samples, figure).median)))
            };
            println!(
                "    {name:<15} {:>9.1} {:>9.1} {:>9.1}  {:<17} {:<17} {:>7} {:<17} {:<17} {:>8} {:>9.1} {:>5.1}%  {}",
                rate.min,
                rate.median,
                rate.max,
                columns[0],
                columns[1],
                micros(|s| s.p50),
                columns[2],
                columns[3],
                micros(|s| s.p99),
                spread(samples, |s| s.cpu).median,
                spread(samples, |s| s.stolen).max * 100.0,
                failed(samples)
            );
        }
    }
    println!(
        "\nratios: median (lowest-highest) of the rounds; each round measures all sides in turn\n\
         stolen: most of the processors' time that a hypervisor took during one measurement; above 1 % it is repeated"
    );
}

fn shown(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

fn spread(samples: &[Sample], figure: fn(&Sample) -> f64) -> Spread {
    Spread::of(samples.iter().map(figure)).unwrap_or(Spread {
        min: 0.0,
        median: 0.0,
        max: 0.0,
    })
}

fn failed(samples: &[Sample]) -> u64 {
    samples.iter().map(|sample| sample.failed).sum()
}

fn of_side(
    samples: &[Sample],
    sides: &[(&'static str, Vec<Sample>)],
    other: &str,
    figure: fn(&Sample) -> f64,
) -> Option<Spread> {
    let (_, base) = sides.iter().find(|(side, _)| *side == other)?;
    ratio(samples, base, figure)
}

fn times_of(
    samples: &[Sample],
    sides: &[(&'static str, Vec<Sample>)],
    other: &str,
    figure: fn(&Sample) -> f64,
) -> String {
    shown(
        of_side(samples, sides, other, figure)
            .map(|ratio| format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.min, ratio.max)),
    )
}

/// Everything measured, one object a path, load and side.
pub(crate) fn json(measured: &Measured) -> Value {
    let mut rows = Vec::new();
    for ((path, kind), sides) in measured {
        for (name, samples) in sides {
            let ratios = |other: &str| {
                let of = |figure| of_side(samples, sides, other, figure).map(Spread::json);
                json!({ "rate": of(|s| s.rate), "p50": of(|s| s.p50), "cpu": of(|s| s.cpu) })
            };
            rows.push(json!({
                "path": path.name(),
                "figure": kind.name(),
                "side": name,
                "rate": spread(samples, |s| s.rate).json(),
                "p50_us": spread(samples, |s| s.p50).json(),
                "p99_us": spread(samples, |s| s.p99).json(),
                "cpu_unit": kind.unit(),
                "cpu_us": spread(samples, |s| s.cpu).json(),
                "of_host": ratios(HOST),
                "of_kernel": ratios(KERNEL),
                "of_routed": ratios(ROUTED),
                "stolen": spread(samples, |s| s.stolen).json(),
                "rounds": samples.len(),
                "failed": failed(samples),
            }));
        }
    }
    rows.into()
}
