//! `/networks`: the overlay networks of the cluster.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use axum::{
    Json,
    body::Body,
    extract::{Path, Query as QueryOf, State},
    http::StatusCode,
};
use mesh_api::{
    Filters,
    engine::{
        IpamConfig, Network, NetworkContainer, NetworkCreateRequest, NetworkCreateResponse,
        NetworkPruneResponse, PeerInfo,
    },
    proto,
};
use mesh_manager::{
    Command, Response,
    state::{MAX_MTU, MIN_MTU, MTU_OPTION, NodeState, Service, State as ClusterState},
};
use tokio::time::{Instant, sleep};

use super::{
    Answer, Api,
    args::{Query, json},
    errors::ApiError,
    leader::READ_PATIENCE,
    services::unexpected,
};
use crate::desired;

/// How long a network that is to be removed waits for tasks on it that are ending.
const ENDING: Duration = Duration::from_secs(60);
/// Pause between two looks at them.
const LOOK: Duration = Duration::from_millis(200);

const FILTERS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];

/// Least MTU of a network with IPv6, bytes (RFC 8200).
const MIN_MTU_V6: u32 = 1280;

/// Name of the network that is the node's own; the id as well, as no node can tell another's.
const HOST: &str = "host";

/// The node's own network, for clients that look up what a service is to be attached to.
fn host() -> Network {
    Network {
        name: Some(HOST.to_owned()),
        id: Some(HOST.to_owned()),
        scope: Some("local".to_owned()),
        driver: Some(HOST.to_owned()),
        ..Default::default()
    }
}

pub(super) async fn list(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Json<Vec<Network>>> {
    let filters = query.filters(&FILTERS)?;
    let dangling = filters.boolean("dangling")?;
    let Some(manager) = api.node.manager() else {
        return Ok(Json(
            local(&api)
                .into_iter()
                .filter(|network| matches(&filters, network))
                .collect(),
        ));
    };
    let view = manager.view();
    let networks = view
        .networks()
        .filter(|network| dangling.is_none_or(|wanted| wanted != in_use(&view, &network.id)))
        .map(mesh_manager::state::Network::to_engine)
        .filter(|network| matches(&filters, network))
        .collect();
    Ok(Json(networks))
}

/// The networks a worker knows of: those of its tasks.
fn local(api: &Api) -> Vec<Network> {
    let assignment = api.node.assignment();
    assignment
        .networks
        .values()
        .map(|network| Network {
            name: Some(network.name.clone()),
            id: Some(network.id.clone()),
            scope: Some("swarm".to_owned()),
            driver: Some("overlay".to_owned()),
            internal: Some(network.internal),
            ingress: Some(network.ingress),
            enable_ipv4: Some(true),
            enable_ipv6: Some(!network.subnet_v6.is_empty()),
            ipam: Some(mesh_api::engine::Ipam {
                driver: Some("default".to_owned()),
                config: Some(ipam(network)),
                options: None,
            }),
            ..Default::default()
        })
        .collect()
}

fn ipam(network: &proto::Network) -> Vec<IpamConfig> {
    let six = v6(network, &network.gateway).map(|(gateway, _)| gateway.to_string());
    let config = |subnet: &String, gateway| IpamConfig {
        subnet: Some(subnet.clone()),
        gateway: Some(gateway),
        ..Default::default()
    };
    [config(&network.subnet, network.gateway.clone())]
        .into_iter()
        .chain(six.map(|gateway| config(&network.subnet_v6, gateway)))
        .collect()
}

/// The IPv6 address that goes with an IPv4 one on a network, and its prefix length, where the network has IPv6.
pub(super) fn v6(network: &proto::Network, address: &str) -> Option<(Ipv6Addr, u8)> {
    let (first, length) = desired::subnet_v6(network)?;
    match desired::address(address)? {
        IpAddr::V4(four) => Some((desired::v6(first, four), length)),
        IpAddr::V6(_) => None,
    }
}

fn matches(filters: &Filters, network: &Network) -> bool {
    let labels = network.labels.as_ref();
    filters.prefix("id", network.id.as_deref().unwrap_or_default())
        && filters.substring("name", network.name.as_deref().unwrap_or_default())
        && filters.exact("driver", network.driver.as_deref().unwrap_or_default())
        && filters.exact("scope", network.scope.as_deref().unwrap_or_default())
        // Docker's other type, builtin, are bridge, host and none.
        && filters.exact("type", "custom")
        && filters.labels("label", |name| labels?.get(name).map(String::as_str))
}

fn in_use(view: &ClusterState, network: &str) -> bool {
    view.services().any(|service| is_of(service, network))
        || view.tasks().any(|task| task.is_on(network))
}

fn is_of(service: &Service, network: &str) -> bool {
    service.networks.iter().any(|(id, _)| id == network)
        || service.vips.iter().any(|vip| vip.network_id == network)
}

pub(super) async fn inspect(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Answer<Json<Network>> {
    let manager = api.manager()?;
    if id == HOST {
        return Ok(Json(host()));
    }
    let view = manager.view();
    let network = view.find_network(&id)?;
    let mut shown = network.to_engine();
    shown.peers = Some(peers(&view, &network.id));
    shown.containers = Some(containers(&api, &network.id, network.subnet.prefix()));
    Ok(Json(shown))
}

/// The nodes that run tasks on the network.
fn peers(view: &ClusterState, network: &str) -> Vec<PeerInfo> {
    view.nodes()
        .filter(|node| view.tasks_of_node(&node.id).any(|task| task.is_on(network)))
        .map(|node| PeerInfo {
            name: Some(node.description.hostname.clone()),
            ip: Some(node.description.data_path_address.clone()),
        })
        .collect()
}

/// This node's containers on the network, by container id.
fn containers(api: &Api, network: &str, prefix: u8) -> HashMap<String, NetworkContainer> {
    let tasks = api.node.tasks();
    let assignment = api.node.assignment();
    let known = assignment.networks.get(network);
    tasks
        .iter()
        .filter(|local| local.status.state == "running")
        .filter_map(|local| {
            let held = local
                .task
                .attachments
                .iter()
                .find(|held| held.network_id == network)?;
            let container = NetworkContainer {
                name: Some(local.task.name.clone()),
                endpoint_id: Some(local.container_id.clone()),
                mac_address: super::containers::mac(&held.address),
                ipv4_address: Some(format!("{}/{prefix}", held.address)),
                ipv6_address: Some(
                    known
                        .and_then(|known| v6(known, &held.address))
                        .map_or_else(String::new, |(address, length)| {
                            format!("{address}/{length}")
                        }),
                ),
            };
            Some((local.container_id.clone(), container))
        })
        .collect()
}

pub(super) async fn create(
    State(api): State<Api>,
    body: Body,
) -> Answer<(StatusCode, Json<NetworkCreateResponse>)> {
    let manager = api.manager()?;
    let request: NetworkCreateRequest = json(body).await?;
    refuse_unknown(&request)?;
    let command = Command::CreateNetwork {
        request: Box::new(request),
    };
    match manager.call(command).await? {
        Response::Created { id, warnings } => {
            let warning = warnings.join("; ");
            Ok((
                StatusCode::CREATED,
                Json(NetworkCreateResponse { id, warning }),
            ))
        }
        other => Err(unexpected(&other)),
    }
}

/// Refuses what no network has. Here, not where commands are applied: logs of earlier versions may have it.
fn refuse_unknown(request: &NetworkCreateRequest) -> Result<(), ApiError> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let configs = || {
        request
            .ipam
            .iter()
            .flat_map(|ipam| ipam.config.iter().flatten())
    };
    if let Some(scope) = given(&request.scope).filter(|scope| *scope != "swarm") {
        return Err(ApiError::bad_request(format!(
            "invalid scope {scope}: networks are the cluster's (swarm)"
        )));
    }
    if request.enable_ipv4 == Some(false) {
        return Err(ApiError::bad_request(
            "IPv4 cannot be disabled: a task's IPv6 address goes with its IPv4 one",
        ));
    }
    if let Some(ipam) = &request.ipam {
        if let Some(driver) = given(&ipam.driver).filter(|driver| driver != "default") {
            return Err(ApiError::bad_request(format!(
                "invalid ipam driver {driver}: the managers give addresses (default)"
            )));
        }
        if let Some(name) = ipam.options.iter().flat_map(|o| o.keys()).min() {
            return Err(ApiError::bad_request(format!(
                "invalid ipam option {name}: the managers take none"
            )));
        }
    }
    options(request)?;
    let subnets = configs().filter_map(|config| given(&config.subnet));
    if let Some(second) = subnets.filter(|text| !text.contains(':')).nth(1) {
        return Err(ApiError::bad_request(format!(
            "invalid subnet {second}: a network has one IPv4 subnet"
        )));
    }
    Ok(())
}

/// Options of the driver.
fn options(request: &NetworkCreateRequest) -> Result<(), ApiError> {
    let all: BTreeMap<_, _> = request.options.iter().flatten().collect();
    for (name, value) in all {
        match name.as_str() {
            "encrypted" => {}
            MTU_OPTION => {
                let least = match request.enable_ipv6 {
                    Some(true) => MIN_MTU_V6,
                    _ => MIN_MTU,
                };
                let is_one = |mtu: &u32| (least..=MAX_MTU).contains(mtu);
                if value.parse().ok().filter(is_one).is_none() {
                    return Err(ApiError::bad_request(format!(
                        "invalid value for {MTU_OPTION}: {value:?}: expected {least} to {MAX_MTU} bytes"
                    )));
                }
            }
            _ => {
                return Err(ApiError::bad_request(format!(
                    "unknown option {name}: networks take encrypted and {MTU_OPTION}"
                )));
            }
        }
    }
    Ok(())
}

pub(super) async fn remove(State(api): State<Api>, Path(id): Path<String>) -> Answer<StatusCode> {
    let id = emptied(&api, id).await?;
    api.manager()?.call(Command::RemoveNetwork { id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Waits while nothing but tasks that are ending is on a network: a stack's are removed right after its services. Gives the
/// network's id.
async fn emptied(api: &Api, key: String) -> Answer<String> {
    let begun = Instant::now();
    let manager = api.manager()?;
    // Without a leader, the removal itself says so.
    let _ = manager.catch_up(begun + READ_PATIENCE).await;
    let found = manager.view().find_network(&key).map(|n| n.id.clone());
    let id = found.unwrap_or(key);
    drop(manager);
    while begun.elapsed() < ENDING && is_ending(&api.manager()?.view(), &id) {
        sleep(LOOK).await;
    }
    Ok(id)
}

/// Whether only tasks are on a network that are about to end, one of them on a node that is there to end it.
fn is_ending(view: &ClusterState, network: &str) -> bool {
    if view.services().any(|service| is_of(service, network)) {
        return false;
    }
    let mut some = false;
    for task in view.tasks().filter(|task| task.is_on(network)) {
        // The managers come to want nothing of a service's tasks a moment after it is gone.
        if task.is_wanted() && view.service(&task.service_id).is_some() {
            return false;
        }
        let node = task.node_id.as_deref().and_then(|id| view.node(id));
        some |= node.is_none_or(|node| node.state != NodeState::Down);
    }
    some
}

pub(super) async fn prune(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Json<NetworkPruneResponse>> {
    let manager = api.manager()?;
    let filters = query.filters(&["label", "label!"])?;
    let unused: Vec<(String, String)> = {
        let view = manager.view();
        view.networks()
            .filter(|network| !network.ingress && !in_use(&view, &network.id))
            .filter(|network| {
                let labels = network.spec.labels.as_ref();
                filters.labels("label", |name| labels?.get(name).map(String::as_str))
                    && filters
                        .get("label!")
                        .all(|name| labels.is_none_or(|labels| !labels.contains_key(name)))
            })
            .map(|network| (network.id.clone(), network.name().to_owned()))
            .collect()
    };
    let mut removed = Vec::new();
    for (id, name) in unused {
        // One that came into use meanwhile stays.
        if manager.call(Command::RemoveNetwork { id }).await.is_ok() {
            removed.push(name);
        }
    }
    Ok(Json(NetworkPruneResponse {
        networks_deleted: Some(removed),
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(request: Value) -> Option<String> {
        let request = serde_json::from_value(request).expect("a request");
        let refused = refuse_unknown(&request).err()?;
        Some(refused.message().to_owned())
    }

    #[test]
    fn options_are_known_or_refused() {
        for fine in [
            json!({"Name": "a", "Options": {"encrypted": ""}}),
            json!({"Name": "a", "Options": {MTU_OPTION: "68"}}),
            json!({"Name": "a", "EnableIPv6": true, "Options": {MTU_OPTION: "1280"}}),
            json!({"Name": "a", "IPAM": {"Driver": "default", "Options": {}}}),
        ] {
            assert_eq!(told(fine.clone()), None, "{fine}");
        }
        for (bad, words) in [
            (
                json!({"Name": "a", "Options": {MTU_OPTION: "67"}}),
                "invalid value for com.docker.network.driver.mtu: \"67\": expected 68 to 65535 bytes",
            ),
            (
                json!({"Name": "a", "Options": {MTU_OPTION: "much"}}),
                "invalid value for com.docker.network.driver.mtu: \"much\": expected 68 to 65535 bytes",
            ),
            (
                json!({"Name": "a", "EnableIPv6": true, "Options": {MTU_OPTION: "1279"}}),
                "invalid value for com.docker.network.driver.mtu: \"1279\": expected 1280 to 65535 bytes",
            ),
            (
                json!({"Name": "a", "Options": {"colour": "red"}}),
                "unknown option colour: networks take encrypted and com.docker.network.driver.mtu",
            ),
            (
                json!({"Name": "a", "EnableIPv4": false}),
                "IPv4 cannot be disabled: a task's IPv6 address goes with its IPv4 one",
            ),
            (
                json!({"Name": "a", "IPAM": {"Driver": "other"}}),
                "invalid ipam driver other: the managers give addresses (default)",
            ),
            (
                json!({"Name": "a", "IPAM": {"Options": {"x": "y"}}}),
                "invalid ipam option x: the managers take none",
            ),
        ] {
            assert_eq!(told(bad), Some(words.to_owned()));
        }
    }
}
