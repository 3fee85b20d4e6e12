//! Settings that hold for the life of a data plane. What changes while it runs is in `model.rs`.

use std::path::{Path, PathBuf};

/// UDP port of VXLAN unless configured otherwise (IANA).
pub const DEFAULT_VXLAN_PORT: u16 = 4789;

/// How the published-port program is attached to the uplinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum XdpMode {
    /// Native XDP where the driver has it, except on veth (whose peer may drop what is sent back
    /// and loses its segmentation offload); the tc program does the same work everywhere else.
    #[default]
    Auto,
    /// Native XDP on every uplink, veth too. A veth's peer must have GRO on, or it drops silently
    /// what XDP sends back.
    Native,
    /// Only the tc program.
    Off,
}

impl std::str::FromStr for XdpMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Native),
            "off" => Ok(Self::Off),
            _ => Err(format!("`{text}` is none of auto, native, off")),
        }
    }
}

/// Settings that hold for the life of a data plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This instance's own folder on a bpffs, e.g. `/sys/fs/bpf/mesh/<instance id>`. Pins go to a
    /// sub-folder named after the map layout's version.
    pub pin_dir: PathBuf,
    /// UDP port of the tunnels, host byte order.
    pub vxlan_port: u16,
    /// How to attach to uplinks.
    pub xdp: XdpMode,
    /// Flows remembered by each of the two flow tables; the least recently used go first.
    pub flow_entries: u32,
    /// Slots of all Maglev rows together (8 bytes each). A published port and a virtual address have a row each, and
    /// for an hour after a change a second one: 1,009 slots for up to 10 backends, 10,007 for up to 100, 30,011 for
    /// up to 300. 5,000 rows for 250 backends each are 150 million slots, 1.2 GB.
    pub row_slots: u32,
    /// The cgroup2 directory whose processes are this node's tasks: their sockets are led to a service's tasks when
    /// they connect. Without one the packet programs do it.
    pub cgroup: Option<PathBuf>,
    /// Tasks behind published ports and virtual addresses: a task counts once for each of them (52 bytes, and 24 for
    /// each processor).
    pub backend_slots: u32,
}

impl Config {
    /// The defaults with pins under `pin_dir`.
    pub fn new(pin_dir: impl Into<PathBuf>) -> Self {
        Self {
            pin_dir: pin_dir.into(),
            vxlan_port: DEFAULT_VXLAN_PORT,
            xdp: XdpMode::Auto,
            flow_entries: 65_536,
            row_slots: 1 << 21,
            backend_slots: 32_768,
            cgroup: None,
        }
    }

    /// Where this version's maps and links are pinned.
    pub fn versioned_pin_dir(&self) -> PathBuf {
        versioned(&self.pin_dir)
    }
}

fn versioned(dir: &Path) -> PathBuf {
    dir.join(format!("v{}", mesh_common::ABI_VERSION))
}
