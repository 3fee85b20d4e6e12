//! A node that was given a certificate and does not come in, say because its manager cannot be reached, is removed by its own
//! word.

use crate::{
    Command, ErrorKind, ManagerError, Operation,
    core::Core,
    state::{NodeState, State},
};
use mesh_api::engine::{NodeSpec, NodeSpecRoleEnum};
use mesh_pki::Role;
use std::time::Duration;
use tokio::time::timeout;

/// Longest wait for all of it.
const LIMIT: Duration = Duration::from_secs(10);

/// What is to be done next.
#[derive(Debug)]
enum Step {
    /// Nothing: it is gone.
    Rest,
    /// It is demoted, and the leader takes it out of the group.
    Wait,
    /// This.
    Change(Box<Command>),
}

/// # Errors
/// The node has come in.
fn step(state: &State, node_id: &str) -> Result<Step, ManagerError> {
    let Some(node) = state.node(node_id) else {
        return Ok(Step::Rest);
    };
    if node.state != NodeState::Unknown {
        return Err(ManagerError::precondition(format!(
            "node {node_id} has been part of the swarm: it can leave"
        )));
    }
    Ok(match (node.desired_role(), node.role) {
        (Role::Manager, _) => Step::Change(Box::new(Command::UpdateNode {
            id: node.id.clone(),
            version: node.meta.version,
            spec: NodeSpec {
                role: Some(NodeSpecRoleEnum::WORKER),
                ..node.spec.clone()
            },
        })),
        (Role::Worker, Role::Manager) => Step::Wait,
        (Role::Worker, Role::Worker) => Step::Change(Box::new(Command::RemoveNode {
            id: node.id.clone(),
            force: true,
        })),
    })
}

impl Core {
    /// Removes a node that has never had a session.
    ///
    /// # Errors
    /// It has had one, or there is no leader, or it is not done in time.
    pub(crate) async fn withdraw(&self, node_id: &str) -> Result<(), ManagerError> {
        let mut index = self.store.index();
        let removed = async {
            loop {
                index.mark_unchanged();
                let next = step(&self.store.read(), node_id)?;
                match next {
                    Step::Rest => return Ok(()),
                    Step::Wait => {}
                    Step::Change(command) => {
                        match self.change(Operation::Command(*command)).await {
                            // It was changed meanwhile, which this manager is about to hear.
                            Err(error) if error == ManagerError::out_of_sequence() => {}
                            Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
                            done => drop(done?),
                        }
                    }
                }
                if index.changed().await.is_err() {
                    return Err(ManagerError::no_leader());
                }
            }
        };
        let in_time = timeout(LIMIT, removed).await;
        in_time.unwrap_or_else(|_| Err(ManagerError::no_leader()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AddNode, fixture::World};
    use mesh_api::engine::NodeSpecAvailabilityEnum;

    #[test]
    fn a_newcomer_goes_step_by_step() {
        let mut world = World::new(&["n1"]);
        for (id, role) in [("worker", Role::Worker), ("manager", Role::Manager)] {
            let add = AddNode {
                id: id.to_owned(),
                role,
                availability: NodeSpecAvailabilityEnum::ACTIVE,
                hostname: String::new(),
                manager_addr: None,
                data_path_address: String::new(),
                key: String::new(),
            };
            world.apply(Operation::AddNode(add)).unwrap();
            let mut steps = 0;
            loop {
                match step(&world.state, id).unwrap() {
                    Step::Rest => break,
                    Step::Wait => world.set_role(id, Role::Worker),
                    Step::Change(command) => drop(world.call(*command).unwrap()),
                }
                steps += 1;
                assert!(steps < 9, "{id} does not go");
            }
            assert!(world.state.node(id).is_none());
        }
    }

    #[test]
    fn one_that_has_come_in_stays() {
        let world = World::new(&["n1"]);
        let refused = step(&world.state, "n1").unwrap_err();
        assert_eq!(refused.kind, ErrorKind::FailedPrecondition);
        assert!(matches!(step(&world.state, "nobody"), Ok(Step::Rest)));
    }
}
