//! Tries whether replies could go straight to clients of the other nodes, whether a service asks for that or none does.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use mesh_api::proto::{DirectReturn, PathAnswer};
use mesh_datapath::{ReturnPath, ReturnState, Returns};

use super::PROBING;
use crate::node::Node;

/// What is known of each address of the other nodes.
pub(super) async fn probe(node: &Node) -> Vec<ReturnPath> {
    match try_all(node).await {
        Ok(paths) => paths,
        Err(error) => {
            tracing::warn!("direct return is not tried: {error:#}");
            Vec::new()
        }
    }
}

async fn try_all(node: &Node) -> Result<Vec<ReturnPath>> {
    let node = node.clone();
    let tried = tokio::task::spawn_blocking(move || {
        let config = node.read_datapath(|datapath| Ok(datapath.returns_to_try()))?;
        let config = config.flatten().context("the packet path is not open")?;
        Ok(Returns::trial(config, PROBING)?)
    });
    tried.await?
}

/// Puts what is known of a peer's addresses to its path.
pub(super) fn tell(paths: &mut [PathAnswer], tried: &[ReturnPath]) {
    for path in paths {
        let Ok(peer) = path.peer.parse::<Ipv4Addr>() else {
            continue;
        };
        let of_peer = tried.iter().filter(|tried| tried.peer == peer);
        // The worst of them: replies under the others alone are of little use.
        if let Some(worst) = of_peer.max_by_key(|tried| told(tried.state)) {
            path.set_direct_return(told(worst.state));
            if worst.state != ReturnState::Direct {
                path.returned_under = worst.address.to_string();
            }
        }
    }
}

/// The worse the later.
fn told(state: ReturnState) -> DirectReturn {
    match state {
        ReturnState::Direct => DirectReturn::Possible,
        ReturnState::Trying => DirectReturn::Undecided,
        ReturnState::Silent => DirectReturn::Silent,
        ReturnState::Lost => DirectReturn::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_address_of_a_node_is_told() {
        let path = |peer: &str| PathAnswer {
            peer: peer.into(),
            ..PathAnswer::default()
        };
        let tried = |last, address: &str, state| ReturnPath {
            peer: [192, 0, 2, last].into(),
            address: address.parse().unwrap(),
            state,
        };
        let mut paths = [path("192.0.2.1"), path("192.0.2.2"), path("192.0.2.3")];
        tell(
            &mut paths,
            &[
                tried(1, "192.0.2.1", ReturnState::Direct),
                tried(1, "fd00::1", ReturnState::Direct),
                tried(2, "192.0.2.2", ReturnState::Direct),
                tried(2, "fd00::2", ReturnState::Lost),
            ],
        );
        let told = paths.map(|path| (path.direct_return(), path.returned_under));
        assert_eq!(
            told,
            [
                (DirectReturn::Possible, String::new()),
                (DirectReturn::Lost, "fd00::2".into()),
                (DirectReturn::Untried, String::new()),
            ]
        );
    }
}
