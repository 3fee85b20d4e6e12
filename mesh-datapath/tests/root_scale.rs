//! Large tables: 2,000 endpoints on 500 peers, many services; a change of one backend writes what it changes.
//! Prints how much processor time it took, which depends on the machine.

mod common;

use std::{collections::BTreeMap, fs, net::Ipv4Addr, time::Duration};

use common::{INGRESS, Ns, chain};
use mesh_datapath::{
    Backend, Config, Datapath, Desired, Endpoint, Location, PublishedPort, Service, XdpMode, mac_of,
};

const VNI: u32 = 4097;
const PEERS: u32 = 500;
const TASKS: u32 = 1000;
const SERVICES: u32 = 1000;
const BACKENDS: u32 = 10;

/// A task's address on the network whose second byte is `net`.
fn task(net: u8, number: u32) -> Ipv4Addr {
    let [_, _, high, low] = (number % TASKS + 256).to_be_bytes();
    Ipv4Addr::new(10, net, high, low)
}

fn backends(net: u8, service: u32) -> Vec<Backend> {
    let backend = |number| Backend {
        address: task(net, service * 7 + number).into(),
        draining: false,
    };
    (0..BACKENDS).map(backend).collect()
}

fn desired() -> Desired {
    let vtep = Ipv4Addr::new(192, 0, 2, 1);
    let peer = |number: u32| Ipv4Addr::from(0xc612_0000 + number % PEERS);
    let mut desired = Desired {
        own_addresses: [vtep.into()].into(),
        vtep: Some(vtep.into()),
        ingress_vni: INGRESS,
        peers: (0..PEERS).map(|number| peer(number).into()).collect(),
        ..Desired::default()
    };
    for number in 0..TASKS {
        for (vni, net) in [(VNI, 1), (INGRESS, 0)] {
            let address = task(net, number).into();
            let endpoint = Endpoint {
                mac: mac_of(address),
                location: Location::Remote(peer(number).into()),
            };
            desired.endpoints.insert((vni, address), endpoint);
        }
    }
    for number in 0..SERVICES {
        let [_, _, high, low] = number.to_be_bytes();
        let vip = Ipv4Addr::new(10, 2, high, low);
        let port = PublishedPort {
            protocol: 6,
            published: 10_000 + number as u16,
            target: 80,
        };
        let service = Service {
            name: format!("s{number}"),
            vips: BTreeMap::from([((VNI, vip.into()), backends(1, number))]),
            ports: [port].into(),
            ingress: backends(0, number),
            ..Service::default()
        };
        desired.services.insert(format!("s{number:04}"), service);
    }
    desired
}

/// Processor time of this thread: other programs do not show in it.
fn busy() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("the scheduler's figures");
    let first = text.split(' ').next().expect("a number");
    Duration::from_nanos(first.parse().expect("a number"))
}

#[test]
fn one_backend_of_many() {
    let ns = Ns::new("scale");
    let mut config = Config::new(format!("/sys/fs/bpf/{}", ns.0));
    config.xdp = XdpMode::Off;
    config.row_slots = 1 << 22;
    config.backend_slots = 1 << 17;
    let mut desired = desired();
    ns.run(|| {
        let mut datapath = Datapath::open(&config).unwrap_or_else(|e| panic!("{}", chain(&e)));
        let mut apply = |desired: &Desired, what: &str| {
            let began = busy();
            let report = datapath
                .apply(desired)
                .unwrap_or_else(|e| panic!("{}", chain(&e)));
            println!("{what}: {:?}, {report:?}", busy() - began);
            report
        };
        apply(&desired, "all");
        let nothing = apply(&desired, "nothing");
        assert_eq!((nothing.written, nothing.removed), (0, 0));
        let service = desired.services.get_mut("s0500").expect("the service");
        service.ingress[3].draining = true;
        let report = apply(&desired, "one backend");
        assert_eq!(
            (report.written, report.removed),
            (2, 0),
            "the port's pool and the backend's entry"
        );
        let gone = task(0, 42);
        desired.endpoints.remove(&(INGRESS, gone.into()));
        for service in desired.services.values_mut() {
            service.ingress.retain(|b| b.address != gone);
        }
        let report = apply(&desired, "one task");
        assert_eq!(report.departed, 1);
        let mut fresh = Datapath::open(&config).unwrap_or_else(|e| panic!("{}", chain(&e)));
        let report = fresh.apply(&desired);
        assert!(
            report
                .unwrap_or_else(|e| panic!("{}", chain(&e)))
                .is_empty(),
            "step by step as at once"
        );
    });
    let removed = ns.run(|| Datapath::remove(&config));
    removed.unwrap_or_else(|e| panic!("{}", chain(&e)));
}
