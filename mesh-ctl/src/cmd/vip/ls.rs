//! `vip ls`

use anyhow::Result;
use mesh_api::{
    Client,
    mesh::{BackendState, Vip},
};

use super::{OF_LOAD, RateFlags, name_silent, with_load};
use crate::{
    format::{ListFlags, Listing, Row, human},
    view::ports,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    rates: RateFlags,
    #[command(flatten)]
    list: ListFlags,
}

const LISTING: Listing = Listing {
    table: "{{.Service}}\t{{.Network}}\t{{.Address}}\t{{.Active}}\t{{.Draining}}\t{{.Ports}}",
    headings: &[
        ("Service", "SERVICE"),
        ("ServiceID", "SERVICE ID"),
        ("Network", "NETWORK"),
        ("NetworkID", "NETWORK ID"),
        ("VNI", "VNI"),
        ("Address", "VIP"),
        ("Active", "ACTIVE"),
        ("Draining", "DRAINING"),
        ("Open", "OPEN FLOWS"),
        ("Flows", "FLOWS"),
        ("Packets", "PACKETS"),
        ("Bytes", "BYTES"),
        ("FlowRate", "FLOWS/S"),
        ("PacketRate", "PACKETS/S"),
        ("BitRate", "BITS/S"),
        ("Ports", "PORTS"),
        ("Backends", "BACKENDS"),
    ],
    quiet: "{{.Address}}",
};

const WITH_RATES: Listing = Listing {
    table: "{{.Service}}\t{{.Network}}\t{{.Address}}\t{{.Active}}\t{{.Draining}}\t{{.Open}}\t{{.FlowRate}}\t{{.PacketRate}}\t{{.BitRate}}\t{{.Ports}}",
    ..LISTING
};

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let filters = args.list.filters()?;
    filters.validate(&["service", "network"])?;
    let mut vips = client.vips(args.rates.rates).await?;
    vips.retain(|vip| {
        let named = |key: &str, name: &str, id: &str| {
            filters.matches(key, |value| name == value || id.starts_with(value))
        };
        named("service", &vip.service_name, &vip.service_id)
            && named("network", &vip.network_name, &vip.network_id)
    });
    vips.sort_by(|a, b| {
        human::natural_cmp(&a.service_name, &b.service_name)
            .then_with(|| a.network_name.cmp(&b.network_name))
    });
    // All say the same.
    name_silent(vips.first().map_or(&[], |vip| &vip.silent_nodes));
    let listing = match args.rates.rates {
        Some(_) => WITH_RATES,
        None => LISTING,
    };
    listing.print(&args.list, vips.iter().map(row).collect())
}

fn row(vip: &Vip) -> Row {
    let count = |state| {
        vip.backends
            .iter()
            .filter(|backend| backend.state == state)
            .count()
    };
    let addresses: Vec<&str> = vip
        .backends
        .iter()
        .map(|backend| backend.address.as_str())
        .collect();
    let row = Row::new()
        .with("Service", vip.service_name.as_str())
        .with("ServiceID", human::short_id(&vip.service_id))
        .with("Network", vip.network_name.as_str())
        .with("NetworkID", human::short_id(&vip.network_id))
        .with("VNI", vip.vni)
        .with("Address", vip.address.as_str())
        .with("Active", count(BackendState::Active))
        .with("Draining", count(BackendState::Draining))
        .with("Ports", ports::published(&vip.ports))
        .with("Backends", addresses.join(","));
    match vip.load {
        Some(load) => with_load(row, load),
        // Nobody asked, or the leader is too old to know.
        None => OF_LOAD.iter().fold(row, |row, name| row.with(name, "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let vip: Vip = serde_json::from_value(serde_json::json!({
            "ServiceID": "s", "ServiceName": "web", "NetworkID": "n", "NetworkName": "ingress",
            "Vni": 4096, "Address": "10.0.0.5",
            "Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}],
            "Backends": [{"TaskID": "t", "TaskName": "web.1", "NodeID": "m", "NodeName": "n1",
                          "Address": "10.0.0.6", "State": "active"}],
            "Load": {"OpenFlows": 7, "Flows": 20, "Packets": 100, "Bytes": 9000,
                     "Rates": {"FlowsPerSecond": 0.5, "PacketsPerSecond": 1200.0, "BitsPerSecond": 9.6e6}}
        }))
        .expect("vip");
        assert_eq!(
            LISTING
                .render(&ListFlags::default(), vec![row(&vip)])
                .expect("renders"),
            "SERVICE   NETWORK   VIP        ACTIVE    DRAINING   PORTS\n\
             web       ingress   10.0.0.5   1         0          *:8080->80/tcp\n"
        );
        assert_eq!(
            WITH_RATES
                .render(&ListFlags::default(), vec![row(&vip)])
                .expect("renders"),
            "SERVICE   NETWORK   VIP        ACTIVE    DRAINING   OPEN FLOWS   FLOWS/S   PACKETS/S   BITS/S    PORTS\n\
             web       ingress   10.0.0.5   1         0          7            0.5       1.2k        9.6M      *:8080->80/tcp\n"
        );
    }
}
