//! Stopping, killing and removing a task's container by hand. The task has then ended, and its
//! service replaces it.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, Query as QueryOf, State},
    http::StatusCode,
};
use mesh_api::engine::{ContainerSummaryStateEnum, ContainerWaitExitError, ContainerWaitResponse};
use nix::sys::signal::Signal;

use super::{container_spec, state};
use crate::{
    api::{Answer, Api, args::Query, errors::ApiError},
    node::LocalTask,
};

/// How long a container may take to stop where neither the request nor the spec says.
const STOP_GRACE: Duration = Duration::from_secs(10);

fn is_running(task: &LocalTask) -> bool {
    state(task) == ContainerSummaryStateEnum::RUNNING
}

pub(in crate::api) async fn start(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    let task = api.node.find_task(&id)?;
    match state(&task) {
        ContainerSummaryStateEnum::EXITED => Err(ApiError::one_shot(&task.task.name)),
        // It runs, or the agent is about to start it.
        _ => Ok(StatusCode::NOT_MODIFIED),
    }
}

pub(in crate::api) async fn stop(
    State(api): State<Api>,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<StatusCode> {
    let task = api.node.find_task(&id)?;
    if !is_running(&task) {
        return Ok(StatusCode::NOT_MODIFIED);
    }
    let signal = query.get("signal").map(parse_signal).transpose()?;
    let grace = match query.number::<i64>("t")? {
        Some(seconds) => u64::try_from(seconds).map_or(Duration::MAX, Duration::from_secs),
        None => container_spec(&task)
            .stop_grace_period
            .and_then(|nanos| u64::try_from(nanos).ok())
            .map_or(STOP_GRACE, Duration::from_nanos),
    };
    api.node
        .runtime()
        .stop(&task.task.id, signal, grace)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(in crate::api) async fn kill(
    State(api): State<Api>,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<StatusCode> {
    let task = api.node.find_task(&id)?;
    if !is_running(&task) {
        return Err(ApiError::not_running(&id));
    }
    let signal = query
        .get("signal")
        .map_or(Ok(Signal::SIGKILL as i32), parse_signal)?;
    api.node.runtime().signal(&task.task.id, signal).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(in crate::api) async fn remove(
    State(api): State<Api>,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<StatusCode> {
    let task = api.node.find_task(&id)?;
    if is_running(&task) {
        if !query.flag("force") {
            return Err(ApiError::still_running(&task.task.name));
        }
        api.node
            .runtime()
            .stop(&task.task.id, None, Duration::ZERO)
            .await?;
    }
    // What is left of it goes when the managers forget the task.
    Ok(StatusCode::NO_CONTENT)
}

pub(in crate::api) async fn wait(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Answer<Json<ContainerWaitResponse>> {
    let task = api.node.find_task(&id)?;
    let (status_code, error) = match task.status.exit_code {
        Some(code) if !is_running(&task) => (i64::from(code), None),
        _ => {
            let ended = api.node.runtime().wait(&task.task.id).await?;
            (i64::from(ended.code), ended.error)
        }
    };
    Ok(Json(ContainerWaitResponse {
        status_code,
        error: error.map(|message| ContainerWaitExitError {
            message: Some(message),
        }),
    }))
}

/// A signal's number, by number or by name with or without SIG.
fn parse_signal(text: &str) -> Result<i32, ApiError> {
    if let Ok(number @ 1..=64) = text.parse() {
        return Ok(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    name.parse::<Signal>()
        .map(|signal| signal as i32)
        .map_err(|_| ApiError::bad_request(format!("invalid signal: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for (text, expected) in [("9", 9), ("KILL", 9), ("SIGTERM", 15), ("term", 15)] {
            assert_eq!(parse_signal(text), Ok(expected));
        }
        for text in ["0", "65", "NOPE", ""] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
