//! How much goes to the backends of a service: asked of every node at the moment somebody wants to know. Nothing is
//! kept, so nothing is old.

use crate::{ErrorKind, ManagerError, core::Core, state::NodeState};
use futures::future::join_all;
use mesh_api::proto::{LoadQuery, LoadReport, manager_message::Message};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::mpsc;

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
    /// Ids of the ready nodes that did not answer: their part is missing.
    pub silent: BTreeSet<String>,
}

impl Loads {
    fn add(&mut self, report: LoadReport) {
        for told in report.backends {
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

type Answers = mpsc::UnboundedSender<(String, LoadReport)>;

/// Open queries by id.
#[derive(Debug, Default)]
pub(crate) struct LoadQueries(Mutex<HashMap<String, Answers>>);

impl LoadQueries {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Answers>> {
        // The map is whole between any two statements.
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Hands on a node's answer, if somebody still waits for it.
    pub(crate) fn answer(&self, node_id: &str, report: LoadReport) {
        if let Some(answers) = self.lock().get(&report.query_id) {
            // Who asked may have gone meanwhile.
            let _ = answers.send((node_id.to_owned(), report));
        }
    }
}

/// A query that is over when this is dropped.
struct Open<'a> {
    queries: &'a LoadQueries,
    id: String,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.queries.lock().remove(&self.id);
    }
}

/// Asks every node. Those that are too slow are named, not waited for.
pub(crate) async fn ask(core: &Core, service_id: &str) -> Result<Loads, ManagerError> {
    if !core.leadership().is_self {
        return Err(ManagerError::new(
            ErrorKind::Unavailable,
            "the nodes' counters are served by the leading manager; ask it instead",
        ));
    }
    let (sender, mut answers) = mpsc::unbounded_channel();
    let open = Open {
        queries: &core.loads,
        id: mesh_pki::new_id(),
    };
    core.loads.lock().insert(open.id.clone(), sender);
    let sessions = core.sessions.all();
    let mut waiting: BTreeSet<String> = sessions.iter().map(|s| s.node_id.clone()).collect();
    let mut loads = Loads::default();
    let collect = async {
        let query = LoadQuery {
            id: open.id.clone(),
            service_id: service_id.to_owned(),
        };
        let sent = sessions
            .iter()
            .map(|session| session.send(Message::Load(query.clone())));
        join_all(sent).await;
        while !waiting.is_empty() {
            let Some((node_id, report)) = answers.recv().await else {
                return;
            };
            if waiting.remove(&node_id) {
                loads.add(report);
            }
        }
    };
    // Who has not answered by then is silent.
    let _ = tokio::time::timeout(PATIENCE, collect).await;
    let asked: BTreeSet<&str> = sessions.iter().map(|s| s.node_id.as_str()).collect();
    let state = core.store.read();
    let ready = state.nodes().filter(|node| node.state == NodeState::Ready);
    loads.silent = ready
        .map(|node| node.id.clone())
        .filter(|id| waiting.contains(id) || !asked.contains(id.as_str()))
        .collect();
    Ok(loads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_api::proto::BackendLoad;

    #[test]
    fn answers_add_up() {
        let report = |open| LoadReport {
            query_id: "q".into(),
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
        };
        let mut loads = Loads::default();
        loads.add(report(1));
        loads.add(report(2));
        let load = Load {
            open: 3,
            flows: 6,
            packets: 40,
            bytes: 4000,
        };
        let key = (4096, "10.0.0.5".parse().unwrap());
        assert_eq!(loads.backends, BTreeMap::from([(key, load)]));
    }

    #[test]
    fn an_answer_to_nobody_is_dropped() {
        let queries = LoadQueries::default();
        let (sender, mut answers) = mpsc::unbounded_channel();
        let open = Open {
            queries: &queries,
            id: "q".into(),
        };
        queries.lock().insert(open.id.clone(), sender);
        let report = |id: &str| LoadReport {
            query_id: id.into(),
            backends: Vec::new(),
        };
        queries.answer("n", report("other"));
        queries.answer("n", report("q"));
        drop(open);
        queries.answer("n", report("q"));
        assert_eq!(answers.try_recv().unwrap().0, "n");
        assert!(
            answers.try_recv().is_err(),
            "one answer, and no more to come"
        );
    }
}
