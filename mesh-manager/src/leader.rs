//! What a manager that does not lead asks of the one that does.

use crate::{Line, ManagerError, Outcome, Proposal, core::Core, raft::Peer, rules::check_newcomer};
use mesh_api::proto::{
    ForwardRequest, JoinRequest, ReadIndexRequest, control_client::ControlClient,
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{
    body::Body,
    codegen::http::{Request, Response, StatusCode},
};
use tower::{Service, ServiceExt};

/// Longest wait for a leader before a call fails.
const LEADER_WAIT: Duration = Duration::from_secs(10);
/// Longest wait for the leader's answer to a call of a manager's own.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest wait for a leader that was just elected to begin.
const BEGIN: Duration = Duration::from_secs(5);
/// Longest wait for the answer of one that leads no more: to its own demotion, say.
const LAST_ANSWER: Duration = Duration::from_secs(2);
/// Longest wait for the leader to let a manager in.
pub(crate) const JOIN_WAIT: Duration = Duration::from_secs(70);
/// Pause before a leader that did not take a request is looked for again.
pub(crate) const RETRY: Duration = Duration::from_millis(100);

/// What the leader answers a manager that takes it for the leader by mistake: nothing was done.
pub(crate) const NOT_LEADING: StatusCode = StatusCode::MISDIRECTED_REQUEST;
/// Where the leader serves the Engine API to other managers.
pub(crate) const ENGINE: &str = "/engine";

/// Who answers for the cluster.
pub enum Lead {
    /// This manager; what it has applied holds all that was acknowledged before, unless it cannot write.
    Here,
    /// Another one.
    There(Remote),
}

/// Another manager, which leads.
pub struct Remote {
    core: Arc<Core>,
    peer: Peer,
}

/// Why a request was not answered by the leader.
#[derive(Debug)]
pub enum CallError {
    /// Nothing was done: it may be asked again.
    NotTaken(ManagerError),
    /// It may have been done.
    Lost(ManagerError),
}

/// The connection to the last leader that was asked.
#[derive(Default)]
pub(crate) struct LeaderChannel(Mutex<Option<(String, Line)>>);

impl LeaderChannel {
    fn get(&self, address: &str) -> Option<Line> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, channel) = kept.as_ref()?;
        (at == address).then(|| channel.clone())
    }

    /// The next call connects anew.
    pub(crate) fn forget(&self) {
        self.set(None);
    }

    fn set(&self, to: Option<(String, Line)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }
}

fn unreachable(address: &str, error: impl std::fmt::Display) -> ManagerError {
    ManagerError::new(
        crate::ErrorKind::Unavailable,
        format!("cannot reach the leader at {address}: {error}"),
    )
}

impl Remote {
    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Asks it by the Engine API. What it has taken on is waited for as long as it leads, the rest until `deadline`.
    ///
    /// # Errors
    /// It does not lead any more, cannot be reached, or was lost before it answered.
    pub async fn call(
        &self,
        mut request: Request<Body>,
        deadline: Instant,
    ) -> Result<Response<Body>, CallError> {
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
        let uri = format!("{ENGINE}{path}").parse();
        *request.uri_mut() =
            uri.map_err(|e| CallError::Lost(ManagerError::invalid(format!("bad path: {e}"))))?;
        let address = &self.peer.addr;
        let connected = timeout_at(deadline, async {
            let mut channel = self.core.channel(address).await?;
            let ready = channel.ready().await;
            ready.map_err(|e| unreachable(address, e))?;
            Ok(channel)
        });
        // Nothing is sent yet.
        let mut channel = match connected.await {
            Ok(connected) => connected.map_err(CallError::NotTaken)?,
            Err(_) => return Err(CallError::NotTaken(ManagerError::no_leader())),
        };
        let lost = |e: &dyn std::fmt::Display| {
            self.core.leader_channel.forget();
            CallError::Lost(unreachable(address, e))
        };
        let mut leadership = self.core.consensus.leadership();
        let answer = tokio::select! {
            answer = channel.call(request) => answer.map_err(|e| lost(&e))?,
            () = async {
                let lost = leadership.wait_for(|l| l.leader.as_ref() != Some(&self.peer));
                drop(lost.await);
                tokio::time::sleep(LAST_ANSWER).await;
            } => {
                return Err(lost(&"it does not lead any more"));
            }
        };
        match answer.status() {
            NOT_LEADING => Err(CallError::NotTaken(ManagerError::no_leader())),
            _ => Ok(answer),
        }
    }
}

impl Core {
    /// A connection to the leader at `address`.
    pub(crate) async fn channel(&self, address: &str) -> Result<Line, ManagerError> {
        if let Some(channel) = self.leader_channel.get(address) {
            return Ok(channel);
        }
        let machine = &self.config.machine;
        let channel = machine
            .connect(address, self.credentials.client())
            .await
            .map_err(|e| unreachable(address, e))?;
        self.leader_channel
            .set(Some((address.to_owned(), channel.clone())));
        Ok(channel)
    }

    /// Who answers for the cluster; waits for a leader until `deadline`.
    pub(crate) async fn lead(self: &Arc<Self>, deadline: Instant) -> Result<Lead, ManagerError> {
        loop {
            // It takes no part: what it has in memory can be read, and changes are refused with the reason.
            if self.leadership().failure.is_some() && self.is_only_manager() {
                return Ok(Lead::Here);
            }
            let peer = self.leader(deadline).await?;
            if peer.node_id != self.identity.node_id {
                return Ok(Lead::There(Remote {
                    core: self.clone(),
                    peer,
                }));
            }
            // A disk that stands still holds up the answer.
            if let Ok(true) = timeout_at(deadline, self.leads_now()).await {
                return Ok(Lead::Here);
            }
            if Instant::now() + RETRY > deadline {
                return Err(ManagerError::no_leader());
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Whether this manager leads, with a majority, and has applied everything that was acknowledged.
    pub(crate) async fn leads_now(&self) -> bool {
        // Nobody else can have been elected where there is nobody else.
        *self.leading.borrow()
            && (self.is_only_manager() || self.consensus.catch_up().await.is_ok())
    }

    /// Waits until this manager, if it is the leader, has applied what former ones committed.
    pub(crate) async fn begins_to_lead(&self) -> Result<(), ManagerError> {
        let (mut leading, mut leadership) = (self.leading.subscribe(), self.consensus.leadership());
        let led = async {
            tokio::select! {
                led = leading.wait_for(|leads| *leads) => led.is_ok(),
                _ = leadership.wait_for(|l| !l.is_self) => false,
            }
        };
        match timeout(BEGIN, led).await {
            Ok(true) => Ok(()),
            _ => Err(ManagerError::no_leader()),
        }
    }

    /// Whether no other manager has a vote.
    pub(crate) fn is_only_manager(&self) -> bool {
        let managers = self.consensus.managers();
        managers.len() == 1 && managers[0].node_id == self.identity.node_id
    }

    /// The leader, as soon as there is one.
    pub(crate) async fn leader(&self, deadline: Instant) -> Result<Peer, ManagerError> {
        let mut changes = self.consensus.leadership();
        let found = changes.wait_for(|l| l.leader.is_some() || l.failure.is_some());
        let Ok(Ok(leadership)) = timeout_at(deadline, found).await else {
            return Err(ManagerError::no_leader());
        };
        if let Some(failure) = &leadership.failure {
            return Err(failure.clone());
        }
        leadership
            .leader
            .clone()
            .ok_or_else(ManagerError::no_leader)
    }

    /// When who waits for a leader gives up.
    pub(crate) fn patience() -> Instant {
        Instant::now() + LEADER_WAIT
    }

    /// Commits and applies a proposal here or, on a follower, at the leader.
    pub(crate) async fn commit(&self, proposal: Proposal) -> Outcome {
        let leader = self.leader(Self::patience()).await?;
        if leader.node_id == self.identity.node_id {
            return self.proposer.propose(proposal).await;
        }
        let failed = |e: &dyn std::fmt::Display| unreachable(&leader.addr, e);
        let command_json = serde_json::to_vec(&proposal).map_err(|e| failed(&e))?;
        let channel = self.channel(&leader.addr).await?;
        let mut request = tonic::Request::new(ForwardRequest { command_json });
        request.set_timeout(ANSWER);
        let answer = ControlClient::new(channel)
            .forward(request)
            .await
            .map_err(|e| failed(&e.message()))?;
        serde_json::from_slice::<Outcome>(&answer.into_inner().result_json)
            .map_err(|e| failed(&e))?
    }

    /// Waits until the state here holds all that was acknowledged, by any manager, before. A leader that cannot be asked, or
    /// whose majority is late, is asked again for a while. Gives the node ids of the managers that the leader hears of.
    pub(crate) async fn catch_up(&self) -> Result<BTreeSet<String>, ManagerError> {
        let deadline = Self::patience();
        loop {
            let leader = self.leader(deadline).await?;
            let error = match timeout_at(deadline, self.catch_up_with(&leader)).await {
                Ok(Ok(reachable)) => return Ok(reachable),
                Ok(Err(error)) => error,
                Err(_) => return Err(ManagerError::no_leader()),
            };
            if Instant::now() + RETRY > deadline {
                return Err(error);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn catch_up_with(&self, leader: &Peer) -> Result<BTreeSet<String>, ManagerError> {
        if leader.node_id == self.identity.node_id {
            self.begins_to_lead().await?;
            if !self.leads_now().await {
                return Err(ManagerError::no_leader());
            }
            return Ok(self.consensus.reachable());
        }
        let channel = self.channel(&leader.addr).await?;
        let mut request = tonic::Request::new(ReadIndexRequest {});
        request.set_timeout(ANSWER);
        let answer = ControlClient::new(channel).read_index(request).await;
        let answer = answer
            .map_err(|e| unreachable(&leader.addr, e.message()))?
            .into_inner();
        let mut index = self.store.index();
        let reached = timeout(ANSWER, index.wait_for(|index| *index >= answer.index)).await;
        match reached {
            Ok(Ok(_)) => Ok(answer.reachable.into_iter().collect()),
            _ => Err(ManagerError::no_leader()),
        }
    }

    /// Lets a manager take part that says to know these `rules`: here, or at the leader unless this call `is_forwarded`
    /// already.
    pub(crate) async fn let_in(
        &self,
        manager: Peer,
        rules: u32,
        is_forwarded: bool,
    ) -> Result<(), tonic::Status> {
        use crate::server::status;
        let leader = self.leader(Self::patience()).await.map_err(status)?;
        if leader.node_id == self.identity.node_id {
            check_newcomer(rules, self.store.read().rules()).map_err(status)?;
            let at = crate::Operation::ManagerAt {
                node_id: manager.node_id.clone(),
                address: manager.addr.clone(),
            };
            self.proposer.operation(at).await.map_err(status)?;
            return self.consensus.admit(&manager, rules).await.map_err(status);
        }
        if is_forwarded {
            return Err(status(ManagerError::no_leader()));
        }
        let channel = self.channel(&leader.addr).await.map_err(status)?;
        let mut request = tonic::Request::new(JoinRequest {
            node_id: manager.node_id,
            address: manager.addr,
            rules,
        });
        request.set_timeout(JOIN_WAIT);
        ControlClient::new(channel).join(request).await.map(drop)
    }
}
