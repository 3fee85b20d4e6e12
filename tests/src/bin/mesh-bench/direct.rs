//! Host to host: no tasks, no mesh; what the LAN itself gives.

use anyhow::Result;
use mesh_tests::{NetNs, Rig, image, lan::Cable, outside::Server, rig};

use crate::{HTTP, Path, Side, figures::Load, table};

/// Servers straight in the nodes' namespaces.
pub(crate) struct Direct {
    rig: Rig,
    _server: Server,
}

impl Direct {
    pub(crate) fn new(cable: Cable) -> Result<Self> {
        let rig = Rig::builder(&rig::test_name("bd"))
            .nodes(2)
            .cable(cable)
            .world()?;
        let server = Server::start(&rig.nodes[1].ns, HTTP)?;
        Ok(Self {
            rig,
            _server: server,
        })
    }
}

impl Side for Direct {
    fn name(&self) -> &'static str {
        table::HOST
    }

    fn load(&self, path: Path, load: Load) -> Result<String> {
        let from = match path {
            Path::IngressRemote | Path::IngressLocal => &self.rig.client,
            Path::Overlay | Path::Vip => &self.rig.nodes[0].ns,
        };
        generate(from, load, &self.rig.nodes[1].address.to_string())
    }
}

/// Runs the load generator in a namespace.
pub(crate) fn generate(from: &NetNs, load: Load, host: &str) -> Result<String> {
    let program = image::static_whoami()?;
    let program = program.to_string_lossy();
    let args = load.args(host);
    let mut argv = vec![&*program];
    argv.extend(args.iter().map(String::as_str));
    from.sh(&argv)
}
