//! Answers to what managers ask.

use mesh_api::proto::{LoadAnswer, Query, Report, query::Question, report::Answer};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

use crate::{doctor, loads, node::Node};

/// Answers questions, each on its own, until the session ends.
pub(crate) fn serve(
    node: Node,
    mut queries: mpsc::Receiver<Query>,
    reports: mpsc::Sender<Report>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        // Ends with this task.
        let mut open = JoinSet::new();
        while let Some(query) = queries.recv().await {
            while open.try_join_next().is_some() {}
            open.spawn(answer(node.clone(), query, reports.clone()));
        }
    })
}

async fn answer(node: Node, query: Query, reports: mpsc::Sender<Report>) {
    let answer = match query.question {
        Some(Question::Load(question)) => {
            match loads::read(&node, question.service_id).await {
                Ok(backends) => Answer::Load(LoadAnswer { backends }),
                // No answer is an answer: the manager says that this node's part is missing.
                Err(error) => {
                    tracing::warn!(%error, "the load of backends is not known");
                    return;
                }
            }
        }
        Some(Question::Check(question)) => Answer::Check(doctor::check(&node, question).await),
        None => return,
    };
    let report = Report {
        query_id: query.id,
        answer: Some(answer),
    };
    // The session may have ended meanwhile.
    let _ = reports.send(report).await;
}
