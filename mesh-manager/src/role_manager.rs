//! Brings nodes' roles to what their specs ask for, while this manager leads: a node that is promoted gets its role, and
//! comes into the group of managers by itself; one that is demoted is taken out of the group, then gets its role.

use crate::{
    Command, ManagerError, Operation,
    core::Core,
    state::{Node, State},
};
use mesh_api::engine::NodeSpecRoleEnum;
use mesh_pki::Role;
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// Pause before something that failed is tried again, say because too few managers answer.
const RETRY: Duration = Duration::from_secs(1);
/// How long a demotion is waited for, so that who asks may go on with `node rm`.
const SETTLE: Duration = Duration::from_secs(5);
/// Pause before another look at it.
const LOOK: Duration = Duration::from_millis(20);

/// Runs until the manager stops; works only while it leads.
pub(crate) async fn run(core: Arc<Core>) {
    let work = |core: Arc<Core>| async move { reconcile(&core).await };
    core.while_leading(work).await;
}

async fn reconcile(core: &Core) {
    let mut index = core.store.index();
    loop {
        index.mark_unchanged();
        let mut settled = core.consensus.finish_change().await;
        let changes = changes(&core.store.read());
        for (node_id, role) in changes {
            if let Err(error) = settle(core, &node_id, role).await {
                tracing::warn!(node = node_id, %role, %error, "the node does not have its role yet");
                settled = Err(error);
            }
        }
        if settled.is_err() {
            tokio::time::sleep(RETRY).await;
        } else if index.changed().await.is_err() {
            return;
        }
    }
}

/// Nodes whose role is not what it should be, and what that is.
fn changes(state: &State) -> Vec<(String, Role)> {
    let differs = |node: &&Node| node.role != node.desired_role();
    let wanted = |node: &Node| (node.id.clone(), node.desired_role());
    state.nodes().filter(differs).map(wanted).collect()
}

async fn settle(core: &Core, node_id: &str, role: Role) -> Result<(), ManagerError> {
    if role == Role::Worker {
        // Where this is the manager itself, its successor goes on.
        core.consensus.expel(node_id).await?;
    }
    let set = Operation::SetRole {
        node_id: node_id.to_owned(),
        role,
    };
    core.proposer.operation(set).await.map(drop)
}

impl Core {
    /// The node that a command makes a manager no more.
    pub(crate) fn demotes(&self, command: &Command) -> Option<String> {
        let Command::UpdateNode { id, spec, .. } = command else {
            return None;
        };
        let state = self.store.read();
        let node = state.find_node(id).ok()?;
        let demotes = spec.role == Some(NodeSpecRoleEnum::WORKER) && node.role == Role::Manager;
        demotes.then(|| node.id.clone())
    }

    /// Refuses to demote a manager without which too few are left that answer. The leader alone knows; a change that
    /// reaches it by another way waits until there are enough.
    pub(crate) fn check_demotion(&self, node_id: &str) -> Result<(), ManagerError> {
        let is_last = {
            let state = self.store.read();
            let mut managers = state.nodes().filter(|n| n.desired_role() == Role::Manager);
            managers.all(|n| n.id == node_id)
        };
        // The state says what is wrong with that.
        if is_last || !*self.leading.borrow() || self.consensus.can_remove(node_id) {
            return Ok(());
        }
        Err(ManagerError::loses_quorum())
    }

    /// Waits for a while until a node that is demoted has left the group, and this manager knows.
    pub(crate) async fn wait_for_demotion(&self, node_id: &str) {
        let is_manager = || {
            let state = self.store.read();
            let node = state.node(node_id);
            node.is_some_and(|node| node.role == Role::Manager)
        };
        // One that is out of the group itself is told no more.
        let is_told = || self.consensus.is_member(&self.identity.node_id);
        let settled = async {
            while is_manager() && is_told() {
                tokio::time::sleep(LOOK).await;
            }
        };
        if timeout(SETTLE, settled).await.is_err() {
            tracing::warn!(node = node_id, "the node is being demoted still");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::World;
    use mesh_api::engine::NodeSpec;

    #[test]
    fn what_differs_is_changed() {
        let mut world = World::new(&["n1", "n2"]);
        assert!(changes(&world.state).is_empty());
        world.want_role("n1", NodeSpecRoleEnum::MANAGER).unwrap();
        assert_eq!(changes(&world.state), [("n1".to_owned(), Role::Manager)]);
        world.set_role("n1", Role::Manager);
        world.want_role("m", NodeSpecRoleEnum::WORKER).unwrap();
        assert_eq!(changes(&world.state), [("m".to_owned(), Role::Worker)]);
        world.set_role("m", Role::Worker);
        assert!(changes(&world.state).is_empty());
        // A spec that is silent changes nothing.
        let version = world.state.node("n1").unwrap().meta.version;
        let silent = Command::UpdateNode {
            id: "n1".to_owned(),
            version,
            spec: NodeSpec::default(),
        };
        world.call(silent).unwrap();
        assert!(changes(&world.state).is_empty());
    }
    #[test]
    fn a_manager_is_removed_once_it_is_none() {
        let mut world = World::new(&["n1"]);
        let remove = |id: &str| Command::RemoveNode {
            id: id.to_owned(),
            force: true,
        };
        let refused = |error: ManagerError| {
            assert!(error.message.contains("must be demoted"), "{error}");
        };
        let error = world.want_role("m", NodeSpecRoleEnum::WORKER).unwrap_err();
        assert!(error.message.ends_with("the last manager of the swarm"));
        world.want_role("n1", NodeSpecRoleEnum::MANAGER).unwrap();
        refused(world.call(remove("n1")).unwrap_err());
        world.set_role("n1", Role::Manager);
        refused(world.call(remove("n1")).unwrap_err());
        world.want_role("n1", NodeSpecRoleEnum::WORKER).unwrap();
        // The other one is the last that is to be one.
        let error = world.want_role("m", NodeSpecRoleEnum::WORKER).unwrap_err();
        assert!(error.message.ends_with("the last manager of the swarm"));
        refused(world.call(remove("n1")).unwrap_err());
        world.set_role("n1", Role::Worker);
        world.call(remove("n1")).unwrap();
    }

    #[test]
    fn a_role_that_is_not_wanted_any_more_is_not_given() {
        let mut world = World::new(&["n1"]);
        world.want_role("n1", NodeSpecRoleEnum::MANAGER).unwrap();
        world.set_role("n1", Role::Worker);
        assert_eq!(changes(&world.state), [("n1".to_owned(), Role::Manager)]);
        world.set_role("n1", Role::Manager);
        world.want_role("n1", NodeSpecRoleEnum::WORKER).unwrap();
        world.set_role("n1", Role::Manager);
        assert_eq!(changes(&world.state), [("n1".to_owned(), Role::Worker)]);
    }

    #[test]
    fn certificates_from_before_a_demotion_make_no_manager() {
        let mut world = World::new(&["n1", "n2"]);
        let before = world.now - 1;
        // Here since before; a worker that has been promoted since; unknown yet.
        for id in ["m", "n1", "new"] {
            assert!(world.state.honours_manager(id, before), "{id}");
        }
        world.want_role("n1", NodeSpecRoleEnum::MANAGER).unwrap();
        world.set_role("n1", Role::Manager);
        world.want_role("n1", NodeSpecRoleEnum::WORKER).unwrap();
        world.set_role("n1", Role::Worker);
        assert!(!world.state.honours_manager("n1", before));
        let after = world.now + 1;
        assert!(world.state.honours_manager("n1", after), "promoted again");
        let remove = Command::RemoveNode {
            id: "n1".to_owned(),
            force: true,
        };
        world.call(remove).unwrap();
        assert!(!world.state.honours_manager("n1", after), "removed");
    }
}
