//! What the nodes' answers mean. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh_api::{
    mesh::{Finding, Level},
    proto::{CheckAnswer, Level as Told, PathAnswer, PortAnswer},
};
use mesh_manager::state::{Port, Protocol, PublishMode};

use super::{
    PATIENCE,
    questions::{Member, Plan, Target},
};
use crate::links::plan::VXLAN_OVERHEAD;

/// A clock that differs by more makes logs and times of different nodes hard to read together.
const CLOCK_NOTED: Duration = Duration::from_secs(1);
/// A clock that differs by more than certificates are backdated refuses fresh ones.
const CLOCK_WRONG: Duration = Duration::from_secs(3600);

/// What was found, node by node. `answers` by node id.
pub(crate) fn diagnose(plan: &Plan, answers: &BTreeMap<String, CheckAnswer>) -> Vec<Finding> {
    let case = Case {
        plan,
        answers,
        seen: answers
            .values()
            .flat_map(|answer| &answer.flows)
            .map(|flow| (flow.client.as_str(), flow.front.as_str()))
            .collect(),
        asked: answers
            .iter()
            .flat_map(|(id, answer)| answer.ports.iter().map(move |told| (id.as_str(), told)))
            .map(|(id, told)| ((id, told.address.as_str(), told.port), told))
            .collect(),
    };
    let mut findings = Vec::new();
    for member in &plan.members {
        case.node(member, &mut findings);
    }
    for (service, port) in &plan.idle {
        let subject = subject(service, port);
        let remedy = format!("mesh-ctl service ps {service}");
        findings.push(warning("", "port", subject, "no task runs", &remedy));
    }
    findings
}

struct Case<'a> {
    plan: &'a Plan,
    answers: &'a BTreeMap<String, CheckAnswer>,
    /// Client and front of the flows that tasks have seen.
    seen: BTreeSet<(&'a str, &'a str)>,
    /// By id of the node that asked, address and port.
    asked: BTreeMap<(&'a str, &'a str, u32), &'a PortAnswer>,
}

impl Case<'_> {
    fn node(&self, member: &Member, findings: &mut Vec<Finding>) {
        let name = member.name.as_str();
        if let Some(why) = &member.away {
            let found = format!("down: {why}");
            let remedy = "start the machine and its agent, or mesh-ctl node rm";
            findings.push(fault(name, "node", "agent", &found, remedy));
            return;
        }
        let Some(answer) = self.answers.get(&member.id) else {
            let found = format!("no answer within {} s", PATIENCE.as_secs());
            let remedy = "see whether its agent runs and 2377/tcp to the manager is open";
            findings.push(fault(name, "node", "agent", &found, remedy));
            return;
        };
        findings.push(ok(name, "node", "agent", "answers"));
        findings.push(clock(name, answer.clock_ahead));
        findings.extend(answer.findings.iter().map(|told| Finding {
            level: match told.level() {
                Told::Ok => Level::Ok,
                Told::Warning => Level::Warning,
                Told::Fault => Level::Fault,
            },
            node: name.to_owned(),
            check: told.check.clone(),
            subject: told.subject.clone(),
            found: told.found.clone(),
            remedy: told.remedy.clone(),
        }));
        let others = self.plan.members.iter().filter(|to| to.id != member.id);
        findings.extend(others.filter_map(|to| self.path(member, to)));
        let targets = self.plan.targets.iter();
        let own = targets.filter(|target| self.plan.members[target.node].id == member.id);
        findings.extend(own.map(|target| self.port(target, member, answer)));
    }

    /// The tunnel from one node to another; nothing if one of them did not take part.
    fn path(&self, from: &Member, to: &Member) -> Option<Finding> {
        let sent = path_of(self.answers.get(&from.id)?, &to.address)?;
        let arrived = path_of(self.answers.get(&to.id)?, &from.address)?;
        Some(path(self.plan.tunnel_port, from, to, sent, arrived))
    }

    fn port(&self, target: &Target, member: &Member, answer: &CheckAnswer) -> Finding {
        let node = member.name.as_str();
        let what = subject(&target.service, &target.port);
        if target.port.mode == PublishMode::Ingress && !answer.fronts.contains(&front(&target.port))
        {
            let found = "the node does not know the port yet";
            return fault(node, "port", what, found, "see the log of its agent");
        }
        if target.port.protocol != Protocol::Tcp {
            let found = "in the node's tables; not asked, as an application would have to answer";
            return ok(node, "port", what, found);
        }
        let Some(by) = target.by.map(|by| &self.plan.members[by]) else {
            let found = "not asked: there are too many";
            return warning(node, "port", what, found, "ask it by hand");
        };
        let key = (&*by.id, &*member.address, target.port.published.into());
        let Some(told) = self.asked.get(&key) else {
            let found = format!("not asked: {} did not get to it", by.name);
            return warning(node, "port", what, &found, "ask again, or by hand");
        };
        let took = milliseconds(told.took);
        if !told.error.is_empty() {
            let found = format!("asked by {}: {}", by.name, told.error);
            let remedy = "mend the node's paths first; then look for a firewall on the way, or an XDP or tc program of \
                          others on its uplink (`bpftool net`)";
            return fault(node, "port", what, &found, remedy);
        }
        let front = format!("{}:{}", member.address, target.port.published);
        if target.port.mode == PublishMode::Host {
            return ok(node, "port", what, &format!("answers in {took}"));
        }
        if self.seen.contains(&(told.client.as_str(), front.as_str())) {
            return ok(node, "port", what, &format!("a task answers in {took}"));
        }
        if self.answers.len() < self.plan.members.len() {
            let found = "answers; whether a task does is not known, as not all nodes do";
            return warning(node, "port", what, found, "mend the nodes first");
        }
        let found = format!("asked by {}: something answers that is no task", by.name);
        let remedy = "find what takes the port before the mesh: a proxy or address translation on the way, or an XDP \
                      or tc program of others on the uplink (`bpftool net`)";
        fault(node, "port", what, &found, remedy)
    }
}

fn path_of<'a>(answer: &'a CheckAnswer, peer: &str) -> Option<&'a PathAnswer> {
    answer.paths.iter().find(|path| path.peer == peer)
}

/// `sent`: what the sender knows; `arrived`: what the receiver does.
fn path(port: u16, from: &Member, to: &Member, sent: &PathAnswer, arrived: &PathAnswer) -> Finding {
    let node = from.name.as_str();
    let what = format!("to {}", to.name);
    let probes = arrived.heard + arrived.changed + arrived.bad_checksums;
    if arrived.bad_checksums > 0 {
        let found = format!(
            "{} of {probes} probes arrive with a wrong checksum",
            arrived.bad_checksums
        );
        let remedy = format!(
            "the uplink of {node} computes checksums inside tunnels wrongly: `ethtool -K <uplink> tx off \
             tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off` on it"
        );
        return fault(node, "path", what, &found, &remedy);
    }
    if arrived.changed > 0 {
        let found = format!(
            "{} of {probes} probes arrive with other contents",
            arrived.changed
        );
        let remedy = "look for a broken network card, cable or switch on the way";
        return fault(node, "path", what, &found, remedy);
    }
    if probes == 0 {
        let remedy = format!("let UDP {port} through the firewalls of both and between them");
        return fault(node, "path", what, "tunnel packets are lost", &remedy);
    }
    if sent.round_trip == 0 {
        let found = "tunnel packets arrive, but their answers are lost";
        let remedy = format!("see the path from {} to {node}", to.name);
        return warning(node, "path", what, found, &remedy);
    }
    if sent.largest < sent.wanted {
        let found = format!(
            "packets of more than {} bytes are lost; tasks send up to {}",
            sent.largest, sent.wanted
        );
        if sent.largest >= arrived.wanted {
            let remedy = format!("give the uplinks of {node} and {} the same MTU", to.name);
            return warning(node, "path", what, &found, &remedy);
        }
        let remedy = format!(
            "let frames of {} bytes through between the nodes, or set the MTU of both uplinks to {}",
            sent.wanted + VXLAN_OVERHEAD,
            sent.largest + VXLAN_OVERHEAD
        );
        return fault(node, "path", what, &found, &remedy);
    }
    let took = milliseconds(sent.round_trip);
    let found = format!("packets of up to {} bytes, answered in {took}", sent.wanted);
    ok(node, "path", what, &found)
}

fn clock(node: &str, ahead: i64) -> Finding {
    let difference = Duration::from_nanos(ahead.unsigned_abs());
    let way = if ahead < 0 { "behind" } else { "ahead of" };
    let found = format!("{:.3} s {way} the manager's", difference.as_secs_f64());
    let remedy = "run chrony or another NTP client on both";
    if difference > CLOCK_WRONG {
        fault(node, "clock", "", &found, remedy)
    } else if difference > CLOCK_NOTED {
        warning(node, "clock", "", &found, remedy)
    } else {
        ok(node, "clock", "", &found)
    }
}

/// `80/tcp`, as in [`CheckAnswer::fronts`].
fn front(port: &Port) -> String {
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    format!("{}/{protocol}", port.published)
}

fn subject(service: &str, port: &Port) -> String {
    format!("{} {service}", front(port))
}

fn milliseconds(nanoseconds: u64) -> String {
    format!("{:.2} ms", nanoseconds as f64 / 1e6)
}

fn ok(node: &str, check: &str, subject: impl Into<String>, found: &str) -> Finding {
    finding(Level::Ok, node, check, subject.into(), found, "")
}

fn warning(
    node: &str,
    check: &str,
    subject: impl Into<String>,
    found: &str,
    remedy: &str,
) -> Finding {
    finding(Level::Warning, node, check, subject.into(), found, remedy)
}

fn fault(
    node: &str,
    check: &str,
    subject: impl Into<String>,
    found: &str,
    remedy: &str,
) -> Finding {
    finding(Level::Fault, node, check, subject.into(), found, remedy)
}

fn finding(
    level: Level,
    node: &str,
    check: &str,
    subject: String,
    found: &str,
    remedy: &str,
) -> Finding {
    Finding {
        level,
        node: node.to_owned(),
        check: check.to_owned(),
        subject,
        found: found.to_owned(),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
#[path = "diagnosis_tests.rs"]
mod tests;
