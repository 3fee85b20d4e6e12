//! What the nodes' answers mean. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh_api::{
    mesh::{Finding, Level},
    proto::{self, CheckAnswer, DirectReturn, Level as Told, PathAnswer, PortAnswer, SeenFlow},
};
use mesh_datapath::ReturnState;
use mesh_manager::state::{Port, Protocol, PublishMode};

use super::{
    PATIENCE,
    questions::{Member, Plan, Target, spoken},
};
use crate::{links::plan::VXLAN_OVERHEAD, protocol};

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
            .map(|flow| (protocol_of(flow), &*flow.client, &*flow.front))
            .collect(),
        asked: answers
            .iter()
            .flat_map(|(id, answer)| answer.ports.iter().map(move |told| (id.as_str(), told)))
            .map(|(id, told)| ((id, told.protocol(), &*told.address, told.port), told))
            .collect(),
    };
    let mut findings = Vec::new();
    for member in &plan.members {
        case.node(member, &mut findings);
    }
    for (service, port) in &plan.idle {
        let subject = subject(service, port);
        let remedy = format!("mesh-ctl service ps {service}");
        let verdict = warning("no task runs", remedy);
        findings.push(verdict.finding("", "port", subject));
    }
    findings
}

struct Case<'a> {
    plan: &'a Plan,
    answers: &'a BTreeMap<String, CheckAnswer>,
    /// Protocol, client and front of the flows that tasks have seen.
    seen: BTreeSet<(&'a str, &'a str, &'a str)>,
    /// By id of the node that asked, protocol, address and port.
    asked: BTreeMap<(&'a str, proto::Protocol, &'a str, u32), &'a PortAnswer>,
}

impl Case<'_> {
    fn node(&self, member: &Member, findings: &mut Vec<Finding>) {
        let name = member.name.as_str();
        if let Some(why) = &member.away {
            let found = format!("down: {why}");
            let remedy = "start the machine and its agent, or mesh-ctl node rm";
            findings.push(fault(found, remedy).finding(name, "node", "agent"));
            return;
        }
        let Some(answer) = self.answers.get(&member.id) else {
            let found = format!("no answer within {} s", PATIENCE.as_secs());
            let remedy = "see whether its agent runs and 2377/tcp to the manager is open";
            findings.push(fault(found, remedy).finding(name, "node", "agent"));
            return;
        };
        findings.push(ok("answers").finding(name, "node", "agent"));
        findings.push(clock(answer.clock_ahead).finding(name, "clock", ""));
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
        findings.extend(others.clone().filter_map(|to| self.path(member, to)));
        findings.extend(others.filter_map(|to| direct_return(member, to, answer)));
        let targets = self.plan.targets.iter();
        let own = targets.filter(|target| self.plan.members[target.node].id == member.id);
        findings.extend(own.map(|target| {
            let subject = subject(&target.service, &target.port);
            self.port(target, member, answer)
                .finding(name, "port", subject)
        }));
    }

    /// The tunnel from one node to another; nothing if one of them did not take part.
    fn path(&self, from: &Member, to: &Member) -> Option<Finding> {
        let sent = path_of(self.answers.get(&from.id)?, &to.address)?;
        let arrived = path_of(self.answers.get(&to.id)?, &from.address)?;
        let verdict = path(self.plan.tunnel_port, from, to, sent, arrived);
        Some(verdict.finding(&from.name, "path", format!("to {}", to.name)))
    }

    fn port(&self, target: &Target, member: &Member, answer: &CheckAnswer) -> Verdict {
        if target.port.mode == PublishMode::Ingress && !answer.fronts.contains(&front(&target.port))
        {
            let found = "the node does not know the port yet";
            return fault(found, "see the log of its agent");
        }
        let is_tcp = target.port.protocol == Protocol::Tcp;
        if target.port.mode == PublishMode::Host && !is_tcp {
            return ok("not asked, as an application would have to answer");
        }
        let Some(by) = target.by.map(|by| &self.plan.members[by]) else {
            let found = "not asked: there are too many";
            return warning(found, "ask it by hand");
        };
        let (spoken, number) = (spoken(&target.port), target.port.published.into());
        let key = (&*by.id, spoken, &*member.address, number);
        let Some(told) = self.asked.get(&key) else {
            let found = format!("not asked: {} did not get to it", by.name);
            return warning(found, "ask again, or by hand");
        };
        let took = milliseconds(told.took);
        if !told.error.is_empty() {
            let found = format!("asked by {}: {}", by.name, told.error);
            let remedy = "mend the node's paths first; then look for a firewall on the way, or an XDP or tc program of \
                          others on its uplink (`bpftool net`)";
            return fault(found, remedy);
        }
        let front = format!("{}:{}", member.address, target.port.published);
        if target.port.mode == PublishMode::Host {
            return ok(format!("answers in {took}"));
        }
        let name = protocol::name(protocol::number(spoken));
        let is_seen = self.seen.contains(&(&*name, &*told.client, &*front));
        if is_seen && is_tcp {
            return ok(format!("a task answers in {took}"));
        }
        if is_seen {
            return ok("what is sent gets to a task");
        }
        if self.answers.len() < self.plan.members.len() {
            let found = if is_tcp {
                "answers; whether a task does is not known, as not all nodes do"
            } else {
                "whether what is sent gets to a task is not known, as not all nodes answer"
            };
            return warning(found, "mend the nodes first");
        }
        if !is_tcp {
            let found = format!("asked by {}: what is sent gets to no task", by.name);
            let remedy = "mend the node's paths first; then look for a firewall on the way. One that checks checksums is no \
                          fault: what doctor sends has a wrong one, so that no application gets it";
            return warning(found, remedy);
        }
        let found = format!("asked by {}: something answers that is no task", by.name);
        let remedy = "find what takes the port before the mesh: a proxy or address translation on the way, or an XDP \
                      or tc program of others on the uplink (`bpftool net`)";
        fault(found, remedy)
    }
}

/// Agents that do not say it yet are asked for connections alone.
fn protocol_of(flow: &SeenFlow) -> &str {
    match &*flow.protocol {
        "" => "tcp",
        told => told,
    }
}

fn path_of<'a>(answer: &'a CheckAnswer, peer: &str) -> Option<&'a PathAnswer> {
    answer.paths.iter().find(|path| path.peer == peer)
}

/// `sent`: what the sender knows; `arrived`: what the receiver does.
fn path(port: u16, from: &Member, to: &Member, sent: &PathAnswer, arrived: &PathAnswer) -> Verdict {
    let node = &from.name;
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
        return fault(found, remedy);
    }
    if arrived.changed > 0 {
        let found = format!(
            "{} of {probes} probes arrive with other contents",
            arrived.changed
        );
        let remedy = "look for a broken network card, cable or switch on the way";
        return fault(found, remedy);
    }
    if probes == 0 {
        let remedy = format!("let UDP {port} through the firewalls of both and between them");
        return fault("tunnel packets are lost", remedy);
    }
    if sent.round_trip == 0 {
        let found = "tunnel packets arrive, but their answers are lost";
        let remedy = format!("see the path from {} to {node}", to.name);
        return warning(found, remedy);
    }
    let took = milliseconds(sent.round_trip);
    if sent.narrowed != 0 && sent.narrowed <= sent.largest {
        let found = format!(
            "packets of up to {} bytes, as a router on the way says, answered in {took}",
            sent.narrowed
        );
        return ok(found);
    }
    if sent.largest < sent.wanted {
        let found = format!(
            "packets of more than {} bytes are lost; tasks send up to {}",
            sent.largest, sent.wanted
        );
        if sent.largest >= arrived.wanted {
            let remedy = format!("give the uplinks of {node} and {} the same MTU", to.name);
            return warning(found, remedy);
        }
        let remedy = format!(
            "let frames of {} bytes through between the nodes, or set the MTU of both uplinks to {}",
            sent.wanted + VXLAN_OVERHEAD,
            sent.largest + VXLAN_OVERHEAD
        );
        return fault(found, remedy);
    }
    let found = format!("packets of up to {} bytes, answered in {took}", sent.wanted);
    ok(found)
}

/// Whether tasks of one node could reply straight to clients of another, if a service asked for it. Never a fault: where one
/// does ask, the node says itself what that costs. Nothing if it was not tried.
fn direct_return(from: &Member, to: &Member, answer: &CheckAnswer) -> Option<Finding> {
    let tried = path_of(answer, &to.address)?;
    let state = match tried.direct_return() {
        DirectReturn::Untried => return None,
        DirectReturn::Possible => ReturnState::Direct,
        DirectReturn::Undecided => ReturnState::Trying,
        DirectReturn::Silent => ReturnState::Silent,
        DirectReturn::Lost => ReturnState::Lost,
    };
    let verdict = match state {
        ReturnState::Direct => ok("direct return is possible"),
        _ => ok(format!(
            "direct return is not possible under {}: {state}",
            tried.returned_under
        )),
    };
    Some(verdict.finding(&from.name, "return", format!("to clients of {}", to.name)))
}

fn clock(ahead: i64) -> Verdict {
    let difference = Duration::from_nanos(ahead.unsigned_abs());
    let way = if ahead < 0 { "behind" } else { "ahead of" };
    let found = format!("{:.3} s {way} the manager's", difference.as_secs_f64());
    let remedy = "run chrony or another NTP client on both";
    if difference > CLOCK_WRONG {
        fault(found, remedy)
    } else if difference > CLOCK_NOTED {
        warning(found, remedy)
    } else {
        ok(found)
    }
}

/// `80/tcp`, as in [`CheckAnswer::fronts`].
fn front(port: &Port) -> String {
    let name = protocol::name(protocol::number(spoken(port)));
    format!("{}/{name}", port.published)
}

fn subject(service: &str, port: &Port) -> String {
    format!("{} {service}", front(port))
}

fn milliseconds(nanoseconds: u64) -> String {
    format!("{:.2} ms", nanoseconds as f64 / 1e6)
}

/// What was found, and what to do about it.
struct Verdict {
    level: Level,
    found: String,
    remedy: String,
}

fn ok(found: impl Into<String>) -> Verdict {
    verdict(Level::Ok, found, "")
}

fn warning(found: impl Into<String>, remedy: impl Into<String>) -> Verdict {
    verdict(Level::Warning, found, remedy)
}

fn fault(found: impl Into<String>, remedy: impl Into<String>) -> Verdict {
    verdict(Level::Fault, found, remedy)
}

fn verdict(level: Level, found: impl Into<String>, remedy: impl Into<String>) -> Verdict {
    Verdict {
        level,
        found: found.into(),
        remedy: remedy.into(),
    }
}

impl Verdict {
    fn finding(self, node: &str, check: &str, subject: impl Into<String>) -> Finding {
        Finding {
            level: self.level,
            node: node.to_owned(),
            check: check.to_owned(),
            subject: subject.into(),
            found: self.found,
            remedy: self.remedy,
        }
    }
}

#[cfg(test)]
#[path = "diagnosis_tests.rs"]
mod tests;
