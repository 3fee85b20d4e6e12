//! Networks: VNI and subnet are given here, once.

use super::{Context, range, reserved, service::HOST_NETWORK, subnet, subnet_v6, validate};
use crate::{
    ErrorKind, ManagerError, Outcome, Response,
    state::{Network, State},
};
use mesh_api::engine;

/// Swarm's first VNI; lower ones are left to others.
pub(super) const FIRST_VNI: u32 = 4096;
/// VNIs have 24 bits.
const LAST_VNI: u32 = (1 << 24) - 1;
/// Name of the network that published ports travel on.
const INGRESS_NAME: &str = "ingress";

pub(super) fn create(
    state: &mut State,
    cx: &mut Context,
    request: &engine::NetworkCreateRequest,
) -> Outcome {
    validate::network_name(&request.name)?;
    if request.name == HOST_NETWORK {
        return Err(ManagerError::invalid(format!(
            "operation is not permitted on predefined {HOST_NETWORK} network"
        )));
    }
    if state.indexes().network_by_name(&request.name).is_some() {
        return Err(ManagerError::new(
            ErrorKind::AlreadyExists,
            format!("network with name {} already exists", request.name),
        ));
    }
    let driver = request.driver.as_deref().unwrap_or_default();
    if !matches!(driver, "" | "overlay") {
        return Err(ManagerError::invalid(format!(
            "driver {driver:?} is not supported for swarm networks; use overlay"
        )));
    }
    if request.config_only == Some(true) || request.config_from.is_some() {
        return Err(ManagerError::invalid(
            "config-only networks are not supported for overlay",
        ));
    }
    if request.ingress == Some(true) {
        return Err(ManagerError::new(
            ErrorKind::AlreadyExists,
            "rpc error: code = AlreadyExists desc = ingress network (ingress) is already present",
        ));
    }
    let id = insert(state, cx, request, false)?;
    Ok(Response::Created {
        id,
        warnings: Vec::new(),
    })
}

/// The cluster's first network. It has IPv6: any published port may be asked for over it.
pub(super) fn create_ingress(state: &mut State, cx: &mut Context) -> Result<(), ManagerError> {
    let request = engine::NetworkCreateRequest {
        name: INGRESS_NAME.to_owned(),
        driver: Some("overlay".to_owned()),
        scope: Some("swarm".to_owned()),
        ingress: Some(true),
        enable_ipv6: Some(true),
        ..Default::default()
    };
    insert(state, cx, &request, true).map(drop)
}

fn insert(
    state: &mut State,
    cx: &mut Context,
    request: &engine::NetworkCreateRequest,
    ingress: bool,
) -> Result<String, ManagerError> {
    let cluster = state.cluster().ok_or_else(ManagerError::no_leader)?;
    let (subnet, gateway) = subnet::choose(state, cluster, request.ipam.as_ref())?;
    let range = range::choose(request, subnet, cx.rules)?;
    let reserved = reserved::choose(request, subnet, gateway, cx.rules)?;
    let vni = free_vni(state)?;
    let subnet_v6 = subnet_v6::choose(state, cluster, request, vni, gateway)?;
    state.next_vni = vni + 1;
    let id = cx.new_id();
    state.put_network(Network {
        id: id.clone(),
        meta: cx.meta(),
        spec: request.clone(),
        vni,
        subnet,
        gateway,
        range,
        reserved,
        subnet_v6,
        ingress,
        cursor: 0,
    });
    Ok(id)
}

fn free_vni(state: &State) -> Result<u32, ManagerError> {
    let start = state.next_vni.clamp(FIRST_VNI, LAST_VNI);
    (start..=LAST_VNI)
        .chain(FIRST_VNI..start)
        .find(|vni| !state.networks().any(|n| n.vni == *vni))
        .ok_or_else(|| ManagerError::precondition("every VXLAN identifier is in use"))
}

pub(super) fn remove(state: &mut State, key: &str) -> Outcome {
    let network = state.find_network(key)?;
    if network.ingress {
        return Err(ManagerError::precondition(
            "the ingress network cannot be removed: published ports travel on it",
        ));
    }
    if let Some(service) = state.indexes().services_on_network(&network.id).next() {
        let name = state
            .service(service)
            .map_or(service.as_str(), |s| s.name());
        return Err(ManagerError::precondition(format!(
            "network {} is in use by service {name}",
            network.id
        )));
    }
    if let Some(task) = state.tasks().find(|t| t.is_on(&network.id)) {
        return Err(ManagerError::precondition(format!(
            "network {} is in use by task {}",
            network.id, task.id
        )));
    }
    let id = network.id.clone();
    state.remove_network(&id);
    Ok(Response::Removed)
}
