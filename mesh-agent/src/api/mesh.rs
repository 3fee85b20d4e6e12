//! `/mesh/`: virtual addresses, the tasks behind them, and what goes to these.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive, time::Duration};

use axum::{
    Json,
    extract::{Path, Query as QueryOf, State},
};
use mesh_api::mesh::{BackendState, Load, Rates, ReturnMode, ReturnPath, Vip, VipBackend};
use mesh_manager::{
    Loads, ManagerHandle,
    state::{Address, NodeState, PublishMode, Service, State as ClusterState},
};

use super::{Answer, Api, args::Query, errors::ApiError};

/// Between two readings that rates are told of, in milliseconds.
const INTERVALS: RangeInclusive<u64> = 100..=60_000;

/// What is asked for besides: rates, from two readings so far apart.
fn interval(query: &Query) -> Answer<Option<Duration>> {
    let Some(interval) = query.number::<u64>("interval")? else {
        return Ok(None);
    };
    if !INTERVALS.contains(&interval) {
        return Err(ApiError::bad_request(format!(
            "invalid value for interval: {interval} ms: between {} and {} can be asked for",
            INTERVALS.start(),
            INTERVALS.end()
        )));
    }
    Ok(Some(Duration::from_millis(interval)))
}

pub(super) async fn list(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Json<Vec<Vip>>> {
    let manager = api.manager()?;
    let loads = match interval(&query)? {
        Some(interval) => Some(manager.loads(None, interval).await?),
        None => None,
    };
    let view = manager.view();
    let mut vips: Vec<Vip> = view
        .services()
        .flat_map(|service| of_service(&view, service))
        .collect();
    if let Some(loads) = loads {
        for vip in &mut vips {
            let load = loads.services.get(&(vip.service_id.clone(), vip.vni));
            vip.load = Some(told(load, true));
            vip.silent_nodes = silent(&loads, &view);
        }
    }
    Ok(Json(vips))
}

pub(super) async fn inspect(
    State(api): State<Api>,
    Path(reference): Path<String>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Json<Vec<Vip>>> {
    let manager = api.manager()?;
    let interval = interval(&query)?;
    let mut vips = find(&manager, &reference)?;
    let mut loads: BTreeMap<String, Loads> = BTreeMap::new();
    for vip in &vips {
        if !loads.contains_key(&vip.service_id) {
            let asked = manager.loads(Some(&vip.service_id), interval.unwrap_or_default());
            loads.insert(vip.service_id.clone(), asked.await?);
        }
    }
    let view = manager.view();
    for vip in &mut vips {
        if let Some(loads) = loads.get(&vip.service_id) {
            tell(vip, loads, interval.is_some(), &view);
        }
    }
    Ok(Json(vips))
}

/// The virtual addresses that a service has, or those that are `reference`.
fn find(manager: &ManagerHandle, reference: &str) -> Answer<Vec<Vip>> {
    let view = manager.view();
    let vips = match view.find_service(reference) {
        Ok(service) => of_service(&view, service),
        Err(error) => {
            let vips: Vec<Vip> = view
                .services()
                .flat_map(|service| of_service(&view, service))
                .filter(|vip| vip.address == reference)
                .collect();
            if vips.is_empty() && reference.parse::<IpAddr>().is_err() {
                return Err(error.into());
            }
            vips
        }
    };
    if vips.is_empty() {
        return Err(ApiError::no_such_vip(reference));
    }
    Ok(vips)
}

/// Adds what goes to the backends.
fn tell(vip: &mut Vip, loads: &Loads, with_rates: bool, view: &ClusterState) {
    for backend in &mut vip.backends {
        let address = backend.address.parse::<IpAddr>().ok();
        let load = address.and_then(|address| loads.backends.get(&(vip.vni, address)));
        backend.load = Some(told(load, with_rates));
    }
    vip.silent_nodes = silent(loads, view);
    if vip.r#return == Some(ReturnMode::Dsr) {
        vip.return_paths = return_paths(loads, view);
    }
}

fn told(load: Option<&mesh_manager::Load>, with_rates: bool) -> Load {
    let load = load.copied().unwrap_or_default();
    Load {
        open_flows: load.open,
        flows: load.flows,
        packets: load.packets,
        bytes: load.bytes,
        rates: with_rates.then_some(Rates {
            flows_per_second: load.rates.flows,
            packets_per_second: load.rates.packets,
            bits_per_second: load.rates.bytes * 8.0,
        }),
    }
}

/// Host names of the nodes whose part is missing.
fn silent(loads: &Loads, view: &ClusterState) -> Vec<String> {
    let silent = loads.silent.iter().filter_map(|id| view.node(id));
    silent
        .map(|node| node.description.hostname.clone())
        .collect()
}

fn return_paths(loads: &Loads, view: &ClusterState) -> Vec<ReturnPath> {
    let names: BTreeMap<&str, &str> = view
        .nodes()
        .map(|node| {
            let told = &node.description;
            (told.data_path_address.as_str(), told.hostname.as_str())
        })
        .collect();
    let told = loads.returns.iter().flat_map(|(id, paths)| {
        let node = view.node(id);
        let name = node.map_or(id, |node| &node.description.hostname);
        paths.iter().map(move |path| (name, path))
    });
    let mut paths: Vec<ReturnPath> = told
        .map(|(node_name, path)| ReturnPath {
            node_name: node_name.clone(),
            asked_node_name: names
                .get(path.peer.as_str())
                .map_or(&path.peer[..], |name| name)
                .to_owned(),
            address: path.address.clone(),
            mode: if path.direct {
                ReturnMode::Dsr
            } else {
                ReturnMode::Symmetric
            },
            reason: path.why.clone(),
        })
        .collect();
    paths.sort_by(|a, b| {
        (&a.node_name, &a.asked_node_name).cmp(&(&b.node_name, &b.asked_node_name))
    });
    paths
}

fn of_service(view: &ClusterState, service: &Service) -> Vec<Vip> {
    service
        .vips
        .iter()
        .map(|vip| describe(view, service, vip))
        .collect()
}

fn describe(view: &ClusterState, service: &Service, vip: &Address) -> Vip {
    let network = view.network(&vip.network_id);
    let ingress = network.is_some_and(|network| network.ingress);
    let ports = service
        .ports
        .iter()
        .filter(|port| ingress && port.mode == PublishMode::Ingress)
        .map(|port| (*port).into())
        .collect();
    let mut backends: Vec<VipBackend> = view
        .tasks_of_service(&service.id)
        .filter(|task| task.is_endpoint())
        .filter(|task| {
            let node = task.node_id.as_deref().and_then(|id| view.node(id));
            node.is_some_and(|node| node.state != NodeState::Down)
        })
        .filter_map(|task| {
            let held = task
                .attachments
                .iter()
                .find(|held| held.network_id == vip.network_id)?;
            let node_id = task.node_id.clone().unwrap_or_default();
            Some(VipBackend {
                task_id: task.id.clone(),
                task_name: task.short_name(),
                node_name: view
                    .node(&node_id)
                    .map(|node| node.description.hostname.clone())
                    .unwrap_or_default(),
                node_id,
                address: held.address.to_string(),
                state: if task.is_active() {
                    BackendState::Active
                } else {
                    BackendState::Draining
                },
                load: None,
            })
        })
        .collect();
    sort(&mut backends);
    Vip {
        service_id: service.id.clone(),
        service_name: service.name().to_owned(),
        network_id: vip.network_id.clone(),
        network_name: network
            .map(|network| network.name().to_owned())
            .unwrap_or_default(),
        vni: network.map_or(0, |network| network.vni),
        address: vip.address.to_string(),
        ports,
        backends,
        load: None,
        silent_nodes: Vec::new(),
        r#return: ingress.then_some(if service.returns_directly() {
            ReturnMode::Dsr
        } else {
            ReturnMode::Symmetric
        }),
        return_paths: Vec::new(),
    }
}

/// Sorts by address, 10.0.0.9 before 10.0.0.10.
fn sort(backends: &mut [VipBackend]) {
    backends.sort_by_key(|backend| backend.address.parse::<IpAddr>().ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_sorted_as_addresses() {
        let mut backends = ["10.0.1.2", "10.0.0.10", "10.0.0.9"].map(|address| VipBackend {
            task_id: String::new(),
            task_name: String::new(),
            node_id: String::new(),
            node_name: String::new(),
            address: address.to_owned(),
            state: BackendState::Active,
            load: None,
        });
        sort(&mut backends);
        let sorted = backends.each_ref().map(|backend| &*backend.address);
        assert_eq!(sorted, ["10.0.0.9", "10.0.0.10", "10.0.1.2"]);
    }
}
