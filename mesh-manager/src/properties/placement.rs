//! Where tasks go: never to a node that anything speaks against, as evenly as possible, and nowhere only where there is no place.

use super::{due, live, set_node};
use crate::{
    Operation,
    fixture::{SECOND, World, replicated, template},
    scheduler::{Constraint, fits_node},
    state::{Node, NodeState, Task, TaskState},
};
use mesh_api::{
    engine::{self, NodeSpecAvailabilityEnum as Availability},
    generic_resource::{Amount, GenericResources, discrete},
};
use proptest::prelude::*;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

const NAMES: [&str; 6] = ["n1", "n2", "n3", "n4", "n5", "n6"];
const ZONES: [&str; 3] = ["east", "west", ""];
const AVAILABILITIES: [Availability; 4] = [
    Availability::ACTIVE,
    Availability::ACTIVE,
    Availability::PAUSE,
    Availability::DRAIN,
];

/// A node as the cluster is told of it.
#[derive(Debug, Clone)]
struct Machine {
    availability: Availability,
    is_down: bool,
    zone: &'static str,
    is_arm: bool,
    /// Whole processors.
    cpus: i64,
    /// What it has that each has a name, and that it has so many of.
    gpus: usize,
    slots: u64,
}

prop_compose! {
    fn machine()(
        availability in prop::sample::select(&AVAILABILITIES[..]),
        is_down in prop::bool::weighted(0.15),
        zone in prop::sample::select(&ZONES[..]),
        is_arm in prop::bool::weighted(0.25),
        cpus in 1_i64..8,
        gpus in 0_usize..4,
        slots in 0_u64..6,
    ) -> Machine {
        Machine { availability, is_down, zone, is_arm, cpus, gpus, slots }
    }
}

/// What a service asks for. Nothing but replicas: it may run anywhere.
#[derive(Debug, Clone, Default)]
struct Wish {
    replicas: i64,
    zone: Option<(bool, &'static str)>,
    arm: Option<bool>,
    cpus: i64,
    most: i64,
    has_port: bool,
    gpus: u64,
    slots: u64,
}

prop_compose! {
    fn wish()(
        replicas in 0_i64..12,
        zone in prop::option::weighted(0.3, (any::<bool>(), prop::sample::select(&["east", "west"][..]))),
        arm in prop::option::weighted(0.2, any::<bool>()),
        cpus in prop_oneof![3 => Just(0_i64), 1 => 1_i64..4],
        most in prop_oneof![3 => Just(0_i64), 1 => 1_i64..3],
        has_port in prop::bool::weighted(0.2),
        gpus in prop_oneof![3 => Just(0_u64), 1 => 1_u64..3],
        slots in prop_oneof![3 => Just(0_u64), 1 => 1_u64..4],
    ) -> Wish {
        Wish { replicas, zone, arm, cpus, most, has_port, gpus, slots }
    }
}

impl Wish {
    /// Each service with a port has the same one: they keep each other away.
    fn spec(&self, name: &str) -> engine::ServiceSpec {
        let mut spec = replicated(name, self.replicas);
        let zone = self.zone.map(|(is, zone)| {
            let operator = if is { "==" } else { "!=" };
            format!("node.labels.zone{operator}{zone}")
        });
        let platforms = self.arm.map(|arm| {
            let architecture = if arm { "arm64" } else { "amd64" };
            json!([{"Architecture": architecture, "OS": "linux"}])
        });
        let placement = json!({
            "Constraints": zone.into_iter().collect::<Vec<_>>(),
            "Platforms": platforms,
            "MaxReplicas": self.most,
        });
        template(&mut spec).placement = serde_json::from_value(placement).expect("a placement");
        let generic = [("gpu", self.gpus), ("slot", self.slots)].into_iter();
        let generic = generic.filter(|(_, number)| *number > 0);
        let generic: Vec<_> = generic.map(|(kind, n)| discrete(kind, n)).collect();
        let resources = json!({
            "Reservations": {"NanoCPUs": self.cpus * SECOND, "GenericResources": generic},
        });
        template(&mut spec).resources = serde_json::from_value(resources).expect("resources");
        if self.has_port {
            let port = json!({"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"});
            spec.endpoint_spec = serde_json::from_value(json!({"Ports": [port]})).expect("ports");
        }
        spec
    }

    /// Whether nothing that the node is speaks against it.
    fn may_be_on(&self, machine: &Machine) -> bool {
        let is_open = machine.availability == Availability::ACTIVE && !machine.is_down;
        let is_there = self
            .zone
            .is_none_or(|(is, zone)| (machine.zone == zone) == is);
        is_open && is_there && self.arm.is_none_or(|arm| arm == machine.is_arm)
    }
}

/// A cluster of these machines, called by [`NAMES`] in turn.
fn cluster(machines: &[Machine]) -> World {
    let mut world = World::new(&NAMES[..machines.len()]);
    for (name, machine) in NAMES.iter().zip(machines) {
        let mut description = world.state.node(name).expect("a node").description.clone();
        description.nano_cpus = machine.cpus * SECOND;
        let gpus = (0..machine.gpus).map(|number| format!("{name}-{number}"));
        description.generic_resources = GenericResources::from([
            ("gpu".to_owned(), Amount::Named(gpus.collect())),
            ("slot".to_owned(), Amount::Discrete(machine.slots)),
        ]);
        description.architecture = if machine.is_arm { "aarch64" } else { "x86_64" }.to_owned();
        let up = Operation::NodeUp {
            node_id: (*name).to_owned(),
            description,
        };
        world.apply(up).expect("a node");
        set_node(&mut world, name, |spec| {
            spec.availability = Some(machine.availability);
            spec.labels = Some(HashMap::from([(
                "zone".to_owned(),
                machine.zone.to_owned(),
            )]));
        });
        if machine.is_down {
            world.node_down(name);
        }
    }
    world
}

/// Processors that are reserved on a node, tasks of each service, and users of the port, counted anew.
fn used(
    world: &World,
    node: &str,
    wishes: &BTreeMap<String, Wish>,
) -> (i64, BTreeMap<String, i64>, usize) {
    let here = world
        .state
        .tasks()
        .filter(|t| t.node_id.as_deref() == Some(node));
    let here: Vec<&Task> = here
        .filter(|t| t.is_wanted() && !t.status.state.is_terminal())
        .collect();
    let cpus = here.iter().map(|t| wishes[&t.service_id].cpus).sum();
    let ports = here
        .iter()
        .filter(|t| wishes[&t.service_id].has_port)
        .count();
    let mut per_service = BTreeMap::new();
    for task in &here {
        *per_service.entry(task.service_id.clone()).or_default() += 1;
    }
    (cpus, per_service, ports)
}

/// The generic resources that the tasks on a node hold: names, and a number. All that was given is counted.
fn held(world: &World, node: &str) -> (Vec<String>, u64) {
    let (mut gpus, mut slots) = (Vec::new(), 0);
    let holders = world.state.tasks_of_node(node);
    for task in holders.filter(|task| task.holds_resources()) {
        for amount in task.generic_resources.values() {
            match amount {
                Amount::Named(names) => gpus.extend(names.iter().cloned()),
                Amount::Discrete(number) => slots += number,
            }
        }
    }
    (gpus, slots)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_task_is_where_it_may_not_be_and_none_waits_that_has_a_place(
        machines in prop::collection::vec(machine(), 1..=6),
        wishes in prop::collection::vec(wish(), 1..5),
    ) {
        let mut world = cluster(&machines);
        let mut by_id = BTreeMap::new();
        for (number, wish) in wishes.iter().enumerate() {
            let id = world.service(wish.spec(&format!("s{number}"))).expect("a valid spec");
            by_id.insert(id, wish.clone());
            world.settle();
        }
        for (name, machine) in NAMES.iter().zip(&machines) {
            let (cpus, per_service, ports) = used(&world, name, &by_id);
            prop_assert!(cpus <= machine.cpus, "{cpus} processors of {name}");
            prop_assert!(ports <= 1, "{ports} tasks have the port of {name}");
            let (gpus, slots) = held(&world, name);
            let distinct: BTreeSet<&String> = gpus.iter().collect();
            prop_assert!(distinct.len() == gpus.len(), "{gpus:?} are held twice");
            let is_own = |gpu: &String| gpu.starts_with(&format!("{name}-"));
            prop_assert!(gpus.iter().all(is_own), "{gpus:?} on {name}");
            prop_assert!(slots <= machine.slots, "{slots} slots of {name}");
            for (id, count) in per_service {
                let wish = &by_id[&id];
                prop_assert!(wish.may_be_on(machine), "{wish:?} is on {machine:?}");
                prop_assert!(wish.most == 0 || count <= wish.most, "{count} of {wish:?} on {name}");
            }
        }
        for (id, wish) in &by_id {
            let tasks = live(&world, id);
            prop_assert_eq!(tasks.len() as i64, wish.replicas);
            let is_waiting = |t: &&&Task| t.status.state == TaskState::Pending;
            let waiting: Vec<_> = tasks.iter().filter(is_waiting).collect();
            for task in &waiting {
                prop_assert!(task.node_id.is_none() && !task.status.error.is_empty(), "{task:?}");
            }
            // Others only take room: where there is some now, there was some when it was placed.
            let has_place = |(name, machine): (&&str, &Machine)| {
                let (cpus, per_service, ports) = used(&world, name, &by_id);
                let (gpus, slots) = held(&world, name);
                let count = per_service.get(id).copied().unwrap_or(0);
                wish.may_be_on(machine)
                    && (wish.cpus == 0 || cpus + wish.cpus <= machine.cpus)
                    && (wish.most == 0 || count < wish.most)
                    && !(wish.has_port && ports > 0)
                    && gpus.len() as u64 + wish.gpus <= machine.gpus as u64
                    && slots + wish.slots <= machine.slots
            };
            let has_place = NAMES.iter().zip(&machines).any(has_place);
            prop_assert!(waiting.is_empty() || !has_place, "{wish:?} waits");
        }
    }

    #[test]
    fn nodes_that_are_alike_differ_by_one_task_at_most(
        machines in prop::collection::vec(machine(), 1..=6),
        replicas in prop::collection::vec(0_i64..30, 1..4),
    ) {
        let mut world = cluster(&machines);
        let open = |m: &&Machine| m.availability == Availability::ACTIVE && !m.is_down;
        let open_nodes: Vec<&str> = NAMES.iter().zip(&machines).filter(|(_, m)| open(m)).map(|(n, _)| *n).collect();
        for (number, replicas) in replicas.into_iter().enumerate() {
            let wish = Wish { replicas, ..Wish::default() };
            let id = world.service(wish.spec(&format!("s{number}"))).expect("a valid spec");
            world.work();
            let counts: Vec<usize> = open_nodes.iter().map(|n| world.running_on(&id, n)).collect();
            let (least, most) = (counts.iter().min().unwrap_or(&0), counts.iter().max().unwrap_or(&0));
            prop_assert!(most - least <= 1, "{counts:?}");
            let all = if open_nodes.is_empty() { 0 } else { replicas };
            prop_assert_eq!(counts.iter().sum::<usize>() as i64, all);
        }
    }

    #[test]
    fn an_update_that_is_forced_evens_replicas_out(
        nodes in 2_usize..6,
        replicas in 1_i64..20,
        closed in 1_usize..4,
    ) {
        let mut world = World::new(&NAMES[..nodes]);
        let closed = closed.min(nodes - 1);
        let set = |world: &mut World, availability| {
            for name in &NAMES[nodes - closed..nodes] {
                set_node(world, name, |spec| spec.availability = Some(availability));
            }
        };
        set(&mut world, Availability::DRAIN);
        let id = world.service(replicated("web", replicas)).expect("a valid spec");
        world.work();
        set(&mut world, Availability::ACTIVE);
        world.work();
        let counts = |world: &World| -> Vec<usize> { NAMES[..nodes].iter().map(|n| world.running_on(&id, n)).collect() };
        prop_assert!(counts(&world)[nodes - closed..].iter().all(|n| *n == 0), "they moved by themselves");
        world.force_update(&id);
        // One after the other.
        for _ in 0..10 * replicas {
            world.settle();
            for (task, to) in due(&world) {
                world.report(&task, to);
            }
            world.now += SECOND;
        }
        world.work();
        let counts = counts(&world);
        let (least, most) = (counts.iter().min().expect("some"), counts.iter().max().expect("some"));
        prop_assert!(most - least <= 1, "{counts:?}");
        prop_assert_eq!(counts.iter().sum::<usize>() as i64, replicas);
    }
}

/// A constraint in its parts.
#[derive(Debug, Clone)]
struct Parts {
    key: &'static str,
    is_equal: bool,
    value: String,
    is_spaced: bool,
    is_shouted: bool,
}

const KEYS: [&str; 11] = [
    "node.id",
    "node.hostname",
    "node.role",
    "node.platform.os",
    "node.platform.arch",
    "node.ip",
    "node.labels.zone",
    "node.labels.absent",
    "engine.labels.disk",
    "engine.labels.absent",
    "node.none",
];

fn parts() -> impl Strategy<Value = Parts> {
    let words = prop::sample::select(
        &[
            "n1", "n2", "worker", "manager", "linux", "x86_64", "east", "ssd",
        ][..],
    );
    let value = prop_oneof![
        4 => words.prop_map(str::to_owned),
        1 => (9_u8..12, 0_u8..3).prop_map(|(a, b)| format!("10.{a}.{b}.1")),
        1 => (9_u8..12, 0_u8..=32).prop_map(|(a, length)| format!("10.{a}.0.0/{length}")),
    ];
    (
        prop::sample::select(&KEYS[..]),
        any::<bool>(),
        value,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(key, is_equal, value, is_spaced, is_shouted)| Parts {
            key,
            is_equal,
            value,
            is_spaced,
            is_shouted,
        })
}

impl Parts {
    fn text(&self) -> String {
        let space = if self.is_spaced { "  " } else { "" };
        let operator = if self.is_equal { "==" } else { "!=" };
        let value = if self.is_shouted {
            self.value.to_uppercase()
        } else {
            self.value.clone()
        };
        format!("{space}{}{space}{operator}{space}{value}{space}", self.key)
    }

    /// Whether the node called "n1" of the test meets it.
    fn is_met(&self, address: [u8; 4]) -> bool {
        let is_same = match self.key {
            "node.none" => return false,
            "node.id" | "node.hostname" => self.value == "n1",
            "node.role" => self.value == "worker",
            "node.platform.os" => self.value == "linux",
            "node.platform.arch" => self.value == "x86_64",
            "node.labels.zone" => self.value == "east",
            "engine.labels.disk" => self.value == "ssd",
            "node.ip" => {
                let (network, length) = self.value.split_once('/').unwrap_or((&self.value, "32"));
                let Ok(network) = network.parse::<Ipv4Addr>() else {
                    return false;
                };
                let length: u32 = length.parse().expect("a length");
                let differing = u32::from(network) ^ u32::from_be_bytes(address);
                differing.checked_shr(32 - length).unwrap_or(0) == 0
            }
            _ => false,
        };
        is_same == self.is_equal
    }
}

proptest! {
    #[test]
    fn constraints_are_met_as_their_parts_say(all in prop::collection::vec(parts(), 1..4), a in 9_u8..12, b in 0_u8..3) {
        let mut world = World::new(&["n1"]);
        let mut description = world.state.node("n1").expect("a node").description.clone();
        description.address = format!("10.{a}.{b}.1");
        description.engine_labels.insert("disk".to_owned(), "SSD".to_owned());
        world.apply(Operation::NodeUp { node_id: "n1".to_owned(), description }).expect("a node");
        set_node(&mut world, "n1", |spec| {
            spec.labels = Some(HashMap::from([("zone".to_owned(), "East".to_owned())]));
        });
        let node: &Node = world.state.node("n1").expect("a node");
        prop_assert_eq!(node.state, NodeState::Ready);
        let is_met = |p: &Parts| p.is_met([10, a, b, 1]);
        for parts in &all {
            let parsed = Constraint::parse(&parts.text()).expect("a constraint");
            prop_assert_eq!(parsed.matches(node), is_met(parts), "{:?}", parts.text());
        }
        let texts: Vec<String> = all.iter().map(Parts::text).collect();
        let placement: engine::TaskSpecPlacement =
            serde_json::from_value(json!({"Constraints": texts})).expect("a placement");
        prop_assert_eq!(fits_node(Some(&placement), node), all.iter().all(is_met));
    }

    #[test]
    fn what_parses_has_an_operator_and_two_sides(text in "[ a-z0-9.=!_é*-]{0,24}") {
        if let Ok(parsed) = Constraint::parse(&text) {
            let at = text.find("==").into_iter().chain(text.find("!=")).min().expect("an operator");
            let (key, value) = (text[..at].trim(), text[at + 2..].trim());
            prop_assert!(key.len() >= 2 && !value.is_empty());
            // Blanks do not count.
            let operator = &text[at..at + 2];
            let again = Constraint::parse(&format!(" {key} {operator} {value} ")).expect("the same");
            prop_assert_eq!(parsed, again);
        }
    }
}
