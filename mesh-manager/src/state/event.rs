//! What an applied entry changed, for those who wait for changes.

/// Kind of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// The cluster itself.
    Cluster,
    /// A node.
    Node,
    /// A service.
    Service,
    /// A task.
    Task,
    /// A network.
    Network,
    /// A secret.
    Secret,
    /// A config.
    Config,
}

/// What happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventAction {
    /// It was made.
    Create,
    /// It was changed.
    Update,
    /// It was removed.
    Remove,
}

impl EventAction {
    pub(crate) fn of(is_new: bool) -> Self {
        if is_new { Self::Create } else { Self::Update }
    }
}

/// One change of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Raft index of the change.
    pub index: u64,
    /// Time of the change, nanoseconds since the epoch.
    pub time: i64,
    /// Kind of the object.
    pub kind: ObjectKind,
    /// What happened.
    pub action: EventAction,
    /// Its id.
    pub id: String,
    /// Its name, unless it is a task or the cluster.
    pub name: String,
    /// Of a task: its service.
    pub service_id: Option<String>,
}
