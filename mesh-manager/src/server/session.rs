//! One node's session: its description, heartbeats, reports and acknowledgements in; assignments
//! out, each as a difference to what it was sent before.

use super::ca::status;
use crate::{
    Cipher, GENERIC_RESOURCES, NodeReport, Operation,
    apply::cipher::give_back,
    client::LEADER_ADDRESS,
    core::Core,
    dispatcher::{Sent, Session},
    orchestrator::heartbeat_period,
    state::{Cluster, Node, NodeState, State, TaskState, TaskStatus},
    text::cut,
};
use futures::Stream;
use mesh_api::{
    generic_resource,
    proto::{
        self, ManagerMessage, NodeDescription, NodeMessage, Welcome,
        manager_message::Message as Out, node_message::Message as In,
    },
};
use prost::Message;
use rustls::pki_types::CertificateDer;
use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// A node has to introduce itself within this time.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// Messages that may wait for a slow node.
const BACKLOG: usize = 16;
/// Batches of reports that may wait for consensus; a node that sends more is not read on until then.
const REPORTS: usize = 64;
/// Reports that come within this time share a proposal.
const REPORT_GATHER: Duration = Duration::from_millis(5);

/// Longest text that a node says of a task, bytes. What is longer is cut: it goes to every manager's log.
const TEXT: usize = 4 << 10;
/// Longest description of a node, bytes.
const DESCRIPTION: usize = 256 << 10;
/// Bytes of reports that share a proposal, about. Written as JSON they are six times as many at worst, which is less than a
/// [`proposal`](crate::proposer::MAX_PROPOSAL_BYTES) may have.
const REPORTED: usize = 4 << 20;
/// What a report takes besides its texts, bytes, about.
const REPORT: usize = 256;

/// Pause between two looks of a session at the state, for each session that there is: about what a look takes, so that
/// with thousands of them there is time left to hear the nodes.
const LOOK: Duration = Duration::from_micros(20);

/// Longest time for each node of the cluster, within which all of them have their certificates renewed, each at a moment of
/// its own choice.
const RENEWAL_SPREAD: Duration = Duration::from_millis(3);

/// Who opens a session, as TLS has verified.
pub(super) struct Caller {
    pub(super) node_id: String,
    pub(super) remote: Option<IpAddr>,
    pub(super) certificate: CertificateDer<'static>,
    /// Of that certificate's key.
    pub(super) key_digest: String,
}

/// What a node has told in a session, and has come to nothing so far.
#[derive(Default)]
struct Told {
    /// The nodes whose keys it has told, each logged once.
    owners: BTreeSet<String>,
    /// What it said of itself, if the rules in force do not know all of that.
    unheard: Option<NodeDescription>,
}

/// No change of keys comes so far: whoever says so would leave no room for further ones.
const END_OF_EPOCHS: u64 = 1 << 48;

/// Starts a session; the node's introduction is awaited in the background, so that the node may
/// send it after it got the stream.
pub(super) fn open(
    core: &Arc<Core>,
    caller: Caller,
    incoming: Streaming<NodeMessage>,
) -> Result<impl Stream<Item = Result<ManagerMessage, Status>> + Send + use<>, Status> {
    let leadership = core.leadership();
    if !leadership.is_self {
        let Some(leader) = leadership.leader else {
            return Err(Status::unavailable("the swarm does not have a leader"));
        };
        let text = format!("not the leader; it is at {}", leader.addr);
        let mut status = Status::unavailable(text);
        if let Ok(address) = leader.addr.parse() {
            status.metadata_mut().insert(LEADER_ADDRESS, address);
        }
        return Err(status);
    }
    let (messages, outgoing) = mpsc::channel(BACKLOG);
    core.tasks
        .spawn(start(core.clone(), caller, incoming, messages));
    Ok(ReceiverStream::new(outgoing))
}

/// Reads the node's introduction, then runs its session.
async fn start(
    core: Arc<Core>,
    caller: Caller,
    mut incoming: Streaming<NodeMessage>,
    messages: mpsc::Sender<Result<ManagerMessage, Status>>,
) {
    let mut told = Told::default();
    let introduced = async {
        leading(&core).await?;
        introduce(&core, &caller, &mut incoming, &mut told).await
    };
    let node_id = &caller.node_id;
    if let Err(refusal) = introduced.await {
        tracing::info!(node = node_id, %refusal, "session refused");
        // The node may have gone already.
        let _ = messages.send(Err(refusal)).await;
        return;
    }
    let session = Arc::new(Session::new(node_id, core.cancel.child_token(), messages));
    core.sessions.add(session.clone());
    if !*core.leading.borrow() {
        // The others were closed before this one was there, and nothing is kept of them.
        core.sessions.remove(&session);
        core.sessions.forget(node_id);
        return;
    }
    tracing::info!(node = node_id, "session opened");
    run(core, session, caller, incoming, told).await;
}

/// Waits until this manager, which has just been elected, has applied what former leaders committed: a node must not be
/// sent an older state than it had.
async fn leading(core: &Core) -> Result<(), Status> {
    let mut leading = core.leading.subscribe();
    let wait = tokio::time::timeout(HELLO_LIMIT, leading.wait_for(|leads| *leads));
    tokio::select! {
        () = core.cancel.cancelled() => Err(Status::unavailable("the manager is stopping")),
        waited = wait => match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Status::unavailable("the manager does not lead yet")),
        }
    }
}

async fn introduce(
    core: &Core,
    caller: &Caller,
    incoming: &mut Streaming<NodeMessage>,
    told: &mut Told,
) -> Result<(), Status> {
    let hello = tokio::select! {
        () = core.cancel.cancelled() => return Err(Status::unavailable("the manager is stopping")),
        hello = tokio::time::timeout(HELLO_LIMIT, incoming.message()) => hello
            .map_err(|_| Status::deadline_exceeded("the node did not introduce itself"))??,
    };
    let Some(NodeMessage {
        message: Some(In::Hello(hello)),
    }) = hello
    else {
        return Err(Status::invalid_argument(
            "the first message has to be hello",
        ));
    };
    let state = core.store.read().node(&caller.node_id).map(|n| n.state);
    if state != Some(NodeState::Ready) {
        core.sessions.forget(&caller.node_id);
    }
    // Before the state says that it is up, and it might be found silent.
    let now = Instant::now();
    let before = core.liveness().hear(&caller.node_id, now);
    let described = describe(core, caller, hello, told).await;
    if described.is_err() {
        // However often it comes back: without a session it does no work.
        core.liveness().unhear(&caller.node_id, now, before);
    }
    described
}

/// Keeps what a node says of itself, if it is anything new.
async fn describe(
    core: &Core,
    caller: &Caller,
    hello: NodeDescription,
    told: &mut Told,
) -> Result<(), Status> {
    let length = hello.encoded_len();
    if length > DESCRIPTION {
        return Err(Status::invalid_argument(format!(
            "the node's description is too long: {length} bytes, and {DESCRIPTION} at most"
        )));
    }
    let cluster = core.store.read().cluster().cloned();
    let issuer = cluster.map(|cluster| cluster.issuer_of(&caller.certificate));
    let mut description = NodeReport {
        issuer: issuer.unwrap_or_default(),
        key: caller.key_digest.clone(),
        ..report(hello.clone(), caller.remote)
    };
    let is_known = {
        let state = core.store.read();
        // Before it is proposed, so that it is told and who says it again and again writes nothing.
        if let Some(owner) = give_back(&state, &caller.node_id, &mut description)
            && told.owners.insert(owner.clone())
        {
            tracing::warn!(
                node = caller.node_id,
                owner,
                "a node tells another one's WireGuard key, and is not given it"
            );
        }
        let is_early = state.rules() < GENERIC_RESOURCES;
        let is_unheard = is_early && !description.generic_resources.is_empty();
        if is_unheard {
            description.generic_resources.clear();
        }
        told.unheard = is_unheard.then_some(hello);
        state
            .node(&caller.node_id)
            .is_some_and(|n| n.state == NodeState::Ready && n.description == description)
    };
    if !is_known {
        let up = Operation::NodeUp {
            node_id: caller.node_id.clone(),
            description,
        };
        core.proposer.operation(up).await.map_err(status)?;
    }
    Ok(())
}

fn report(hello: NodeDescription, remote: Option<IpAddr>) -> NodeReport {
    let or_remote = |text: String| match (text.is_empty(), remote) {
        (true, Some(ip)) => ip.to_string(),
        _ => text,
    };
    NodeReport {
        hostname: hello.hostname,
        address: or_remote(hello.address),
        data_path_address: or_remote(hello.data_path_address),
        architecture: hello.architecture,
        os: hello.os,
        engine_version: hello.engine_version,
        nano_cpus: hello.nano_cpus,
        memory_bytes: hello.memory_bytes,
        engine_labels: hello.engine_labels.into_iter().collect(),
        generic_resources: generic_resource::from_proto(hello.generic_resources),
        cipher: hello.cipher.and_then(|cipher| {
            // Base64 of 32 bytes.
            let is_key = |text: &String| text.len() == 44;
            Some(Cipher {
                key: Some(cipher.key).filter(is_key)?,
                port: u16::try_from(cipher.port).ok()?,
                epoch: cipher.epoch.filter(|epoch| *epoch < END_OF_EPOCHS),
                next_port: u16::try_from(cipher.next_port).ok()?,
                former_key: Some(cipher.former_key).filter(is_key).unwrap_or_default(),
            })
        }),
        mtu: hello.mtu,
        encrypts: hello.encrypts,
        hands_out: hello.hands_out,
        fills_in: hello.fills_in,
        trusted_root: hello.trusted_root,
        issuer: String::new(),
        key: String::new(),
    }
}

/// Runs both directions until one ends.
async fn run(
    core: Arc<Core>,
    session: Arc<Session>,
    caller: Caller,
    incoming: Streaming<NodeMessage>,
    told: Told,
) {
    let (reports, queue) = mpsc::channel(REPORTS);
    tokio::select! {
        () = session.cancel.cancelled() => {}
        () = receive(&core, &session, &caller, incoming, reports, told) => {}
        () = dispatch(&core, &session) => {}
        () = propose_reports(&core, queue) => {}
    }
    core.sessions.remove(&session);
    session.cancel.cancel();
    core.logs.session_gone(&session);
    tracing::info!(node = session.node_id, "session closed");
}

/// Takes the node's messages.
async fn receive(
    core: &Core,
    session: &Session,
    caller: &Caller,
    mut incoming: Streaming<NodeMessage>,
    reports: mpsc::Sender<Vec<(String, TaskStatus)>>,
    mut told: Told,
) {
    loop {
        let message = match incoming.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(node = session.node_id, %error, "session broke");
                return;
            }
        };
        core.hear(&session.node_id);
        if told.unheard.is_some()
            && core.store.read().rules() >= GENERIC_RESOURCES
            && let Some(hello) = told.unheard.take()
            && let Err(refusal) = describe(core, caller, hello, &mut told).await
        {
            tracing::warn!(node = session.node_id, %refusal, "a node's resources were not taken");
            return;
        }
        match message.message {
            Some(In::Applied(applied)) => session.note_applied(applied.revision),
            Some(In::Statuses(statuses)) => {
                let own = own_statuses(&core.store.read(), &session.node_id, statuses.statuses);
                if !own.is_empty() && reports.send(own).await.is_err() {
                    return;
                }
            }
            Some(In::Report(report)) => core.queries.answer(&session.node_id, report),
            Some(In::Leaving(_)) => {
                let down = Operation::NodeDown {
                    node_id: session.node_id.clone(),
                    message: "the node left the swarm".to_owned(),
                };
                if let Err(error) = core.proposer.operation(down).await {
                    // It will be missed.
                    tracing::warn!(node = session.node_id, %error, "a node that left is not marked as down");
                }
                return;
            }
            Some(In::Hello(hello)) => {
                if let Err(refusal) = describe(core, caller, hello, &mut told).await {
                    // The node says it again in its next session.
                    tracing::warn!(node = session.node_id, %refusal, "a node's description was not taken");
                    return;
                }
            }
            Some(In::Heartbeat(beat)) => {
                if let Some(pace) = session.pace(beat.period_ms) {
                    core.liveness().go_by(&session.node_id, pace);
                }
            }
            None => {}
        }
    }
}

/// Reports on tasks that are the node's own; others are none of its business.
fn own_statuses(
    state: &State,
    node_id: &str,
    statuses: Vec<proto::TaskStatus>,
) -> Vec<(String, TaskStatus)> {
    let mut own = Vec::with_capacity(statuses.len());
    for mut status in statuses {
        for text in [
            &mut status.state,
            &mut status.message,
            &mut status.error,
            &mut status.container_id,
        ] {
            cut(text, TEXT);
        }
        let is_own = state
            .task(&status.task_id)
            .is_some_and(|t| t.node_id.as_deref() == Some(node_id));
        let Some(to) = TaskState::parse(&status.state) else {
            tracing::warn!(
                node = node_id,
                state = status.state,
                "unknown task state reported"
            );
            continue;
        };
        if !is_own || to == TaskState::Remove || to == TaskState::Orphaned {
            continue;
        }
        let report = TaskStatus {
            state: to,
            timestamp: status.timestamp,
            message: status.message,
            error: status.error,
            container_id: status.container_id,
            pid: status.pid,
            exit_code: status.exit_code,
            unhealthy: status.unhealthy,
            healthy: status.healthy,
        };
        own.push((status.task_id, report));
    }
    own
}

/// Reports in order, in parts that are proposed one after the other.
fn parts(reports: Vec<(String, TaskStatus)>) -> Vec<Vec<(String, TaskStatus)>> {
    let mut parts = vec![Vec::new()];
    let mut length = 0;
    for report in reports {
        let (_, status) = &report;
        let texts = [&status.message, &status.error, &status.container_id];
        let own = REPORT + texts.map(String::len).iter().sum::<usize>();
        if length + own > REPORTED {
            parts.push(Vec::new());
            length = 0;
        }
        length += own;
        parts.last_mut().expect("there is one").push(report);
    }
    parts
}

/// Proposes reports in order, many at a time.
async fn propose_reports(core: &Core, mut queue: mpsc::Receiver<Vec<(String, TaskStatus)>>) {
    while let Some(mut batch) = queue.recv().await {
        tokio::time::sleep(REPORT_GATHER).await;
        while let Ok(more) = queue.try_recv() {
            batch.extend(more);
        }
        for part in parts(batch) {
            let reported = Operation::TaskStatuses(part);
            if let Err(error) = core.proposer.operation(reported).await {
                // The session ends; the node reports all of its tasks again in the next one.
                tracing::warn!(%error, "task reports were not taken");
                return;
            }
        }
    }
}

/// What a node has to know of the managers.
fn welcome(core: &Core, session: &Session) -> Welcome {
    let managers = core.consensus.managers();
    let state = core.store.read();
    let period = heartbeat_period(&state);
    let node = state.node(&session.node_id);
    let cluster = state.cluster();
    let is_behind = |cluster: &&Cluster| {
        node.is_some_and(|node| node.description.trusted_root != cluster.root_digest())
    };
    let root = cluster.filter(is_behind);
    Welcome {
        session_id: session.id.clone(),
        heartbeat_period_ms: u32::try_from(period.as_millis()).unwrap_or(u32::MAX),
        managers: managers.into_iter().map(|m| m.addr).collect(),
        role: node.map(|n| n.role.to_string()).unwrap_or_default(),
        root_ca_pem: root.map_or_else(String::new, |c| c.root_certificate_pem.clone()),
        renew_within_ms: renewal(&state, node),
    }
}

/// Within what time the node has to have its certificate renewed because another root is to sign it; zero if it need not.
fn renewal(state: &State, node: Option<&Node>) -> u32 {
    let signer = state.cluster().map(Cluster::signer_digest);
    match (node, signer) {
        (Some(node), Some(signer)) if node.description.issuer != signer => {
            let nodes = u32::try_from(state.nodes().count()).unwrap_or(u32::MAX);
            let spread = RENEWAL_SPREAD.saturating_mul(nodes).as_millis();
            u32::try_from(spread).unwrap_or(u32::MAX).max(1)
        }
        _ => 0,
    }
}

/// Sends what the node has to know, now and whenever it changes.
async fn dispatch(core: &Core, session: &Session) {
    let mut told = welcome(core, session);
    session.note_period(told.heartbeat_period_ms);
    // An older agent goes by this for as long as the session lasts, another one says what it goes by.
    let period = Duration::from_millis(told.heartbeat_period_ms.into());
    core.liveness().go_by(&session.node_id, period);
    if !session.send(Out::Welcome(told.clone())).await {
        return;
    }
    let mut index = core.store.index();
    let mut sent = Sent::nothing(&core.catalog);
    loop {
        index.mark_unchanged();
        let now = welcome(core, session);
        if now != told {
            told = now;
            session.note_period(told.heartbeat_period_ms);
            if !session.send(Out::Welcome(told.clone())).await {
                return;
            }
        }
        let assignment = {
            let state = core.store.read();
            // A node that was removed has no session, and one that was given up while it has one
            // introduces itself anew.
            if state
                .node(&session.node_id)
                .is_none_or(|node| node.state == NodeState::Down)
            {
                return;
            }
            let assignment = sent.advance(&state, &session.node_id);
            match &assignment {
                Some(assignment) => session.note_sent(assignment.revision),
                None => session.note_covered(state.index()),
            }
            assignment
        };
        if let Some(assignment) = assignment
            && !session.send(Out::Assignment(assignment)).await
        {
            return;
        }
        if index.changed().await.is_err() {
            return;
        }
        // Changes come in bursts.
        let of_all = LOOK.saturating_mul(core.sessions.count());
        tokio::time::sleep(core.config.timings.dispatch_delay.max(of_all)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture::{World, global},
        proposer::{MAX_PROPOSAL_BYTES, size},
    };

    /// What takes most room in the log.
    fn worst(task_id: &str, length: usize) -> (String, TaskStatus) {
        let text = "\u{1}".repeat(length);
        let status = TaskStatus {
            state: TaskState::Failed,
            timestamp: i64::MIN,
            message: text.clone(),
            error: text.clone(),
            container_id: text,
            pid: i32::MIN,
            exit_code: Some(i32::MIN),
            unhealthy: false,
            healthy: false,
        };
        (task_id.to_owned(), status)
    }

    #[test]
    fn a_node_reports_on_its_own_tasks_and_at_no_length() {
        let mut world = World::new(&["n", "other"]);
        world.service(global("s")).unwrap();
        world.settle();
        let on = |node: &str| {
            let mut tasks = world.state.tasks();
            let task = tasks.find(|task| task.node_id.as_deref() == Some(node));
            task.expect("a task of the service").id.clone()
        };
        let say = |task_id: String, state: &str| proto::TaskStatus {
            task_id,
            state: state.to_owned(),
            message: "m".repeat(TEXT + 1),
            error: "\u{20ac}".repeat(TEXT),
            container_id: "c".repeat(64 << 20),
            ..Default::default()
        };
        let said = vec![
            say(on("other"), "failed"),
            say(on("n"), "failed"),
            say(on("n"), &"?".repeat(64)),
            say("none".to_owned(), "failed"),
        ];
        let own = own_statuses(&world.state, "n", said);
        let [(id, status)] = own.as_slice() else {
            panic!("{} reports", own.len());
        };
        assert_eq!(*id, on("n"));
        assert_eq!(status.message, "m".repeat(TEXT));
        assert_eq!(status.error, "\u{20ac}".repeat(TEXT / 3));
        assert_eq!(status.container_id.len(), TEXT);
    }

    #[test]
    fn reports_of_any_number_and_length_fit_into_proposals() {
        for (count, length) in [(0, 0), (3, 10), (2000, TEXT), (50_000, 0)] {
            let id = |n: usize| format!("{n:025}");
            let reports: Vec<_> = (0..count).map(|n| worst(&id(n), length)).collect();
            let parts = parts(reports);
            for part in &parts {
                let bytes = size(&Operation::TaskStatuses(part.clone()));
                assert!(bytes < MAX_PROPOSAL_BYTES, "{bytes} bytes");
            }
            assert_eq!(parts.len() > 1, count > 10);
            let order: Vec<_> = parts.concat().into_iter().map(|(id, _)| id).collect();
            assert_eq!(order, (0..count).map(id).collect::<Vec<_>>());
        }
    }
}
