//! `--all-nodes` and `--node`, of commands that else ask one node about itself.

use anyhow::{Result, ensure};
use mesh_api::mesh::OfNodes;

/// Which nodes are asked.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct NodeFlags {
    /// Ask all nodes (through a manager)
    #[arg(long, conflicts_with = "node")]
    all_nodes: bool,
    /// Ask this node (through a manager)
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
}

impl NodeFlags {
    /// Whether others than the one that the command talks to may be asked.
    pub(crate) fn several(&self) -> bool {
        self.all_nodes || self.node.is_some()
    }

    /// What was told; says which nodes' part is missing, and fails if it is that of the only one asked.
    pub(crate) fn told<T>(&self, told: OfNodes<T>) -> Result<Vec<T>> {
        let silent = told.silent_nodes.join(", ");
        ensure!(
            silent.is_empty() || self.node.is_none(),
            "no answer from {silent}"
        );
        if !silent.is_empty() {
            note!("no answer from {silent}: what they know is missing here");
        }
        if told.left_out > 0 {
            let more = told.left_out;
            note!("{more} more are not shown: ask for one service or client");
        }
        Ok(told.items)
    }
}
