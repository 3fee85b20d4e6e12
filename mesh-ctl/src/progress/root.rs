//! Watches a rotation of the root CA until every node has a certificate of the new root and trusts it, as Docker shows it.

use anyhow::Result;
use mesh_api::{
    Client, Filters,
    engine::{Node, NodeState, Swarm, TlsInfo},
};
use sha2::{Digest, Sha256};

use crate::view::word;

use super::{
    POLL, asked,
    screen::{Screen, drawn},
};

/// Nodes that are named as waited for; of more, only the number is told.
const MAX_NAMES: usize = 5;

/// Waits until the rotation is over. False: it was left to itself, by Ctrl-C.
pub(crate) async fn wait(client: &Client, quiet: bool) -> Result<bool> {
    let mut screen = Screen::new(quiet);
    tokio::select! {
        result = watch(client, &mut screen) => result.map(|()| true),
        _ = tokio::signal::ctrl_c() => {
            say!(
                "Operation continuing in background.\n\
                 Use `mesh-ctl node ls --format '{{{{.Hostname}}}} {{{{.TLSStatus}}}}'` to check progress."
            )?;
            Ok(false)
        }
    }
}

async fn watch(client: &Client, screen: &mut Screen) -> Result<()> {
    let all = Filters::new();
    loop {
        let swarm = asked(async || client.swarm().await).await?;
        let nodes = asked(async || client.nodes(&all).await).await?;
        let picture = Picture::new(&swarm, &nodes);
        let bars = screen.is_drawn();
        screen.show_lines(picture.lines(bars));
        if picture.is_done() {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// How far a rotation is.
#[derive(Debug, PartialEq, Eq)]
struct Picture {
    digest: String,
    is_rotating: bool,
    nodes: usize,
    /// Those with a certificate of the new root.
    renewed: usize,
    /// Those that trust it; none before all have a certificate of it.
    trusting: usize,
    /// Those that do not, by name.
    awaited: Vec<String>,
}

impl Picture {
    fn new(swarm: &Swarm, nodes: &[Node]) -> Self {
        let wanted = swarm.tls_info.clone().unwrap_or_default();
        let info = |node: &Node| -> TlsInfo {
            let known = node.description.as_ref();
            known
                .and_then(|known| known.tls_info.clone())
                .unwrap_or_default()
        };
        let is_renewed = |node: &&Node| {
            let has = info(node);
            has.cert_issuer_public_key == wanted.cert_issuer_public_key
                && has.cert_issuer_subject == wanted.cert_issuer_subject
        };
        let trusts = |node: &&Node| info(node).trust_root == wanted.trust_root;
        let is_rotating = swarm.root_rotation_in_progress == Some(true);
        let renewed = nodes.iter().filter(is_renewed).count();
        let is_over = !is_rotating && renewed == nodes.len();
        let is_awaited = |node: &&Node| !is_renewed(node) || (is_over && !trusts(node));
        let root = wanted.trust_root.as_deref().unwrap_or_default();
        let digest = Sha256::digest(root.as_bytes());
        let digest: Vec<String> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            digest: digest.concat(),
            is_rotating,
            nodes: nodes.len(),
            renewed,
            trusting: match is_over {
                true => nodes.iter().filter(trusts).count(),
                false => 0,
            },
            awaited: nodes.iter().filter(is_awaited).map(name).collect(),
        }
    }

    fn is_done(&self) -> bool {
        !self.is_rotating && self.renewed == self.nodes && self.trusting == self.nodes
    }

    fn lines(&self, bars: bool) -> Vec<String> {
        let part = |name: &str, done: usize| {
            let line = format!("  {name}: {done}/{} nodes", self.nodes);
            match bars && self.nodes > 0 {
                true => format!("{line} {}", drawn(done, self.nodes)),
                false => line,
            }
        };
        let mut lines = vec![
            format!("desired root digest: sha256:{}", self.digest),
            part("rotated TLS certificates", self.renewed),
            part("rotated CA certificates", self.trusting),
        ];
        match self.awaited.len() {
            0 => {}
            few if few <= MAX_NAMES => {
                lines.push(format!("  waiting for: {}", self.awaited.join(", ")));
            }
            many => lines.push(format!("  waiting for: {many} nodes")),
        }
        lines
    }
}

fn name(node: &Node) -> String {
    let known = node.description.as_ref();
    let hostname = known.and_then(|known| known.hostname.clone());
    let name = hostname.filter(|name| !name.is_empty());
    let name = name.or_else(|| node.id.clone()).unwrap_or_default();
    let state = node.status.as_ref().and_then(|status| status.state);
    match state {
        Some(NodeState::READY) => name,
        _ => format!("{name} ({})", word(state)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn swarm(rotating: bool, root: &str, key: &str) -> Swarm {
        serde_json::from_value(json!({
            "RootRotationInProgress": rotating,
            "TLSInfo": {"TrustRoot": root, "CertIssuerSubject": "s", "CertIssuerPublicKey": key},
        }))
        .expect("a swarm")
    }

    fn node(name: &str, state: &str, root: &str, key: &str) -> Node {
        serde_json::from_value(json!({
            "ID": name,
            "Description": {
                "Hostname": name,
                "TLSInfo": {"TrustRoot": root, "CertIssuerSubject": "s", "CertIssuerPublicKey": key},
            },
            "Status": {"State": state},
        }))
        .expect("a node")
    }

    #[test]
    fn it_is_over_once_all_nodes_trust_the_new_root() {
        let lines = |swarm: &Swarm, nodes: &[Node]| {
            let picture = Picture::new(swarm, nodes);
            let mut lines = picture.lines(false);
            assert!(lines.remove(0).starts_with("desired root digest: sha256:"));
            (picture.is_done(), lines.join("|"))
        };
        let began = [
            node("n1", "ready", "old", "new"),
            node("n2", "down", "old", "old"),
        ];
        assert_eq!(
            lines(&swarm(true, "old", "new"), &began),
            (
                false,
                "  rotated TLS certificates: 1/2 nodes|  rotated CA certificates: 0/2 nodes|  waiting for: n2 (down)"
                    .to_owned()
            )
        );
        let ended = [
            node("n1", "ready", "new", "new"),
            node("n2", "ready", "old", "new"),
        ];
        assert_eq!(
            lines(&swarm(false, "new", "new"), &ended),
            (
                false,
                "  rotated TLS certificates: 2/2 nodes|  rotated CA certificates: 1/2 nodes|  waiting for: n2".to_owned()
            )
        );
        let done = [node("n1", "ready", "new", "new")];
        let (is_done, said) = lines(&swarm(false, "new", "new"), &done);
        assert!(is_done && !said.contains("waiting"), "{said}");
        let bars = Picture::new(&swarm(false, "new", "new"), &done).lines(true);
        assert!(bars[1].ends_with("=>]"), "{bars:?}");
    }

    #[test]
    fn of_many_nodes_only_the_number_is_told() {
        let nodes: Vec<Node> = (0..=MAX_NAMES)
            .map(|n| node(&format!("n{n}"), "ready", "old", "old"))
            .collect();
        let lines = Picture::new(&swarm(true, "old", "new"), &nodes).lines(false);
        assert_eq!(lines.last().expect("a line"), "  waiting for: 6 nodes");
    }
}
