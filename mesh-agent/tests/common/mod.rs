//! What tests with whole agents share: containers, an image to make them from, what to clear up, ip(8).

use std::{io, path::Path, process::Command};

use mesh_agent::{config::Config, volumes::Volumes};
use mesh_image::{
    ImageConfig, ImageStore,
    build::{ArchiveBuilder, LayerBuilder},
    silent,
};
use mesh_runtime::{Runtime, RuntimeConfig};
use mesh_tests::leftovers::Traces;

/// Runs ip(8) with these words.
pub(crate) fn ip(line: &str) -> io::Result<()> {
    let done = Command::new("ip").args(line.split(' ')).status()?;
    if done.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("ip {line}")))
    }
}

/// Opens an agent's containers and images; `box:latest` is among these.
pub(crate) async fn open(config: &Config, instance: &str) -> (Runtime, ImageStore) {
    config.make_dirs().expect("directories");
    let runtime = Runtime::open(RuntimeConfig {
        state_dir: config.data_dir.join("containers"),
        run_dir: config.run_dir.join("shims"),
        cgroup_parent: format!("mesh/{instance}"),
        shim_exe: env!("CARGO_BIN_EXE_mesh-agent").into(),
        agent_exe: None,
    })
    .await
    .expect("runtime");
    let images = ImageStore::open(config.images_dir()).expect("images");
    if images.get("box:latest").is_err() {
        images
            .load(io::Cursor::new(archive().expect("archive")), &silent())
            .await
            .expect("load");
    }
    (runtime, images)
}

/// The volumes beside them.
pub(crate) fn volumes(config: &Config, runtime: &Runtime) -> Volumes {
    let agent = env!("CARGO_BIN_EXE_mesh-agent").into();
    let dir = config.volumes_dir();
    Volumes::open(&dir, config.mounts_dir(), agent, runtime.clone()).expect("volumes")
}

/// What agents of these instances leave on the machine if nobody clears up; all their directories are in `dir`.
pub(crate) fn traces(dir: &Path, instances: impl Into<Vec<String>>) -> Traces {
    Traces {
        dir: dir.to_owned(),
        instances: instances.into(),
        namespaces: Vec::new(),
    }
}

fn archive() -> io::Result<Vec<u8>> {
    let mut layer = LayerBuilder::new();
    layer
        .directory("bin", 0o755)?
        .copy("bin/busybox", 0o755, Path::new("/bin/busybox"))?
        .symlink("bin/sh", "busybox")?
        .symlink("bin/sleep", "busybox")?;
    let mut bytes = Vec::new();
    ArchiveBuilder::new("box:latest", ImageConfig::default())
        .layer(layer.finish()?)
        .write_docker(&mut bytes)?;
    Ok(bytes)
}
