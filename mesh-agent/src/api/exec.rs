//! `/exec`: commands run in a container that is already there, with their streams on a connection
//! that stops being HTTP.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json,
    body::Body,
    extract::{Path, Query as QueryOf, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper::ext::ReasonPhrase;
use hyper_util::rt::TokioIo;
use mesh_api::{
    engine::{ContainerSummaryStateEnum, ExecConfig, ExecInspectResponse, ProcessConfig},
    frames::{Frame, StreamKind},
};
use mesh_runtime::{ExecHandle, ExecSession, ExecSpec, RuntimeError};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    Answer, Api,
    args::{Query, bytes, json},
    containers::state,
    errors::ApiError,
    stream::media_type,
};

/// Ended execs that can still be asked how they ended. The oldest are forgotten.
const REMEMBERED: usize = 256;
/// Bytes read at once from a command, and so the longest payload of a frame.
const CHUNK: usize = 32 << 10;

/// A connection that has stopped being HTTP.
type Connection = TokioIo<hyper::upgrade::Upgraded>;

/// The execs of this node.
#[derive(Debug, Default)]
pub(super) struct Execs(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<String, Exec>,
    /// Ids in the order they ended.
    ended: std::collections::VecDeque<String>,
}

#[derive(Debug, Clone)]
struct Exec {
    config: ExecConfig,
    /// Id of the task whose container it runs in.
    task: String,
    container: String,
    progress: Progress,
}

#[derive(Debug, Clone)]
enum Progress {
    Created,
    Starting,
    Running(ExecHandle),
    Ended(i32),
}

impl Execs {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ids of a container's execs that run.
    pub(super) fn of_container(&self, container: &str) -> Vec<String> {
        let table = self.table();
        let runs = |exec: &&Exec| {
            exec.container == container && matches!(exec.progress, Progress::Running(_))
        };
        table
            .by_id
            .iter()
            .filter(|(_, exec)| runs(exec))
            .map(|(id, _)| id.clone())
            .collect()
    }

    fn get(&self, id: &str) -> Result<Exec, ApiError> {
        self.table()
            .by_id
            .get(id)
            .cloned()
            .ok_or_else(|| ApiError::no_such_exec(id))
    }

    fn insert(&self, exec: Exec) -> String {
        let mut bytes = [0_u8; 32];
        rand::rng().fill_bytes(&mut bytes);
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.table().by_id.insert(id.clone(), exec);
        id
    }

    /// Gives a created exec to whoever starts it.
    fn begin(&self, id: &str) -> Result<Exec, ApiError> {
        let mut table = self.table();
        let exec = table
            .by_id
            .get_mut(id)
            .ok_or_else(|| ApiError::no_such_exec(id))?;
        if !matches!(exec.progress, Progress::Created) {
            return Err(ApiError::exec_started(id));
        }
        exec.progress = Progress::Starting;
        Ok(exec.clone())
    }

    fn runs(&self, id: &str, handle: ExecHandle) {
        if let Some(exec) = self.table().by_id.get_mut(id) {
            exec.progress = Progress::Running(handle);
        }
    }

    fn ended(&self, id: &str, code: i32) {
        let mut table = self.table();
        if let Some(exec) = table.by_id.get_mut(id) {
            exec.progress = Progress::Ended(code);
            table.ended.push_back(id.to_owned());
        }
        if table.ended.len() > REMEMBERED
            && let Some(oldest) = table.ended.pop_front()
        {
            table.by_id.remove(&oldest);
        }
    }
}

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
        tokio::spawn(async move {
            let code = drain(session).await;
            execs.ended(&id, code);
        });
        return Ok(StatusCode::OK.into_response());
    }
    let request = Request::from_parts(parts, Body::empty());
    let (response, connection) = hijack(request, terminal);
    tokio::spawn(async move {
        match connection.await {
            Some(connection) => {
                relay(connection, session, terminal, |code| execs.ended(&id, code)).await
            }
            None => execs.ended(&id, drain(session).await),
        }
    });
    Ok(response)
}

/// Tells on the stream why the command could not be started.
async fn complain(mut connection: Connection, terminal: bool, error: &RuntimeError) {
    let text = bytes::Bytes::from(format!("{error}\r\n"));
    let piece = match terminal {
        true => text,
        false => Frame {
            kind: StreamKind::Stderr,
            payload: text,
        }
        .to_bytes(),
    };
    // A client that is gone has nothing to be told.
    let _ = connection.write_all(&piece).await;
    let _ = connection.shutdown().await;
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
    }
}

/// Answers `101 UPGRADED` and gives the connection once the answer has been sent; nothing if the
/// client went away.
pub(super) fn hijack(
    mut request: Request,
    terminal: bool,
) -> (
    Response,
    impl Future<Output = Option<Connection>> + Send + 'static,
) {
    let upgrade = hyper::upgrade::on(&mut request);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .extensions_mut()
        .insert(ReasonPhrase::from_static(b"UPGRADED"));
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
    headers.insert(header::CONTENT_TYPE, media_type(terminal));
    (response, async { upgrade.await.ok().map(TokioIo::new) })
}

/// Lets a command run with nobody listening, and gives its exit code.
async fn drain(session: ExecSession) -> i32 {
    let ExecSession {
        stdin,
        stdout,
        stderr,
        handle,
    } = session;
    drop(stdin);
    let swallow = |source: Option<mesh_runtime::ByteSource>| async move {
        if let Some(mut source) = source {
            // A stream that breaks has ended.
            let _ = tokio::io::copy(&mut source, &mut tokio::io::sink()).await;
        }
    };
    tokio::join!(swallow(stdout), swallow(stderr));
    handle
        .wait()
        .await
        .unwrap_or_else(|error| error.exit_code())
}

/// Carries a command's streams until it has ended. The exit code is recorded before the connection
/// closes, because that is when clients ask for it.
async fn relay(
    connection: Connection,
    session: ExecSession,
    terminal: bool,
    ended: impl FnOnce(i32),
) {
    let ExecSession {
        stdin,
        stdout,
        stderr,
        handle,
    } = session;
    let (mut from_client, to_client) = tokio::io::split(connection);
    let to_client = tokio::sync::Mutex::new(to_client);
    let input = async {
        if let Some(mut stdin) = stdin {
            // Either side may close first; then there is nothing more to carry.
            let _ = tokio::io::copy(&mut from_client, &mut stdin).await;
            let _ = stdin.shutdown().await;
        }
        // Input never ends the exec.
        std::future::pending::<()>().await;
    };
    let output = async {
        tokio::join!(
            send(stdout, StreamKind::Stdout, terminal, &to_client),
            send(stderr, StreamKind::Stderr, terminal, &to_client),
        );
    };
    tokio::select! {
        () = input => {}
        () = output => {}
    }
    let code = handle
        .wait()
        .await
        .unwrap_or_else(|error| error.exit_code());
    ended(code);
    // A client that is gone has nothing to be told.
    let _ = to_client.into_inner().shutdown().await;
}

async fn send<R, W>(
    source: Option<R>,
    kind: StreamKind,
    terminal: bool,
    sink: &tokio::sync::Mutex<W>,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Some(mut source) = source else {
        return;
    };
    let mut buffer = vec![0; CHUNK];
    // A client that went away does not stop the command: its output is read on.
    let mut listening = true;
    while let Ok(length @ 1..) = source.read(&mut buffer).await {
        if !listening {
            continue;
        }
        let piece = bytes::Bytes::copy_from_slice(&buffer[..length]);
        let piece = match terminal {
            true => piece,
            false => Frame {
                kind,
                payload: piece,
            }
            .to_bytes(),
        };
        listening = sink.lock().await.write_all(&piece).await.is_ok();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn exec() -> Exec {
        Exec {
            config: ExecConfig::default(),
            task: "t".to_owned(),
            container: "c".to_owned(),
            progress: Progress::Created,
        }
    }

    #[test]
    fn an_exec_is_started_once() {
        let execs = Execs::default();
        let id = execs.insert(exec());
        assert_eq!(id.len(), 64);
        assert!(execs.begin(&id).is_ok());
        assert_eq!(
            execs.begin(&id).map(|_| ()),
            Err(ApiError::exec_started(&id))
        );
        assert_eq!(
            execs.begin("x").map(|_| ()),
            Err(ApiError::no_such_exec("x"))
        );
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let execs = Execs::default();
        let first = execs.insert(exec());
        execs.ended(&first, 0);
        for _ in 0..REMEMBERED {
            let id = execs.insert(exec());
            execs.ended(&id, 0);
        }
        assert!(execs.get(&first).is_err());
        assert_eq!(execs.table().by_id.len(), REMEMBERED);
    }

    #[tokio::test]
    async fn output_becomes_frames() {
        let sink = tokio::sync::Mutex::new(Vec::new());
        send(Some(&b"hi"[..]), StreamKind::Stdout, false, &sink).await;
        send(Some(&b"raw"[..]), StreamKind::Stdout, true, &sink).await;
        assert_eq!(sink.into_inner(), b"\x01\0\0\0\0\0\0\x02hiraw");
    }
}
