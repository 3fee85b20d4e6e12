//! Waits until the nodes have applied what a service has come to.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use mesh_api::{
    Client, ClientError, Filters,
    engine::NodeState,
    human::go_duration,
    mesh::{Applied, BehindNode},
};

use super::{POLL, Waited, asked_again};
use crate::view::word;

/// How long one request waits, seconds: an agent that is restarted meanwhile is asked again.
const AT_A_TIME: u64 = 5;
/// Nodes that are named; of more, only the number is told.
const MAX_NAMES: usize = 5;

/// Waits until every node that is up has applied the service and its tasks as they are now. Says which are not up.
///
/// # Errors
/// One that is up has not within `limit`, or nobody knows.
pub(crate) async fn wait(
    client: &Client,
    id: &str,
    limit: Duration,
    quiet: bool,
) -> Result<Waited> {
    let answer = tokio::select! {
        answer = within(client, id, limit) => answer?,
        _ = tokio::signal::ctrl_c() => return Ok(Waited::Interrupted),
    };
    if let Some(warning) = warning(&answer) {
        note!("{warning}");
    } else if !quiet {
        say!("applied on all nodes")?;
    }
    Ok(Waited::Converged)
}

/// The answer that all have applied it, if it comes within `limit`, or soon after it. So long nobody waits for the agent either.
async fn within(client: &Client, id: &str, limit: Duration) -> Result<Applied> {
    let mut last = Last::Silence;
    let answer = until_applied(client, id, limit, &mut last);
    match tokio::time::timeout(limit + POLL, answer).await {
        Ok(answer) => answer,
        Err(_) => bail!("not applied within {}{last}", go_duration(limit)),
    }
}

/// What was last known of a change that is not applied.
#[derive(Debug)]
enum Last {
    Silence,
    Failure(String),
    Behind(Vec<BehindNode>),
}

impl fmt::Display for Last {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence => f.write_str(": the agent does not answer"),
            Self::Failure(error) => write!(f, ": {error}"),
            // That others will apply it later is no reason to wait.
            Self::Behind(nodes) => {
                let ready = nodes.iter().filter(|n| n.state == NodeState::READY);
                let ready: Vec<_> = ready.cloned().collect();
                match ready.as_slice() {
                    [] => Ok(()),
                    ready => write!(f, " on {}", names(ready)),
                }
            }
        }
    }
}

/// Asks until all have applied it.
async fn until_applied(
    client: &Client,
    id: &str,
    limit: Duration,
    last: &mut Last,
) -> Result<Applied> {
    let begun = Instant::now();
    let index = newest(client, id, last).await?;
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        let seconds = left.as_secs().min(AT_A_TIME);
        let question = async || client.applied(index, seconds).await;
        let answer =
            asked_again(question, |error| *last = Last::Failure(error.to_string())).await?;
        if answer.is_applied {
            return Ok(answer);
        }
        *last = Last::Behind(answer.behind);
        // What is left of a second.
        if seconds == 0 {
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The newest version of the service and its tasks.
async fn newest(client: &Client, id: &str, last: &mut Last) -> Result<u64> {
    let mut failed = |error: &ClientError| *last = Last::Failure(error.to_string());
    let service = asked_again(async || client.service(id, false).await, &mut failed).await?;
    let filters = Filters::new().with("service", id);
    let tasks = asked_again(async || client.tasks(&filters).await, &mut failed).await?;
    let versions = tasks.into_iter().map(|task| task.version);
    let all = versions.chain([service.version]).flatten();
    Ok(all.filter_map(|version| version.index).max().unwrap_or(0))
}

/// What is to be known of an answer by which all that are up have applied it.
fn warning(answer: &Applied) -> Option<String> {
    let absent = &answer.behind;
    (!absent.is_empty()).then(|| {
        format!(
            "applied on all nodes that are up; will be on {} once back",
            names(absent)
        )
    })
}

fn names(nodes: &[BehindNode]) -> String {
    let name = |node: &BehindNode| {
        let name = match node.hostname.as_str() {
            "" => &node.id,
            name => name,
        };
        format!("{name} ({})", word(Some(node.state)))
    };
    match nodes.len() {
        count if count > MAX_NAMES => format!("{count} nodes"),
        _ => nodes.iter().map(name).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixListener,
    };

    use super::*;

    fn behind(count: usize, state: NodeState) -> Vec<BehindNode> {
        let node = |number| BehindNode {
            id: format!("id{number}"),
            hostname: if number == 1 {
                String::new()
            } else {
                format!("n{number}")
            },
            state,
        };
        (1..=count).map(node).collect()
    }

    #[test]
    fn who_is_behind_is_named_unless_there_are_many() {
        let ready = |count| names(&behind(count, NodeState::READY));
        assert_eq!(ready(2), "id1 (ready), n2 (ready)");
        assert!(ready(MAX_NAMES).contains("n5"));
        assert_eq!(ready(MAX_NAMES + 1), "6 nodes");
        let answer = |behind| Applied {
            index: 7,
            is_applied: true,
            behind,
        };
        assert_eq!(warning(&answer(Vec::new())), None);
        assert_eq!(
            warning(&answer(behind(1, NodeState::DOWN))).as_deref(),
            Some("applied on all nodes that are up; will be on id1 (down) once back")
        );
    }

    #[test]
    fn those_that_are_down_are_not_to_blame() {
        let mut nodes = behind(2, NodeState::READY);
        nodes[1].state = NodeState::DOWN;
        assert_eq!(Last::Behind(nodes).to_string(), " on id1 (ready)");
        let absent = behind(2, NodeState::DOWN);
        assert_eq!(Last::Behind(absent).to_string(), "");
    }

    /// What comes of waiting for a moment for one who gives this answer, or none.
    async fn waited(answer: Option<&str>) -> String {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("mesh.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let serve = async {
            let mut held = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                if let Some(answer) = answer {
                    let asked = stream.read(&mut [0; 4096]).await;
                    assert_ne!(asked.expect("a request"), 0, "it asks");
                    let answered = stream.write_all(answer.as_bytes()).await;
                    answered.expect("who asks reads");
                }
                held.push(stream);
            }
        };
        let client = Client::unix(path);
        tokio::select! {
            () = serve => unreachable!("it serves on"),
            waited = wait(&client, "s1", Duration::from_millis(300), true) => {
                waited.expect_err("nothing is applied").to_string()
            }
        }
    }

    #[tokio::test]
    async fn nobody_is_waited_for_longer_than_told() {
        let told = waited(None).await;
        assert_eq!(told, "not applied within 300ms: the agent does not answer");
        let body = r#"{"message":"there is no leader"}"#;
        let head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json";
        let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let told = waited(Some(&answer)).await;
        assert!(
            told.starts_with("not applied within 300ms: ") && told.contains("there is no leader"),
            "{told}"
        );
    }
}
