//! Two nodes with a cable between them, and what their agents do.

use std::{
    collections::BTreeMap,
    fs::File,
    net::Ipv4Addr,
    os::fd::AsRawFd,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use mesh_wireguard::{Backend, Error, Handle, Pace, Peer, Request, Setup, Status};
use nix::sched::{CloneFlags, setns, unshare};
use tempfile::TempDir;

/// Where nodes listen at first.
pub(crate) const PORT: u16 = 51820;
/// Longer than any wait, on an emulated machine too.
const LIMIT: Duration = Duration::from_secs(120);
/// The program that encrypts in user space.
const EXE: &str = env!("CARGO_BIN_EXE_mesh-wireguard");
/// Keys change here when they are told to, and others follow at once.
const PACE: Pace = Pace {
    period: Duration::from_secs(1 << 30),
    least: Duration::ZERO,
    delay: Duration::ZERO,
};
/// Whose the kernel's devices are.
const OWNER: &str = "test";
/// Bytes of the largest packet.
const MTU: u32 = 1440;

/// What comes of `ask`, once it is true.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) struct World {
    pub(crate) nodes: [Node; 2],
}

impl World {
    pub(crate) fn new(backends: [Backend; 2]) -> Self {
        let mut last = 0;
        let nodes = backends.map(|backend| {
            last += 1;
            Node::new(backend, Ipv4Addr::new(192, 0, 2, last))
        });
        let there = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            nodes[1].ns.as_raw_fd()
        );
        nodes[0].ip(&format!(
            "link add eth0 type veth peer name eth0 netns {there}"
        ));
        for node in &nodes {
            node.ip(&format!("addr add {}/24 dev eth0", node.setup.address));
            node.ip("link set eth0 up");
        }
        Self { nodes }
    }

    /// Lets both agents tell each other of their keys until both nodes use the same, newest ones.
    pub(crate) fn agree(&mut self) {
        eventually("both to use the newest keys", || {
            self.pass();
            let [one, two] = &self.nodes;
            one.is_settled() && two.is_settled() && one.epoch() == two.epoch()
        });
        for node in &self.nodes {
            let is_kernel = matches!(node.handle(), Handle::Kernel(_));
            assert_eq!(is_kernel, node.setup.backend == Backend::Auto);
            assert_eq!(is_kernel, node.ask(&Request::Status).user_space.is_none());
        }
    }

    /// Lets each agent tell the other of its key, once.
    pub(crate) fn pass(&mut self) {
        let [one, two] = &mut self.nodes;
        one.pass(two.told());
        two.pass(one.told());
    }

    pub(crate) fn status(&self) -> [Status; 2] {
        [0, 1].map(|number: usize| self.nodes[number].ask(&Request::Status))
    }
}

pub(crate) struct Node {
    pub(crate) ns: Arc<File>,
    pub(crate) setup: Setup,
    /// The device that the other node is sent to by.
    pub(crate) device: Arc<AtomicU32>,
    last: Option<Status>,
    _folder: TempDir,
}

impl Node {
    fn new(backend: Backend, address: Ipv4Addr) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            File::open("/proc/thread-self/ns/net").expect("it")
        });
        Self {
            ns: Arc::new(made.join().expect("a namespace")),
            setup: Setup {
                backend,
                owner: OWNER.to_owned(),
                socket: folder.path().join("wireguard.sock"),
                address,
                port: PORT,
                epoch: 4,
                others: Vec::new(),
                used: BTreeMap::new(),
            },
            device: Arc::default(),
            last: None,
            _folder: folder,
        }
    }

    /// Runs in the node's namespace.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        enter(&self.ns, work)
    }

    /// Runs `ip` with these words.
    pub(crate) fn ip(&self, words: &str) {
        let ran = self.enter(|| Command::new("ip").args(words.split(' ')).output());
        let ran = ran.expect("the ip command");
        let complaint = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "ip {words}: {complaint}");
    }

    /// What encrypts, seen from within.
    pub(crate) fn find(&self) -> Option<Handle> {
        Handle::find(&self.setup.socket, OWNER)
    }

    /// Ends it, from within.
    pub(crate) fn end(&self) -> Result<(), Error> {
        Handle::end(&self.setup.socket, OWNER)
    }

    /// Starts it, or finds it, from within.
    pub(crate) fn ensure(&self) -> Result<Handle, Error> {
        Handle::ensure(&self.setup, Path::new(EXE))
    }

    pub(crate) fn handle(&self) -> Handle {
        let handle = self.enter(|| self.ensure());
        handle.expect("something that encrypts")
    }

    pub(crate) fn ask(&self, request: &Request) -> Status {
        let handle = self.handle();
        self.enter(|| handle.ask(request)).expect("an answer")
    }

    /// What an agent does in a pass, having been told of the other node.
    pub(crate) fn pass(&mut self, other: Option<(Ipv4Addr, Peer)>) {
        let peers = BTreeMap::from_iter(other);
        let set = Request::Set {
            mtu: MTU,
            peers: peers.clone(),
        };
        let handle = self.handle();
        let mut status = self.enter(|| handle.ask(&set)).expect("an answer");
        if let Some(epoch) = status.next_epoch(&PACE, &peers, Duration::ZERO) {
            self.ask(&Request::Rotate { epoch });
            status = self.ask(&set);
        }
        if let Some(peer) = status.peers.first() {
            self.device.store(peer.ifindex, Relaxed);
        }
        self.last = Some(status);
    }

    /// What it tells the other one, if anything.
    pub(crate) fn told(&self) -> Option<(Ipv4Addr, Peer)> {
        let status = self.last.as_ref()?;
        let peer = Peer {
            key: status.key.clone(),
            port: status.port,
            epoch: Some(status.epoch),
            former_key: status.former_key.clone(),
        };
        Some((self.setup.address, peer))
    }

    /// Whether it sends to the other by its newest key, which that has answered.
    pub(crate) fn is_settled(&self) -> bool {
        self.last.as_ref().is_some_and(|status| {
            let mut peers = status.peers.iter();
            peers.any(|peer| peer.proved && peer.ifindex == status.ifindex)
        })
    }

    fn epoch(&self) -> Option<u64> {
        self.last.as_ref().map(|status| status.epoch)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The process that encrypts; devices end with the namespace.
        let _ = self.enter(|| self.end());
    }
}

/// Runs in a namespace.
pub(crate) fn enter<T: Send>(ns: &File, work: impl FnOnce() -> T + Send) -> T {
    let run = || {
        setns(ns, CloneFlags::CLONE_NEWNET).expect("to enter a namespace");
        work()
    };
    thread::scope(|scope| scope.spawn(run).join()).expect("the work to end")
}
