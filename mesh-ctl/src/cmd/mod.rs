//! The commands, one file each.

pub(crate) mod doctor;
pub(crate) mod drop;
pub(crate) mod exec;
pub(crate) mod flow;
pub(crate) mod handout;
pub(crate) mod image;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod logs;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod ps;
pub(crate) mod rm;
pub(crate) mod service;
pub(crate) mod swarm;
pub(crate) mod trace;
pub(crate) mod version;
pub(crate) mod vip;
pub(crate) mod volume;

use std::future::Future;

use anyhow::{Result, bail};

/// Does something to each of several objects, prints each name that succeeded, and fails with all
/// the errors when some did not.
pub(crate) async fn for_each<F, Fut>(names: Vec<String>, mut action: F) -> Result<()>
where
    F: FnMut(String) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let mut errors = Vec::new();
    for name in names {
        match action(name.clone()).await {
            // The others are done also where nobody reads on.
            Ok(()) => drop(say!("{name}")),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    all_done(errors)
}

/// The arguments of a command, for its tests.
#[cfg(test)]
pub(crate) fn arguments<A: clap::Args>(words: &[&str]) -> Result<A, clap::Error> {
    let command = A::augment_args(clap::Command::new("test").no_binary_name(true));
    A::from_arg_matches(&command.try_get_matches_from(words)?)
}

/// Fails with all the errors, if there are any.
pub(crate) fn all_done(errors: Vec<String>) -> Result<()> {
    if errors.is_empty() {
        return Ok(());
    }
    bail!(errors.join("\n"))
}
