//! Published ports: numbers are checked and given out here.

use crate::{
    ManagerError,
    state::{Cluster, Port, Protocol, PublishMode, Service, State},
};
use mesh_api::engine;

/// Ports given out when the user names none.
const DYNAMIC: std::ops::RangeInclusive<u16> = 30_000..=32_767;

fn number(value: Option<i64>, what: &str) -> Result<u16, ManagerError> {
    let value = value.unwrap_or(0);
    u16::try_from(value).map_err(|_| {
        ManagerError::invalid(format!(
            "EndpointSpec: invalid {what} port {value}: expected 1 to 65535"
        ))
    })
}

/// The ports of a spec as they would be for the service `id` (`old` is its present state).
/// Returns them with the next dynamic port to try.
pub(super) fn settle(
    state: &State,
    id: &str,
    old: Option<&Service>,
    spec: &engine::ServiceSpec,
) -> Result<(Vec<Port>, u16), ManagerError> {
    let configs = spec
        .endpoint_spec
        .as_ref()
        .and_then(|e| e.ports.as_deref())
        .unwrap_or_default();
    let is_dnsrr = spec.endpoint_spec.as_ref().and_then(|e| e.mode)
        == Some(engine::EndpointSpecModeEnum::DNSRR);
    let mut next = state.next_port;
    let mut ports: Vec<Port> = Vec::with_capacity(configs.len());
    for config in configs {
        let mode = match config.publish_mode {
            Some(engine::EndpointPortConfigPublishModeEnum::HOST) => PublishMode::Host,
            _ => PublishMode::Ingress,
        };
        if is_dnsrr && mode == PublishMode::Ingress {
            return Err(ManagerError::invalid(
                "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
            ));
        }
        let protocol = match config.protocol {
            Some(engine::EndpointPortConfigProtocolEnum::UDP) => Protocol::Udp,
            Some(engine::EndpointPortConfigProtocolEnum::SCTP) => Protocol::Sctp,
            _ => Protocol::Tcp,
        };
        let target = number(config.target_port, "target")?;
        if target == 0 {
            return Err(ManagerError::invalid(
                "EndpointSpec: target port is required",
            ));
        }
        let published = number(config.published_port, "published")?;
        let mut port = Port {
            protocol,
            published,
            target,
            mode,
            dynamic: published == 0,
        };
        if port.dynamic {
            (port.published, next) = dynamic(state, id, old, &ports, port, next)?;
        } else {
            if ports
                .iter()
                .any(|p| p.protocol == protocol && p.published == published)
            {
                return Err(ManagerError::invalid(
                    "EndpointSpec: duplicate published ports provided",
                ));
            }
            if let Some(purpose) = own_use(state, protocol, published) {
                return Err(ManagerError::invalid(format!(
                    "EndpointSpec: port {published} cannot be published: {purpose}; choose another one"
                )));
            }
            check_free(state, id, port)?;
        }
        ports.push(port);
    }
    Ok((ports, next))
}

/// What the cluster itself uses a port for. Publishing it would take the nodes' own traffic away, and
/// with it the way to undo that.
fn own_use(state: &State, protocol: Protocol, number: u16) -> Option<&'static str> {
    match protocol {
        Protocol::Tcp => {
            let is_number = |address: &str| {
                let port = address.rsplit_once(':').map(|(_, port)| port);
                port.and_then(|port| port.parse().ok()) == Some(number)
            };
            state
                .nodes()
                .filter_map(|node| node.manager_addr.as_deref())
                .any(is_number)
                .then_some("nodes reach the managers on it")
        }
        Protocol::Udp => {
            let is_data_path = |cluster: &Cluster| cluster.data_path_port == number;
            if state.cluster().is_some_and(is_data_path) {
                return Some("it is the data path port of the swarm");
            }
            state
                .nodes()
                .filter_map(|node| node.description.cipher.as_ref())
                .any(|cipher| cipher.port == number)
                .then_some("nodes encrypt networks on it")
        }
        Protocol::Sctp => None,
    }
}

/// The service besides `id` that stands in the way of a port.
fn owner<'a>(state: &'a State, id: &str, port: Port) -> Option<(&'a Service, PublishMode)> {
    let ingress = state
        .indexes()
        .ingress_port_owner(port.protocol, port.published)
        .filter(|owner| *owner != id)
        .and_then(|owner| state.service(owner));
    if let Some(service) = ingress {
        return Some((service, PublishMode::Ingress));
    }
    // Host ports clash with ingress ports, not with one another: the scheduler keeps them apart.
    if port.mode == PublishMode::Host {
        return None;
    }
    let clashes = |p: &Port| {
        p.mode == PublishMode::Host && p.protocol == port.protocol && p.published == port.published
    };
    state
        .services()
        .find(|s| s.id != id && s.ports.iter().any(clashes))
        .map(|s| (s, PublishMode::Host))
}

fn check_free(state: &State, id: &str, port: Port) -> Result<(), ManagerError> {
    match owner(state, id, port) {
        None => Ok(()),
        Some((service, mode)) => Err(ManagerError::invalid(format!(
            "port '{}' is already in use by service '{}' ({}) as {}",
            port.published,
            service.name(),
            service.id,
            match mode {
                PublishMode::Ingress => "an ingress port",
                PublishMode::Host => "a host-published port",
            }
        ))),
    }
}

/// A dynamic port: the one the service has already, else the next free one.
fn dynamic(
    state: &State,
    id: &str,
    old: Option<&Service>,
    ours: &[Port],
    port: Port,
    next: u16,
) -> Result<(u16, u16), ManagerError> {
    let is_ours = |number: u16| {
        ours.iter()
            .any(|p| p.protocol == port.protocol && p.published == number)
    };
    let kept = old.into_iter().flat_map(|s| &s.ports).find(|p| {
        p.dynamic
            && p.protocol == port.protocol
            && p.target == port.target
            && p.mode == port.mode
            && !is_ours(p.published)
    });
    if let Some(kept) = kept {
        return Ok((kept.published, next));
    }
    let start = next.clamp(*DYNAMIC.start(), *DYNAMIC.end());
    let free = (start..=*DYNAMIC.end())
        .chain(*DYNAMIC.start()..start)
        .find(|number| {
            !is_ours(*number)
                && own_use(state, port.protocol, *number).is_none()
                && owner(
                    state,
                    id,
                    Port {
                        published: *number,
                        ..port
                    },
                )
                .is_none()
        });
    match free {
        Some(number) if number == *DYNAMIC.end() => Ok((number, *DYNAMIC.start())),
        Some(number) => Ok((number, number + 1)),
        None => Err(ManagerError::precondition(
            "every dynamic port from 30000 to 32767 is in use; name a published port",
        )),
    }
}
