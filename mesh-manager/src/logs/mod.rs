//! Logs of tasks, fetched from the nodes that run them.

mod broker;
mod follow;
mod subscribe;

pub(crate) use broker::LogBroker;
pub(crate) use follow::{answer, follow};
use subscribe::subscribe;

use crate::ManagerError;
use std::{collections::BTreeMap, pin::Pin};

/// Time of the last line of each task that a reader has, by task id; nanoseconds since the epoch.
type Had = BTreeMap<String, i64>;

/// Whose logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Every task of a service, by id, name or unique id prefix.
    Service(String),
    /// One task, by id or unique id prefix.
    Task(String),
}

/// Which logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSelector {
    /// Whose.
    pub target: LogTarget,
    /// Go on with lines yet to be written.
    pub follow: bool,
    /// Only this many last lines of each task; `None` is all.
    pub tail: Option<u64>,
    /// Only lines after this time, nanoseconds since the epoch; 0 is all.
    pub since: i64,
    /// Lines of the standard output.
    pub stdout: bool,
    /// Lines of the standard error.
    pub stderr: bool,
}

/// One line of a task's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Which task.
    pub task_id: String,
    /// Its service.
    pub service_id: String,
    /// Its node.
    pub node_id: String,
    /// When it was written, nanoseconds since the epoch.
    pub timestamp: i64,
    /// 1 standard output, 2 standard error.
    pub stream: u8,
    /// The line, with its newline if it had one.
    pub data: Vec<u8>,
}

/// A piece of what a service or a task wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogItem {
    /// A line.
    Line(LogLine),
    /// The last piece of a log that lacks lines: the reasons, at least one.
    Incomplete(Vec<String>),
}

/// What Docker says of a log that lacks lines, for these reasons.
pub fn incomplete(reasons: &[String]) -> String {
    format!(
        "rpc error: code = Unknown desc = warning: incomplete log stream. some logs could not be retrieved for the \
         following reasons: {}",
        reasons.join(", ")
    )
}

/// Lines as they come. It ends by itself once there are no more, after an error if it broke off; dropping it ends the
/// subscription.
pub type LogStream = Pin<Box<dyn futures::Stream<Item = Result<LogItem, ManagerError>> + Send>>;
