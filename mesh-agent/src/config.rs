//! What the flags of `mesh-agent` say, and where things are kept on disk.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use clap::Parser;
use ipnetwork::Ipv4Network;
use mesh_api::generic_resource::{self, GenericResources};

use crate::links::local_pool;

/// The daemon of a mesh node.
#[derive(Debug, Clone, Parser)]
#[command(name = "mesh-agent", version, about)]
pub struct Config {
    /// Directory of everything that outlives a reboot.
    #[arg(long, env = "MESH_DATA_DIR", default_value = "/var/lib/mesh")]
    pub data_dir: PathBuf,
    /// Directory of sockets, namespaces and what else a reboot may forget.
    #[arg(long, env = "MESH_RUN_DIR", default_value = "/run/mesh")]
    pub run_dir: PathBuf,
    /// Further unix sockets (`unix:///path` or a path) to answer the Engine API on, as `dockerd -H`.
    #[arg(short = 'H', long = "host", value_name = "SOCKET")]
    pub hosts: Vec<String>,
    /// Name that tells this agent's kernel objects (pins, nftables table, cgroups) from those of
    /// other agents on the machine; made up at the first start where not given.
    #[arg(long, env = "MESH_INSTANCE", value_parser = parse_instance)]
    pub instance: Option<String>,
    /// Host name to report, where not the machine's own.
    #[arg(long, env = "MESH_NODE_NAME")]
    pub node_name: Option<String>,
    /// Engine labels to report (`key=value`).
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// What this node has of a kind that services may reserve: so many (`ssd=4`), or, given once for each, by its name
    /// (`gpu=GPU-8f5a`). As dockerd's.
    #[arg(long = "node-generic-resource", value_name = "KIND=VALUE")]
    pub generic_resources: Vec<String>,
    /// UDP port of the tunnels, where `swarm init` names none.
    #[arg(long, default_value_t = 4789, value_parser = clap::value_parser!(u16).range(1024..=49151))]
    pub vxlan_port: u16,
    /// Encrypted networks' WireGuard: `user` (in user space), `auto` (the kernel's where it has one). With `auto`, what runs
    /// is kept until the node leaves or starts anew.
    #[arg(long, env = "MESH_WIREGUARD", default_value = "user")]
    pub wireguard: mesh_wireguard::Backend,
    /// UDP port of encrypted networks (WireGuard) on this node; the other nodes are told. The kernel's WireGuard takes the
    /// next one as well.
    #[arg(long, default_value_t = mesh_wireguard::DEFAULT_PORT, value_parser = clap::value_parser!(u16).range(1024..))]
    pub wireguard_port: u16,
    /// Seconds after which the node makes itself a new WireGuard key, or up to an eighth later. (Session keys change every two minutes.)
    #[arg(long, value_name = "SECONDS", default_value_t = 12 * 3600, hide = true)]
    pub wireguard_rotation: u64,
    /// XDP on the uplinks: `auto` (where the driver is a physical device's), `native` (always, but on VLANs; a veth's
    /// peer must have GRO on), `off`. What XDP does not do, tc does.
    #[arg(long, env = "MESH_XDP", default_value = "auto")]
    pub xdp: mesh_datapath::XdpMode,
    /// tc programs of others on the uplinks and on lo: ours run before them (`first`) or after them (`last`), or it is an error
    /// if there are any (`refuse`): then packets of the mesh are not forwarded, or as before. Seen to when the agent starts, and
    /// when an uplink comes.
    #[arg(long, env = "MESH_TC", default_value = "first")]
    pub tc: mesh_datapath::TcOrder,
    /// MiB that the rows by which services' flows are spread may take, at most 1024. They are taken as they are needed.
    #[arg(long, default_value_t = 512, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub row_memory: u32,
    /// Tasks behind published ports and virtual addresses there is room for, a task counting once for each: 64 bytes, and 24
    /// for each processor. Tables that are there keep their size: it counts from the next start of the machine.
    #[arg(long, default_value_t = 131_072, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(256..=4_194_304))]
    pub backend_entries: u32,
    /// Open flows that are remembered, 456 bytes each, which are taken at once; the least recently used make room for others.
    /// Counts as `--backend-entries` does.
    #[arg(long, default_value_t = 65_536, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(4096..=16_777_216))]
    pub flow_entries: u32,
    /// Pool of the node-local addresses that tasks reach the outside from. It must not overlap an address' subnet, a route or a
    /// name server of the node. Where not given: 172.31.0.0/16, 172.30.0.0/16, 192.168.240.0/20 or 100.127.0.0/16, the first
    /// that does not when the agent starts. Tasks keep what they have.
    #[arg(long, value_name = "SUBNET")]
    pub local_pool: Option<Ipv4Network>,
    /// Upstream name servers, where not those of /etc/resolv.conf.
    #[arg(long = "dns", value_name = "ADDRESS")]
    pub dns: Vec<Ipv4Addr>,
    /// Registries (host or host:port) spoken to over plain HTTP; loopback ones always are.
    #[arg(long = "insecure-registry", value_name = "HOST")]
    pub insecure_registries: Vec<String>,
    /// Mirrors of Docker Hub (host or host:port), asked first, in this order.
    #[arg(long = "registry-mirror", value_name = "HOST")]
    pub registry_mirrors: Vec<String>,
    /// Directory of registries' CA certificates: `<dir>/<host[:port]>/ca.crt`, as Docker's.
    #[arg(
        long,
        env = "MESH_REGISTRY_CERTS",
        default_value = "/etc/docker/certs.d"
    )]
    pub registry_certs: PathBuf,
    /// Address and port to serve Prometheus metrics on as well (`/metrics`, without authentication); the
    /// socket always does.
    #[arg(long, env = "MESH_METRICS_ADDR", value_name = "ADDRESS:PORT")]
    pub metrics_addr: Option<SocketAddr>,
    /// Verbosity: a level, or directives as in `RUST_LOG`.
    #[arg(long, env = "MESH_LOG", default_value = "info")]
    pub log_level: String,
}

impl Config {
    /// What this node has of the kinds that only its users know.
    ///
    /// # Errors
    /// What is wrong with the flags.
    pub fn generic_resources(&self) -> Result<GenericResources, String> {
        let resources = generic_resource::parse(self.generic_resources.iter().map(String::as_str))?;
        // Tasks are told of them by variables in capitals.
        let mut variables = BTreeMap::new();
        for kind in resources.keys() {
            if let Some(other) = variables.insert(kind.to_uppercase(), kind) {
                return Err(format!(
                    "generic resources {other} and {kind} differ in capitals alone: tasks could not tell them apart"
                ));
            }
        }
        Ok(resources)
    }

    /// The Engine API socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("mesh.sock")
    }

    /// Pool of node-local addresses: the one that was given or chosen.
    pub fn local_pool(&self) -> Ipv4Network {
        self.local_pool.unwrap_or(local_pool::POOLS[0])
    }

    /// Where the task's network namespace is bind-mounted.
    pub fn netns_path(&self, task_id: &str) -> PathBuf {
        self.run_dir.join("netns").join(task_id)
    }

    /// Where files for a task's container are while it is being made.
    pub fn handover_path(&self, task_id: &str) -> PathBuf {
        self.handover_dir().join(task_id)
    }

    /// Where all of those are.
    pub fn handover_dir(&self) -> PathBuf {
        self.run_dir.join("handover")
    }

    /// Where the process that encrypts listens for the agent.
    pub fn wireguard_socket(&self) -> PathBuf {
        self.run_dir.join("wireguard.sock")
    }

    /// Images and layers.
    pub fn images_dir(&self) -> PathBuf {
        self.data_dir.join("images")
    }

    /// Local volumes.
    pub fn volumes_dir(&self) -> PathBuf {
        self.data_dir.join("volumes")
    }

    /// Notes about what is mounted in them.
    pub fn mounts_dir(&self) -> PathBuf {
        self.run_dir.join("volumes")
    }

    /// What the node knows of its cluster: identity, membership, last assignment.
    pub fn swarm_dir(&self) -> PathBuf {
        self.data_dir.join("swarm")
    }

    /// The manager's log and state, on a manager.
    pub fn manager_dir(&self) -> PathBuf {
        self.swarm_dir().join("manager")
    }

    /// One directory per task.
    pub fn tasks_dir(&self) -> PathBuf {
        self.data_dir.join("tasks")
    }

    /// Creates the directories, private to root.
    ///
    /// # Errors
    /// When one cannot be created.
    pub fn make_dirs(&self) -> std::io::Result<()> {
        for dir in [
            self.data_dir.clone(),
            self.run_dir.clone(),
            self.run_dir.join("netns"),
            self.volumes_dir(),
            self.swarm_dir(),
            self.tasks_dir(),
        ] {
            make_dir(&dir)?;
        }
        Ok(())
    }
}

fn make_dir(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
}

/// Instance names end up in pin paths, nftables tables and cgroups: short, lower case, no separator.
fn parse_instance(text: &str) -> Result<String, String> {
    let fine = !text.is_empty()
        && text.len() <= 32
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fine {
        Ok(text.to_owned())
    } else {
        Err("an instance name is 1 to 32 of a-z, 0-9 and '-'".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_names() {
        assert!(parse_instance("n1").is_ok());
        for bad in ["", "a/b", "A", &"x".repeat(33)] {
            assert!(parse_instance(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn generic_resources() {
        let read = |terms: &[&str]| {
            let flags = terms
                .iter()
                .flat_map(|term| ["--node-generic-resource", term]);
            Config::parse_from(["mesh-agent"].into_iter().chain(flags)).generic_resources()
        };
        assert_eq!(read(&[]), Ok(GenericResources::new()));
        let kinds = read(&["gpu=a", "gpu=b", "ssd=4"]).map(|has| has.into_keys().collect());
        assert_eq!(kinds, Ok(vec!["gpu".to_owned(), "ssd".to_owned()]));
        for (terms, said) in [
            (&["gpu"][..], "incorrect term gpu"),
            (&["gpu=1", "gpu=a"], "mixed discrete and named resources"),
            (&["gpu=1", "GPU=a"], "GPU and gpu differ in capitals alone"),
        ] {
            let error = read(terms).expect_err(said);
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn flags_parse() {
        let config = Config::parse_from([
            "mesh-agent",
            "--data-dir",
            "/d",
            "--run-dir",
            "/r",
            "-H",
            "/x",
        ]);
        assert_eq!(config.socket(), PathBuf::from("/r/mesh.sock"));
        assert_eq!(config.hosts, ["/x"]);
        assert!(Config::try_parse_from(["mesh-agent", "--vxlan-port", "80"]).is_err());
    }
}
