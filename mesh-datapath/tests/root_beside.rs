//! tc programs of others beside ours on an uplink.

mod common;

use std::{
    fs, io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use aya::{
    programs::{
        SchedClassifier, TcAttachType, loaded_programs,
        tc::{NlOptions, TcAttachOptions, TcHandle, qdisc_add_clsact},
    },
    sys::{Stats, enable_stats},
};
use common::{
    Lan, Node, Ns, Task,
    pair::{CLIENT, N1, TARGET, VIP, VNI},
    service,
    talk::{self, call},
};
use mesh_datapath::{Datapath, TcOrder, XdpMode};

/// A tc program that leaves every packet to the next one.
struct Other(OwnedFd);

impl Other {
    /// Loads it, under a name that nothing else has.
    fn load(name: &str) -> Self {
        /// Load a program.
        const BPF_PROG_LOAD: libc::c_int = 5;
        /// A tc classifier.
        const SCHED_CLS: u32 = 3;
        /// What the call is given, as far as it is said here (`linux/bpf.h`).
        #[repr(C)]
        struct Attributes {
            kind: u32,
            count: u32,
            instructions: u64,
            licence: u64,
            log: [u64; 2],
            kernel_and_flags: u64,
            name: [u8; 16],
        }
        // r0 = TC_ACT_UNSPEC (-1); exit.
        let instructions: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
        let licence = c"GPL";
        let mut attributes = Attributes {
            kind: SCHED_CLS,
            count: 2,
            instructions: instructions.as_ptr() as u64,
            licence: licence.as_ptr() as u64,
            log: [0; 2],
            kernel_and_flags: 0,
            name: [0; 16],
        };
        attributes.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: the kernel reads the attributes and what they point to, all of which outlive the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_LOAD,
                &raw const attributes,
                size_of::<Attributes>(),
            )
        };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the kernel has just given it to this process, and nobody else has it.
        Self(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }

    /// Loads it and attaches it where packets come in by an interface of this namespace, as others do: after those that are
    /// there. It stays for as long as the interface, or what is given beside it.
    fn on(ns: &Ns, interface: &str, name: &str) -> (Self, SchedClassifier) {
        let (other, mut program) = Self::program(name);
        ns.run(|| program.attach(interface, TcAttachType::Ingress))
            .expect("attached");
        (other, program)
    }

    /// Loads it.
    fn program(name: &str) -> (Self, SchedClassifier) {
        let other = Self::load(name);
        let program = loaded_programs()
            .flatten()
            .find(|program| program.name_as_str() == Some(name));
        let info = program.expect("it was loaded");
        let program = SchedClassifier::from_program_info(info, name.to_owned().into());
        (other, program.expect("a tc program"))
    }

    /// How often it has run, while the kernel counts.
    fn runs(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd()));
        let text = text.expect("a description");
        let runs = text.lines().find_map(|line| line.strip_prefix("run_cnt:"));
        runs.expect("a counter").trim().parse().expect("a number")
    }
}

/// A node with a service on port 80 and a server of its own on 9000, which is none of ours, and a client.
struct World {
    node: Node,
    client: Ns,
    /// For as long as its namespace has to be there.
    _task: Task,
    _lan: Lan,
}

impl World {
    fn new() -> Self {
        let lan = Lan::new();
        let mut node = Node::new(&lan, "n1", N1, XdpMode::Off);
        let client = Ns::new("client");
        lan.join(&client, "p-client", CLIENT, false);
        let task = Task::new(
            &mut node,
            "near",
            VNI,
            Ipv4Addr::new(10, 0, 16, 11),
            Ipv4Addr::new(10, 0, 0, 11),
        );
        let web = service(80, TARGET, (VNI, VIP), &[&task]);
        node.desired.services.insert("web".into(), web.into());
        task.serve(TARGET);
        talk::serve(&node.ns, "own", 9000);
        Self {
            node,
            client,
            _task: task,
            _lan: lan,
        }
    }

    /// Whether each of the others sees what the client sends to a port, which is answered.
    fn meets(&self, port: u16, others: [(&Other, bool); 2]) {
        /// A neighbour's question or two may be among what they see; a million bytes are more packets than that.
        const FEW: u64 = 10;
        let before = others.map(|(other, _)| other.runs());
        let answer = self.client.run(|| call(N1, port, &[1; 1_000_000]));
        answer.expect("answered");
        for ((other, sees), before) in others.into_iter().zip(before) {
            let after = other.runs();
            assert_eq!(after - before > FEW, sees, "port {port}: {before}, {after}");
        }
    }

    /// The next process, with another setting.
    fn restart(&mut self, order: TcOrder) {
        drop(self.node.datapath.take());
        self.node.config.tc = order;
    }
}

/// They stay where they are, before and after ours come and go. Ours are first: what they send on, others do not see; all else
/// goes on to them.
#[test]
fn tc_programs_of_others_run_beside_ours() {
    let _counting = enable_stats(Stats::RunTime).expect("the kernel counts");
    let mut world = World::new();
    let id = std::process::id();
    let before = Other::on(&world.node.ns, "eth0", &format!("bef_{id}"));
    world.node.apply();
    let after = Other::on(&world.node.ns, "eth0", &format!("aft_{id}"));
    let both = |sees| [(&before.0, sees), (&after.0, sees)];
    for _ in 0..2 {
        world.meets(80, both(false));
        world.meets(9000, both(true));
        // The next process attaches nothing anew.
        world.restart(TcOrder::First);
        assert!(world.node.apply().is_empty());
    }
    drop(world.node.datapath.take());
    let removed = world.node.ns.run(|| Datapath::remove(&world.node.config));
    removed.expect("removed");
    world.meets(9000, both(true));
}

/// Ours are last or first, as configured, whoever came in between, and nobody's way is interrupted when that changes.
#[test]
fn the_order_is_as_configured() {
    let _counting = enable_stats(Stats::RunTime).expect("the kernel counts");
    let mut world = World::new();
    let id = std::process::id();
    let before = Other::on(&world.node.ns, "eth0", &format!("obe_{id}"));
    world.node.config.tc = TcOrder::Last;
    world.node.apply();
    let after = Other::on(&world.node.ns, "eth0", &format!("oaf_{id}"));
    // Who comes later is behind a program that is the last so far, and before a filter that is.
    let has_links = SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok();
    world.meets(80, [(&before.0, true), (&after.0, !has_links)]);
    for (order, sees) in [
        (TcOrder::Last, true),
        (TcOrder::First, false),
        (TcOrder::Last, true),
    ] {
        world.restart(order);
        world.node.apply();
        let both = [(&before.0, sees), (&after.0, sees)];
        world.meets(80, both);
        world.restart(order);
        assert!(world.node.apply().is_empty(), "in its place already");
        world.meets(80, both);
        world.meets(9000, [(&before.0, true), (&after.0, true)]);
    }
}

/// Others are an error that names them, which changes nothing of what is there.
#[test]
fn others_are_refused_if_configured() {
    let mut world = World::new();
    world.node.config.tc = TcOrder::Refuse;
    // None of others are there.
    world.node.apply();
    let answers = |world: &World| {
        let answer = world.client.run(|| call(N1, 80, b"x"));
        answer.expect("answered");
    };
    answers(&world);
    world.restart(TcOrder::Refuse);
    assert!(world.node.apply().is_empty());
    let refused = |world: &World| {
        let Node {
            ns,
            config,
            desired,
            ..
        } = &world.node;
        ns.run(|| {
            let mut datapath = Datapath::open(config).expect("open");
            let refused = datapath.apply(desired).expect_err("refused").to_string();
            assert!(
                refused.contains("interface eth0 has tc programs of others: "),
                "{refused}"
            );
            refused
        })
    };
    world.restart(TcOrder::Refuse);
    let id = std::process::id();
    let name = format!("ref_{id}");
    let (_other, program) = Other::on(&world.node.ns, "eth0", &name);
    let has_links = SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok();
    let named = if has_links { &*name } else { "a bpf filter" };
    let told = refused(&world);
    assert!(told.contains(named), "{told}");
    answers(&world);
    world.node.ns.run(|| drop(program));

    // Filters are others' as well where there are links.
    let (_other, mut program) = Other::program(&format!("fil_{id}"));
    let filter = NlOptions {
        priority: 7,
        handle: TcHandle::new(0, 1),
        classid: None,
    };
    world.node.ns.run(|| {
        // On older kernels it is there.
        let _ = qdisc_add_clsact("eth0");
        let options = TcAttachOptions::Netlink(filter);
        let attached = program.attach_with_options("eth0", TcAttachType::Ingress, options);
        attached.expect("attached");
    });
    let told = refused(&world);
    assert!(told.contains("a bpf filter of priority 7"), "{told}");
    answers(&world);
    world.node.ns.run(|| drop(program));
    world.node.apply();
    answers(&world);
}
