//! Questions to every node, asked at the moment when somebody wants to know. Nothing is kept, so nothing is old.

use crate::{ErrorKind, ManagerError, core::Core, dispatcher::Session, state::NodeState};
use futures::future::join_all;
use mesh_api::proto::{
    Query, Report, Stop, manager_message::Message, query::Question, report::Answer,
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinHandle};

/// What the nodes answered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answers {
    /// By node id.
    pub by_node: HashMap<String, Answer>,
    /// Ids of the ready nodes among those asked that did not answer.
    pub silent: BTreeSet<String>,
}

type Sender = mpsc::UnboundedSender<(String, Answer)>;

/// Open queries by id.
#[derive(Debug, Default)]
pub(crate) struct Queries(Mutex<HashMap<String, Sender>>);

impl Queries {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Sender>> {
        // The map is whole between any two statements.
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Hands on a node's answer, if somebody still waits for it.
    pub(crate) fn answer(&self, node_id: &str, report: Report) {
        if let (Some(sender), Some(answer)) = (self.lock().get(&report.query_id), report.answer) {
            // Who asked may have gone meanwhile.
            let _ = sender.send((node_id.to_owned(), answer));
        }
    }

    fn open(&self) -> (Open<'_>, mpsc::UnboundedReceiver<(String, Answer)>) {
        let (sender, answers) = mpsc::unbounded_channel();
        let id = mesh_pki::new_id();
        self.lock().insert(id.clone(), sender);
        (Open { queries: self, id }, answers)
    }
}

/// A query that is over when this is dropped.
struct Open<'a> {
    queries: &'a Queries,
    id: String,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.queries.lock().remove(&self.id);
    }
}

/// The sessions that a question was sent in.
#[derive(Debug, Clone, Default)]
struct Asked(Arc<Mutex<Vec<Arc<Session>>>>);

impl Asked {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Session>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn take(&self) -> Vec<Arc<Session>> {
        std::mem::take(&mut self.lock())
    }

    /// Those of `open` that are new; they count as asked from now on.
    fn add(&self, mut open: Vec<Arc<Session>>) -> Vec<Arc<Session>> {
        let mut asked = self.lock();
        open.retain(|session| asked.iter().all(|old| old.id != session.id));
        asked.extend(open.iter().cloned());
        open
    }
}

/// What the nodes go on answering, until this is dropped.
pub struct Following {
    /// Ids of the nodes that are asked.
    pub nodes: BTreeSet<String>,
    core: Arc<Core>,
    id: String,
    asked: Asked,
    /// Asks the nodes that come.
    asking: JoinHandle<()>,
    answers: mpsc::UnboundedReceiver<(String, Answer)>,
}

impl std::fmt::Debug for Following {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Following")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Following {
    /// The next answer, and the id of the node whose it is.
    pub async fn next(&mut self) -> Option<(String, Answer)> {
        self.answers.recv().await
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.core.queries.lock().remove(&self.id);
        self.asking.abort();
        let (id, sessions) = (self.id.clone(), self.asked.take());
        // A node that is not told ends by itself when its time is over.
        self.core.tasks.spawn(async move {
            send(&sessions, &id, |_| Question::Stop(Stop {})).await;
        });
    }
}

/// Asks every node that has a session, or opens one, a question that is answered more than once. Questions that wait for a
/// slow node hold the others up for no longer than `patience`.
pub(crate) fn follow(
    core: &Arc<Core>,
    question: Question,
    patience: Duration,
) -> Result<Following, ManagerError> {
    leads(core)?;
    let mut opened = core.sessions.opened();
    let (id, asked) = (mesh_pki::new_id(), Asked::default());
    let (sender, answers) = mpsc::unbounded_channel();
    core.queries.lock().insert(id.clone(), sender);
    let nodes = core.sessions.all();
    let asking = {
        let (core, id, asked) = (core.clone(), id.clone(), asked.clone());
        let cancel = core.cancel.clone();
        let ask = async move {
            loop {
                let new = asked.add(core.sessions.all());
                let sent = send(&new, &id, |_| question.clone());
                let _ = tokio::time::timeout(patience, sent).await;
                if opened.changed().await.is_err() {
                    return;
                }
            }
        };
        async move {
            let _ = cancel.run_until_cancelled(ask).await;
        }
    };
    Ok(Following {
        nodes: nodes.iter().map(|s| s.node_id.clone()).collect(),
        core: core.clone(),
        id,
        asked,
        asking: core.tasks.spawn(asking),
        answers,
    })
}

fn leads(core: &Core) -> Result<(), ManagerError> {
    if core.leadership().is_self {
        return Ok(());
    }
    Err(ManagerError::new(
        ErrorKind::Unavailable,
        "the nodes are asked by the leading manager; ask it instead",
    ))
}

async fn send(sessions: &[Arc<Session>], id: &str, question: impl Fn(&str) -> Question) {
    let sent = sessions.iter().map(|session| {
        session.send(Message::Query(Query {
            id: id.to_owned(),
            question: Some(question(&session.node_id)),
        }))
    });
    join_all(sent).await;
}

/// Asks every node that has a session, or only the one with this id, each what `question` says for its id. Those that
/// are too slow are named, not waited for.
pub(crate) async fn ask(
    core: &Core,
    only: Option<&str>,
    question: impl Fn(&str) -> Question,
    patience: Duration,
) -> Result<Answers, ManagerError> {
    leads(core)?;
    let wanted = |id: &str| only.is_none_or(|only| only == id);
    let mut sessions = core.sessions.all();
    sessions.retain(|session| wanted(&session.node_id));
    // As it is now: a node may be down by the time that it was waited for in vain.
    let silent = core
        .store
        .read()
        .nodes()
        .filter(|node| wanted(&node.id) && node.state == NodeState::Ready)
        .map(|node| node.id.clone())
        .collect();
    let mut found = Answers {
        silent,
        ..Answers::default()
    };
    let asked = gather(&core.queries, &sessions, question, &mut found);
    let _ = tokio::time::timeout(patience, asked).await;
    let Answers { by_node, silent } = &mut found;
    silent.retain(|id| !by_node.contains_key(id));
    Ok(found)
}

/// Sends the questions and takes the first answer of each node.
async fn gather(
    queries: &Queries,
    sessions: &[Arc<Session>],
    question: impl Fn(&str) -> Question,
    found: &mut Answers,
) {
    let (open, mut answers) = queries.open();
    let receive = async {
        while found.by_node.len() < sessions.len() {
            let Some((node_id, answer)) = answers.recv().await else {
                return;
            };
            found.by_node.entry(node_id).or_insert(answer);
        }
    };
    tokio::join!(send(sessions, &open.id, question), receive);
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_api::proto::LoadAnswer;

    #[test]
    fn an_answer_to_nobody_is_dropped() {
        let queries = Queries::default();
        let (open, mut answers) = queries.open();
        let report = |id: &str| Report {
            query_id: id.into(),
            answer: Some(Answer::Load(LoadAnswer::default())),
        };
        let id = open.id.clone();
        queries.answer("n", report("other"));
        queries.answer("n", report(&id));
        drop(open);
        queries.answer("n", report(&id));
        assert_eq!(answers.try_recv().unwrap().0, "n");
        assert!(
            answers.try_recv().is_err(),
            "one answer, and no more to come"
        );
    }
}
