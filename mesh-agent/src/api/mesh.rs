//! `/mesh/`: virtual addresses and the tasks behind them.

use axum::{
    Json,
    extract::{Path, State},
};
use mesh_api::mesh::{BackendState, Vip, VipBackend};
use mesh_manager::state::{Address, NodeState, PublishMode, Service, State as ClusterState};

use super::{Answer, Api, errors::ApiError};

pub(super) async fn list(State(api): State<Api>) -> Answer<Json<Vec<Vip>>> {
    let manager = api.manager()?;
    let view = manager.view();
    Ok(Json(
        view.services()
            .flat_map(|service| of_service(&view, service))
            .collect(),
    ))
}

pub(super) async fn inspect(
    State(api): State<Api>,
    Path(reference): Path<String>,
) -> Answer<Json<Vec<Vip>>> {
    let manager = api.manager()?;
    let view = manager.view();
    let vips = match view.find_service(&reference) {
        Ok(service) => of_service(&view, service),
        Err(error) => {
            let vips: Vec<Vip> = view
                .services()
                .flat_map(|service| of_service(&view, service))
                .filter(|vip| vip.address == reference)
                .collect();
            if vips.is_empty() && reference.parse::<std::net::IpAddr>().is_err() {
                return Err(error.into());
            }
            vips
        }
    };
    if vips.is_empty() {
        return Err(ApiError::no_such_vip(&reference));
    }
    Ok(Json(vips))
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
            let slot = if task.slot > 0 {
                task.slot.to_string()
            } else {
                node_id.clone()
            };
            Some(VipBackend {
                task_id: task.id.clone(),
                task_name: format!("{}.{slot}", task.service_name),
                node_name: view
                    .node(&node_id)
                    .map(|node| node.description.hostname.clone())
                    .unwrap_or_default(),
                node_id,
                address: held.address.to_string(),
                state: match task.drained_at {
                    Some(_) => BackendState::Draining,
                    None => BackendState::Active,
                },
            })
        })
        .collect();
    backends.sort_by(|a, b| a.address.cmp(&b.address));
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
    }
}
