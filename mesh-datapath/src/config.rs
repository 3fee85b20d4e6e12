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
    /// Native XDP on every uplink, veth too, but not on VLANs, which have none. A veth's peer must have GRO on, or it drops silently
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

/// Where the tc programs on interfaces that are not the mesh's own (uplinks, loopback) are among those of others there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TcOrder {
    /// Before all: others see what ours leave to the stack.
    #[default]
    First,
    /// After all: ours see what others leave to the next program (`TCX_NEXT`, `TC_ACT_UNSPEC`), and nothing else. Where
    /// others are filters of the `clsact` qdisc and ours are not, which they are before Linux 6.6, the kernel has those run
    /// after ours all the same.
    Last,
    /// There may be none of others.
    Refuse,
}

impl std::str::FromStr for TcOrder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "first" => Ok(Self::First),
            "last" => Ok(Self::Last),
            "refuse" => Ok(Self::Refuse),
            _ => Err(format!("`{text}` is none of first, last, refuse")),
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
    /// What becomes of others' tc programs; seen to when an interface is attached to, and when a process begins.
    pub tc: TcOrder,
    /// tc programs are held by links where the kernel has these (tcx, since Linux 6.6). If not, they are filters of the
    /// `clsact` qdisc, as on older kernels.
    pub tc_links: bool,
    /// Flows remembered by each of the three flow tables (answers; backends of TCP connections; backends of other flows); the
    /// least recently used go first. All together take 456 bytes for each, at once: 30 MB by default, 478 MB for 2^20.
    pub flow_entries: u32,
    /// Bytes that all Maglev rows together may take. Memory is taken as it is needed, 1 MiB at a time, up to 1 GiB. A
    /// published port and a virtual address have a row each, and once their backends have changed a second one, the row
    /// before: 3.0 kB for up to 28 backends, 8.9 kB for up to 85, 27 kB for up to 256, 105 kB for up to 513 and 209 kB for
    /// up to 1,026. 5,000 rows for 250 backends each are 133 MB, and as much again when all have changed.
    /// Past three quarters rows get shorter; see [`Room`](crate::Room).
    pub row_bytes: u32,
    /// The cgroup2 directory whose processes are this node's tasks: their sockets are led to a service's tasks when
    /// they connect. Without one the packet programs do it.
    pub cgroup: Option<PathBuf>,
    /// Tasks behind published ports and virtual addresses: a task counts once for each of them (64 bytes, of which
    /// 8 lead to its counters, and 24 for each processor, which are taken at once: 15 MB by default on two processors, 210 MB on 64). Those past them get no
    /// flows; see [`Room`](crate::Room).
    pub backend_slots: u32,
}

impl Config {
    /// The defaults with pins under `pin_dir`.
    pub fn new(pin_dir: impl Into<PathBuf>) -> Self {
        Self {
            pin_dir: pin_dir.into(),
            vxlan_port: DEFAULT_VXLAN_PORT,
            xdp: XdpMode::Auto,
            tc: TcOrder::First,
            tc_links: true,
            flow_entries: 65_536,
            row_bytes: 512 << 20,
            backend_slots: 131_072,
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
