//! The four modes of a service: how many tasks it has, and whether they are to come to an end.

use mesh_api::engine;

/// Mode of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceMode {
    /// So many tasks run.
    Replicated,
    /// One task runs on each node.
    Global,
    /// So many tasks run to their end.
    ReplicatedJob,
    /// One task runs to its end on each node.
    GlobalJob,
}

impl ServiceMode {
    /// What a spec asks for; replicated, if it says nothing.
    pub fn of(spec: &engine::ServiceSpec) -> Self {
        match &spec.mode {
            Some(mode) if mode.global.is_some() => Self::Global,
            Some(mode) if mode.replicated_job.is_some() => Self::ReplicatedJob,
            Some(mode) if mode.global_job.is_some() => Self::GlobalJob,
            _ => Self::Replicated,
        }
    }

    /// Docker's word, as in `--mode`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replicated => "replicated",
            Self::Global => "global",
            Self::ReplicatedJob => "replicated-job",
            Self::GlobalJob => "global-job",
        }
    }

    /// Whether each node has its own task.
    pub fn is_global(self) -> bool {
        matches!(self, Self::Global | Self::GlobalJob)
    }

    /// Whether its tasks are to come to an end.
    pub fn is_job(self) -> bool {
        matches!(self, Self::ReplicatedJob | Self::GlobalJob)
    }
}
