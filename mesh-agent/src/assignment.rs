//! What the managers want of this node: the full assignment, kept by applying deltas, and kept on
//! disk as well, so that the node goes on with its last good one while no manager answers. Secrets
//! and configs are kept in memory only: after a restart, tasks that have yet to be made wait for a
//! manager to tell them again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use mesh_api::{
    Sensitive, handout,
    proto::{self, Kind, object::Object},
};
use prost::Message;

/// The tasks of one service, by task id.
pub type Tasks = BTreeMap<String, proto::Endpoint>;

/// Secrets, or configs, by id.
pub type Handouts = BTreeMap<String, Arc<Handout>>;

/// A secret or config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handout {
    /// What it holds.
    pub data: Arc<Sensitive>,
    /// It is a template, to be filled in for each task.
    pub is_template: bool,
}

impl From<proto::Handout> for Handout {
    fn from(told: proto::Handout) -> Self {
        Self {
            data: Arc::new(told.data.into()),
            is_template: told.is_template,
        }
    }
}

/// Everything assigned to this node, by id. What the cluster has many of is shared with the state before: a delta copies
/// only the services that it is about.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Assignment {
    /// The managers' revision this is the state of.
    pub revision: u64,
    /// The tasks of this node.
    pub tasks: BTreeMap<String, proto::Task>,
    /// The networks this node has to know.
    pub networks: BTreeMap<String, proto::Network>,
    /// The services on those networks and those with published ports.
    pub services: BTreeMap<String, Arc<proto::Service>>,
    /// The running tasks of the cluster on those networks, by service id.
    pub endpoints: BTreeMap<String, Arc<Tasks>>,
    /// All nodes, this one too, by node id.
    pub peers: BTreeMap<String, proto::Peer>,
    /// What the secrets of this node's tasks hold; not saved.
    pub secrets: Handouts,
    /// What the configs of this node's tasks hold; not saved.
    pub configs: Handouts,
}

impl Assignment {
    /// Brings the state to the message's revision.
    pub fn apply(&mut self, message: proto::Assignment) {
        if message.full {
            *self = Self::default();
        }
        self.revision = message.revision;
        for object in message.objects.into_iter().filter_map(|o| o.object) {
            match object {
                Object::Task(task) => drop(self.tasks.insert(task.id.clone(), task)),
                Object::Network(net) => drop(self.networks.insert(net.id.clone(), net)),
                Object::Service(service) => {
                    drop(self.services.insert(service.id.clone(), service.into()));
                }
                Object::Endpoint(endpoint) => self.add_endpoint(endpoint),
                Object::Peer(peer) => drop(self.peers.insert(peer.id.clone(), peer)),
                Object::Secret(it) => {
                    drop(self.secrets.insert(it.id.clone(), Arc::new(it.into())));
                }
                Object::Config(it) => {
                    drop(self.configs.insert(it.id.clone(), Arc::new(it.into())));
                }
            }
        }
        let mut ended = BTreeSet::new();
        for gone in message.removed {
            match gone.kind() {
                Kind::Task => drop(self.tasks.remove(&gone.id)),
                Kind::Network => drop(self.networks.remove(&gone.id)),
                Kind::Service => drop(self.services.remove(&gone.id)),
                Kind::Endpoint => drop(ended.insert(gone.id)),
                Kind::Peer => drop(self.peers.remove(&gone.id)),
                Kind::Secret => drop(self.secrets.remove(&gone.id)),
                Kind::Config => drop(self.configs.remove(&gone.id)),
                Kind::Unspecified => {}
            }
        }
        self.remove_endpoints(&ended);
    }

    /// A secret or config, if a manager has told of it since this process began.
    pub fn handout(&self, kind: handout::Kind, id: &str) -> Option<&Arc<Handout>> {
        match kind {
            handout::Kind::Secret => self.secrets.get(id),
            handout::Kind::Config => self.configs.get(id),
        }
    }

    /// Adds a task of the cluster, or replaces what was known of it.
    pub fn add_endpoint(&mut self, endpoint: proto::Endpoint) {
        let tasks = self.endpoints.entry(endpoint.service_id.clone());
        Arc::make_mut(tasks.or_default()).insert(endpoint.id.clone(), endpoint);
    }

    /// Their services are not told with them.
    fn remove_endpoints(&mut self, ended: &BTreeSet<String>) {
        if ended.is_empty() {
            return;
        }
        self.endpoints.retain(|_, tasks| {
            let concerned = if ended.len() < tasks.len() {
                ended.iter().any(|id| tasks.contains_key(id))
            } else {
                tasks.keys().any(|id| ended.contains(id))
            };
            if concerned {
                Arc::make_mut(tasks).retain(|id, _| !ended.contains(id));
            }
            !tasks.is_empty()
        });
    }

    /// The whole state as one message, but for secrets and configs.
    pub fn to_message(&self) -> proto::Assignment {
        let objects = (self.tasks.values().cloned().map(Object::Task))
            .chain(self.networks.values().cloned().map(Object::Network))
            .chain(
                (self.services.values()).map(|service| Object::Service(service.as_ref().clone())),
            )
            .chain(
                (self.endpoints.values())
                    .flat_map(|tasks| tasks.values().cloned().map(Object::Endpoint)),
            )
            .chain(self.peers.values().cloned().map(Object::Peer))
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

    /// Reads what [`Assignment::save`] wrote; `None` when there is nothing.
    ///
    /// # Errors
    /// The file cannot be read, or is not an assignment.
    pub fn load(path: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let message = proto::Assignment::decode(bytes.as_slice())?;
        let mut assignment = Self::default();
        assignment.apply(message);
        Ok(Some(assignment))
    }

    /// Replaces the file at `path`, at once and durably. Only root can read it: registry
    /// credentials are part of an assignment.
    ///
    /// # Errors
    /// The file cannot be written; the old one is then still there.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let next = path.with_extension("next");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&next)?;
        file.write_all(&self.to_message().encode_to_vec())?;
        file.sync_data()?;
        fs::rename(&next, path)?;
        match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: &str, state: &str) -> proto::Object {
        proto::Object {
            object: Some(Object::Task(proto::Task {
                id: id.into(),
                desired_state: state.into(),
                ..Default::default()
            })),
        }
    }

    fn message(revision: u64, full: bool, objects: Vec<proto::Object>) -> proto::Assignment {
        proto::Assignment {
            revision,
            full,
            objects,
            removed: Vec::new(),
        }
    }

    #[test]
    fn deltas_replace_and_remove_and_full_forgets() {
        let mut state = Assignment::default();
        state.apply(message(
            1,
            true,
            vec![task("a", "ready"), task("b", "ready")],
        ));
        let mut delta = message(2, false, vec![task("a", "running")]);
        delta.removed.push(proto::ObjectId {
            kind: Kind::Task.into(),
            id: "b".into(),
        });
        state.apply(delta);
        assert_eq!(state.revision, 2);
        assert_eq!(state.tasks.len(), 1);
        assert_eq!(state.tasks["a"].desired_state, "running");
        state.apply(message(3, true, vec![task("c", "ready")]));
        assert_eq!(state.tasks.keys().collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn a_delta_copies_only_the_services_it_is_about() {
        let endpoint = |service: &str, id: &str| proto::Object {
            object: Some(Object::Endpoint(proto::Endpoint {
                id: id.into(),
                service_id: service.into(),
                ..Default::default()
            })),
        };
        let ids = |state: &Assignment, service: &str| -> Vec<String> {
            let tasks = state.endpoints.get(service);
            tasks.into_iter().flat_map(|t| t.keys().cloned()).collect()
        };
        let mut state = Assignment::default();
        let all = [("a", "1"), ("a", "2"), ("b", "3"), ("c", "4")];
        state.apply(message(
            1,
            true,
            all.map(|(service, id)| endpoint(service, id)).into(),
        ));
        let before = state.clone();
        let mut delta = message(2, false, vec![endpoint("a", "5")]);
        for id in ["2", "4", "9"] {
            delta.removed.push(proto::ObjectId {
                kind: Kind::Endpoint.into(),
                id: id.into(),
            });
        }
        state.apply(delta);
        assert_eq!(ids(&state, "a"), ["1", "5"]);
        assert!(Arc::ptr_eq(&state.endpoints["b"], &before.endpoints["b"]));
        assert!(!state.endpoints.contains_key("c"));
        assert_eq!(ids(&before, "a"), ["1", "2"], "another state");
        assert_eq!(ids(&before, "c"), ["4"]);
    }

    #[test]
    fn secrets_and_configs_are_kept_off_the_disk() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("assignment");
        let handout = |id: &str| proto::Handout {
            id: id.into(),
            data: format!("sesame of {id}").into_bytes(),
            is_template: id == "conf",
        };
        let object = |object| proto::Object {
            object: Some(object),
        };
        let mut state = Assignment::default();
        let told = vec![
            task("a", "ready"),
            object(Object::Secret(handout("key"))),
            object(Object::Config(handout("conf"))),
            object(Object::Secret(handout("old"))),
        ];
        state.apply(message(1, true, told));
        let mut delta = message(2, false, Vec::new());
        for (kind, id) in [(Kind::Secret, "old"), (Kind::Config, "key")] {
            delta.removed.push(proto::ObjectId {
                kind: kind.into(),
                id: id.into(),
            });
        }
        state.apply(delta);
        let held = |state: &Assignment, kind, id| {
            let handout = state.handout(kind, id)?;
            assert_eq!(handout.is_template, id == "conf");
            Some(String::from_utf8_lossy(handout.data.reveal()).into_owned())
        };
        use handout::Kind::{Config, Secret};
        assert_eq!(
            held(&state, Secret, "key").as_deref(),
            Some("sesame of key")
        );
        assert_eq!(
            held(&state, Config, "conf").as_deref(),
            Some("sesame of conf")
        );
        assert_eq!(held(&state, Secret, "old"), None);
        assert!(!format!("{state:?}").contains("sesame"));
        state.save(&path).expect("saved");
        let bytes = fs::read(&path).expect("a file");
        assert!(!bytes.windows(6).any(|six| six == b"sesame"));
        let read = Assignment::load(&path).expect("read").expect("something");
        assert_eq!(read.tasks, state.tasks);
        assert!(read.secrets.is_empty() && read.configs.is_empty());
    }

    #[test]
    fn survives_the_disk() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("assignment");
        assert_eq!(Assignment::load(&path).expect("nothing yet"), None);
        let mut state = Assignment::default();
        state.apply(message(9, true, vec![task("a", "ready")]));
        state.save(&path).expect("saved");
        assert_eq!(Assignment::load(&path).expect("read"), Some(state));
        fs::write(&path, b"\xff\xff\xff").expect("spoiled");
        assert!(Assignment::load(&path).is_err());
    }
}
