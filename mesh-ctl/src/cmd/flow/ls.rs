//! `flow ls`

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use mesh_api::{Client, mesh::Flow};

use crate::{
    flags::nodes::NodeFlags,
    format::{ListFlags, Listing, Row},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show flows that have ended as well, as long as they are remembered
    #[arg(short, long)]
    all: bool,
    /// Only flows of this service
    #[arg(long)]
    service: Option<String>,
    /// Only flows of this client
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    #[command(flatten)]
    nodes: NodeFlags,
    #[command(flatten)]
    list: ListFlags,
}

const LISTING: Listing = Listing {
    table: "{{.Service}}\t{{.Protocol}}\t{{.Client}}\t{{.Front}}\t{{.Backend}}\t{{.Through}}\t{{.Idle}}\t{{.State}}",
    headings: &[
        ("Node", "NODE"),
        ("Service", "SERVICE"),
        ("Protocol", "PROTOCOL"),
        ("Client", "CLIENT"),
        ("Front", "ASKED"),
        ("Backend", "TASK"),
        ("Through", "THROUGH"),
        ("Idle", "IDLE"),
        ("State", "STATE"),
    ],
    quiet: "{{.Client}}",
};

const OF_NODES: Listing = Listing {
    table: "{{.Node}}\t{{.Service}}\t{{.Protocol}}\t{{.Client}}\t{{.Front}}\t{{.Backend}}\t{{.Through}}\t{{.Idle}}\t{{.State}}",
    ..LISTING
};

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let filters = args.list.filters()?;
    filters.validate(&["service", "client"])?;
    let service = args.service.as_deref();
    let (mut flows, listing) = if args.nodes.several() {
        let node = args.nodes.node.as_deref();
        let told = client
            .flows_of_nodes(node, service, args.client, args.all)
            .await?;
        (args.nodes.told(told)?, OF_NODES)
    } else {
        (client.flows(service, args.all).await?, LISTING)
    };
    flows.retain(|flow| {
        let address = client_of(flow);
        args.client.is_none_or(|client| address == Some(client))
            && filters.matches("service", |name| name == flow.service)
            && filters.matches("client", |client| client.parse().ok() == address)
    });
    listing.print(&args.list, flows.iter().map(row).collect())
}

fn client_of(flow: &Flow) -> Option<IpAddr> {
    flow.client
        .parse::<SocketAddr>()
        .ok()
        .map(|client| client.ip())
}

fn row(flow: &Flow) -> Row {
    let idle = flow.idle_seconds.map(|seconds| format!("{seconds}s"));
    Row::new()
        .with("Node", flow.node_name.as_str())
        .with("Service", flow.service.as_str())
        .with("Protocol", flow.protocol.as_str())
        .with("Client", flow.client.as_str())
        .with("Front", flow.front.as_str())
        .with("Backend", flow.backend.as_str())
        .with("Through", flow.through.as_str())
        .with("Idle", idle.unwrap_or_default())
        .with("State", state(flow))
}

fn state(flow: &Flow) -> &'static str {
    match (flow.closed, flow.ended) {
        (true, _) => "closed",
        (false, true) => "idle",
        (false, false) => "open",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let flow = Flow {
            node_name: "n2".into(),
            service: "web".into(),
            protocol: "tcp".into(),
            client: "192.0.2.9:40000".into(),
            front: "192.0.2.1:80".into(),
            backend: "10.0.0.5:8080".into(),
            through: "192.0.2.1".into(),
            idle_seconds: Some(3),
            closed: false,
            ended: false,
        };
        assert_eq!(
            LISTING
                .render(&ListFlags::default(), vec![row(&flow)])
                .expect("renders"),
            "SERVICE   PROTOCOL   CLIENT            ASKED          TASK            THROUGH     IDLE      STATE\n\
             web       tcp        192.0.2.9:40000   192.0.2.1:80   10.0.0.5:8080   192.0.2.1   3s        open\n"
        );
        assert_eq!(
            OF_NODES
                .render(&ListFlags::default(), vec![row(&flow)])
                .expect("renders"),
            "NODE      SERVICE   PROTOCOL   CLIENT            ASKED          TASK            THROUGH     IDLE      STATE\n\
             n2        web       tcp        192.0.2.9:40000   192.0.2.1:80   10.0.0.5:8080   192.0.2.1   3s        open\n"
        );
        assert_eq!(client_of(&flow), "192.0.2.9".parse().ok());
        let unknown = Flow {
            idle_seconds: None,
            ended: true,
            ..flow.clone()
        };
        let list = ListFlags {
            format: Some("{{.Idle}}/{{.State}}".into()),
            ..ListFlags::default()
        };
        let rows = vec![row(&flow), row(&unknown)];
        let text = LISTING.render(&list, rows).expect("renders");
        assert_eq!(text, "3s/open\n/idle\n");
    }
}
