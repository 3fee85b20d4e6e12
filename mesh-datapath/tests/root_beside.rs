//! tc programs of others beside ours on an uplink, and what an agent leaves of ours that is killed while it attaches them.

mod common;

use std::{
    fs, io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use aya::{
    programs::{
        LinkOrder, SchedClassifier, TcAttachType, loaded_programs,
        tc::{NlOptions, TcAttachOptions, TcHandle, qdisc_add_clsact},
    },
    sys::{Stats, enable_stats},
};
use common::{
    Lan, Node, Ns, PATIENCE, Task, chain, inside,
    pair::{CLIENT, N1, TARGET, VIP, VNI},
    service, sh,
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

    /// Loads it, to be attached.
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

/// How tc programs are held, ours and those of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// tcx, since Linux 6.6.
    Links,
    /// Of the `clsact` qdisc.
    Filters,
}

impl Held {
    /// The ways that this kernel knows.
    fn ways() -> Vec<Self> {
        match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
            Ok(_) => vec![Self::Links, Self::Filters],
            Err(_) => vec![Self::Filters],
        }
    }
}

/// A program of others where packets come in by `eth0` of a namespace, until this is dropped.
struct Attached {
    other: Other,
    program: Option<SchedClassifier>,
    ns: String,
}

impl Attached {
    /// As others do it: after those that are there, or where the kernel puts a filter that asks for no priority.
    fn to(ns: &Ns, held: Held, name: &str) -> Self {
        let options = match held {
            Held::Links => TcAttachOptions::TcxOrder(LinkOrder::default()),
            Held::Filters => TcAttachOptions::Netlink(NlOptions::default()),
        };
        Self::with(ns, options, name)
    }

    /// A filter of this priority.
    fn filter(ns: &Ns, priority: u16, name: &str) -> Self {
        let options = NlOptions {
            priority,
            handle: TcHandle::new(0, 1),
            classid: None,
        };
        Self::with(ns, TcAttachOptions::Netlink(options), name)
    }

    fn with(ns: &Ns, options: TcAttachOptions, name: &str) -> Self {
        let name = format!("{name}_{}", std::process::id());
        let (other, mut program) = Other::program(&name);
        ns.run(|| {
            if matches!(options, TcAttachOptions::Netlink(_)) {
                // It may be there.
                let _ = qdisc_add_clsact("eth0");
            }
            let attached = program.attach_with_options("eth0", TcAttachType::Ingress, options);
            attached.expect("attached");
        });
        let (program, ns) = (Some(program), ns.0.clone());
        Self { other, program, ns }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let program = self.program.take();
        // A filter is taken away where it is.
        inside(&self.ns, || drop(program));
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
    fn new(held: Held) -> Self {
        let lan = Lan::new();
        let mut node = Node::new(&lan, "n1", N1, XdpMode::Off);
        node.config.tc_links = held == Held::Links;
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
    fn meets(&self, port: u16, others: [(&Attached, bool); 2]) {
        /// A neighbour's question or two may be among what they see; a million bytes are more packets than that.
        const FEW: u64 = 10;
        let before = others.map(|(attached, _)| attached.other.runs());
        let answer = self.client.run(|| call(N1, port, &[1; 1_000_000]));
        answer.expect("answered");
        for ((attached, sees), before) in others.into_iter().zip(before) {
            let after = attached.other.runs();
            assert_eq!(after - before > FEW, sees, "port {port}: {before}, {after}");
        }
    }

    /// The service answers.
    fn answers(&self) {
        let answer = self.client.run(|| call(N1, 80, b"x"));
        answer.expect("answered");
    }

    /// The next process, with another setting.
    fn restart(&mut self, order: TcOrder) {
        drop(self.node.datapath.take());
        self.node.config.tc = order;
    }

    /// What the next process says that may not attach its programs.
    fn refused(&self) -> String {
        let Node {
            ns,
            config,
            desired,
            ..
        } = &self.node;
        ns.run(|| {
            let mut datapath = Datapath::open(config).expect("open");
            chain(&datapath.apply(desired).expect_err("refused"))
        })
    }

    /// Takes away what is ours.
    fn remove(&mut self) {
        drop(self.node.datapath.take());
        let removed = self.node.ns.run(|| Datapath::remove(&self.node.config));
        removed.expect("removed");
    }

    /// Runs `tc filter` for where packets come in on the uplink. It sees the pins, which what `ip netns exec` runs does not.
    fn filter(&self, action: &str, words: &str) -> String {
        let line = format!("tc filter {action} dev eth0 ingress {words}");
        self.node.ns.run(|| sh(&line))
    }

    /// Adds a filter of others that leaves every packet to the next one.
    fn passes(&self, place: &str) {
        let words = format!("filter add dev eth0 ingress {place} bpf bytecode");
        self.node.ns.run(|| {
            let mut tc = Command::new("tc");
            let added = tc.args(words.split(' ')).arg("1,6 0 0 0,").status();
            assert!(added.expect("tc").success(), "{words}");
        });
    }

    /// The pin that says that ours is on the uplink.
    fn pin(&self, held: Held) -> PathBuf {
        let folder = match held {
            Held::Links => "links",
            Held::Filters => "filters",
        };
        let index = self.node.ns.index("eth0");
        let version = self.node.config.versioned_pin_dir();
        version.join(folder).join(format!("uplink_tc-{index}"))
    }

    /// How many of ours are on the uplink; the kernel may let go of a link later than its pin is removed.
    fn has(&self, held: Held, expected: usize) {
        let count = || match held {
            Held::Links => {
                let query = || SchedClassifier::query_tcx("eth0", TcAttachType::Ingress);
                let (_, programs) = self.node.ns.run(query).expect("told");
                let names = programs.iter().map(|program| program.name());
                names.filter(|name| *name == b"uplink_tc").count()
            }
            Held::Filters => self
                .filter("show", "")
                .matches(&format!(" handle {OURS} "))
                .count(),
        };
        let limit = Instant::now() + PATIENCE;
        while count() != expected {
            assert!(Instant::now() < limit, "{held:?}: {} of ours", count());
            std::thread::yield_now();
        }
    }
}

/// The handle of our filter on an uplink.
const OURS: &str = "0x6d650001";

/// They stay where they are, before and after ours come and go. Ours are first: what they send on, others do not see; all else
/// goes on to them.
#[test]
fn tc_programs_of_others_run_beside_ours() {
    let _counting = enable_stats(Stats::RunTime).expect("the kernel counts");
    for held in Held::ways() {
        let mut world = World::new(held);
        let before = Attached::to(&world.node.ns, held, "bef");
        world.node.apply();
        let after = Attached::to(&world.node.ns, held, "aft");
        let both = |sees| [(&before, sees), (&after, sees)];
        for _ in 0..2 {
            world.meets(80, both(false));
            world.meets(9000, both(true));
            // The next process attaches nothing anew.
            world.restart(TcOrder::First);
            assert!(world.node.apply().is_empty());
        }
        world.remove();
        world.has(held, 0);
        world.meets(9000, both(true));
    }
}

/// Ours are last or first, as configured, whoever came in between, and nobody's way is interrupted when that changes.
#[test]
fn the_order_is_as_configured() {
    let _counting = enable_stats(Stats::RunTime).expect("the kernel counts");
    for held in Held::ways() {
        let mut world = World::new(held);
        let before = Attached::to(&world.node.ns, held, "obe");
        world.node.config.tc = TcOrder::Last;
        world.node.apply();
        let after = Attached::to(&world.node.ns, held, "oaf");
        // Who comes later is behind a program that is the last so far, and before a filter that is.
        world.meets(80, [(&before, true), (&after, held == Held::Filters)]);
        for (order, sees) in [
            (TcOrder::Last, true),
            (TcOrder::First, false),
            (TcOrder::Last, true),
        ] {
            world.restart(order);
            world.node.apply();
            let both = [(&before, sees), (&after, sees)];
            world.meets(80, both);
            world.restart(order);
            assert!(world.node.apply().is_empty(), "in its place already");
            world.meets(80, both);
            world.meets(9000, [(&before, true), (&after, true)]);
            world.has(held, 1);
        }
    }
}

/// Others are an error that names them, which changes nothing of what is there.
#[test]
fn others_are_refused_if_configured() {
    for held in Held::ways() {
        let mut world = World::new(held);
        world.node.config.tc = TcOrder::Refuse;
        // None of others are there.
        world.node.apply();
        world.answers();
        world.restart(TcOrder::Refuse);
        assert!(world.node.apply().is_empty());
        world.restart(TcOrder::Refuse);
        let link_or_filter = Attached::to(&world.node.ns, held, "ref");
        let named = match held {
            Held::Links => format!("ref_{}", std::process::id()),
            Held::Filters => "a bpf filter of priority ".to_owned(),
        };
        let told = world.refused();
        let why = format!("interface eth0 has tc programs of others: {named}");
        assert!(told.contains(&why), "{told}");
        world.answers();
        drop(link_or_filter);

        // Filters are others' as well where there are links.
        let filter = Attached::filter(&world.node.ns, 7, "fil");
        let told = world.refused();
        assert!(told.contains("a bpf filter of priority 7"), "{told}");
        world.answers();
        drop(filter);
        world.node.apply();
        world.answers();
    }
}

/// Filters of others that have the very priority of ours, or of where ours would be by another order. Ours come to be beside
/// those of the same kind and protocol; of another there can be none, which is an error that names the filter.
#[test]
fn filters_of_the_same_priority() {
    let cases = [
        (TcOrder::First, 1, "ip", false),
        (TcOrder::First, 1, "all", true),
        (TcOrder::First, 65535, "ip", true),
        (TcOrder::First, 65535, "all", true),
        (TcOrder::Last, 65535, "ip", false),
        (TcOrder::Last, 65535, "all", true),
        (TcOrder::Last, 1, "ip", true),
        (TcOrder::Last, 1, "all", true),
    ];
    let mut world = World::new(Held::Filters);
    world.node.ns.sh("tc qdisc add dev eth0 clsact");
    for (order, priority, protocol, is_beside) in cases {
        let case = format!("{order:?} beside priority {priority}, protocol {protocol}");
        let place = format!("pref {priority} protocol {protocol}");
        world.passes(&place);
        world.restart(order);
        if is_beside {
            world.node.apply();
            world.answers();
        } else {
            let told = world.refused();
            let why = format!("eth0: a bpf filter of priority {priority} is in the place");
            assert!(told.contains(&why), "{case}: {told}");
            world.has(Held::Filters, 0);
        }
        let shown = world.filter("show", "");
        let theirs = format!("filter protocol {protocol} pref {priority} bpf chain 0 handle 0x1 ");
        assert!(shown.contains(&theirs), "{case}: {shown}");
        world.filter("del", &place);
        if !is_beside {
            world.node.apply();
            world.answers();
        }
        world.remove();
        assert_eq!(world.filter("show", ""), "", "{case}");
    }
}

/// Of filters of one priority the latest is the first, and stays it when the agent starts again.
#[test]
fn filters_of_our_priority_that_come_later_are_first() {
    let _counting = enable_stats(Stats::RunTime).expect("the kernel counts");
    let mut world = World::new(Held::Filters);
    let before = Attached::filter(&world.node.ns, 1, "pbe");
    world.node.apply();
    world.meets(80, [(&before, false), (&before, false)]);
    let after = {
        let options = NlOptions {
            priority: 1,
            handle: TcHandle::new(0, 2),
            classid: None,
        };
        Attached::with(&world.node.ns, TcAttachOptions::Netlink(options), "paf")
    };
    for _ in 0..2 {
        world.meets(80, [(&before, false), (&after, true)]);
        world.restart(TcOrder::First);
        assert!(world.node.apply().is_empty());
    }
}

/// What an agent leaves behind that is killed while it attaches.
struct Interrupted {
    name: &'static str,
    held: Held,
    /// Makes it of what one leaves that has attached its programs, as the first.
    leave: fn(&mut World),
}

/// At each step.
const INTERRUPTED: [Interrupted; 5] = [
    Interrupted {
        name: "the link at the new place, not yet in the first one's stead",
        held: Held::Links,
        leave: |world| {
            let (pin, aside) = (world.pin(Held::Links), world.node.config.pin_dir.join("a"));
            fs::rename(&pin, &aside).expect("renamed");
            world.restart(TcOrder::Last);
            world.node.apply();
            world.has(Held::Links, 2);
            fs::rename(&pin, draft(&pin)).expect("renamed");
            fs::rename(&aside, &pin).expect("renamed");
        },
    },
    Interrupted {
        name: "the next marker, not yet in the first one's stead",
        held: Held::Filters,
        leave: |world| {
            let pin = world.pin(Held::Filters);
            fs::hard_link(&pin, draft(&pin)).expect("linked");
        },
    },
    Interrupted {
        name: "a marker, and no filter yet",
        held: Held::Filters,
        leave: |world| {
            world.filter("del", &format!("pref 1 protocol all handle {OURS} bpf"));
        },
    },
    Interrupted {
        name: "a filter at either place",
        held: Held::Filters,
        leave: |world| {
            let pin = world.pin(Held::Filters);
            let place = format!("pref 65535 protocol all handle {OURS}");
            let program = format!("bpf da object-pinned {}", pin.display());
            world.filter("add", &format!("{place} {program}"));
            world.has(Held::Filters, 2);
        },
    },
    Interrupted {
        name: "a filter at the other place only",
        held: Held::Filters,
        leave: |world| {
            let pin = world.pin(Held::Filters);
            let place = format!("pref 65535 protocol all handle {OURS}");
            let program = format!("bpf da object-pinned {}", pin.display());
            world.filter("add", &format!("{place} {program}"));
            world.filter("del", &format!("pref 1 protocol all handle {OURS} bpf"));
        },
    },
];

/// Where a pin is made that is to take another's place.
fn draft(pin: &Path) -> PathBuf {
    let mut name = pin.as_os_str().to_owned();
    name.push("-new");
    name.into()
}

/// An agent that was killed while it attached leaves nothing that the next one does not find: there is one of ours, where it
/// is to be, or none once all of it is removed.
#[test]
fn what_an_interrupted_start_leaves_is_taken_over_or_away() {
    let _counting = enable_stats(Stats::RunTime).expect("the kernel counts");
    let ways = Held::ways();
    for case in INTERRUPTED {
        if !ways.contains(&case.held) {
            continue;
        }
        for next in [Some(TcOrder::First), Some(TcOrder::Last), None] {
            println!("{}, then {next:?}", case.name);
            let mut world = World::new(case.held);
            let other = Attached::to(&world.node.ns, case.held, "int");
            world.node.apply();
            drop(world.node.datapath.take());
            (case.leave)(&mut world);
            match next {
                Some(order) => {
                    world.restart(order);
                    world.node.apply();
                    world.has(case.held, 1);
                    let sees = order == TcOrder::Last;
                    world.meets(80, [(&other, sees), (&other, sees)]);
                    assert!(!draft(&world.pin(case.held)).exists());
                }
                None => {
                    world.remove();
                    world.has(case.held, 0);
                    assert!(!world.node.config.pin_dir.exists());
                }
            }
        }
    }
}
