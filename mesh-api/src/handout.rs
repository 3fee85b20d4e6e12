//! Secrets and configs: what tasks are handed as files. Both have the same shape in the Engine API, under other names.

use serde::{Deserialize, Serialize};

use crate::engine::TaskSpecContainerSpec;

/// The one template driver there is, Go's templates.
pub const TEMPLATE_DRIVER: &str = "golang";

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Only tasks ever see its data.
    Secret,
    /// Its data is shown to whoever asks.
    Config,
}

impl Kind {
    /// What one is called.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Config => "config",
        }
    }

    /// Bytes that the largest one holds, as in Swarm.
    pub fn limit(self) -> usize {
        match self {
            Self::Secret => 500 << 10,
            Self::Config => 1000 << 10,
        }
    }
}

/// A container's claim to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference<'a> {
    /// Of which kind.
    pub kind: Kind,
    /// Its id, or empty.
    pub id: &'a str,
    /// Its name, or empty.
    pub name: &'a str,
    /// The file to show it as.
    pub file: Option<File<'a>>,
}

/// How a task sees what it is handed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File<'a> {
    /// Path in the task.
    pub name: &'a str,
    /// Number of the owner, or empty.
    pub uid: &'a str,
    /// Number of the group, or empty.
    pub gid: &'a str,
    /// Permission bits.
    pub mode: Option<u32>,
}

fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// Every claim of a container, secrets first.
pub fn references(container: &TaskSpecContainerSpec) -> impl Iterator<Item = Reference<'_>> {
    let secrets = container.secrets.iter().flatten().map(|claim| Reference {
        kind: Kind::Secret,
        id: text(&claim.secret_id),
        name: text(&claim.secret_name),
        file: claim.file.as_ref().map(|file| File {
            name: text(&file.name),
            uid: text(&file.uid),
            gid: text(&file.gid),
            mode: file.mode,
        }),
    });
    let configs = container.configs.iter().flatten().map(|claim| Reference {
        kind: Kind::Config,
        id: text(&claim.config_id),
        name: text(&claim.config_name),
        file: claim.file.as_ref().map(|file| File {
            name: text(&file.name),
            uid: text(&file.uid),
            gid: text(&file.gid),
            mode: file.mode,
        }),
    });
    secrets.chain(configs)
}
