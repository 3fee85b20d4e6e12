//! The table that people read and the JSON that programs read.

use serde_json::{Value, json};

use crate::{
    Measured,
    figures::{Figures, Kind, spread},
};

/// The side that ratios are taken of.
const BASE: &str = "host to host";

/// Prints one block a path: sides as rows, ratios to host-to-host.
pub(crate) fn print(measured: &Measured) {
    let mut last = None;
    for ((path, kind), sides) in measured {
        if last != Some(*path) {
            println!("\n{}", path.name());
            last = Some(*path);
        }
        println!(
            "  {:<18} {:>10} {:>10} {:>10}  {:>6}  {:>8} {:>8}  failed",
            kind.name(),
            "min",
            "median",
            "max",
            "ratio",
            "p50 us",
            "p99 us"
        );
        let base = median_of(sides, BASE, *kind);
        for (name, figures) in sides {
            let (min, median, max) = spread(figures.main(*kind));
            let ratio = base.map_or(0.0, |base| median / base);
            let times = |values: &[f64]| match kind {
                Kind::Stream => "-".to_owned(),
                Kind::RoundTrips | Kind::Connections => format!("{:.1}", spread(values).1),
            };
            println!(
                "    {name:<16} {min:>10.1} {median:>10.1} {max:>10.1}  {ratio:>6.2}  {:>8} {:>8}  {}",
                times(&figures.p50),
                times(&figures.p99),
                figures.failed
            );
        }
    }
}

fn median_of(sides: &[(&'static str, Figures)], name: &str, kind: Kind) -> Option<f64> {
    let (_, figures) = sides.iter().find(|(side, _)| *side == name)?;
    let median = spread(figures.main(kind)).1;
    (median > 0.0).then_some(median)
}

/// Everything measured, one object a path, load and side.
pub(crate) fn json(measured: &Measured) -> Value {
    let mut rows = Vec::new();
    for ((path, kind), sides) in measured {
        let base = median_of(sides, BASE, *kind);
        for (name, figures) in sides {
            let (min, median, max) = spread(figures.main(*kind));
            rows.push(json!({
                "path": path.name(),
                "figure": kind.name(),
                "side": name,
                "min": min,
                "median": median,
                "max": max,
                "ratio_to_host": base.map(|base| median / base),
                "p50_us": spread(&figures.p50).1,
                "p99_us": spread(&figures.p99).1,
                "failed": figures.failed,
            }));
        }
    }
    rows.into()
}
