//! Inside a task's namespace: loopback, addresses, default route, kernel parameters, features of links.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use futures::TryStreamExt;
use netlink_packet_route::{address::AddressHeaderFlags, link::LinkFlags};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{
    LinkError, errno, features, netlink, netns,
    plan::{GATEWAY, GATEWAY_V6, LinkKind, TaskLink, mac_of},
    sysctl,
};

/// Configures everything inside the namespace; may be called again at any time.
///
/// # Errors
/// When the namespace is gone or the kernel refuses.
pub async fn configure(path: &Path, links: Vec<TaskLink>) -> Result<(), LinkError> {
    let what = format!("configure the links in {}", path.display());
    netns::within_async(path, move || {
        // Docker's own settings: any user may ping and listen on any port.
        sysctl::set_if_there("net/ipv4/ip_unprivileged_port_start", "0");
        sysctl::set_if_there("net/ipv4/ping_group_range", "0 2147483647");
        // Addresses are given, not made up, asked for or probed.
        sysctl::set_if_there("net/ipv6/conf/all/accept_dad", "0");
        for link in &links {
            let off = if link.v6.is_some() { "0" } else { "1" };
            for (name, value) in [
                ("accept_dad", "0"),
                ("accept_ra", "0"),
                ("autoconf", "0"),
                ("disable_ipv6", off),
            ] {
                sysctl::set_if_there(&format!("net/ipv6/conf/{}/{name}", link.task_name), value);
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            tokio::spawn(connection);
            up(&handle, "lo").await.map_err(io::Error::other)?;
            for link in &links {
                if let Err(error) = features::divide_sctp(&link.task_name) {
                    tracing::warn!(%error, link = link.task_name, "large messages of SCTP are lost");
                }
                one(&handle, link).await.map_err(|error| {
                    io::Error::other(format!("link {}: {error}", link.task_name))
                })?;
            }
            Ok(())
        })
    })
    .await
    .map_err(LinkError::io(what))
}

async fn one(handle: &Handle, link: &TaskLink) -> Result<(), rtnetlink::Error> {
    let (index, _) = find(handle, &link.task_name).await?;
    let added = handle
        .address()
        .add(index, link.address.into(), link.prefix)
        .replace()
        .execute()
        .await;
    if let Err(error) = added
        && errno(&error) != libc::EEXIST
    {
        return Err(error);
    }
    up(handle, &link.task_name).await?;
    if link.kind == LinkKind::Gateway {
        netlink::neighbour(handle, index, GATEWAY.into(), mac_of(GATEWAY)).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(GATEWAY)
            .output_interface(index)
            .pref_source(link.address)
            .onlink();
        // The flag belongs to the next hop; the route header carries it.
        netlink::route(handle, route.build()).await?;
    }
    match link.v6.filter(|_| sysctl::has_ipv6()) {
        Some(v6) => six(handle, link, index, v6).await,
        None => Ok(()),
    }
}

/// The IPv6 address of a link, and on the gateway link the default route.
async fn six(
    handle: &Handle,
    link: &TaskLink,
    index: u32,
    (address, prefix): (Ipv6Addr, u8),
) -> Result<(), rtnetlink::Error> {
    let mut add = handle
        .address()
        .add(index, address.into(), prefix)
        .replace();
    add.message_mut().header.flags = AddressHeaderFlags::Nodad;
    add.execute().await?;
    if link.kind != LinkKind::Gateway {
        return Ok(());
    }
    netlink::neighbour(handle, index, GATEWAY_V6.into(), mac_of(GATEWAY)).await?;
    let route = RouteMessageBuilder::<Ipv6Addr>::new()
        .gateway(GATEWAY_V6)
        .output_interface(index)
        .pref_source(address)
        .build();
    netlink::route(handle, route).await
}

async fn up(handle: &Handle, name: &str) -> Result<(), rtnetlink::Error> {
    let (index, is_up) = find(handle, name).await?;
    if is_up {
        return Ok(());
    }
    netlink::up(handle, index).await
}

async fn find(handle: &Handle, name: &str) -> Result<(u32, bool), rtnetlink::Error> {
    let mut links = handle.link().get().match_name(name).execute();
    let link = links.try_next().await?.ok_or_else(|| {
        rtnetlink::Error::NamespaceError(format!("interface {name} is not there"))
    })?;
    Ok((link.header.index, link.header.flags.contains(LinkFlags::Up)))
}
