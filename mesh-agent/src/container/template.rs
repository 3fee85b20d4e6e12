//! Placeholders such as `{{.Task.Slot}}` in env, hostname and mounts.

use std::collections::HashMap;

use gtmpl::Value;
use mesh_api::proto;

use super::SpecError;

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

/// Fills the placeholders of `text`; text without any costs nothing.
pub(super) fn fill(text: &str, task: &proto::Task, node: &Names) -> Result<String, SpecError> {
    if !text.contains("{{") {
        return Ok(text.to_owned());
    }
    gtmpl::template(text, context(task, node)).map_err(|error| SpecError::Template {
        text: text.to_owned(),
        cause: error.to_string(),
    })
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
                ("Labels", Value::Map(labels)),
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
