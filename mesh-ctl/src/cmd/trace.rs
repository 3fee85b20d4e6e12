//! `trace`

use std::net::IpAddr;

use anyhow::Result;
use clap::ArgGroup;
use futures::StreamExt;
use mesh_api::{
    Client,
    mesh::{TraceLine, TracedPacket},
};

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["client", "service", "port"]))]
pub(crate) struct Args {
    /// Packets from or to this address
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// Packets of this service: of its published ports, or of its tasks where it has none
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Packets from or to this port, or to the tasks' port behind it
    #[arg(long)]
    port: Option<u16>,
    /// tcp, udp or sctp
    #[arg(long, value_name = "PROTOCOL")]
    proto: Option<String>,
    /// End after so many lines
    #[arg(long, default_value_t = 100)]
    count: usize,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
    /// Format: 'table' or 'json', a line for each packet
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
}

/// Widths of the table's columns; the last one has none. Lines are written as they come.
const WIDTHS: [usize; 8] = [12, 10, 12, 16, 10, 46, 14, 16];

const HEADINGS: [&str; 9] = [
    "TIME",
    "NODE",
    "PROGRAM",
    "INTERFACE",
    "PACKET",
    "FLOW",
    "VERDICT",
    "TUNNEL",
    "TASK",
];

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let mut query = vec![("seconds", args.timeout.to_string())];
    query.extend(args.client.map(|client| ("client", client.to_string())));
    query.extend(args.service.map(|service| ("service", service)));
    query.extend(args.port.map(|port| ("port", port.to_string())));
    query.extend(args.proto.map(|proto| ("protocol", proto)));
    let json = args.format == "json";
    let mut lines = std::pin::pin!(client.trace(&query).await?);
    let mut first = None;
    let (mut seen, mut trouble) = (0, false);
    while seen < args.count
        && let Some(line) = lines.next().await
    {
        match line? {
            TraceLine::Begun { silent } => {
                if !json {
                    say!("{}", columns(HEADINGS.map(str::to_owned)))?;
                }
                let missing = silent.join(", ");
                if missing.is_empty() {
                    note!("tracing on all nodes");
                } else {
                    note!("tracing; no answer from {missing}");
                }
            }
            TraceLine::Trouble { message } => {
                trouble = true;
                note!("{message}");
            }
            TraceLine::Packet(packet) => {
                seen += 1;
                let since = packet.time - *first.get_or_insert(packet.time);
                if json {
                    say!("{}", serde_json::to_string(&packet)?)?;
                } else {
                    say!("{}", columns(row(&packet, since)))?;
                }
            }
        }
    }
    if seen == 0 && !trouble {
        note!("no such packet within {} s", args.timeout);
    }
    Ok(())
}

/// `since`: nanoseconds since the first packet.
fn row(packet: &TracedPacket, since: i64) -> [String; 9] {
    let verdict = if packet.dropped {
        format!("drop: {}", packet.verdict)
    } else {
        packet.verdict.clone()
    };
    [
        format!("{:.3} ms", since as f64 / 1e6),
        packet.node.clone(),
        packet.program.clone(),
        packet.interface.clone(),
        format!("{} {}", packet.protocol, packet.flags)
            .trim_end()
            .to_owned(),
        format!("{} > {}", packet.source, packet.destination),
        verdict,
        packet.tunnel.clone(),
        packet.task.clone(),
    ]
}

fn columns(fields: [String; 9]) -> String {
    let mut line = String::new();
    for (index, field) in fields.iter().enumerate() {
        let width = WIDTHS.get(index).copied().unwrap_or(0);
        line.push_str(&format!("{field:<width$}"));
        if !line.ends_with(' ') {
            line.push(' ');
        }
    }
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line() {
        let packet: TracedPacket = serde_json::from_value(serde_json::json!({
            "Time": 5, "Node": "n1", "Program": "uplink-xdp", "Interface": "eth0", "Protocol": "tcp", "Flags": "S",
            "Source": "192.0.2.200:40000", "Destination": "192.0.2.11:80", "Verdict": "forwarded", "Dropped": false,
            "Tunnel": "n2", "Task": "", "Bytes": 124
        }))
        .expect("a packet");
        assert_eq!(
            columns(row(&packet, 1_500_000)),
            "1.500 ms    n1        uplink-xdp  eth0            tcp S     \
             192.0.2.200:40000 > 192.0.2.11:80             forwarded     n2"
        );
        let dropped = TracedPacket {
            dropped: true,
            verdict: "spoofed".into(),
            ..packet
        };
        assert_eq!(row(&dropped, 0)[6], "drop: spoofed");
    }
}
