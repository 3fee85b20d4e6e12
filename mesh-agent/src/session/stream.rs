//! One connection's life.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use mesh_api::proto::{
    self, ManagerMessage, NodeMessage, dispatcher_client::DispatcherClient,
    manager_message::Message as FromManager, node_message::Message as FromNode,
};
use mesh_manager::client;
use mesh_pki::{NodeIdentity, Role, tls};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};

use super::{Connection, Elsewhere, Objection, Refused, Worker, heart::Heart};

/// Longest wait for a manager's Welcome and first assignment.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages to the manager that may wait for the network.
const OUT_QUEUE: usize = 64;
/// Assignments may be large (5,000 services); gRPC's default of 4 MiB is not our limit.
const MAX_MESSAGE: usize = 256 << 20;

/// What is said where managers do not trust the root of this node's certificate.
const DISTRUSTED: &str = "the managers do not trust the root CA of this node's certificate, and the swarm has another one by \
     now; let this one leave (`swarm leave`) and join again";

impl Worker {
    /// Connects to `manager` and serves the stream until it ends.
    pub(super) async fn session(&mut self, manager: &str) -> anyhow::Result<()> {
        let mut identity = self.config.identity.borrow_and_update().clone();
        let tls = tls::client_config(&identity)?;
        let (channel, distrust) = client::connect_watched(manager, tls).await?;
        let (sender, receiver) = mpsc::channel(OUT_QUEUE);
        send(&sender, self.hello()).await?;
        let mut messages = DispatcherClient::new(channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
            .session(ReceiverStream::new(receiver))
            .await
            .map_err(|status| match distrust.is_known() {
                true => Refused(DISTRUSTED.to_owned()).into(),
                false => elsewhere(&status).unwrap_or_else(|| refusal(status)),
            })?
            .into_inner();

        let first = timeout(WELCOME_TIMEOUT, messages.message())
            .await
            .context("the manager does not welcome the node")??;
        let Some(ManagerMessage {
            message: Some(FromManager::Welcome(welcome)),
        }) = first
        else {
            bail!("the manager's first word was not a welcome");
        };
        info!(
            manager,
            session = welcome.session_id,
            "connected to a manager"
        );
        let mut heart = Heart::start(sender.clone(), welcome.heartbeat_period_ms);
        self.learn(welcome, &identity);
        self.connection
            .send_replace(Connection::Up(manager.to_owned()));
        self.channel.send_replace(Some(channel));
        self.statuses.all_unsent();
        self.applied.mark_changed();

        let mut left = false;
        loop {
            tokio::select! {
                message = messages.message() => match message {
                    Ok(Some(ManagerMessage { message: Some(FromManager::Welcome(welcome)) })) => {
                        heart.go_by(welcome.heartbeat_period_ms);
                        self.learn(welcome, &identity);
                    }
                    Ok(Some(ManagerMessage { message: Some(message) })) => self.receive(message).await,
                    Ok(Some(ManagerMessage { message: None })) => {}
                    Ok(None) => bail!("the manager closed the session"),
                    Err(status) => return Err(refusal(status)),
                },
                statuses = self.statuses.take() => {
                    let message = FromNode::Statuses(proto::TaskStatuses { statuses });
                    send(&sender, message).await?;
                }
                Ok(()) = self.applied.changed() => {
                    let revision = *self.applied.borrow_and_update();
                    if revision > 0 {
                        send(&sender, FromNode::Applied(proto::Applied { revision })).await?;
                    }
                }
                Some(report) = self.reports.recv() => {
                    send(&sender, FromNode::Report(report)).await?;
                }
                () = self.leaving.cancelled(), if !left => {
                    left = true;
                    send(&sender, FromNode::Leaving(proto::Leaving {})).await?;
                }
                Ok(()) = self.config.cipher.changed() => send(&sender, self.hello()).await?,
                Ok(()) = self.config.mtu.changed() => send(&sender, self.hello()).await?,
                Ok(()) = self.config.identity.changed() => {
                    let now = self.config.identity.borrow_and_update().clone();
                    // A new certificate is shown in a new session.
                    if now.certificate_pem != identity.certificate_pem {
                        return Ok(());
                    }
                    identity = now;
                    send(&sender, self.hello()).await?;
                }
            }
        }
    }

    /// What the node tells of itself.
    fn hello(&mut self) -> FromNode {
        FromNode::Hello(proto::NodeDescription {
            cipher: self.config.cipher.borrow_and_update().clone(),
            mtu: *self.config.mtu.borrow_and_update(),
            trusted_root: self
                .config
                .identity
                .borrow()
                .root_digest()
                .unwrap_or_default(),
            ..self.config.description.clone()
        })
    }

    async fn receive(&mut self, message: FromManager) {
        match message {
            FromManager::Assignment(message) => {
                let mut next = self.assignment.borrow().as_ref().clone();
                next.apply(message);
                let next = Arc::new(next);
                // Kept before it is acted on: after a crash the node must not fall back behind
                // what its tasks already are.
                let file = self.config.assignment_file.clone();
                let kept = Arc::clone(&next);
                let saved = tokio::task::spawn_blocking(move || kept.save(&file)).await;
                if let Ok(Err(error)) = saved {
                    warn!(%error, "the assignment could not be kept on disk");
                }
                self.assignment.send_replace(next);
            }
            FromManager::Logs(subscription) => {
                // They are taken at once, and read on their own. Nobody takes them once the agent stops.
                let _ = self.logs.send(subscription).await;
            }
            FromManager::Query(query) => {
                // Who asks does not wait for long, and asks again.
                if self.queries.try_send(query).is_err() {
                    warn!("too many questions are waiting; one was dropped");
                }
            }
            // Taken by who keeps the session up.
            FromManager::Welcome(_) => {}
        }
    }

    /// Takes over what a manager says of the managers and of this node.
    fn learn(&self, welcome: proto::Welcome, identity: &Arc<NodeIdentity>) {
        let root = Some(welcome.root_ca_pem).filter(|pem| !pem.is_empty());
        let renew = Some(welcome.renew_within_ms).filter(|within| *within > 0);
        self.objection.send_replace(Some(Objection {
            against: identity.clone(),
            root_pem: root,
            renew_within: renew.map(|ms| Duration::from_millis(u64::from(ms))),
        }));
        if !welcome.managers.is_empty() {
            self.managers.send_replace(welcome.managers);
        }
        let role = [Role::Worker, Role::Manager]
            .into_iter()
            .find(|role| role.to_string() == welcome.role);
        self.role.send_if_modified(|known| {
            let is_news = role.is_some() && *known != role;
            if is_news {
                *known = role;
            }
            is_news
        });
    }
}

/// The leader, if a manager names it in the place of a session.
fn elsewhere(status: &tonic::Status) -> Option<anyhow::Error> {
    let address = status.metadata().get(client::LEADER_ADDRESS)?;
    Some(Elsewhere(address.to_str().ok()?.to_owned()).into())
}

/// Why a manager does not take this node, or no longer.
fn refusal(status: tonic::Status) -> anyhow::Error {
    let said = status.message();
    match status.code() {
        tonic::Code::PermissionDenied => Refused(format!(
            "{said}; let this one leave (`swarm leave`) and join again"
        ))
        .into(),
        _ => anyhow!("the session ended: {said}"),
    }
}

/// Puts a message into the queue of those that are sent.
pub(super) async fn send(
    sender: &mpsc::Sender<NodeMessage>,
    message: FromNode,
) -> anyhow::Result<()> {
    let message = NodeMessage {
        message: Some(message),
    };
    sender
        .send(message)
        .await
        .map_err(|_| anyhow!("the manager closed the session"))
}
