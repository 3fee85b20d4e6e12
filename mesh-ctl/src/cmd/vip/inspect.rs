//! `vip inspect`

use std::fmt::Write as _;

use anyhow::Result;
use mesh_api::{
    Client,
    mesh::{ReturnMode, Vip, VipBackend},
};

use super::{RateFlags, USUAL, interval, with_load};
use crate::{
    format::{ListFlags, Listing, Row, inspect},
    view::{ports, word},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Services (names, ids, unique prefixes) or virtual addresses
    #[arg(required = true, value_name = "SERVICE|ADDRESS")]
    references: Vec<String>,
    /// Format: 'json' or a Go template
    #[arg(short, long)]
    format: Option<String>,
    /// Show what matters for people, with rates
    #[arg(long, conflicts_with = "format")]
    pretty: bool,
    #[command(flatten)]
    rates: RateFlags,
}

const BACKENDS: Listing = Listing {
    table: "{{.Task}}\t{{.Node}}\t{{.Address}}\t{{.State}}\t{{.Open}}\t{{.Flows}}\t{{.Packets}}\t{{.Bytes}}\t{{.FlowRate}}\t{{.PacketRate}}\t{{.BitRate}}",
    headings: &[
        ("Task", "TASK"),
        ("Node", "NODE"),
        ("Address", "ADDRESS"),
        ("State", "STATE"),
        ("Open", "OPEN FLOWS"),
        ("Flows", "FLOWS"),
        ("Packets", "PACKETS"),
        ("Bytes", "BYTES"),
        ("FlowRate", "FLOWS/S"),
        ("PacketRate", "PACKETS/S"),
        ("BitRate", "BITS/S"),
    ],
    quiet: "{{.Task}}",
};

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let usual = args.pretty.then(|| interval(USUAL)).transpose();
    let usual = usual.map_err(anyhow::Error::msg)?;
    let interval = args.rates.rates.or(usual);
    // All at once: each takes as long as the interval.
    let vips = args
        .references
        .iter()
        .map(|reference| client.vip(reference, interval));
    let vips = futures::future::try_join_all(vips).await?.concat();
    if args.pretty {
        for vip in &vips {
            say!("{}", pretty(vip)?)?;
        }
        return Ok(());
    }
    inspect::print(&vips, args.format.as_deref())
}

fn pretty(vip: &Vip) -> Result<String> {
    let mut out = String::new();
    writeln!(out, "Service:\t{}", vip.service_name)?;
    writeln!(out, "Network:\t{}", vip.network_name)?;
    writeln!(out, "Address:\t{}", vip.address)?;
    if !vip.ports.is_empty() {
        writeln!(out, "Ports:\t\t{}", ports::published(&vip.ports))?;
    }
    if let Some(mode) = vip.r#return {
        writeln!(out, "Return:\t\t{}", word(Some(mode)))?;
    }
    let paths = vip.return_paths.iter();
    for path in paths.filter(|path| path.mode == ReturnMode::Symmetric) {
        writeln!(
            out,
            "\t\t{} to clients of {} ({}): symmetric, {}",
            path.node_name, path.address, path.asked_node_name, path.reason
        )?;
    }
    if !vip.silent_nodes.is_empty() {
        writeln!(out, "No answer from:\t{}", vip.silent_nodes.join(", "))?;
    }
    let rows = vip.backends.iter().map(row).collect();
    out += &BACKENDS.render(&ListFlags::default(), rows)?;
    Ok(out)
}

fn row(backend: &VipBackend) -> Row {
    let row = Row::new()
        .with("Task", backend.task_name.as_str())
        .with("Node", backend.node_name.as_str())
        .with("Address", backend.address.as_str())
        .with("State", word(Some(backend.state)));
    with_load(row, backend.load.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_people() {
        let backend = |name: &str, state: &str, open: u64| {
            serde_json::json!({
                "TaskID": "t", "TaskName": name, "NodeID": "m", "NodeName": "n1", "Address": "10.0.0.6", "State": state,
                "Load": {"OpenFlows": open, "Flows": 20, "Packets": 100, "Bytes": 9000,
                         "Rates": {"FlowsPerSecond": 2.0, "PacketsPerSecond": 15.3, "BitsPerSecond": 1234567.0}}
            })
        };
        let vip: Vip = serde_json::from_value(serde_json::json!({
            "ServiceID": "s", "ServiceName": "web", "NetworkID": "n", "NetworkName": "ingress",
            "Vni": 4096, "Address": "10.0.0.5",
            "Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}],
            "Backends": [backend("web.1", "active", 7), backend("web.2", "draining", 2)],
            "SilentNodes": ["n3"], "Return": "dsr",
            "ReturnPaths": [
                {"NodeName": "n1", "AskedNodeName": "n2", "Address": "192.0.2.2", "Mode": "dsr", "Reason": "good"},
                {"NodeName": "n1", "AskedNodeName": "n3", "Address": "192.0.2.3", "Mode": "symmetric", "Reason": "bad"}
            ]
        }))
        .expect("vip");
        assert_eq!(
            pretty(&vip).expect("renders"),
            "Service:\tweb\n\
             Network:\tingress\n\
             Address:\t10.0.0.5\n\
             Ports:\t\t*:8080->80/tcp\n\
             Return:\t\tdsr\n\
             \t\tn1 to clients of 192.0.2.3 (n3): symmetric, bad\n\
             No answer from:\tn3\n\
             TASK      NODE      ADDRESS    STATE      OPEN FLOWS   FLOWS     PACKETS   BYTES     FLOWS/S   PACKETS/S   BITS/S\n\
             web.1     n1        10.0.0.6   active     7            20        100       9000      2         15.3        1.23M\n\
             web.2     n1        10.0.0.6   draining   2            20        100       9000      2         15.3        1.23M\n"
        );
    }
}
