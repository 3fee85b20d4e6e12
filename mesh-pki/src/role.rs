//! What a certificate lets its node do.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A node's role, in the certificate's organizational unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs tasks.
    Worker,
    /// Runs tasks and takes part in consensus.
    Manager,
}

impl Role {
    /// `swarm-worker` or `swarm-manager`.
    pub fn organizational_unit(self) -> &'static str {
        match self {
            Role::Worker => "swarm-worker",
            Role::Manager => "swarm-manager",
        }
    }

    /// The role that an organizational unit stands for.
    pub fn from_organizational_unit(unit: &str) -> Option<Self> {
        match unit {
            "swarm-worker" => Some(Role::Worker),
            "swarm-manager" => Some(Role::Manager),
            _ => None,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Worker => "worker",
            Role::Manager => "manager",
        })
    }
}
