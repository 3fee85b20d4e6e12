//! Ours: two nodes with agents, the server's replica on n2, the generator's on n1.

use anyhow::Result;
use mesh_tests::{Rig, image, lan::Cable, rig};

use crate::{ECHO, HTTP, Path, Side, direct::generate, figures::Load};

/// A mesh with one server and one generator.
pub(crate) struct Ours {
    pub(crate) rig: Rig,
    generator: String,
}

impl Ours {
    pub(crate) fn new(cable: Cable) -> Result<Self> {
        let rig = Rig::builder(&rig::test_name("bo"))
            .nodes(2)
            .cable(cable)
            .build()?;
        rig.load_image(&image::whoami_archive(&rig.dir())?)?;
        rig.network("front")?;
        // Both at once: each command would wait until its tasks have run for a while.
        let at = |place| ["-d", "--network", "front", "--constraint", place];
        let (http, echo) = (format!("{HTTP}:{HTTP}"), format!("{ECHO}:{ECHO}"));
        let ports = ["--publish", &http, "--publish", &echo];
        rig.create("web", &[&at("node.hostname==n2")[..], &ports].concat())?;
        rig.sleepers("gen", &at("node.hostname==n1"))?;
        rig.wait_running("web", 1)?;
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
        let host = match path {
            Path::IngressRemote => {
                return generate(&self.rig.client, load, &first.address.to_string());
            }
            Path::IngressLocal => {
                return generate(&self.rig.client, load, &second.address.to_string());
            }
            Path::Overlay => "tasks.web",
            Path::Vip => "web",
        };
        let args = load.args(host);
        let mut argv = vec!["exec", &self.generator, "whoami"];
        argv.extend(args.iter().map(String::as_str));
        first.ok(&argv)
    }
}
