//! States that show what is not so, for plants: so one sees that the checks of a state see.

use crate::{rules::Seen, sim::Sim, violation::Plant};
use mesh_manager::state::State;
use serde_json::{Value, json};

/// Ghosts of a task: more than any service may have.
const GHOSTS: usize = 50;

/// What is shown in the place of `state`, if that is planted, and there is anything to lie about.
pub(crate) fn told(sim: &Sim, state: &State, seen: &Seen) -> Option<State> {
    let lie = match sim.plant? {
        Plant::TwinAddresses => twin_addresses,
        Plant::TwinPorts => twin_ports,
        Plant::TwinResources => twin_resources,
        Plant::GhostTasks => ghost_tasks,
        Plant::YoungTasks => young_tasks,
        Plant::ClosedNodes => closed_nodes,
        Plant::TurnedBack if seen.index() > 1 => turned_back,
        _ => return None,
    };
    let mut shown = serde_json::to_value(state).ok()?;
    lie(&mut shown)?;
    let mut shown: State = serde_json::from_value(shown).ok()?;
    shown.rebuild_indexes();
    Some(shown)
}

fn objects<'a>(state: &'a mut Value, kind: &str) -> Option<impl Iterator<Item = &'a mut Value>> {
    Some(state[kind].as_object_mut()?.values_mut())
}

/// All services that have virtual addresses have the same.
fn twin_addresses(state: &mut Value) -> Option<()> {
    let mut vips = objects(state, "services")?.map(|service| &mut service["vips"]);
    let first = vips.find(|vips| !vips[0].is_null())?.clone();
    vips.for_each(|vips| *vips = first.clone());
    Some(())
}

/// All services that publish ports publish the same.
fn twin_ports(state: &mut Value) -> Option<()> {
    let mut ports = objects(state, "services")?.map(|service| &mut service["ports"]);
    let first = ports.find(|ports| ports[0]["mode"] == "Ingress")?.clone();
    ports.for_each(|ports| *ports = first.clone());
    Some(())
}

/// All tasks on a node that hold generic resources hold the same.
fn twin_resources(state: &mut Value) -> Option<()> {
    let is_holder = |task: &&mut Value| is_running(task) && !task["generic_resources"].is_null();
    let first = objects(state, "tasks")?.find(is_holder)?;
    let (node, resources) = (first["node_id"].clone(), first["generic_resources"].clone());
    let holders = objects(state, "tasks")?.filter(is_holder);
    let twins = holders.filter(|task| task["node_id"] == node);
    twins.for_each(|task| task["generic_resources"] = resources.clone());
    Some(())
}

/// A running task is there many times.
fn ghost_tasks(state: &mut Value) -> Option<()> {
    let index = state["index"].as_u64()?;
    let running = objects(state, "tasks")?.find(|task| is_running(task));
    let mut ghost = running?.clone();
    // They are all in nobody's way.
    (ghost["attachments"], ghost["host_ports"]) = (json!([]), json!([]));
    ghost["generic_resources"] = json!({});
    for number in 0..GHOSTS {
        let id = format!("ghost{index}x{number}");
        ghost["id"] = json!(id);
        state["tasks"][id] = ghost.clone();
    }
    Some(())
}

fn is_running(task: &Value) -> bool {
    task["status"]["state"] == "running" && task["desired"] == "running"
}

/// Running tasks have not been started.
fn young_tasks(state: &mut Value) -> Option<()> {
    let running = objects(state, "tasks")?.filter(|task| is_running(task));
    running.for_each(|task| task["status"]["state"] = json!("ready"));
    Some(())
}

/// Every node is drained.
fn closed_nodes(state: &mut Value) -> Option<()> {
    objects(state, "nodes")?.for_each(|node| node["spec"]["Availability"] = json!("drain"));
    Some(())
}

fn turned_back(state: &mut Value) -> Option<()> {
    state["index"] = json!(1);
    Some(())
}
