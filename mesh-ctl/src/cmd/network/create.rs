//! `network create`

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use ipnetwork::IpNetwork;
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
    /// Address that nobody is given, as name=address
    #[arg(long, value_name = "NAME=ADDRESS")]
    aux_address: Vec<String>,
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
    let mut config: Vec<IpamConfig> = args
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
    reserve(&mut config, &args.aux_address)?;
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

/// Puts each auxiliary address to the subnet that it is of.
fn reserve(configs: &mut [IpamConfig], addresses: &[String]) -> Result<()> {
    for (name, text) in labels(addresses) {
        let address: IpAddr = text.parse().with_context(|| {
            format!("invalid --aux-address {name}={text}: write it as name=address")
        })?;
        let is_of = |config: &&mut IpamConfig| {
            let subnet = config.subnet.as_deref().unwrap_or_default();
            (subnet.parse::<IpNetwork>()).is_ok_and(|subnet| subnet.contains(address))
        };
        match configs.iter_mut().find(is_of) {
            Some(config) => {
                let all = config.auxiliary_addresses.get_or_insert_default();
                all.insert(name, text);
            }
            None => bail!("no matching subnet for aux-address {address}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::arguments;

    fn made(words: &[&str]) -> Result<NetworkCreateRequest> {
        request(arguments(words)?)
    }

    #[test]
    fn addresses_go_with_their_subnet() {
        let all = "--subnet 10.1.0.0/24 --subnet fd00:1::/64 --aux-address a=10.1.0.9 --aux-address b=fd00:1::9 \
                   --aux-address c=10.1.0.8 --opt com.docker.network.driver.mtu=1200 front";
        let words: Vec<_> = all.split_whitespace().collect();
        let request = made(&words).expect("a request");
        let options = request.options.expect("options");
        assert_eq!(options["com.docker.network.driver.mtu"], "1200");
        let configs = request.ipam.expect("ipam").config.expect("subnets");
        let four = configs[0].auxiliary_addresses.as_ref().expect("some");
        assert_eq!(
            (four["a"].as_str(), four["c"].as_str()),
            ("10.1.0.9", "10.1.0.8")
        );
        let six = configs[1].auxiliary_addresses.as_ref().expect("one");
        assert_eq!(six["b"], "fd00:1::9");
        for (bad, why) in [
            ("a=10.2.0.9", "no matching subnet for aux-address 10.2.0.9"),
            (
                "10.1.0.9",
                "invalid --aux-address 10.1.0.9=: write it as name=address",
            ),
        ] {
            let error = made(&["--subnet", "10.1.0.0/24", "--aux-address", bad, "n"]);
            assert_eq!(error.expect_err(bad).to_string(), why);
        }
    }
}
