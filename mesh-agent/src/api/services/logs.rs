//! `/services/{id}/logs` and `/tasks/{id}/logs`: lines from every node, through the leader. The manager that was asked
//! answers, and reads on at the next leader if there is another one.

use axum::{
    extract::{Path, Query as QueryOf, State},
    response::Response,
};
use futures::StreamExt;
use mesh_api::{engine::TaskSpec, frames::StreamKind};
use mesh_manager::{LogItem, LogLine, LogSelector, LogTarget, ManagerHandle, incomplete};
use tokio::time::Instant;

use crate::api::{
    Answer, Api,
    args::Query,
    leader::READ_PATIENCE,
    stream::{Line, LogArgs, log_response, piece},
};

pub(in crate::api) async fn of_service(
    State(api): State<Api>,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Response> {
    let deadline = Instant::now() + READ_PATIENCE;
    let manager = api.ready_manager(deadline).await?;
    manager.catch_up(deadline).await?;
    let (id, terminal) = {
        let view = manager.view();
        let service = view.find_service(&id)?;
        (
            service.id.clone(),
            has_terminal(service.spec.task_template.as_ref()),
        )
    };
    follow(&manager, LogTarget::Service(id), terminal, &query, deadline).await
}

pub(in crate::api) async fn of_task(
    State(api): State<Api>,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Response> {
    let deadline = Instant::now() + READ_PATIENCE;
    let manager = api.ready_manager(deadline).await?;
    manager.catch_up(deadline).await?;
    let (id, terminal) = {
        let view = manager.view();
        let task = view.find_task(&id)?;
        (task.id.clone(), has_terminal(Some(&task.spec)))
    };
    follow(&manager, LogTarget::Task(id), terminal, &query, deadline).await
}

fn has_terminal(spec: Option<&TaskSpec>) -> bool {
    spec.and_then(|spec| spec.container_spec.as_ref()?.tty)
        .unwrap_or(false)
}

async fn follow(
    manager: &ManagerHandle,
    target: LogTarget,
    terminal: bool,
    query: &Query,
    deadline: Instant,
) -> Answer<Response> {
    let args = LogArgs::read(query)?;
    let selector = LogSelector {
        target,
        follow: args.follow,
        tail: args.tail,
        since: args.since.unwrap_or(0),
        stdout: args.stdout,
        stderr: args.stderr,
    };
    let lines = manager.logs(selector, deadline).await?;
    // An error breaks the answer off, so that nobody takes it for whole.
    let pieces = lines.map(move |item| match item {
        Ok(LogItem::Line(line)) => Ok(to_wire(&line, &args, terminal)),
        Ok(LogItem::Incomplete(reasons)) => {
            let warning = format!("Error grabbing logs: {}\n", incomplete(&reasons));
            Ok(piece(StreamKind::System, warning.into(), terminal))
        }
        Err(error) => {
            tracing::warn!(%error, "logs broke off");
            Err(error)
        }
    });
    Ok(log_response(terminal, pieces))
}

fn to_wire(line: &LogLine, args: &LogArgs, terminal: bool) -> bytes::Bytes {
    let kind = if line.stream == 2 {
        StreamKind::Stderr
    } else {
        StreamKind::Stdout
    };
    Line {
        kind,
        time: chrono::DateTime::from_timestamp_nanos(line.timestamp),
        details: &[
            ("com.docker.swarm.node.id", &line.node_id),
            ("com.docker.swarm.service.id", &line.service_id),
            ("com.docker.swarm.task.id", &line.task_id),
        ],
        data: &line.data,
    }
    .to_wire(args, terminal)
}
