//! Host to host: no tasks, no mesh; what the LAN itself gives.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use mesh_tests::{NetNs, Rig, eventually, http_get, image, rig};

use crate::{Path, Side, figures::Load};

/// Servers straight in the nodes' namespaces.
pub(crate) struct Direct {
    rig: Rig,
    _server: Server,
}

impl Direct {
    pub(crate) fn new() -> Result<Self> {
        let rig = Rig::builder(&rig::test_name("bd")).nodes(2).world()?;
        let server = Server::start(&rig.nodes[1].ns)?;
        Ok(Self {
            rig,
            _server: server,
        })
    }
}

impl Side for Direct {
    fn name(&self) -> &'static str {
        "host to host"
    }

    fn load(&self, path: Path, load: Load) -> Result<String> {
        let from = match path {
            Path::IngressRemote | Path::IngressLocal => &self.rig.client,
            Path::Overlay | Path::Vip => &self.rig.nodes[0].ns,
        };
        generate(from, load, &format!("{}:80", self.rig.nodes[1].address))
    }
}

/// A whoami that serves in a namespace until dropped.
pub(crate) struct Server(Child);

impl Server {
    pub(crate) fn start(ns: &NetNs) -> Result<Self> {
        let program = image::static_whoami()?;
        let mut command: Command = ns.command(&program.to_string_lossy(), None)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start whoami")?;
        let server = Self(child);
        eventually("whoami to listen", rig::UP_LIMIT, || {
            ns.enter(|| http_get(std::net::Ipv4Addr::LOCALHOST, 80, "/").map(drop))
        })?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the load generator in a namespace.
pub(crate) fn generate(from: &NetNs, load: Load, target: &str) -> Result<String> {
    let program = image::static_whoami()?;
    let program = program.to_string_lossy();
    let args = load.args(target);
    let mut argv = vec![&*program];
    argv.extend(args.iter().map(String::as_str));
    from.sh(&argv)
}
