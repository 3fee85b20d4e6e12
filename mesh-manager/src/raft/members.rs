//! Who takes part: managers come in without a vote first, and get one once they have the log.

use super::{
    OpenRaft, Peer,
    open_raft::peer,
    types::{Raft, RaftId, RaftPeer, raft_id},
};
use crate::{ErrorKind, ManagerError, rules::check_newcomer};
use openraft::{
    ChangeMembers,
    error::{ClientWriteError, RaftError},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::timeout;

/// Longest wait for a manager that joins to have the log. It goes on being sent after that, so that another try begins
/// further on.
const CATCH_UP: Duration = Duration::from_secs(60);
/// Longest wait for its first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(8);

/// Whether a majority answers of those who have a vote without `leaving`.
fn keeps_quorum(
    voters: impl IntoIterator<Item = RaftId>,
    leaving: RaftId,
    answers: impl Fn(RaftId) -> bool,
) -> bool {
    let (mut left, mut reachable) = (0, 0);
    for voter in voters.into_iter().filter(|voter| *voter != leaving) {
        left += 1;
        reachable += usize::from(answers(voter));
    }
    reachable > left / 2
}

fn failed(error: RaftError<RaftId, ClientWriteError<RaftId, RaftPeer>>) -> ManagerError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => ManagerError::no_leader(),
        error => ManagerError::internal("cannot change the group of managers", error),
    }
}

impl OpenRaft {
    /// Managers with a vote.
    pub(super) fn voters(&self) -> Vec<Peer> {
        let metrics = self.raft().server_metrics();
        let metrics = metrics.borrow();
        let members = metrics.membership_config.membership();
        let voters = members.voter_ids().filter_map(|id| members.get_node(&id));
        voters.map(peer).collect()
    }

    /// Node ids of the managers that have answered lately, and this one's.
    pub(super) fn heard_of(&self) -> BTreeSet<String> {
        let metrics = self.raft().server_metrics();
        let metrics = metrics.borrow();
        let nodes = metrics.membership_config.membership().nodes();
        nodes
            .filter(|(id, _)| **id == self.own || self.heard.is_reachable(**id))
            .map(|(_, node)| node.node_id.clone())
            .collect()
    }

    async fn change(&self, raft: &Raft, change: Change) -> Result<(), ManagerError> {
        let changed = self.while_leading(raft.change_membership(change, false));
        changed.await?.map(drop).map_err(failed)
    }

    /// See [`super::Consensus::admit`].
    pub(super) async fn let_in(&self, manager: &Peer, rules: u32) -> Result<(), ManagerError> {
        let _changing = self.changing.lock().await;
        check_newcomer(rules, self.store.read().rules())?;
        let (raft, id) = (self.raft(), raft_id(&manager.node_id));
        let node = RaftPeer {
            node_id: manager.node_id.clone(),
            addr: manager.addr.clone(),
        };
        self.finish(&raft).await?;
        let (known, votes) = self.standing(id);
        if known.as_ref() == Some(&node) && votes {
            return Ok(());
        }
        if known.as_ref() != Some(&node) {
            let nodes = BTreeMap::from([(id, node)]);
            self.change(&raft, ChangeMembers::SetNodes(nodes)).await?;
        }
        if !votes {
            let caught_up = self.wait_until_caught_up(&raft, id, manager).await;
            if let Err(error) = &caught_up
                && error.kind == ErrorKind::FailedPrecondition
            {
                // It is told that it is not let in.
                let ids = BTreeSet::from([id]);
                self.change(&raft, ChangeMembers::RemoveNodes(ids)).await?;
            }
            caught_up?;
            let ids = BTreeSet::from([id]);
            self.change(&raft, ChangeMembers::AddVoterIds(ids)).await?;
        }
        Ok(())
    }

    /// See [`super::Consensus::expel`].
    pub(super) async fn let_out(&self, node_id: &str) -> Result<(), ManagerError> {
        let _changing = self.changing.lock().await;
        let (raft, id) = (self.raft(), raft_id(node_id));
        self.finish(&raft).await?;
        let ids = BTreeSet::from([id]);
        match self.standing(id) {
            (None, _) => Ok(()),
            (Some(_), false) => self.change(&raft, ChangeMembers::RemoveNodes(ids)).await,
            (Some(_), true) if !self.can_spare(id) => Err(ManagerError::loses_quorum()),
            (Some(_), true) => self.change(&raft, ChangeMembers::RemoveVoters(ids)).await,
        }
    }

    /// See [`super::Consensus::can_remove`].
    pub(super) fn can_spare(&self, id: RaftId) -> bool {
        let metrics = self.raft().server_metrics();
        let metrics = metrics.borrow();
        let voters = metrics.membership_config.membership().voter_ids();
        keeps_quorum(voters, id, |voter| {
            voter == self.own || self.heard.is_reachable(voter)
        })
    }

    /// How a manager is known to the group, and whether it has a vote.
    pub(super) fn standing(&self, id: RaftId) -> (Option<RaftPeer>, bool) {
        let metrics = self.raft().server_metrics();
        let metrics = metrics.borrow();
        let members = metrics.membership_config.membership();
        let votes = members.voter_ids().any(|voter| voter == id);
        (members.get_node(&id).cloned(), votes)
    }

    /// See [`super::Consensus::finish_change`].
    pub(super) async fn finish(&self, raft: &Raft) -> Result<(), ManagerError> {
        let is_joint = {
            let metrics = raft.server_metrics();
            let metrics = metrics.borrow();
            let members = metrics.membership_config.membership();
            members.get_joint_config().len() > 1
        };
        if is_joint {
            // The second step of a change is the same for all of them.
            let none = ChangeMembers::AddVoterIds(BTreeSet::new());
            self.change(raft, none).await?;
        }
        Ok(())
    }

    /// Waits until the manager has what the log holds now.
    async fn wait_until_caught_up(
        &self,
        raft: &Raft,
        id: RaftId,
        manager: &Peer,
    ) -> Result<(), ManagerError> {
        let mut metrics = raft.metrics();
        let wanted = metrics.borrow().last_log_index;
        let caught_up = metrics.wait_for(|metrics| {
            let matched = metrics.replication.as_ref().and_then(|all| all.get(&id));
            matched.is_some_and(|log_id| log_id.map(|l| l.index) >= wanted)
        });
        // Without an answer for so long, there will be none.
        let unreachable = async {
            tokio::time::sleep(FIRST_ANSWER).await;
            while self.heard.may_answer(id) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let caught_up = self.while_leading(timeout(CATCH_UP, caught_up));
        tokio::select! {
            waited = caught_up => match waited? {
                Ok(_) => Ok(()),
                Err(_) => Err(ManagerError::new(
                    ErrorKind::Unavailable,
                    format!("the manager at {} has not got the state in time; try again", manager.addr),
                )),
            },
            () = unreachable => Err(ManagerError::precondition(format!(
                "the leader cannot reach a manager at {}: check --advertise-addr, --listen-addr and that port is open",
                manager.addr
            ))),
        }
    }
}

type Change = ChangeMembers<RaftId, RaftPeer>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_has_to_answer_without_the_one_that_goes() {
        let table: &[(&[RaftId], &[RaftId], RaftId, bool)] = &[
            // Voters, those who answer, who goes.
            (&[1], &[1], 1, false),
            (&[1, 2], &[1, 2], 2, true),
            (&[1, 2], &[1, 2], 1, true),
            (&[1, 2], &[1], 2, true),
            (&[1, 2, 3], &[1, 2, 3], 3, true),
            (&[1, 2, 3], &[1, 2], 3, true),
            (&[1, 2, 3], &[1, 2], 2, false),
            (&[1, 2, 3, 4], &[1, 2, 3], 3, true),
            (&[1, 2, 3, 4], &[1, 2, 3], 4, true),
            (&[1, 2, 3, 4, 5], &[1, 2, 3], 3, false),
            (&[1, 2, 3, 4, 5], &[1, 2, 3], 4, true),
        ];
        for (voters, answering, leaving, kept) in table {
            let keeps = keeps_quorum(voters.iter().copied(), *leaving, |id| {
                answering.contains(&id)
            });
            assert_eq!(keeps, *kept, "{voters:?} {answering:?} {leaving}");
        }
    }
}
