//! Ports that nodes will need. They are refused here, as the manager's log may hold services that have published one.

use mesh_api::engine::{
    EndpointPortConfig, EndpointPortConfigProtocolEnum as Protocol, ServiceSpec,
};
use mesh_manager::{ManagerError, state};

/// Refuses to publish what a node's next WireGuard key is to listen on. `old` is the service as it is: what it has published
/// it keeps.
///
/// # Errors
/// One that it asks for.
pub(super) fn check(
    view: &state::State,
    old: Option<&state::Service>,
    spec: &ServiceSpec,
) -> Result<(), ManagerError> {
    let endpoint = spec.endpoint_spec.as_ref();
    let wanted = endpoint.and_then(|endpoint| endpoint.ports.as_deref());
    let kept = old.map_or(&[][..], |old| &old.ports);
    let ciphers = || {
        let nodes = view.nodes();
        nodes.filter_map(|node| node.description.cipher.as_ref())
    };
    let taken = taken(wanted.unwrap_or_default(), kept, |port| {
        ciphers().any(|cipher| cipher.next_port == port)
    });
    match taken {
        None => Ok(()),
        Some(port) => Err(ManagerError::invalid(format!(
            "EndpointSpec: port {port} cannot be published: nodes encrypt networks on it; choose another one"
        ))),
    }
}

/// The first of the wanted ports that is taken and not kept.
fn taken(
    wanted: &[EndpointPortConfig],
    kept: &[state::Port],
    is_taken: impl Fn(u16) -> bool,
) -> Option<u16> {
    let wanted = wanted
        .iter()
        .filter(|port| port.protocol == Some(Protocol::UDP))
        .filter_map(|port| u16::try_from(port.published_port?).ok());
    let is_kept = |published: u16| {
        kept.iter()
            .any(|port| port.protocol == state::Protocol::Udp && port.published == published)
    };
    // Zero: one that the manager chooses.
    wanted
        .filter(|port| *port != 0)
        .find(|port| is_taken(*port) && !is_kept(*port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_will_need_is_not_published_anew() {
        let wanted = |protocol, published| EndpointPortConfig {
            protocol: Some(protocol),
            published_port: Some(published),
            target_port: Some(80),
            ..Default::default()
        };
        let kept = [state::Port {
            protocol: state::Protocol::Udp,
            published: 51821,
            target: 80,
            mode: state::PublishMode::Ingress,
            dynamic: false,
        }];
        let next = |port| [51821, 51831].contains(&port);
        for (ports, kept, found) in [
            (vec![], &kept[..0], None),
            (vec![wanted(Protocol::TCP, 51821)], &kept[..0], None),
            (vec![wanted(Protocol::UDP, 51820)], &kept[..0], None),
            (vec![wanted(Protocol::UDP, 0)], &kept[..0], None),
            (vec![wanted(Protocol::UDP, 51821)], &kept[..0], Some(51821)),
            (vec![wanted(Protocol::UDP, 51821)], &kept[..], None),
            (
                vec![wanted(Protocol::UDP, 51821), wanted(Protocol::UDP, 51831)],
                &kept[..],
                Some(51831),
            ),
        ] {
            assert_eq!(taken(&ports, kept, next), found, "{ports:?}");
        }
    }
}
