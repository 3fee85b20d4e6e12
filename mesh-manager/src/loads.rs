//! How much goes to the backends of a service, all nodes together.

use crate::{ManagerError, core::Core, queries};
use mesh_api::proto::{LoadAnswer, LoadQuestion, ReturnPath, query::Question, report::Answer};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

/// How long the nodes have to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What goes to one backend, all nodes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Open flows.
    pub open: u64,
    /// Flows begun.
    pub flows: u64,
    /// Packets of flows that the packet path balanced.
    pub packets: u64,
    /// Their bytes, with Ethernet headers.
    pub bytes: u64,
}

/// What goes to the backends of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Loads {
    /// By VNI and the task's address on that network.
    pub backends: BTreeMap<(u32, IpAddr), Load>,
    /// By id of the node whose tasks reply: how replies go back.
    pub returns: BTreeMap<String, Vec<ReturnPath>>,
    /// Ids of the ready nodes that did not answer: their part is missing.
    pub silent: BTreeSet<String>,
}

impl Loads {
    fn add(&mut self, node_id: String, answer: LoadAnswer) {
        if !answer.returns.is_empty() {
            self.returns.insert(node_id, answer.returns);
        }
        for told in answer.backends {
            let Ok(address) = told.address.parse() else {
                continue;
            };
            let load = self.backends.entry((told.vni, address)).or_default();
            load.open += told.open;
            load.flows += told.flows;
            load.packets += told.packets;
            load.bytes += told.bytes;
        }
    }
}

/// Asks every node. Those that are too slow are named, not waited for.
pub(crate) async fn ask(core: &Core, service_id: &str) -> Result<Loads, ManagerError> {
    let question = |_: &str| {
        Question::Load(LoadQuestion {
            service_id: service_id.to_owned(),
        })
    };
    let answers = queries::ask(core, None, question, PATIENCE).await?;
    let mut loads = Loads {
        silent: answers.silent,
        ..Loads::default()
    };
    for (node_id, answer) in answers.by_node {
        if let Answer::Load(answer) = answer {
            loads.add(node_id, answer);
        }
    }
    Ok(loads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_api::proto::BackendLoad;

    #[test]
    fn answers_add_up() {
        let report = |open| LoadAnswer {
            backends: vec![
                BackendLoad {
                    vni: 4096,
                    address: "10.0.0.5".into(),
                    open,
                    flows: 3,
                    packets: 20,
                    bytes: 2000,
                },
                BackendLoad {
                    address: "nonsense".into(),
                    ..BackendLoad::default()
                },
            ],
            returns: Vec::new(),
        };
        let mut loads = Loads::default();
        loads.add("n1".into(), report(1));
        loads.add("n2".into(), report(2));
        let load = Load {
            open: 3,
            flows: 6,
            packets: 40,
            bytes: 4000,
        };
        let key = (4096, "10.0.0.5".parse().unwrap());
        assert_eq!(loads.backends, BTreeMap::from([(key, load)]));
    }
}
