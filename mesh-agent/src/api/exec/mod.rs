//! `/exec`: commands run in a container that is already there.

mod relay;
mod table;

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, Query as QueryOf, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use mesh_api::engine::{ContainerSummaryStateEnum, ExecConfig, ExecInspectResponse, ProcessConfig};
use mesh_runtime::ExecSpec;
use serde::{Deserialize, Serialize};

use super::{
    Answer, Api,
    args::{Query, bytes, json},
    containers::state,
    errors::ApiError,
};
use relay::{complain, drain, relay};
use table::{Exec, Progress};

pub(super) use relay::hijack;
pub(super) use table::Execs;

pub(super) async fn create(
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Body,
) -> Answer<(StatusCode, Json<Created>)> {
    let config: ExecConfig = json(body).await?;
    let task = api.node.find_task(&id)?;
    if config.cmd.as_ref().is_none_or(Vec::is_empty) {
        return Err(ApiError::bad_request("No exec command specified"));
    }
    let lists = [&config.cmd, &config.env].into_iter().flatten().flatten();
    let texts = [&config.user, &config.working_dir].into_iter().flatten();
    if let Some(text) = lists.chain(texts).find(|text| text.contains('\0')) {
        return Err(ApiError::bad_request(format!("{text:?} holds a NUL")));
    }
    if state(&task) != ContainerSummaryStateEnum::RUNNING {
        return Err(ApiError::not_running(&id));
    }
    let id = api.execs.insert(Exec {
        config,
        task: task.task.id,
        container: task.container_id,
        progress: Progress::Created,
    });
    Ok((StatusCode::CREATED, Json(Created { id })))
}

/// The answer to a create. The generated type writes its field in lower case, Docker does not.
#[derive(Debug, Serialize)]
pub(super) struct Created {
    #[serde(rename = "Id")]
    id: String,
}

/// The body of a start.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Start {
    detach: bool,
    tty: bool,
    console_size: Option<[u16; 2]>,
}

pub(super) async fn start(
    State(api): State<Api>,
    Path(id): Path<String>,
    request: Request,
) -> Answer<Response> {
    let (parts, body) = request.into_parts();
    let body = bytes(body).await?;
    let asked: Start = match body.is_empty() {
        true => Start::default(),
        false => serde_json::from_slice(&body).map_err(|error| ApiError::bad_body(&error))?,
    };
    let exec = api.execs.begin(&id)?;
    let terminal = asked.tty || exec.config.tty.unwrap_or(false);
    let spec = spec(&exec.config, terminal, asked.console_size, asked.detach);
    let session = match api.node.runtime().exec(&exec.task, &spec).await {
        Ok(session) => session,
        Err(error) => {
            api.execs.ended(&id, error.exit_code());
            if asked.detach {
                return Err(error.into());
            }
            // As Docker does: clients read the reason off the stream and the code off the exec.
            let request = Request::from_parts(parts, Body::empty());
            let (response, connection) = hijack(request, terminal);
            tokio::spawn(async move {
                if let Some(connection) = connection.await {
                    complain(connection, terminal, &error).await;
                }
            });
            return Ok(response);
        }
    };
    api.execs.runs(&id, session.handle.clone());
    let execs = Arc::clone(&api.execs);
    if asked.detach {
        tokio::spawn(async move { drain(session, |code| execs.ended(&id, code)).await });
        return Ok(StatusCode::OK.into_response());
    }
    let request = Request::from_parts(parts, Body::empty());
    let (response, connection) = hijack(request, terminal);
    tokio::spawn(async move {
        let ended = |code| execs.ended(&id, code);
        match connection.await {
            Some(connection) => relay(connection, session, terminal, ended).await,
            None => drain(session, ended).await,
        }
    });
    Ok(response)
}

fn spec(
    config: &ExecConfig,
    tty: bool,
    console_size: Option<[u16; 2]>,
    detached: bool,
) -> ExecSpec {
    let size = console_size.or_else(|| {
        let [rows, columns] = config.console_size.as_deref()? else {
            return None;
        };
        Some([u16::try_from(*rows).ok()?, u16::try_from(*columns).ok()?])
    });
    ExecSpec {
        args: config.cmd.clone().unwrap_or_default(),
        env: config.env.clone().unwrap_or_default(),
        cwd: config.working_dir.clone().unwrap_or_default(),
        user: config.user.clone().unwrap_or_default(),
        tty,
        size: size
            .filter(|[rows, columns]| *rows > 0 && *columns > 0)
            .map(Into::into),
        stdin: config.attach_stdin.unwrap_or(false) && !detached,
        privileged: config.privileged.unwrap_or(false),
        bound: false,
    }
}

pub(super) async fn resize(
    State(api): State<Api>,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<()> {
    let exec = api.execs.get(&id)?;
    let rows = query.number("h")?.unwrap_or(0);
    let columns = query.number("w")?.unwrap_or(0);
    match exec.progress {
        Progress::Running(handle) => Ok(handle.resize(rows, columns)?),
        _ => Err(ApiError::not_running(&exec.container)),
    }
}

pub(super) async fn inspect(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Answer<Json<ExecInspectResponse>> {
    let exec = api.execs.get(&id)?;
    let (running, exit_code, pid) = match &exec.progress {
        Progress::Created | Progress::Starting => (false, None, None),
        Progress::Running(handle) => (true, None, Some(i64::from(handle.pid()))),
        Progress::Ended(code) => (false, Some(i64::from(*code)), None),
    };
    let (entrypoint, arguments) = match exec.config.cmd.as_deref().and_then(<[_]>::split_first) {
        Some((first, rest)) => (first.clone(), rest.to_vec()),
        None => (String::new(), Vec::new()),
    };
    Ok(Json(ExecInspectResponse {
        id: Some(id),
        running: Some(running),
        exit_code,
        pid,
        container_id: Some(exec.container),
        open_stdin: exec.config.attach_stdin,
        open_stdout: exec.config.attach_stdout,
        open_stderr: exec.config.attach_stderr,
        can_remove: Some(matches!(exec.progress, Progress::Ended(_))),
        process_config: Some(ProcessConfig {
            tty: exec.config.tty,
            user: exec.config.user,
            privileged: exec.config.privileged,
            entrypoint: Some(entrypoint),
            arguments: Some(arguments),
        }),
        detach_keys: None,
    }))
}
