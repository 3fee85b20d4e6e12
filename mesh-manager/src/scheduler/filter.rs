//! What keeps a task off a node, in Swarm's order, and how a refusal explains itself.

use super::{
    Constraint,
    node_set::{Candidate, weighs},
};
use crate::{
    generic,
    state::{Network, Node, Port, State, Task},
};
use mesh_api::{engine, generic_resource, handout};
use std::collections::BTreeMap;

/// The filter that refused a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    NotReady,
    Resources,
    Encryption,
    Handouts,
    Templates,
    Constraints,
    Platform,
    HostPort,
    MaxReplicas,
}

impl Verdict {
    pub(super) const COUNT: usize = 9;
    const ALL: [Self; Self::COUNT] = [
        Self::NotReady,
        Self::Resources,
        Self::Encryption,
        Self::Handouts,
        Self::Templates,
        Self::Constraints,
        Self::Platform,
        Self::HostPort,
        Self::MaxReplicas,
    ];

    fn text(self, nodes: usize) -> String {
        let s = if nodes == 1 { "" } else { "s" };
        match self {
            Self::NotReady => format!("{nodes} node{s} not available for new tasks"),
            Self::Resources => format!("insufficient resources on {nodes} node{s}"),
            Self::Encryption => format!("encrypted networks not supported on {nodes} node{s}"),
            Self::Handouts => format!("secrets and configs not supported on {nodes} node{s}"),
            Self::Templates => {
                format!("templated secrets and configs not supported on {nodes} node{s}")
            }
            Self::Constraints => {
                format!("scheduling constraints not satisfied on {nodes} node{s}")
            }
            Self::Platform => format!("unsupported platform on {nodes} node{s}"),
            Self::HostPort => format!("host-mode port already in use on {nodes} node{s}"),
            Self::MaxReplicas => "max replicas per node limit exceed".to_owned(),
        }
    }

    /// Why no node is left, from the number of nodes that each filter refused; most first.
    pub(super) fn explain(refusals: &[usize; Self::COUNT]) -> String {
        let mut reasons: Vec<(usize, Self)> = Self::ALL
            .into_iter()
            .map(|verdict| (refusals[verdict as usize], verdict))
            .filter(|(nodes, _)| *nodes > 0)
            .collect();
        // Stable: equal numbers stay in the order of the filters.
        reasons.sort_by_key(|(nodes, _)| std::cmp::Reverse(*nodes));
        if reasons.is_empty() {
            return "no suitable node".to_owned();
        }
        let texts: Vec<_> = reasons
            .into_iter()
            .map(|(nodes, verdict)| verdict.text(nodes))
            .collect();
        format!("no suitable node ({})", texts.join("; "))
    }
}

/// The demands of one task.
#[derive(Debug)]
pub(super) struct Filter<'a> {
    task: &'a Task,
    reserved: Reserved,
    /// Generic resources that it reserves, by kind.
    generic: BTreeMap<&'a str, u64>,
    constraints: Vec<Constraint>,
    max_replicas: u64,
    /// One of its networks is encrypted.
    is_encrypted: bool,
    /// It is handed secrets or configs.
    is_handed: bool,
    /// One of those is a template.
    is_templated: bool,
}

/// Resources that a task reserves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reserved {
    pub(super) nano_cpus: i64,
    pub(super) memory_bytes: i64,
}

impl Reserved {
    pub(super) fn of(task: &Task) -> Self {
        let reservations = task
            .spec
            .resources
            .as_ref()
            .and_then(|r| r.reservations.as_ref());
        Self {
            nano_cpus: reservations.and_then(|r| r.nano_cpus).unwrap_or(0),
            memory_bytes: reservations.and_then(|r| r.memory_bytes).unwrap_or(0),
        }
    }
}

impl<'a> Filter<'a> {
    pub(super) fn new(task: &'a Task, state: &State) -> Self {
        let placement = task.spec.placement.as_ref();
        let container = task.spec.container_spec.as_ref();
        let claims = || container.into_iter().flat_map(handout::references);
        Self {
            task,
            reserved: Reserved::of(task),
            generic: generic_resource::reserved(&task.spec),
            constraints: constraints(placement),
            max_replicas: placement
                .and_then(|p| p.max_replicas)
                .and_then(|m| u64::try_from(m).ok())
                .unwrap_or(0),
            is_encrypted: task
                .attachments
                .iter()
                .filter_map(|attachment| state.network(&attachment.network_id))
                .any(Network::is_encrypted),
            is_handed: claims().next().is_some(),
            is_templated: claims()
                .filter_map(|claim| state.handout(claim.kind, claim.id))
                .any(|handout| handout.is_template),
        }
    }

    pub(super) fn check(&self, candidate: &Candidate<'_>) -> Result<(), Verdict> {
        let node = candidate.node;
        // What belongs on this node alone goes nowhere else meanwhile.
        let is_held = candidate.is_held && self.task.node_id.as_deref() != Some(&node.id);
        if !node.takes_tasks() || is_held {
            return Err(Verdict::NotReady);
        }
        let fits = |wanted: i64, has: i64, used: i64| wanted <= 0 || wanted <= has - used;
        let (has, used) = (&node.description, candidate.reserved);
        if !fits(self.reserved.nano_cpus, has.nano_cpus, used.nano_cpus)
            || !fits(
                self.reserved.memory_bytes,
                has.memory_bytes,
                used.memory_bytes,
            )
            || !candidate.generic.has(&self.generic)
        {
            return Err(Verdict::Resources);
        }
        // Where Swarm looks for plugins.
        if self.is_encrypted && !has.encrypts {
            return Err(Verdict::Encryption);
        }
        if self.is_handed && !has.hands_out {
            return Err(Verdict::Handouts);
        }
        if self.is_templated && !has.fills_in {
            return Err(Verdict::Templates);
        }
        if !self.constraints.iter().all(|c| c.matches(node)) {
            return Err(Verdict::Constraints);
        }
        if !platform_fits(self.task.spec.placement.as_ref(), node) {
            return Err(Verdict::Platform);
        }
        let is_used = |port: &Port| {
            candidate
                .host_ports
                .contains(&(port.protocol, port.published))
        };
        if self.task.host_ports.iter().any(is_used) {
            return Err(Verdict::HostPort);
        }
        let tasks = candidate.tasks_of(&self.task.service_id);
        if self.max_replicas > 0 && tasks >= self.max_replicas {
            return Err(Verdict::MaxReplicas);
        }
        Ok(())
    }
}

fn constraints(placement: Option<&engine::TaskSpecPlacement>) -> Vec<Constraint> {
    let texts = placement
        .and_then(|p| p.constraints.as_deref())
        .unwrap_or_default();
    // Specs were validated when they came in.
    texts
        .iter()
        .filter_map(|text| Constraint::parse(text).ok())
        .collect()
}

/// Whether a node meets the constraints and platforms of a placement.
pub(crate) fn fits_node(placement: Option<&engine::TaskSpecPlacement>, node: &Node) -> bool {
    constraints(placement).iter().all(|c| c.matches(node)) && platform_fits(placement, node)
}

/// Whether a node, as it is now, has what a task of its reserves, and what it was given, beside those of its tasks that come
/// first by id. Tasks count as they do when one is placed, so that a node which has not shrunk always has.
pub(crate) fn has_room(state: &State, node: &Node, task: &Task) -> bool {
    if !generic::has_still(state, node, task) {
        return false;
    }
    if Reserved::of(task) == Reserved::default() {
        return true;
    }
    let (mut cpus, mut memory) = (node.description.nano_cpus, node.description.memory_bytes);
    for other in state.tasks_of_node(&node.id).filter(|t| weighs(t)) {
        let reserved = Reserved::of(other);
        let fits = reserved.nano_cpus <= cpus.max(0) && reserved.memory_bytes <= memory.max(0);
        if other.id == task.id {
            return fits;
        }
        if fits {
            cpus -= reserved.nano_cpus;
            memory -= reserved.memory_bytes;
        }
    }
    true
}

fn platform_fits(placement: Option<&engine::TaskSpecPlacement>, node: &Node) -> bool {
    let platforms = placement
        .and_then(|p| p.platforms.as_deref())
        .unwrap_or_default();
    let matches = |wanted: Option<&str>, has: &str| match wanted {
        None | Some("") => true,
        Some(wanted) => normal(wanted) == normal(has),
    };
    platforms.is_empty()
        || platforms.iter().any(|p| {
            matches(p.architecture.as_deref(), &node.description.architecture)
                && matches(p.os.as_deref(), &node.description.os)
        })
}

/// One word per architecture.
fn normal(word: &str) -> String {
    match word.to_ascii_lowercase().as_str() {
        "x86_64" | "x86-64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        other => other.to_owned(),
    }
}
