//! What the node remembers of a task across restarts: one small file each.

use std::{collections::BTreeMap, fs, io, net::Ipv4Addr, path::PathBuf};

use ipnetwork::Ipv4Network;
use mesh_api::proto;
use prost::Message;

use super::state::TaskState;

/// What the node remembers of a task.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Record {
    /// As last assigned.
    #[prost(message, required, tag = "1")]
    pub task: proto::Task,
    /// As last reported.
    #[prost(message, required, tag = "2")]
    pub status: proto::TaskStatus,
    /// When the node accepted it, nanoseconds since the epoch.
    #[prost(int64, tag = "3")]
    pub created: i64,
    /// When its command began, or 0.
    #[prost(int64, tag = "4")]
    pub started: i64,
    /// When it ended, or 0.
    #[prost(int64, tag = "5")]
    pub finished: i64,
    /// Node-local address of its gateway link, as four bytes in network order.
    #[prost(fixed32, tag = "6")]
    pub local: u32,
}

impl Record {
    /// Where the task is in its life.
    pub fn state(&self) -> TaskState {
        TaskState::parse(&self.status.state).unwrap_or(TaskState::Accepted)
    }

    /// Node-local address for the gateway link.
    pub fn local_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.local)
    }
}

/// The directory of records.
#[derive(Debug, Clone)]
pub struct Records {
    dir: PathBuf,
}

const EXTENSION: &str = "task";

impl Records {
    /// In `dir`, which exists.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Reads all; one that cannot be read is skipped, and its task treated as new.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn load(&self) -> io::Result<BTreeMap<String, Record>> {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path
                .extension()
                .is_none_or(|extension| extension != EXTENSION)
            {
                continue;
            }
            match fs::read(&path)
                .map_err(anyhow::Error::from)
                .and_then(|bytes| Record::decode(bytes.as_slice()).map_err(anyhow::Error::from))
            {
                Ok(record) => drop(all.insert(record.task.id.clone(), record)),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "unreadable task record skipped");
                }
            }
        }
        Ok(all)
    }

    /// Writes one, atomically.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn store(&self, record: &Record) -> io::Result<()> {
        let path = self.path(&record.task.id);
        let scratch = path.with_extension("new");
        fs::write(&scratch, record.encode_to_vec())?;
        fs::rename(scratch, path)
    }

    /// Removes one and the task's files; what is not there is no error.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(&self, id: &str) -> io::Result<()> {
        for result in [
            fs::remove_dir_all(self.files(id)),
            fs::remove_file(self.path(id)),
        ] {
            match result {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Directory for files shown to the task (hosts, resolv.conf).
    pub fn files(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.{EXTENSION}"))
    }
}

/// The lowest address of `pool` that no record holds. The first two are never given out.
pub fn free_address(
    pool: Ipv4Network,
    taken: &std::collections::BTreeSet<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    pool.iter()
        .skip(2)
        .find(|address| *address != pool.broadcast() && !taken.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path().to_owned());
        let record = Record {
            task: proto::Task {
                id: "t".into(),
                ..Default::default()
            },
            status: proto::TaskStatus {
                state: "running".into(),
                ..Default::default()
            },
            local: u32::from(Ipv4Addr::new(172, 31, 0, 2)),
            ..Default::default()
        };
        records.store(&record).unwrap();
        std::fs::write(dir.path().join("bad.task"), b"\xff").unwrap();
        let all = records.load().unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all["t"], record);
        assert_eq!(all["t"].state(), TaskState::Running);
        records.remove("t").unwrap();
        records.remove("t").unwrap();
        assert!(records.load().unwrap().is_empty());
    }

    #[test]
    fn addresses_are_given_once() {
        let pool: Ipv4Network = "172.31.0.0/29".parse().unwrap();
        let mut taken = std::collections::BTreeSet::new();
        while let Some(address) = free_address(pool, &taken) {
            assert!(taken.insert(address));
        }
        let all: Vec<_> = taken.iter().map(ToString::to_string).collect();
        assert_eq!(
            all,
            [
                "172.31.0.2",
                "172.31.0.3",
                "172.31.0.4",
                "172.31.0.5",
                "172.31.0.6"
            ]
        );
    }
}
