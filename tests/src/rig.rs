//! A whole small world: one LAN, nodes with an agent each, an outside client.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    lan::{self, Cable, Lan},
    leftovers::Traces,
    netns::NetNs,
    node::Node,
    wait::eventually,
};

/// Last byte of the client's LAN address.
const CLIENT: u8 = 200;

/// How long nodes and services may take to come up. A machine of two cores builds up slowly.
pub const UP_LIMIT: Duration = Duration::from_secs(90);

/// Where rigs keep their folders: on disk, as overlayfs does not stack on every file system.
const BASE: &str = "/var/tmp";

/// How a rig is to be.
#[derive(Debug, Clone)]
pub struct RigBuilder {
    name: String,
    nodes: usize,
    swarm: bool,
    cable: Cable,
    args: Vec<String>,
}

impl RigBuilder {
    /// Number of nodes, 3 where not said.
    pub fn nodes(mut self, count: usize) -> Self {
        self.nodes = count;
        self
    }

    /// Agents run, but no swarm is made.
    pub fn without_swarm(mut self) -> Self {
        self.swarm = false;
        self
    }

    /// What the LAN is made of. On a [`Cable::Wire`] the agents are told to use native XDP, on a
    /// [`Cable::Veth`] they choose for themselves.
    pub fn cable(mut self, cable: Cable) -> Self {
        self.cable = cable;
        self
    }

    /// A further argument of every agent.
    pub fn agent_arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Makes the world, starts the agents and, where wanted, forms the swarm.
    ///
    /// # Errors
    /// When any of it fails; what was made is taken away again.
    pub fn build(self) -> Result<Rig> {
        let mut rig = Rig::world(&self)?;
        for node in &mut rig.nodes {
            node.start()?;
        }
        if self.swarm {
            rig.form_swarm(Node::ok)?;
        }
        Ok(rig)
    }

    /// Makes the world without starting any agent.
    ///
    /// # Errors
    /// When a namespace or link cannot be made.
    pub fn world(self) -> Result<Rig> {
        Rig::world(&self)
    }
}

/// A whole small world. Dropping it takes everything away; [`Rig::finish`] also checks that the
/// agents did so themselves.
#[derive(Debug)]
pub struct Rig {
    /// The nodes, n1 first.
    pub nodes: Vec<Node>,
    /// The outside client's namespace.
    pub client: NetNs,
    /// What connects them.
    pub lan: Lan,
    traces: Traces,
    kept: bool,
}

impl Rig {
    /// A rig of this name. Names of namespaces start with it, so it has to be short and unlike any other.
    pub fn builder(name: &str) -> RigBuilder {
        RigBuilder {
            name: name.to_owned(),
            nodes: 3,
            swarm: true,
            cable: Cable::default(),
            args: Vec::new(),
        }
    }

    /// What a rig of this name and size is made of, whether or not it is there.
    pub fn traces(name: &str, nodes: usize) -> Traces {
        let mut namespaces: Vec<String> = (1..=nodes).map(|n| format!("{name}-n{n}")).collect();
        let instances = namespaces.clone();
        namespaces.push(format!("{name}-client"));
        namespaces.push(format!("{name}-lan"));
        Traces {
            dir: Path::new(BASE).join(format!("mesh-{name}")),
            instances,
            namespaces,
        }
    }

    fn world(builder: &RigBuilder) -> Result<Self> {
        let name = &builder.name;
        let traces = Self::traces(name, builder.nodes);
        // What an earlier run that was killed left under this name.
        traces.remove();
        let made = Self::make(builder, traces.clone());
        if made.is_err() {
            traces.remove();
        }
        made.context("cannot make the rig")
    }

    fn make(builder: &RigBuilder, traces: Traces) -> Result<Self> {
        let name = &builder.name;
        fs::create_dir_all(&traces.dir)
            .with_context(|| format!("cannot make {}", traces.dir.display()))?;
        let lan = Lan::new(&format!("{name}-lan"))?;
        let client = NetNs::new(&format!("{name}-client"))?;
        lan.join(&client, "clientp", lan::address(CLIENT), builder.cable)?;
        let outside = [
            lan::address(CLIENT).to_string(),
            lan::v6(lan::address(CLIENT)).to_string(),
        ];
        let mut nodes = Vec::new();
        for number in 1..=builder.nodes {
            let short = format!("n{number}");
            let full = format!("{name}-{short}");
            let ns = NetNs::new(&full)?;
            let last = u8::try_from(10 + number).context("too many nodes for one LAN")?;
            let dir = traces.dir.join(&short);
            let mut node = Node::new(&short, ns, lan::address(last), dir, full);
            if builder.cable == Cable::Wire {
                node.args.extend(["--xdp", "native"].map(str::to_owned));
            }
            node.args.extend(builder.args.iter().cloned());
            lan.join(&node.ns, &node.port, node.address, builder.cable)?;
            // The client doubles as the way to the outside.
            for gateway in &outside {
                node.ns
                    .sh(&["ip", "route", "add", "default", "via", gateway])?;
            }
            nodes.push(node);
        }
        Ok(Self {
            nodes,
            client,
            lan,
            traces,
            kept: false,
        })
    }

    /// `swarm init` on the first node, joins by the others, and waits for all to be ready. `ctl` runs the commands.
    ///
    /// # Errors
    /// When a command fails or a node does not become ready.
    pub fn form_swarm(&self, mut ctl: impl FnMut(&Node, &[&str]) -> Result<String>) -> Result<()> {
        let first = self.first();
        let address = first.address.to_string();
        ctl(first, &["swarm", "init", "--advertise-addr", &address])?;
        let token = ctl(first, &["swarm", "join-token", "-q", "worker"])?;
        let remote = format!("{address}:2377");
        for node in self.nodes.iter().skip(1) {
            let own = node.address.to_string();
            let join = [
                "swarm",
                "join",
                "--token",
                token.trim(),
                "--advertise-addr",
                &own,
                &remote,
            ];
            ctl(node, &join)?;
        }
        self.wait_ready(self.nodes.len())
    }

    /// Waits until this many nodes are ready.
    ///
    /// # Errors
    /// When they do not become so in time.
    pub fn wait_ready(&self, count: usize) -> Result<()> {
        eventually("nodes to be ready", UP_LIMIT, || {
            let list = self
                .first()
                .ok(&["node", "ls", "--format", "{{.Status}}"])?;
            let ready = list.lines().filter(|line| line.trim() == "Ready").count();
            if ready == count {
                Ok(())
            } else {
                bail!("{ready} of {count} are ready")
            }
        })
    }

    /// The first node, a manager.
    pub fn first(&self) -> &Node {
        &self.nodes[0]
    }

    /// The client's address on the LAN.
    pub fn client_address(&self) -> std::net::Ipv4Addr {
        lan::address(CLIENT)
    }

    /// The folder with everything of the rig.
    pub fn dir(&self) -> PathBuf {
        self.traces.dir.clone()
    }

    /// How to drive the rig from elsewhere: name, namespace, address, socket, data folder and pid of
    /// each node, namespace and address of the client.
    pub fn describe(&self) -> Value {
        let nodes: Vec<Value> = self
            .nodes
            .iter()
            .map(|node| {
                json!({
                    "name": node.name,
                    "netns": node.ns.name(),
                    "address": node.address,
                    "socket": node.socket(),
                    "data_dir": node.data_dir(),
                    "pid": node.pid(),
                })
            })
            .collect();
        json!({
            "nodes": nodes,
            "client": { "netns": self.client.name(), "address": self.client_address() },
        })
    }

    /// Loads an image archive on every node.
    ///
    /// # Errors
    /// When a node refuses it.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        let path = archive.to_string_lossy();
        for node in &self.nodes {
            node.ok(&["image", "load", "-i", &path])?;
        }
        Ok(())
    }

    /// Every node leaves, every agent stops; then nothing of theirs may be left on the machine.
    ///
    /// # Errors
    /// When a node cannot leave, or something is left.
    pub fn finish(mut self) -> Result<()> {
        let mut faults = Vec::new();
        for node in self.nodes.iter_mut().rev() {
            if node.pid().is_some() {
                let left = node.ctl(&["swarm", "leave", "--force"])?;
                if left.code != 0 && !left.err.contains("not part of a swarm") {
                    faults.push(format!("{}: {}", node.name, left.err.trim()));
                }
                if let Err(error) = node.stop() {
                    faults.push(format!("{}: {error:#}", node.name));
                }
            }
        }
        let gone = eventually("everything to be cleared up", UP_LIMIT, || {
            let mut left = self.traces.find_of_agents();
            for node in &self.nodes {
                left.extend(node.network_left()?);
            }
            anyhow::ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
            Ok(())
        });
        if let Err(error) = gone {
            faults.push(format!("{error:#}"));
        }
        let traces = self.traces.clone();
        drop(self);
        let left = traces.find();
        if !left.is_empty() {
            faults.push(format!("left after tear-down:\n{}", left.join("\n")));
        }
        if !faults.is_empty() {
            bail!("{}", faults.join("\n"));
        }
        Ok(())
    }

    /// Leaves everything in place when the value is dropped.
    pub fn keep(&mut self) {
        self.kept = true;
        self.client.keep();
        self.lan.ns().keep();
        for node in &mut self.nodes {
            node.ns.keep();
            node.forget_agent();
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("--- log of {}:\n{}", node.name, node.log_tail(40));
            }
        }
        for node in &mut self.nodes {
            let _ = node.kill();
            node.ns.keep();
        }
        self.client.keep();
        self.lan.ns().keep();
        self.traces.remove();
    }
}

/// A rig name for a test: short, since it becomes part of interface and instance names.
pub fn test_name(name: &str) -> String {
    format!("t{}{name}", std::process::id())
}
