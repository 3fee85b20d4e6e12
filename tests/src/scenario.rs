//! The frame of a scenario: a mesh with the test image loaded, and nothing left of it afterwards.

use anyhow::{Context, Result};

use crate::{
    image,
    rig::{Rig, RigBuilder, test_name},
};

/// Runs a scenario on a mesh of this many nodes; panics when it or the tear-down fails.
///
/// # Panics
/// With the cause, after the logs of the agents were printed.
pub fn scenario(name: &str, nodes: usize, act: impl FnOnce(&mut Rig) -> Result<()>) {
    scenario_on(Rig::builder(&test_name(name)).nodes(nodes), act);
}

/// As [`scenario`], on a rig built as the caller wants it.
///
/// # Panics
/// With the cause, after the logs of the agents were printed.
pub fn scenario_on(builder: RigBuilder, act: impl FnOnce(&mut Rig) -> Result<()>) {
    let mut rig = match builder.build() {
        Ok(rig) => rig,
        Err(error) => panic!("no mesh to test with: {error:#}"),
    };
    let done = prepare(&rig).and_then(|()| act(&mut rig));
    if let Err(error) = done {
        // The rig's Drop prints the agents' logs while this panic unwinds.
        panic!("{error:#}");
    }
    if let Err(error) = rig.finish() {
        panic!("{error:#}");
    }
}

fn prepare(rig: &Rig) -> Result<()> {
    let archive = image::whoami_archive(&rig.dir())?;
    rig.load_image(&archive)
        .context("cannot load the test image")
}
