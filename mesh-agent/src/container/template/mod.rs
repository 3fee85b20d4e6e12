//! Placeholders such as `{{.Task.Slot}}` in env, hostname, mounts, secrets and configs: Go templates, with the names and
//! functions of Swarm's.

mod engine;
mod functions;
mod payload;

use std::collections::HashMap;

use gtmpl::Value;
use mesh_api::{
    engine::{Mount, TaskSpecContainerSpec},
    proto,
};

use super::SpecError;

pub use payload::{check_payload, contents};

/// What placeholders may name of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Node id.
    pub id: String,
    /// The node's host name.
    pub hostname: String,
    /// CPU architecture, in Docker's node words: `x86_64`.
    pub architecture: String,
}

/// Tries the placeholders of a specification before there are tasks, for a service of this name and labels.
///
/// # Errors
/// One that no node could fill in.
pub fn check_templates(
    wanted: &TaskSpecContainerSpec,
    service_name: &str,
    labels: &HashMap<String, String>,
) -> Result<(), SpecError> {
    let task = proto::Task {
        id: "taskid".to_owned(),
        service_id: "serviceid".to_owned(),
        service_name: service_name.to_owned(),
        name: "taskname".to_owned(),
        slot: 1,
        service_labels: labels.clone(),
        ..proto::Task::default()
    };
    let node = Names {
        id: "nodeid".to_owned(),
        hostname: "nodeHostname".to_owned(),
        architecture: "architecture".to_owned(),
    };
    let values = Values {
        task: &task,
        node: &node,
    };
    for entry in wanted.env.iter().flatten() {
        values.variable(entry)?;
    }
    for mount in wanted.mounts.iter().flatten() {
        values.paths(mount)?;
    }
    let hostname = wanted.hostname.as_deref().unwrap_or_default();
    values.hostname(hostname).map(drop)
}

/// What stands for the placeholders of one task. Errors are worded as Swarm's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Values<'a> {
    pub(super) task: &'a proto::Task,
    pub(super) node: &'a Names,
}

impl Values<'_> {
    /// `NAME=value`: the value is a template, the name is not.
    pub(super) fn variable(&self, entry: &str) -> Result<String, SpecError> {
        let Some((name, value)) = entry.split_once('=') else {
            return Ok(entry.to_owned());
        };
        match self.fill(value) {
            Ok(value) => Ok(format!("{name}={value}")),
            Err(cause) => Err(SpecError::Template {
                place: "env",
                cause: format!("expanding env {entry:?}: {cause}"),
            }),
        }
    }

    /// Source and target of a mount.
    pub(super) fn paths(&self, mount: &Mount) -> Result<(String, String), SpecError> {
        let path = |what: &str, text: &Option<String>| {
            let text = text.as_deref().unwrap_or_default();
            self.fill(text).map_err(|cause| SpecError::Template {
                place: "mounts",
                cause: format!("expanding mount {what} {text:?}: {cause}"),
            })
        };
        Ok((
            path("source", &mount.source)?,
            path("target", &mount.target)?,
        ))
    }

    pub(super) fn hostname(&self, text: &str) -> Result<String, SpecError> {
        self.fill(text).map_err(|cause| SpecError::Template {
            place: "hostname",
            cause,
        })
    }

    fn fill(&self, text: &str) -> Result<String, String> {
        engine::fill(text, || context(self.task, self.node), None)
    }
}

fn context(task: &proto::Task, node: &Names) -> Value {
    let text = |text: &str| Value::String(text.to_owned());
    // A global service's task has its node in the place of the slot.
    let slot = match task.slot {
        0 => node.id.clone(),
        slot => slot.to_string(),
    };
    let labels = task.service_labels.iter();
    let labels = labels
        .map(|(key, value)| (key.clone(), text(value)))
        .collect();
    object([
        (
            "Service",
            object([
                ("ID", text(&task.service_id)),
                ("Name", text(&task.service_name)),
                // As in Swarm, a label that is not there is an error; `index` finds nothing in its place.
                ("Labels", Value::Object(labels)),
            ]),
        ),
        (
            "Node",
            object([
                ("ID", text(&node.id)),
                ("Hostname", text(&node.hostname)),
                (
                    "Platform",
                    object([
                        ("Architecture", text(&node.architecture)),
                        ("OS", text("linux")),
                    ]),
                ),
            ]),
        ),
        (
            "Task",
            object([
                ("ID", text(&task.id)),
                ("Name", text(&task.name)),
                ("Slot", text(&slot)),
            ]),
        ),
    ])
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let fields = fields.into_iter();
    let fields: HashMap<String, Value> =
        fields.map(|(key, value)| (key.to_owned(), value)).collect();
    Value::Object(fields)
}
