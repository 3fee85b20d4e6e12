//! One run of a health check: a command in the task's container, which ends with all that it has started.

use std::time::Duration;

use chrono::Utc;
use mesh_api::human::go_duration;
use mesh_runtime::{ByteSource, ExecSession, ExecSpec, HealthCheck, Runtime};
use tokio::{io::AsyncReadExt, sync::Semaphore, time::timeout};

use super::course::Run;

/// Bytes of a run's output that are kept (Docker's number).
const KEPT: usize = 4096;
/// How long a run may take to begin, which its own time does not include: the machine may be busy.
const BEGIN: Duration = Duration::from_secs(30);
/// How long a killed run may take to be gone.
const END: Duration = Duration::from_secs(10);
/// How long the last of its output may take to come.
const LAST: Duration = Duration::from_secs(1);

/// Runs the check once. Dropped before it is done, it ends the command.
pub(super) async fn run(
    runtime: &Runtime,
    id: &str,
    check: &HealthCheck,
    turns: &Semaphore,
) -> Run {
    let start = Utc::now();
    let (code, output) = match begin(runtime, id, check, turns).await {
        Ok(session) => follow(session, check.timeout).await,
        Err(why) => (-1, why),
    };
    Run {
        start,
        end: Utc::now(),
        code,
        output,
    }
}

async fn begin(
    runtime: &Runtime,
    id: &str,
    check: &HealthCheck,
    turns: &Semaphore,
) -> Result<ExecSession, String> {
    let spec = ExecSpec {
        args: check.command.clone(),
        bound: true,
        ..ExecSpec::default()
    };
    let _turn = turns.acquire().await.map_err(|error| error.to_string())?;
    match timeout(BEGIN, runtime.exec(id, &spec)).await {
        Ok(begun) => begun.map_err(|error| error.to_string()),
        Err(_) => Err(format!(
            "timed out starting health check for container {id}"
        )),
    }
}

/// Its exit code and output.
async fn follow(session: ExecSession, limit: Duration) -> (i32, String) {
    let ExecSession {
        stdout,
        stderr,
        handle,
        ..
    } = session;
    let mut output = Output::default();
    let result = {
        let mut reading = std::pin::pin!(output.collect(stdout, stderr));
        let whole = async {
            tokio::select! {
                code = handle.wait() => {
                    // What it has started is killed with it, and lets go of its output.
                    let _ = timeout(LAST, &mut reading).await;
                    code
                }
                () = &mut reading => handle.wait().await,
            }
        };
        let mut whole = std::pin::pin!(whole);
        match timeout(limit, &mut whole).await {
            Ok(code) => Some(code),
            Err(_) => {
                handle.end();
                // The next run may begin only when this one is gone.
                let _ = timeout(END, whole).await;
                None
            }
        }
    };
    match result {
        Some(Ok(code)) => (code, output.text()),
        Some(Err(error)) => (-1, error.to_string()),
        None => {
            let output = output.text();
            let colon = if output.is_empty() { "" } else { ": " };
            let limit = go_duration(limit);
            let told = format!("Health check exceeded timeout ({limit}){colon}{output}");
            (-1, told)
        }
    }
}

/// The beginning of what a command writes.
#[derive(Debug, Default)]
struct Output {
    kept: Vec<u8>,
    is_cut: bool,
}

impl Output {
    /// Reads both streams to their ends, as things come.
    async fn collect(&mut self, mut stdout: Option<ByteSource>, mut stderr: Option<ByteSource>) {
        let (mut first, mut second) = ([0; KEPT], [0; KEPT]);
        while stdout.is_some() || stderr.is_some() {
            tokio::select! {
                count = read(&mut stdout, &mut first) => match count {
                    0 => stdout = None,
                    count => self.add(&first[..count]),
                },
                count = read(&mut stderr, &mut second) => match count {
                    0 => stderr = None,
                    count => self.add(&second[..count]),
                },
            }
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = KEPT - self.kept.len();
        self.is_cut |= bytes.len() > room;
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.kept);
        let dots = if self.is_cut { "..." } else { "" };
        format!("{text}{dots}")
    }
}

/// What comes next; 0 at the end, and never where there is no stream.
async fn read(source: &mut Option<ByteSource>, buffer: &mut [u8]) -> usize {
    match source {
        Some(source) => source.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_beginning_of_both_streams_is_kept() {
        let source = |bytes: &'static [u8]| Some(Box::new(bytes) as ByteSource);
        let mut output = Output::default();
        output.collect(source(b"out"), source(b"err")).await;
        let text = output.text();
        assert!(text == "outerr" || text == "errout", "{text}");
        let mut output = Output::default();
        output.collect(source(&[b'x'; KEPT + 1]), None).await;
        assert_eq!(output.text(), format!("{}...", "x".repeat(KEPT)));
        let mut output = Output::default();
        output.collect(source(&[b'x'; KEPT]), None).await;
        assert_eq!(output.text().len(), KEPT);
    }
}
