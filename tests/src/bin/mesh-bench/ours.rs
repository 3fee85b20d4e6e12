//! Ours: two nodes with agents, the server's replica on n2, the generator's on n1.

use anyhow::Result;
use mesh_tests::{Rig, image};

use crate::{Path, Side, direct::generate, figures::Load};

/// A mesh with one server and one generator.
pub(crate) struct Ours {
    pub(crate) rig: Rig,
    generator: String,
}

impl Ours {
    pub(crate) fn new() -> Result<Self> {
        let rig = Rig::for_test("bo", 2)?;
        rig.load_image(&image::whoami_archive(&rig.dir())?)?;
        let first = rig.first();
        first.ok(&["network", "create", "--driver", "overlay", "front"])?;
        let common = [
            "service",
            "create",
            "-q",
            "--network",
            "front",
            "--constraint",
        ];
        let mut web = common.to_vec();
        web.extend([
            "node.hostname==n2",
            "--name",
            "web",
            "--publish",
            "80:80",
            image::WHOAMI,
        ]);
        first.ok(&web)?;
        let mut generator = common.to_vec();
        generator.extend([
            "node.hostname==n1",
            "--name",
            "gen",
            image::WHOAMI,
            "sleep",
            "1000000",
        ]);
        first.ok(&generator)?;
        let task = rig.task("gen")?;
        Ok(Self {
            generator: task.container,
            rig,
        })
    }
}

impl Side for Ours {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn load(&self, path: Path, load: Load) -> Result<String> {
        let [first, second] = [&self.rig.nodes[0], &self.rig.nodes[1]];
        let target = match path {
            Path::IngressRemote => {
                return generate(&self.rig.client, load, &format!("{}:80", first.address));
            }
            Path::IngressLocal => {
                return generate(&self.rig.client, load, &format!("{}:80", second.address));
            }
            Path::Overlay => "tasks.web:80",
            Path::Vip => "web:80",
        };
        let args = load.args(target);
        let mut argv = vec!["exec", &self.generator, "whoami"];
        argv.extend(args.iter().map(String::as_str));
        first.ok(&argv)
    }
}
