//! A cluster whose managers are lost goes on with one. This is no entry of the log: it takes the place of the log.

use super::{Context, node};
use crate::{
    AddNode, ManagerError,
    state::{State, engine_role},
};
use mesh_pki::{Role, new_id};

/// By so much the index rises: beyond all that the former group may have counted to since this state, so that no version of
/// an object and no revision that a node has applied comes again.
const STEP: u64 = 1 << 32;

/// The one manager that a cluster goes on with.
#[derive(Debug, Clone)]
pub(crate) struct Survivor {
    /// Its node. One that the state does not know is added.
    pub(crate) node: AddNode,
    /// Now, nanoseconds since the epoch.
    pub(crate) time: i64,
    /// What its group of managers differs by from all former ones, see [`State::incarnation`].
    pub(crate) incarnation: String,
}

impl Survivor {
    /// This node from now on.
    pub(crate) fn new(node: AddNode, time: i64) -> Self {
        Self {
            node,
            time,
            incarnation: new_id(),
        }
    }
}

/// Makes `survivor` the only manager of the cluster. All others are demoted: their certificates from before make them
/// managers no more. Everything else stays as it is.
///
/// # Errors
/// There is no cluster in this state, or the survivor's address cannot be used in it.
pub(crate) fn rebuild(state: &mut State, survivor: &Survivor) -> Result<(), ManagerError> {
    if state.cluster().is_none() {
        return Err(ManagerError::precondition(
            "this manager has no state of the swarm to go on with: it has not got any yet",
        ));
    }
    let id = &survivor.node.id;
    let mut cx = Context {
        index: state.index() + STEP,
        time: survivor.time,
        seed: [0; 16],
        rules: state.rules(),
        ids: 0,
    };
    state.time = survivor.time;
    if state.node(id).is_none() {
        if let Some(address) = &survivor.node.manager_addr {
            node::check_manager_address(state, address)?;
        }
        node::add(state, &mut cx, &survivor.node)?;
    }
    state.index = cx.index;
    let others = |node: &&crate::state::Node| {
        node.id != *id && (node.role == Role::Manager || node.desired_role() == Role::Manager)
    };
    let lost: Vec<_> = state.nodes().filter(others).cloned().collect();
    for mut node in lost {
        node.spec.role = Some(engine_role(Role::Worker));
        node.role = Role::Worker;
        node.demoted_at = Some(survivor.time);
        node.manager_addr = None;
        cx.touch(&mut node.meta);
        state.put_node(node);
    }
    if let Some(mut node) = state.node(id).cloned() {
        node.spec.role = Some(engine_role(Role::Manager));
        node.role = Role::Manager;
        node.manager_addr.clone_from(&survivor.node.manager_addr);
        cx.touch(&mut node.meta);
        state.put_node(node);
    }
    state.begin_incarnation(&survivor.incarnation);
    // Nobody is there yet to be told of it.
    state.take_events();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{World, published};
    use mesh_api::engine::{NodeSpecAvailabilityEnum, NodeSpecRoleEnum};

    fn survivor(id: &str, time: i64) -> Survivor {
        let node = AddNode {
            id: id.to_owned(),
            role: Role::Manager,
            availability: NodeSpecAvailabilityEnum::ACTIVE,
            hostname: id.to_owned(),
            manager_addr: Some("192.0.2.7:2377".to_owned()),
            data_path_address: String::new(),
            key: String::new(),
        };
        Survivor::new(node, time)
    }

    #[test]
    fn one_manager_is_left_and_all_else_stays() {
        // "m" is the first manager; n1 is one too, n2 is on its way to be one.
        for (left, lost) in [("m", ["n1", "n2"]), ("n1", ["m", "n2"])] {
            let mut world = World::new(&["n1", "n2", "n3"]);
            world.want_role("n1", NodeSpecRoleEnum::MANAGER).unwrap();
            world.set_role("n1", Role::Manager);
            world.want_role("n2", NodeSpecRoleEnum::MANAGER).unwrap();
            let (before, index) = (world.state.clone(), world.state.index());
            let first = survivor(left, world.now);
            rebuild(&mut world.state, &first).unwrap();
            let state = &world.state;
            assert_eq!(state.index(), index + STEP);
            assert_ne!(state.incarnation, before.incarnation);
            for id in lost {
                let node = state.node(id).unwrap();
                assert_eq!(
                    (node.role, node.desired_role()),
                    (Role::Worker, Role::Worker)
                );
                assert_eq!(node.manager_addr, None, "{id}");
                assert!(!state.honours_manager(id, world.now), "{id}");
                assert!(state.honours_manager(id, world.now + 1), "promoted again");
            }
            let node = state.node(left).unwrap();
            assert_eq!(
                (node.role, node.desired_role()),
                (Role::Manager, Role::Manager)
            );
            assert_eq!(node.manager_addr.as_deref(), Some("192.0.2.7:2377"));
            assert_eq!(node.meta.version, index + STEP);
            let worker = |state: &State| serde_json::to_value(state.node("n3").unwrap()).unwrap();
            assert_eq!(worker(state), worker(&before));
            let rest = |state: &State| {
                let mut value = serde_json::to_value(state).unwrap();
                let all = value.as_object_mut().unwrap();
                for changed in ["index", "nodes", "incarnation"] {
                    all.remove(changed);
                }
                value
            };
            assert_eq!(rest(state), rest(&before));
            // Every time it is another group.
            let again = survivor(left, world.now);
            let incarnation = state.incarnation.clone();
            rebuild(&mut world.state, &again).unwrap();
            assert_ne!(world.state.incarnation, incarnation);
            assert!(world.state.lineage().follows(&incarnation));
            assert!(world.state.lineage().follows(&before.incarnation));
            assert_eq!(world.state.index(), index + 2 * STEP);
        }
    }

    #[test]
    fn a_node_that_is_new_is_added() {
        let mut world = World::new(&["n1"]);
        rebuild(&mut world.state, &survivor("new", world.now)).unwrap();
        let managers = world.state.nodes().filter(|n| n.role == Role::Manager);
        let managers: Vec<&str> = managers.map(|n| n.id.as_str()).collect();
        assert_eq!(managers, ["new"]);
    }

    #[test]
    fn a_new_node_is_not_reached_where_a_service_is() {
        let mut world = World::new(&["n1"]);
        world.service(published("web", 2377, false)).unwrap_err();
        world.service(published("web", 8080, false)).unwrap();
        let mut taken = survivor("new", world.now);
        taken.node.manager_addr = Some("192.0.2.7:8080".to_owned());
        let refused = rebuild(&mut world.state, &taken).unwrap_err();
        assert!(refused.message.contains("publishes port 8080"), "{refused}");
    }

    #[test]
    fn nothing_comes_of_nothing() {
        let mut state = State::default();
        let refused = rebuild(&mut state, &survivor("m", 1)).unwrap_err();
        assert!(
            refused.message.contains("no state of the swarm"),
            "{refused}"
        );
        assert_eq!((state.index(), state.nodes().count()), (0, 0));
    }
}
