//! The node that packets are tried on, and what a line of the tables is.

use std::net::Ipv4Addr;

use mesh_datapath::{Config, Datapath, Desired, Endpoint, Link, Location, XdpMode, mac_of};

use crate::common::{self, INGRESS, Ns, service_of};

pub(crate) const VNI: u32 = 4097;
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(crate) const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);
pub(crate) const FAR_GATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(crate) const NEAR_GATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 2);
pub(crate) const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 3);
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 200);
pub(crate) const EMPTY_VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 201);
pub(crate) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x64];

/// Port 80 leads to the other node, 81 to a task here, 82 nowhere; one virtual address has a task far away,
/// another none.
pub(crate) struct World {
    ns: Ns,
    datapath: Option<Datapath>,
    config: Config,
    up: u32,
    over: u32,
    gate: u32,
}

impl World {
    pub(crate) fn new(name: &str) -> Self {
        let ns = Ns::new(name);
        // The programs are attached as well: nothing else may move their counters.
        ns.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
        for (host, peer) in [("up0", "up1"), ("ov0", "ov1"), ("gw0", "gw1")] {
            ns.sh(&format!("ip link add {host} type veth peer name {peer}"));
            ns.sh(&format!("ip link set {host} up"));
            ns.sh(&format!("ip link set {peer} up"));
        }
        ns.sh(&format!("ip addr add {NODE}/24 dev up0"));
        ns.sh(&format!(
            "ip neigh add {PEER} lladdr 02:00:00:00:00:02 dev up0 nud permanent"
        ));
        ns.sh(&format!(
            "ip neigh add {CLIENT} lladdr 02:00:00:00:00:64 dev up0 nud permanent"
        ));
        ns.sh("sysctl -qw net.ipv4.ip_forward=1");
        let (up, over, gate) = (ns.index("up0"), ns.index("ov0"), ns.index("gw0"));
        let mut config = Config::new(format!("/sys/fs/bpf/{}", ns.0));
        config.xdp = XdpMode::Off;
        let mut world = Self {
            ns,
            datapath: None,
            config,
            up,
            over,
            gate,
        };
        let desired = world.desired();
        let config = &world.config;
        world.datapath = Some(world.ns.run(|| {
            let mut datapath = Datapath::open(config).expect("open");
            datapath.apply(&desired).expect("apply");
            datapath
        }));
        world
    }

    fn desired(&self) -> Desired {
        let mut desired = Desired {
            uplinks: [self.up].into(),
            own_addresses: [NODE.into()].into(),
            vtep: Some(NODE.into()),
            ingress_vni: INGRESS,
            peers: [PEER.into()].into(),
            ..Desired::default()
        };
        for (vni, address, location) in [
            (INGRESS, FAR_GATE, Location::Remote(PEER.into())),
            (INGRESS, NEAR_GATE, Location::Local(self.gate)),
            (VNI, FAR, Location::Remote(PEER.into())),
            (VNI, NEAR, Location::Local(self.over)),
        ] {
            let endpoint = Endpoint {
                mac: mac_of(address.into()),
                location,
            };
            desired.endpoints.insert((vni, address.into()), endpoint);
        }
        let link = Link::Overlay {
            vni: VNI,
            address: NEAR.into(),
            mac: mac_of(NEAR.into()),
        };
        desired.links.insert(self.over, link);
        let link = Link::Gateway {
            address: NEAR_GATE.into(),
            mac: mac_of(NEAR_GATE.into()),
        };
        desired.links.insert(self.gate, link);
        let services = &mut desired.services;
        services.insert(
            "far".into(),
            service_of(80, 8080, (VNI, VIP), &[FAR], &[FAR_GATE]),
        );
        services.insert(
            "near".into(),
            service_of(81, 8080, (VNI, EMPTY_VIP), &[], &[NEAR_GATE]),
        );
        services.insert(
            "none".into(),
            service_of(82, 8080, (VNI, EMPTY_VIP), &[], &[]),
        );
        desired
    }

    /// Applies the world with a change.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Desired)) {
        let mut desired = self.desired();
        change(&mut desired);
        let datapath = self.datapath.as_mut().expect("open");
        self.ns.run(|| datapath.apply(&desired)).expect("apply");
    }

    /// What becomes of a packet that comes in by the uplink.
    pub(crate) fn send(&mut self, program: &'static str, packet: &[u8]) -> Vec<u8> {
        let datapath = self.datapath.as_mut().expect("open");
        let uplink = self.up;
        self.ns
            .run(|| datapath.trial(program, packet, uplink))
            .unwrap_or_else(|e| panic!("{}", common::chain(&e)))
            .packet
    }

    pub(crate) fn count(&self, name: &str) -> u64 {
        let snapshot = self
            .datapath
            .as_ref()
            .expect("open")
            .snapshot()
            .expect("counters");
        let lines = snapshot.verdicts.iter().chain(&snapshot.drops);
        lines
            .filter(|line| line.name == name)
            .map(|line| line.packets)
            .sum()
    }

    pub(crate) fn check(&mut self, case: &Case) {
        let before = self.count(case.outcome);
        let interface = match case.program {
            "overlay_tc" => self.over,
            "gateway_tc" => self.gate,
            "loopback_tc" => 1,
            _ => self.up,
        };
        let datapath = self.datapath.as_mut().expect("open");
        let trial = self
            .ns
            .run(|| datapath.trial(case.program, &case.packet, interface))
            .unwrap_or_else(|e| panic!("{}: {}", case.name, common::chain(&e)));
        assert!(
            case.actions.contains(&trial.action),
            "{}: action {:#x}",
            case.name,
            trial.action
        );
        assert_eq!(
            self.count(case.outcome),
            before + 1,
            "{}: counter {}",
            case.name,
            case.outcome
        );
        match &case.out {
            Out::Same => assert_eq!(trial.packet, case.packet, "{}", case.name),
            Out::Any => {}
            Out::Check(check) => {
                if let Err(why) = check(&trial.packet) {
                    panic!("{}: {why}: {:02x?}", case.name, trial.packet);
                }
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.datapath.take());
        let config = &self.config;
        let _ = self.ns.run(|| Datapath::remove(config));
    }
}

pub(crate) type Check = Box<dyn Fn(&[u8]) -> Result<(), String> + Send + Sync>;

pub(crate) enum Out {
    Same,
    Any,
    Check(Check),
}

pub(crate) struct Case {
    name: &'static str,
    program: &'static str,
    packet: Vec<u8>,
    actions: Vec<u32>,
    outcome: &'static str,
    out: Out,
}

pub(crate) fn case(
    name: &'static str,
    program: &'static str,
    packet: Vec<u8>,
    actions: &[u32],
    outcome: &'static str,
    out: Out,
) -> Case {
    Case {
        name,
        program,
        packet,
        actions: actions.to_vec(),
        outcome,
        out,
    }
}

pub(crate) fn check(check: impl Fn(&[u8]) -> Result<(), String> + Send + Sync + 'static) -> Out {
    Out::Check(Box::new(check))
}
