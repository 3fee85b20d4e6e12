//! tc programs of others beside ours on an uplink.

mod common;

use std::{
    fs, io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use aya::{
    programs::{SchedClassifier, TcAttachType, loaded_programs},
    sys::{Stats, enable_stats},
};
use common::{
    Lan, Node, Ns, Task,
    pair::{CLIENT, N1, TARGET, VIP, VNI},
    service,
    talk::{self, call},
};
use mesh_datapath::{Datapath, XdpMode};

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
        let other = Self::load(name);
        let program = loaded_programs()
            .flatten()
            .find(|program| program.name_as_str() == Some(name));
        let info = program.expect("it was loaded");
        let mut program =
            SchedClassifier::from_program_info(info, name.to_owned().into()).expect("a tc program");
        ns.run(|| program.attach(interface, TcAttachType::Ingress))
            .expect("attached");
        (other, program)
    }

    /// How often it has run, while the kernel counts.
    fn runs(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd()));
        let text = text.expect("a description");
        let runs = text.lines().find_map(|line| line.strip_prefix("run_cnt:"));
        runs.expect("a counter").trim().parse().expect("a number")
    }
}

/// They stay where they are, before and after ours come and go. Ours are first: what they send on, others do not see; all else
/// goes on to them.
#[test]
fn tc_programs_of_others_run_beside_ours() {
    /// A neighbour's question or two may be among what they see; a million bytes are more packets than that.
    const FEW: u64 = 10;
    let _counting = enable_stats(Stats::RunTime).expect("the kernel counts");
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
    // A server of the node's own, which is none of ours.
    talk::serve(&node.ns, "own", 9000);

    let id = std::process::id();
    let before = Other::on(&node.ns, "eth0", &format!("bef_{id}"));
    node.apply();
    let after = Other::on(&node.ns, "eth0", &format!("aft_{id}"));
    let runs = || [&before, &after].map(|(other, _)| other.runs());
    let meets = |port, is_theirs: bool| {
        let before = runs();
        let answer = client.run(|| call(N1, port, &[1; 1_000_000]));
        answer.expect("answered");
        for (before, after) in before.into_iter().zip(runs()) {
            assert_eq!(
                after - before > FEW,
                is_theirs,
                "port {port}: {before}, {after}"
            );
        }
    };
    for _ in 0..2 {
        meets(80, false);
        meets(9000, true);
        // The next process attaches nothing anew.
        drop(node.datapath.take());
        assert!(node.apply().is_empty());
    }
    drop(node.datapath.take());
    let removed = node.ns.run(|| Datapath::remove(&node.config));
    removed.expect("removed");
    meets(9000, true);
}
