//! What the managers want of this node, put together from full assignments and deltas, and kept on
//! disk: a node works from its last good assignment while no manager can be reached.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use mesh_api::proto::{self, Kind, object::Object};
use prost::Message;

/// All objects this node was told of, by id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// Revision of the last message that was merged.
    pub revision: u64,
    /// Tasks of this node.
    pub tasks: BTreeMap<String, proto::Task>,
    /// Networks.
    pub networks: BTreeMap<String, proto::Network>,
    /// Services.
    pub services: BTreeMap<String, proto::Service>,
    /// Tasks anywhere.
    pub endpoints: BTreeMap<String, proto::Endpoint>,
    /// The other nodes.
    pub peers: BTreeMap<String, proto::Peer>,
}

impl View {
    /// Merges a message. An older delta than what is known is ignored; a full assignment never is,
    /// for a manager restored from a backup may count from lower.
    pub fn merge(&mut self, message: proto::Assignment) {
        if message.full {
            *self = Self::default();
        } else if message.revision < self.revision {
            return;
        }
        self.revision = message.revision;
        for removed in message.removed {
            match removed.kind() {
                Kind::Task => drop(self.tasks.remove(&removed.id)),
                Kind::Network => drop(self.networks.remove(&removed.id)),
                Kind::Service => drop(self.services.remove(&removed.id)),
                Kind::Endpoint => drop(self.endpoints.remove(&removed.id)),
                Kind::Peer => drop(self.peers.remove(&removed.id)),
                Kind::Unspecified => {}
            }
        }
        for object in message
            .objects
            .into_iter()
            .filter_map(|object| object.object)
        {
            match object {
                Object::Task(task) => drop(self.tasks.insert(task.id.clone(), task)),
                Object::Network(net) => drop(self.networks.insert(net.id.clone(), net)),
                Object::Service(service) => {
                    drop(self.services.insert(service.id.clone(), service));
                }
                Object::Endpoint(end) => drop(self.endpoints.insert(end.id.clone(), end)),
                Object::Peer(peer) => drop(self.peers.insert(peer.id.clone(), peer)),
            }
        }
    }

    /// The same as one full message.
    pub fn to_message(&self) -> proto::Assignment {
        let objects = self
            .networks
            .values()
            .cloned()
            .map(Object::Network)
            .chain(self.services.values().cloned().map(Object::Service))
            .chain(self.endpoints.values().cloned().map(Object::Endpoint))
            .chain(self.peers.values().cloned().map(Object::Peer))
            .chain(self.tasks.values().cloned().map(Object::Task))
            .map(|object| proto::Object {
                object: Some(object),
            })
            .collect();
        proto::Assignment {
            revision: self.revision,
            full: true,
            objects,
            removed: Vec::new(),
        }
    }

    /// The ingress network.
    pub fn ingress(&self) -> Option<&proto::Network> {
        self.networks.values().find(|network| network.ingress)
    }
}

/// The last good assignment on disk.
#[derive(Debug, Clone)]
pub struct Saved {
    path: PathBuf,
}

impl Saved {
    /// In the directory `swarm`.
    pub fn new(swarm: &Path) -> Self {
        Self {
            path: swarm.join("assignment.pb"),
        }
    }

    /// Reads it; an empty one where there is none or it cannot be read (the managers send a full
    /// one at the next session).
    pub fn load(&self) -> View {
        let mut view = View::default();
        match fs::read(&self.path) {
            Ok(bytes) => match proto::Assignment::decode(bytes.as_slice()) {
                Ok(message) => view.merge(message),
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "last assignment is unreadable, waiting for a manager");
                }
            },
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "cannot read the last assignment");
            }
            Err(_) => {}
        }
        view
    }

    /// Writes it, atomically. Not synced: after a power cut a manager sends it anew.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn store(&self, view: &View) -> io::Result<()> {
        let scratch = self.path.with_extension("new");
        fs::write(&scratch, view.to_message().encode_to_vec())?;
        fs::rename(&scratch, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: &str, desired: &str) -> proto::Object {
        proto::Object {
            object: Some(Object::Task(proto::Task {
                id: id.into(),
                desired_state: desired.into(),
                ..Default::default()
            })),
        }
    }

    #[test]
    fn full_then_deltas() {
        let mut view = View::default();
        view.merge(proto::Assignment {
            revision: 5,
            full: true,
            objects: vec![task("a", "running"), task("b", "running")],
            removed: vec![],
        });
        view.merge(proto::Assignment {
            revision: 7,
            full: false,
            objects: vec![task("a", "shutdown")],
            removed: vec![proto::ObjectId {
                kind: Kind::Task as i32,
                id: "b".into(),
            }],
        });
        assert_eq!(view.tasks.len(), 1);
        assert_eq!(view.tasks["a"].desired_state, "shutdown");
        // Late and repeated.
        view.merge(proto::Assignment {
            revision: 6,
            objects: vec![task("c", "running")],
            ..Default::default()
        });
        assert!(!view.tasks.contains_key("c"));
        let mut again = View::default();
        again.merge(view.to_message());
        assert_eq!(again, view);
        view.merge(proto::Assignment {
            revision: 2,
            full: true,
            ..Default::default()
        });
        assert!(view.tasks.is_empty());
        assert_eq!(view.revision, 2);
    }
}
