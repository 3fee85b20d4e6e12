//! What happened: a digest of all of it, and the last of it for whoever looks into a failure.

use crate::process;
use std::{
    collections::VecDeque,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

/// Events that a failure shows.
const TAIL: usize = 120;

/// The events of a run.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    digest: DefaultHasher,
    tail: VecDeque<String>,
    messages: u64,
    /// Print events as they come.
    is_verbose: bool,
}

impl Journal {
    pub(crate) fn new(is_verbose: bool) -> Self {
        Self {
            is_verbose,
            ..Self::default()
        }
    }

    /// Something happened.
    pub(crate) fn note(&mut self, event: fmt::Arguments<'_>) {
        let line = format!("{:9.3} {event}", process::elapsed().as_secs_f64());
        line.hash(&mut self.digest);
        if self.is_verbose {
            println!("{line}");
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    /// A message is on its way: part of the digest, and too much for the tail.
    pub(crate) fn message(&mut self, path: &str, from: usize, to: usize, body: &[u8]) {
        (process::elapsed(), path, from, to, body).hash(&mut self.digest);
        self.messages += 1;
    }

    /// How many messages there were.
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    /// The same for two runs in which the same happened at the same times.
    pub(crate) fn digest(&self) -> u64 {
        self.digest.finish()
    }

    /// The last events.
    pub(crate) fn tail(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }
}
