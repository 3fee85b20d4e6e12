//! Waits until the nodes have applied what a service has come to.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mesh_api::{
    Client, Filters,
    human::go_duration,
    mesh::{Applied, BehindNode},
};

use super::{asked, unless_interrupted};
use crate::view::word;

/// How long one request waits, seconds: an agent that is restarted meanwhile is asked again.
const AT_A_TIME: u64 = 5;
/// Nodes that are named; of more, only the number is told.
const MAX_NAMES: usize = 5;

/// Waits until every node that is up has applied the service and its tasks as they are now. Says which are not up.
///
/// # Errors
/// One that is up has not within `limit`, or nobody knows.
pub(crate) async fn wait(client: &Client, id: &str, limit: Duration, quiet: bool) -> Result<()> {
    unless_interrupted(id, until_applied(client, id, limit, quiet)).await?;
    Ok(())
}

async fn until_applied(client: &Client, id: &str, limit: Duration, quiet: bool) -> Result<()> {
    let index = newest(client, id).await?;
    let begun = Instant::now();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        let seconds = left.as_secs().min(AT_A_TIME);
        let answer = asked(async || client.applied(index, seconds).await).await?;
        if answer.is_applied {
            if let Some(warning) = warning(&answer) {
                note!("{warning}");
            } else if !quiet {
                say!("applied on all nodes")?;
            }
            return Ok(());
        }
        if begun.elapsed() >= limit {
            let limit = go_duration(limit);
            bail!("not applied within {limit} on {}", names(&answer.behind));
        }
        // What is left of a second.
        if seconds == 0 {
            tokio::time::sleep(super::POLL).await;
        }
    }
}

/// The newest version of the service and its tasks.
async fn newest(client: &Client, id: &str) -> Result<u64> {
    let service = asked(async || client.service(id, false).await).await?;
    let filters = Filters::new().with("service", id);
    let tasks = asked(async || client.tasks(&filters).await).await?;
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
    use mesh_api::engine::NodeState;

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
}
