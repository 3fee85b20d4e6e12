//! Logs for whoever asks this manager: read at the leader, and read on at the next one when another manager comes to lead.

use super::{Had, LogItem, LogLine, LogSelector, LogStream, LogTarget, subscribe};
use crate::{ErrorKind, ManagerError, core::Core, raft::Peer};
use futures::{StreamExt, TryStreamExt, stream};
use mesh_api::proto::{LogBatch, LogsRequest, control_client::ControlClient};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

/// Lines that wait for a slow reader before the leader is held back.
const BACKLOG: usize = 256;
/// Lines sent in one message at most.
const BATCH: usize = 128;
/// Longest wait for a leader before what was to end by itself does so.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a manager that stops waits for a slow reader.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Pause before another leader is asked.
const PAUSE: Duration = Duration::from_millis(200);

type Lines = mpsc::Sender<Result<LogItem, ManagerError>>;

/// Where lines come from.
struct Source {
    leader: Peer,
    lines: LogStream,
}

/// How reading from one leader ended.
enum End {
    /// There is no more.
    Over,
    /// Nobody reads any more.
    Unread,
    /// This manager stops.
    Stopped,
    /// It leads no more, or is lost.
    Broken,
}

/// Opens the stream; waits for a leader until `deadline`.
pub(crate) async fn follow(
    core: &Arc<Core>,
    mut selector: LogSelector,
    deadline: Instant,
) -> Result<LogStream, ManagerError> {
    // Names may be another's by the time that another leader is asked.
    {
        let state = core.store.read();
        match &mut selector.target {
            LogTarget::Service(key) => *key = state.find_service(key)?.id.clone(),
            LogTarget::Task(key) => *key = state.find_task(key)?.id.clone(),
        }
    }
    let begun = core.config.machine.now();
    let source = open(core, &selector, &Had::new(), deadline).await?;
    if selector.tail == Some(0) {
        // For leaders to come: what is written between two of them is new as well.
        selector.tail = None;
        selector.since = selector.since.max(begun);
    }
    let (lines, reader) = mpsc::channel(BACKLOG);
    core.tasks.spawn(run(core.clone(), selector, source, lines));
    Ok(Box::pin(ReceiverStream::new(reader)))
}

async fn run(core: Arc<Core>, selector: LogSelector, mut source: Source, lines: Lines) {
    let mut had = Had::new();
    loop {
        match read(&core, &mut source, &lines, &mut had).await {
            End::Over | End::Unread => return,
            End::Stopped => return break_off(&core, &lines, ManagerError::no_leader()).await,
            End::Broken => {}
        }
        let reopened = tokio::select! {
            reopened = reopen(&core, &selector, &mut had) => reopened,
            () = lines.closed() => return,
            () = core.cancel.cancelled() => Err(ManagerError::no_leader()),
        };
        match reopened {
            Ok(reopened) => source = reopened,
            Err(error) => return break_off(&core, &lines, error).await,
        }
    }
}

/// Tells the reader that this is not the end. One that is slow is not waited for once this manager stops.
async fn break_off(core: &Core, lines: &Lines, error: ManagerError) {
    let stopped = async {
        core.cancel.cancelled().await;
        tokio::time::sleep(LAST_WORD).await;
    };
    tokio::select! {
        _ = lines.send(Err(error)) => {}
        () = stopped => {}
    }
}

/// Hands lines on, and notes which, for as long as the leader leads.
async fn read(core: &Core, source: &mut Source, lines: &Lines, had: &mut Had) -> End {
    let mut leadership = core.consensus.leadership();
    let Source {
        leader,
        lines: incoming,
    } = source;
    loop {
        let item = tokio::select! {
            item = incoming.next() => item,
            _ = leadership.wait_for(|l| l.leader.as_ref() != Some(&*leader)) => return End::Broken,
            () = lines.closed() => return End::Unread,
            () = core.cancel.cancelled() => return End::Stopped,
        };
        let item = match item {
            None => return End::Over,
            Some(Ok(item)) => item,
            Some(Err(error)) => {
                tracing::debug!(leader = leader.addr, %error, "logs broke off");
                return End::Broken;
            }
        };
        if let LogItem::Line(line) = &item {
            let last = had.entry(line.task_id.clone()).or_insert(line.timestamp);
            *last = line.timestamp.max(*last);
        }
        tokio::select! {
            sent = lines.send(Ok(item)) => {
                if sent.is_err() {
                    return End::Unread;
                }
            }
            () = core.cancel.cancelled() => return End::Stopped,
        }
    }
}

/// Asks the next leader for what is missing. What is followed waits for one as long as its reader does.
async fn reopen(
    core: &Arc<Core>,
    selector: &LogSelector,
    had: &mut Had,
) -> Result<Source, ManagerError> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let deadline = Instant::now() + PATIENCE;
        let opened = match core.catch_up().await {
            Ok(_) => {
                {
                    // Nobody asks for what is forgotten.
                    let state = core.store.read();
                    had.retain(|task, _| state.task(task).is_some());
                }
                open(core, selector, had, deadline).await
            }
            Err(error) => Err(error),
        };
        match opened {
            Err(error) if error.kind == ErrorKind::Unimplemented => return Err(error),
            Err(error) if !selector.follow && Instant::now() > give_up => return Err(error),
            Err(error) => tracing::debug!(%error, "logs wait for a leader"),
            opened => return opened,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn open(
    core: &Arc<Core>,
    selector: &LogSelector,
    had: &Had,
    deadline: Instant,
) -> Result<Source, ManagerError> {
    let leader = core.leader(deadline).await?;
    let lines = if leader.node_id == core.identity.node_id {
        core.begins_to_lead().await?;
        subscribe(core, selector.clone(), had.clone())?
    } else {
        let asked = timeout_at(deadline, ask(core, &leader, selector, had)).await;
        asked.map_err(|_| ManagerError::no_leader())??
    };
    Ok(Source { leader, lines })
}

/// Asks another manager, which leads.
async fn ask(
    core: &Core,
    leader: &Peer,
    selector: &LogSelector,
    had: &Had,
) -> Result<LogStream, ManagerError> {
    let channel = core.channel(&leader.addr).await?;
    let request = Request::new(to_request(selector, had));
    let batches = match ControlClient::new(channel).logs(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            // Others use the line as well.
            if matches!(status.code(), Code::Unavailable | Code::Unknown) {
                core.leader_channel.forget();
            }
            return Err(broken(&status));
        }
    };
    // The last batch says that it is; a stream that ends without it broke off.
    let lines = stream::unfold(Some(batches), async |batches| {
        let mut batches = batches?;
        match batches.message().await {
            Ok(Some(batch)) if batch.end => None,
            Ok(Some(batch)) => Some((Ok(batch), Some(batches))),
            Ok(None) => Some((Err(ManagerError::no_leader()), None)),
            Err(status) => Some((Err(broken(&status)), None)),
        }
    });
    let lines = lines
        .map_ok(|batch| stream::iter(from_batch(batch).map(Ok)))
        .try_flatten();
    Ok(Box::pin(lines))
}

fn broken(status: &Status) -> ManagerError {
    if status.code() == Code::Unimplemented {
        return ManagerError::new(
            ErrorKind::Unimplemented,
            "the leader is older and gives other managers no logs: ask it, or upgrade it",
        );
    }
    let kind = ErrorKind::Unavailable;
    ManagerError::new(
        kind,
        format!("the leader gives no logs: {}", status.message()),
    )
}

fn from_batch(batch: LogBatch) -> impl Iterator<Item = LogItem> {
    let lines = batch.lines.into_iter().map(from_wire).map(LogItem::Line);
    let missing = Some(batch.missing).filter(|reasons| !reasons.is_empty());
    lines.chain(missing.map(LogItem::Incomplete))
}

fn to_batch(items: Vec<LogItem>) -> LogBatch {
    let mut batch = LogBatch::default();
    for item in items {
        match item {
            LogItem::Line(line) => batch.lines.push(to_wire(line)),
            LogItem::Incomplete(reasons) => batch.missing.extend(reasons),
        }
    }
    batch
}

fn from_wire(line: mesh_api::proto::LogLine) -> LogLine {
    LogLine {
        task_id: line.task_id,
        service_id: line.service_id,
        node_id: line.node_id,
        timestamp: line.timestamp,
        stream: if line.stream == 2 { 2 } else { 1 },
        data: line.data,
    }
}

fn to_wire(line: LogLine) -> mesh_api::proto::LogLine {
    mesh_api::proto::LogLine {
        task_id: line.task_id,
        service_id: line.service_id,
        node_id: line.node_id,
        timestamp: line.timestamp,
        stream: line.stream.into(),
        data: line.data,
    }
}

fn to_request(selector: &LogSelector, had: &Had) -> LogsRequest {
    let (service_id, task_id) = match selector.target.clone() {
        LogTarget::Service(id) => (id, String::new()),
        LogTarget::Task(id) => (String::new(), id),
    };
    LogsRequest {
        service_id,
        task_id,
        follow: selector.follow,
        tail: selector.tail.and_then(|tail| i64::try_from(tail).ok()),
        since: selector.since,
        stdout: selector.stdout,
        stderr: selector.stderr,
        had: had.clone().into_iter().collect(),
    }
}

fn from_request(request: LogsRequest) -> (LogSelector, Had) {
    let target = match request.task_id.is_empty() {
        true => LogTarget::Service(request.service_id),
        false => LogTarget::Task(request.task_id),
    };
    let selector = LogSelector {
        target,
        follow: request.follow,
        tail: request.tail.and_then(|tail| u64::try_from(tail).ok()),
        since: request.since,
        stdout: request.stdout,
        stderr: request.stderr,
    };
    (selector, request.had.into_iter().collect())
}

/// Answers another manager; this one leads.
pub(crate) fn answer(
    core: &Arc<Core>,
    request: LogsRequest,
) -> Result<impl futures::Stream<Item = Result<LogBatch, Status>> + Send + use<>, ManagerError> {
    let (selector, had) = from_request(request);
    let lines = subscribe(core, selector, had)?;
    let batches = lines.try_ready_chunks(BATCH);
    let batches = batches.map(|items| match items {
        Ok(items) => Ok(to_batch(items)),
        Err(broken) => Err(Status::unavailable(broken.1.to_string())),
    });
    let end = LogBatch {
        end: true,
        ..LogBatch::default()
    };
    Ok(batches.chain(stream::iter([Ok(end)])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_arrive_as_they_were_sent() {
        for (target, tail) in [
            (LogTarget::Service("s".into()), None),
            (LogTarget::Task("t".into()), Some(0)),
            (LogTarget::Task("t".into()), Some(7)),
        ] {
            let selector = LogSelector {
                target,
                follow: true,
                tail,
                since: 5,
                stdout: true,
                stderr: false,
            };
            let had = Had::from([("t".to_owned(), 9), ("u".to_owned(), -1)]);
            let arrived = from_request(to_request(&selector, &had));
            assert_eq!(arrived, (selector, had));
        }
    }
}
