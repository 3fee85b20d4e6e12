//! Membership of the node, as the API reports it.

use std::net::IpAddr;

/// Worker or manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs tasks.
    Worker,
    /// Holds the cluster's state, and runs tasks.
    Manager,
}

/// What a member knows of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterInfo {
    /// This node's id.
    pub node_id: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// Worker or manager.
    pub role: Role,
    /// Address that other nodes reach this node at.
    pub advertise: IpAddr,
    /// Tunnel end point.
    pub data_path: IpAddr,
    /// Managers (`address:port`) known so far.
    pub managers: Vec<String>,
}

/// Membership of the node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NodeState {
    /// In no cluster.
    #[default]
    Inactive,
    /// A member that has not reached a manager since it started; nothing is known of the cluster until the
    /// membership has been taken up again.
    Pending(Option<ClusterInfo>),
    /// A member.
    Active(ClusterInfo),
    /// A manager whose keys are locked, and so the node's private key: nothing is known of the cluster but what the node had
    /// to do.
    Locked,
    /// A member that cannot work; the text says why.
    Error(String),
}

impl NodeState {
    /// What is known of the cluster.
    pub fn cluster(&self) -> Option<&ClusterInfo> {
        match self {
            Self::Active(info) | Self::Pending(Some(info)) => Some(info),
            _ => None,
        }
    }

    /// Docker's word for the `Swarm:` header: `inactive`, `pending`, `error`, `locked`, `active/worker`, `active/manager`.
    pub fn header(&self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Pending(_) => "pending",
            Self::Error(_) => "error",
            Self::Locked => "locked",
            Self::Active(info) if info.role == Role::Manager => "active/manager",
            Self::Active(_) => "active/worker",
        }
    }
}
