//! How much goes to the backends of a service, all nodes together.

use crate::{ManagerError, core::Core, queries};
use mesh_api::proto::{
    LoadAnswer, LoadQuestion, Rates, ReturnPath, query::Question, report::Answer,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

/// How long the nodes have to answer for one service, be they busy.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long they have for all services: thousands of backends, a system call for each.
const PATIENCE_FOR_ALL: Duration = Duration::from_secs(5);

/// What goes to one backend, or to all of a service, all nodes together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Load {
    /// Open flows.
    pub open: u64,
    /// Flows begun.
    pub flows: u64,
    /// Packets of flows that the packet path balanced.
    pub packets: u64,
    /// Their bytes, with Ethernet headers.
    pub bytes: u64,
    /// By the second, between two readings.
    pub rates: Rates,
}

impl Load {
    fn add(&mut self, open: u64, flows: u64, packets: u64, bytes: u64, rates: Option<Rates>) {
        self.open += open;
        self.flows += flows;
        self.packets += packets;
        self.bytes += bytes;
        let rates = rates.unwrap_or_default();
        self.rates.flows += rates.flows;
        self.rates.packets += rates.packets;
        self.rates.bytes += rates.bytes;
    }
}

/// What goes to the backends of a service, or of all.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Loads {
    /// By VNI and the task's address on that network, if one service was asked for.
    pub backends: BTreeMap<(u32, IpAddr), Load>,
    /// By id of the service and VNI, if all were asked for.
    pub services: BTreeMap<(String, u32), Load>,
    /// By id of the node whose tasks reply: how replies go back.
    pub returns: BTreeMap<String, Vec<ReturnPath>>,
    /// Ids of the ready nodes that did not answer: their part is missing. So are the rates of those that told none.
    pub silent: BTreeSet<String>,
}

impl Loads {
    fn add(&mut self, node_id: String, answer: LoadAnswer) {
        for told in answer.backends {
            let Ok(address) = told.address.parse() else {
                continue;
            };
            let load = self.backends.entry((told.vni, address)).or_default();
            load.add(told.open, told.flows, told.packets, told.bytes, told.rates);
        }
        for told in answer.services {
            let key = (told.service_id, told.vni);
            let load = self.services.entry(key).or_default();
            load.add(told.open, told.flows, told.packets, told.bytes, told.rates);
        }
        if !answer.returns.is_empty() {
            self.returns.insert(node_id, answer.returns);
        }
    }
}

/// Asks every node about one service, or all; about rates too, if an interval is given. Those that are too slow are named,
/// not waited for.
pub(crate) async fn ask(
    core: &Core,
    service_id: Option<&str>,
    interval: Duration,
) -> Result<Loads, ManagerError> {
    let interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
    let question = |_: &str| {
        Question::Load(LoadQuestion {
            service_id: service_id.unwrap_or_default().to_owned(),
            interval_ms,
        })
    };
    let patience = match service_id {
        Some(_) => PATIENCE,
        None => PATIENCE_FOR_ALL,
    };
    let answers = queries::ask(core, None, question, interval + patience).await?;
    let mut loads = Loads {
        silent: answers.silent,
        ..Loads::default()
    };
    for (node_id, answer) in answers.by_node {
        if let Answer::Load(answer) = answer {
            // Older versions know no rates.
            if answer.interval_ms != interval_ms {
                loads.silent.insert(node_id.clone());
            }
            loads.add(node_id, answer);
        }
    }
    Ok(loads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_api::proto::{BackendLoad, ServiceLoad};

    #[test]
    fn answers_add_up() {
        let rates = Rates {
            flows: 1.5,
            packets: 10.0,
            bytes: 1000.0,
        };
        let report = |open| LoadAnswer {
            backends: vec![
                BackendLoad {
                    vni: 4096,
                    address: "10.0.0.5".into(),
                    open,
                    flows: 3,
                    packets: 20,
                    bytes: 2000,
                    rates: Some(rates),
                },
                BackendLoad {
                    address: "nonsense".into(),
                    ..BackendLoad::default()
                },
            ],
            services: vec![ServiceLoad {
                service_id: "web".into(),
                vni: 4097,
                open,
                ..ServiceLoad::default()
            }],
            ..LoadAnswer::default()
        };
        let mut loads = Loads::default();
        loads.add("n1".into(), report(1));
        loads.add("n2".into(), report(2));
        let load = Load {
            open: 3,
            flows: 6,
            packets: 40,
            bytes: 4000,
            rates: Rates {
                flows: 3.0,
                packets: 20.0,
                bytes: 2000.0,
            },
        };
        let key = (4096, "10.0.0.5".parse().unwrap());
        assert_eq!(loads.backends, BTreeMap::from([(key, load)]));
        let load = Load {
            open: 3,
            ..Load::default()
        };
        let key = ("web".to_owned(), 4097);
        assert_eq!(loads.services, BTreeMap::from([(key, load)]));
    }
}
