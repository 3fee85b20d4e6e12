//! What can go wrong, each with the object concerned and, where there is one, the remedy.

use std::{io, path::PathBuf};

use aya::maps::MapError;

/// Failure of the data plane's user-space side.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This binary was built without the eBPF object.
    #[error("this binary carries no eBPF programs: run `cargo xtask build-ebpf` and build again")]
    NoObject,
    /// The kernel or the object file refused to load.
    #[error("cannot load the eBPF programs into {pin_dir}")]
    Load {
        /// Where maps are pinned.
        pin_dir: PathBuf,
        /// The loader's reason.
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// A program is missing or the verifier refused it.
    #[error("cannot load eBPF program {program}")]
    Program {
        /// Program name.
        program: &'static str,
        /// The kernel's reason.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// A program could not be attached.
    #[error("cannot attach {program} to interface {interface}")]
    Attach {
        /// Program name.
        program: &'static str,
        /// Interface name, or its index if it has none any more.
        interface: String,
        /// The kernel's reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A tc filter could not be taken from its interface.
    #[error("cannot take a tc filter from interface {interface}")]
    Detach {
        /// Interface name.
        interface: String,
        /// The kernel's reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// XDP takes one program an interface, and another one is there.
    #[error(
        "interface {interface} has another XDP program (`ip link show {interface}`); detach it, or leave the interface \
         to tc with `--xdp off`"
    )]
    OtherXdp {
        /// Interface name, or its index if it has none any more.
        interface: String,
    },
    /// There are to be no tc programs of others, and there are.
    #[error(
        "interface {interface} has tc programs of others: {others} (`bpftool net`, `tc filter show dev {interface} ingress`); \
         detach them, or have both run: `--tc first` or `--tc last`"
    )]
    OtherTc {
        /// Interface name, or its index if it has none any more.
        interface: String,
        /// What they are called.
        others: String,
    },
    /// There can be one data plane in a network namespace.
    #[error(
        "tunnel device {name} is another mesh-agent's ({alias}): each needs a network namespace of its own; of one that \
         is gone for good, remove the device (`ip link del {name}`) and its pins, the folder named there"
    )]
    OtherOwner {
        /// Interface name.
        name: &'static str,
        /// What it says of its owner.
        alias: String,
    },
    /// Something else has the tunnel device's name.
    #[error("interface {name} is no tunnel device: rename or remove it")]
    OtherDevice {
        /// Interface name.
        name: &'static str,
    },
    /// A map could not be read or written.
    #[error("cannot access eBPF map {map}")]
    Map {
        /// Map name.
        map: &'static str,
        /// The kernel's reason.
        #[source]
        source: Box<MapError>,
    },
    /// The object or the pin does not hold what this version expects.
    #[error("the eBPF object has no {kind} {name}: it belongs to another version, rebuild it")]
    Missing {
        /// `map` or `program`.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// Too many published ports.
    #[error("no room for more than {capacity} published ports")]
    PortsFull {
        /// Ports there can be, one less while one changes.
        capacity: u32,
    },
    /// A file or folder on the bpffs, /proc or /sys.
    #[error("cannot {action} {path}")]
    Path {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A netlink request.
    #[error("cannot {action}")]
    Netlink {
        /// What was tried.
        action: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// The error with all its causes, for people.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text = format!("{text}: {cause}");
            next = cause.source();
        }
        text
    }
}
