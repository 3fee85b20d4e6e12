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

use super::state;
use crate::{
    api::{Answer, Api, args::Query, errors::ApiError},
    container,
    node::LocalTask,
};

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
        None => container::stop_grace(task.spec.container_spec.as_ref()),
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

fn parse_signal(text: &str) -> Result<i32, ApiError> {
    container::signal(text).map_err(|error| ApiError::bad_request(error.to_string()))
}
