//! `/containers/{id}/logs`, `/containers/{id}/attach` and the size of a container's terminal.

use std::convert::Infallible;

use axum::{
    extract::{Path, Query as QueryOf, Request, State},
    response::Response,
};
use bytes::Bytes;
use chrono::DateTime;
use futures::{Stream, StreamExt};
use mesh_api::frames::StreamKind;
use mesh_runtime::{LogOptions, Output};
use tokio::io::AsyncWriteExt;

use super::{container_spec, inspect};
use crate::{
    api::{
        Answer, Api,
        args::Query,
        errors::ApiError,
        exec::hijack,
        stream::{Line, LogArgs, log_response},
    },
    node::LocalTask,
};

pub(in crate::api) async fn logs(
    State(api): State<Api>,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Response> {
    let task = api.node.find_task(&id)?;
    let args = LogArgs::read(&query)?;
    if inspect::log_driver(&task) == "none" {
        return Err(ApiError::no_log());
    }
    let terminal = has_terminal(&task);
    let pieces = pieces(&api, &task, args, terminal).await?;
    Ok(log_response(terminal, pieces.map(Ok::<_, Infallible>)))
}

/// What the container writes from now on. Its standard input is not connected: tasks have none.
pub(in crate::api) async fn attach(
    State(api): State<Api>,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<Query>,
    request: Request,
) -> Answer<Response> {
    let task = api.node.find_task(&id)?;
    let terminal = has_terminal(&task);
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    let args = LogArgs {
        stdout: stdout || !stderr,
        stderr: stderr || !stdout,
        follow: query.flag("stream"),
        timestamps: false,
        details: false,
        tail: (!query.flag("logs")).then_some(0),
        since: None,
        until: None,
    };
    let mut pieces = Box::pin(pieces(&api, &task, args, terminal).await?);
    let (response, connection) = hijack(request, terminal);
    tokio::spawn(async move {
        let Some(mut connection) = connection.await else {
            return;
        };
        while let Some(piece) = pieces.next().await {
            if connection.write_all(&piece).await.is_err() {
                return;
            }
        }
        // A client that is gone has nothing to be told.
        let _ = connection.shutdown().await;
    });
    Ok(response)
}

fn has_terminal(task: &LocalTask) -> bool {
    container_spec(task).tty.unwrap_or(false)
}

async fn pieces(
    api: &Api,
    task: &LocalTask,
    args: LogArgs,
    terminal: bool,
) -> Result<impl Stream<Item = Bytes> + Send + 'static, ApiError> {
    let options = LogOptions {
        follow: args.follow,
        tail: args.tail.and_then(|tail| usize::try_from(tail).ok()),
        since: args.since.map(DateTime::from_timestamp_nanos),
        until: args.until.map(DateTime::from_timestamp_nanos),
        stdout: args.stdout,
        stderr: args.stderr,
    };
    let records = api.node.runtime().logs(&task.task.id, options).await?;
    Ok(records.filter_map(move |record| {
        let piece = match record {
            Ok(record) => Some(
                Line {
                    kind: match record.stream {
                        Output::Stdout => StreamKind::Stdout,
                        Output::Stderr => StreamKind::Stderr,
                    },
                    time: record.time,
                    details: &[],
                    data: &record.line,
                }
                .to_wire(&args, terminal),
            ),
            Err(error) => {
                tracing::warn!(%error, "the log of a container broke off");
                None
            }
        };
        std::future::ready(piece)
    }))
}

pub(in crate::api) async fn resize(
    State(api): State<Api>,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<()> {
    let task = api.node.find_task(&id)?;
    let rows = query.number("h")?.unwrap_or(0);
    let columns = query.number("w")?.unwrap_or(0);
    Ok(api
        .node
        .runtime()
        .resize(&task.task.id, rows, columns)
        .await?)
}
