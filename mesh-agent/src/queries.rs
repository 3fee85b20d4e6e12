//! Answers to what managers ask.

use mesh_api::proto::{FlowQuestion, LoadQuestion, Query, Report, query::Question, report::Answer};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinHandle, JoinSet},
};

use crate::{doctor, loads, node::Node, trace, traffic};

/// Answers questions, each on its own, until the session ends.
pub(crate) fn serve(
    node: Node,
    mut queries: mpsc::Receiver<Query>,
    reports: mpsc::Sender<Report>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        // Ends with this task.
        let mut open = JoinSet::new();
        // The trace that goes on, if it does not yet know of its end.
        let mut traced: Option<(String, AbortHandle)> = None;
        while let Some(Query { id, question }) = queries.recv().await {
            while open.try_join_next().is_some() {}
            let (node, reports) = (node.clone(), reports.clone());
            match question {
                Some(Question::Load(question)) => {
                    open.spawn(load(node, question, id, reports));
                }
                Some(Question::Check(question)) => {
                    open.spawn(async move {
                        let answer = doctor::check(&node, question).await;
                        send(&reports, id, Answer::Check(answer)).await;
                    });
                }
                Some(Question::Flows(question)) => {
                    open.spawn(flows(node, question, id, reports));
                }
                Some(Question::Drops(_)) => {
                    open.spawn(drops(node, id, reports));
                }
                Some(Question::Trace(question)) => {
                    let replaced = traced.take();
                    if let Some((id, _)) = replaced.as_ref().filter(|(_, h)| !h.is_finished()) {
                        send(&reports, id.clone(), trace::replaced()).await;
                    }
                    end(&mut open, replaced).await;
                    let handle = open.spawn(trace::run(node, question, id.clone(), reports));
                    traced = Some((id, handle));
                }
                Some(Question::Stop(_)) => {
                    let stopped = traced.take_if(|(running, _)| *running == id);
                    end(&mut open, stopped).await;
                }
                None => {}
            }
        }
    })
}

/// Ends a trace and waits until it has.
async fn end(open: &mut JoinSet<()>, traced: Option<(String, AbortHandle)>) {
    let Some((_, handle)) = traced else {
        return;
    };
    handle.abort();
    while !handle.is_finished() && open.join_next().await.is_some() {}
}

async fn load(node: Node, question: LoadQuestion, id: String, reports: mpsc::Sender<Report>) {
    match loads::read(&node, question).await {
        Ok(answer) => send(&reports, id, Answer::Load(answer)).await,
        // No answer is an answer: the manager says that this node's part is missing.
        Err(error) => tracing::warn!(%error, "the load of backends is not known"),
    }
}

async fn flows(node: Node, question: FlowQuestion, id: String, reports: mpsc::Sender<Report>) {
    match traffic::flows(&node, question, traffic::MOST_FLOWS).await {
        Ok(answer) => send(&reports, id, Answer::Flows(answer)).await,
        Err(error) => tracing::warn!(%error, "the open flows are not known"),
    }
}

async fn drops(node: Node, id: String, reports: mpsc::Sender<Report>) {
    match traffic::drops(&node).await {
        Ok(answer) => send(&reports, id, Answer::Drops(answer)).await,
        Err(error) => tracing::warn!(%error, "what was dropped is not known"),
    }
}

async fn send(reports: &mpsc::Sender<Report>, query_id: String, answer: Answer) {
    let report = Report {
        query_id,
        answer: Some(answer),
    };
    // The session may have ended meanwhile.
    let _ = reports.send(report).await;
}
