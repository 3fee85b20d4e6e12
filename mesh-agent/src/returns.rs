//! Keeps the packet path told under which addresses of other nodes replies may leave this one, as long as a service asks for
//! direct return. What is known is tried again each second and written by this file alone: it is no part of a desired
//! state, and it lapses by itself when nobody renews it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use mesh_datapath::{ReturnPath, ReturnState, Returns};

use crate::node::Node;

/// How often the node looks whether a service asks for direct return, and tries again after a failure.
const PERIOD: Duration = Duration::from_secs(1);

/// Proves, and is a witness for other nodes, until it is dropped.
pub async fn keep(node: Node) {
    let mut returns = None;
    let mut told = Told::default();
    let mut trouble = String::new();
    loop {
        let (own, open) = (node.clone(), returns.take());
        let round = tokio::task::spawn_blocking(move || round(&own, open));
        let failed = match round.await.context("direct return").flatten() {
            Ok(open) => {
                returns = open;
                String::new()
            }
            Err(error) => format!("{error:#}"),
        };
        if failed != trouble && !failed.is_empty() {
            tracing::warn!(error = failed, "direct return is not tried");
        }
        trouble = failed;
        told.tell(&node.returns());
        if returns.is_none() {
            tokio::time::sleep(PERIOD).await;
        }
    }
}

/// A second of proofs, or a look whether there is anything to prove.
fn round(node: &Node, open: Option<Returns>) -> Result<Option<Returns>> {
    let config = node.read_datapath(|path| Ok(path.returns()))?.flatten();
    let mut returns = match (config, open) {
        (Some(config), Some(open)) => Some(open.follow(config)?),
        (Some(config), None) => Some(Returns::open(config)?),
        (None, _) => None,
    };
    let tried = returns
        .as_mut()
        .map_or_else(|| Ok(Vec::new()), Returns::round);
    // What cannot be tried is not known.
    let paths = tried.as_ref().map_or(&[][..], Vec::as_slice);
    node.switch_datapath(|datapath| datapath.return_directly(paths))?;
    *node
        .inner
        .returns
        .write()
        .unwrap_or_else(PoisonError::into_inner) = Arc::new(paths.to_vec());
    tried?;
    Ok(returns)
}

/// What the log has said, so that it says everything once.
#[derive(Default)]
struct Told(BTreeMap<(Ipv4Addr, IpAddr), ReturnState>);

impl Told {
    fn tell(&mut self, paths: &[ReturnPath]) {
        let known = |peer, address| paths.iter().any(|p| (p.peer, p.address) == (peer, address));
        self.0.retain(|(peer, address), _| known(*peer, *address));
        for ReturnPath {
            peer,
            address,
            state,
        } in paths
        {
            // Nothing is decided while it is tried.
            if *state == ReturnState::Trying
                || self.0.insert((*peer, *address), *state) == Some(*state)
            {
                continue;
            }
            if *state == ReturnState::Direct {
                tracing::info!(%address, node = %peer, "replies to clients of this address leave directly: {state}");
            } else {
                tracing::warn!(%address, node = %peer, "replies to clients of this address go back through its node: {state}");
            }
        }
    }
}
