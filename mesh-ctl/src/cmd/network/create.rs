//! `network create`

use anyhow::{Result, bail};
use mesh_api::{
    Client,
    engine::{Ipam, IpamConfig, NetworkCreateRequest},
};

use crate::flags::{labels, non_empty};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the network
    #[arg(value_name = "NETWORK")]
    name: String,
    /// Driver
    #[arg(short, long, default_value = "overlay")]
    driver: String,
    /// Subnet, as address/length
    #[arg(long, value_name = "CIDR")]
    subnet: Vec<String>,
    /// Gateway of a subnet
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<String>,
    /// Part of the subnet that addresses are taken from
    #[arg(long, value_name = "CIDR")]
    ip_range: Vec<String>,
    /// Let containers outside of services attach
    #[arg(long)]
    attachable: bool,
    /// No way out of the network
    #[arg(long)]
    internal: bool,
    /// Make it the network of published ports
    #[arg(long)]
    ingress: bool,
    /// Give tasks IPv6 addresses too
    #[arg(long)]
    ipv6: bool,
    /// Scope of the network: swarm
    #[arg(long, default_value = "", hide_default_value = true)]
    scope: String,
    /// Label, as key=value
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// Option of the driver, as key=value
    #[arg(short, long = "opt", value_name = "OPTION")]
    options: Vec<String>,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let answer = client.network_create(&request(args)?).await?;
    if !answer.warning.is_empty() {
        note!("WARNING: {}", answer.warning);
    }
    say!("{}", answer.id)?;
    Ok(())
}

fn request(args: Args) -> Result<NetworkCreateRequest> {
    if args.gateway.len() > args.subnet.len() || args.ip_range.len() > args.subnet.len() {
        bail!("every --gateway and every --ip-range needs a --subnet of its own");
    }
    let config: Vec<IpamConfig> = args
        .subnet
        .iter()
        .enumerate()
        .map(|(index, subnet)| IpamConfig {
            subnet: Some(subnet.clone()),
            gateway: args.gateway.get(index).cloned(),
            ip_range: args.ip_range.get(index).cloned(),
            auxiliary_addresses: None,
        })
        .collect();
    Ok(NetworkCreateRequest {
        name: args.name,
        driver: Some(args.driver),
        scope: Some(args.scope),
        internal: Some(args.internal),
        attachable: Some(args.attachable),
        ingress: Some(args.ingress),
        ipam: Some(Ipam {
            driver: Some("default".to_owned()),
            config: non_empty(config),
            options: None,
        }),
        enable_ipv6: args.ipv6.then_some(true),
        options: Some(labels(&args.options)),
        labels: Some(labels(&args.labels)),
        ..Default::default()
    })
}
