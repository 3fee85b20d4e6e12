//! Large tables: 2,000 endpoints on 500 peers, many services; a change of one backend writes what it changes.
//! Prints how much processor time it took, which depends on the machine.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{INGRESS, Ns, chain};
use mesh_datapath::{
    Backend, Config, Datapath, Desired, Endpoint, Location, PublishedPort, Report, Room, Service,
    XdpMode, mac_of,
};

const VNI: u32 = 4097;
const PEERS: u32 = 500;
const TASKS: u32 = 1000;

/// So many services, with a published port each.
struct Size {
    services: u32,
    /// By the service's number.
    backends: fn(u32) -> u32,
    /// They have a virtual address too.
    vips: bool,
}

/// A task's address on the network whose second byte is `net`.
fn task(net: u8, number: u32) -> Ipv4Addr {
    let [_, _, high, low] = (number % TASKS + 256).to_be_bytes();
    Ipv4Addr::new(10, net, high, low)
}

fn backends(net: u8, service: u32, count: u32) -> Vec<Backend> {
    let backend = |number| Backend {
        address: task(net, service * 7 + number).into(),
        draining: false,
    };
    (0..count).map(backend).collect()
}

fn desired(size: &Size) -> Desired {
    let vtep = Ipv4Addr::new(192, 0, 2, 1);
    let peer = |number: u32| Ipv4Addr::from(0xc612_0000 + number % PEERS);
    let mut desired = Desired {
        own_addresses: [vtep.into()].into(),
        vtep: Some(vtep.into()),
        ingress_vni: INGRESS,
        peers: (0..PEERS)
            .map(|number| (peer(number).into(), None))
            .collect(),
        ..Desired::default()
    };
    for number in 0..TASKS {
        for (vni, net) in [(VNI, 1), (INGRESS, 0)] {
            let address = task(net, number).into();
            let endpoint = Endpoint {
                mac: mac_of(address),
                location: Location::Remote(peer(number).into()),
                encrypted: false,
            };
            desired.endpoints.insert((vni, address), endpoint);
        }
    }
    for number in 0..size.services {
        let count = (size.backends)(number);
        let [_, _, high, low] = number.to_be_bytes();
        let vip = Ipv4Addr::new(10, 2, high, low);
        let port = PublishedPort {
            protocol: 6,
            published: 10_000 + number as u16,
            target: 80,
        };
        let vips = if size.vips {
            BTreeMap::from([((VNI, vip.into()), backends(1, number, count))])
        } else {
            BTreeMap::new()
        };
        let service = Service {
            name: format!("s{number}"),
            vips,
            ports: [port].into(),
            ingress: backends(0, number, count),
            ..Service::default()
        };
        desired
            .services
            .insert(format!("s{number:04}"), service.into());
    }
    desired
}

/// Processor time of this thread: other programs do not show in it.
fn busy() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("the scheduler's figures");
    let first = text.split(' ').next().expect("a number");
    Duration::from_nanos(first.parse().expect("a number"))
}

/// A data plane to which a state of this size has been applied, and which has room for so many backends.
struct Large {
    ns: Ns,
    config: Config,
    desired: Desired,
    datapath: Option<Datapath>,
}

impl Large {
    fn new(size: &Size, entries: u32) -> Self {
        let ns = Ns::new("scale");
        let mut config = Config::new(format!("/sys/fs/bpf/{}", ns.0));
        config.xdp = XdpMode::Off;
        config.backend_slots = entries;
        config.row_bytes = 1 << 30;
        let mut large = Self {
            ns,
            config,
            desired: desired(size),
            datapath: None,
        };
        large.open();
        large.apply("all");
        println!("{:?}", large.room());
        let nothing = large.apply("nothing");
        assert!(nothing.is_empty());
        large
    }

    /// As a new process does.
    fn open(&mut self) {
        self.datapath = None;
        let began = Instant::now();
        let datapath = self.ns.run(|| Datapath::open(&self.config));
        self.datapath = Some(datapath.unwrap_or_else(|e| panic!("{}", chain(&e))));
        println!("open: {:?}", began.elapsed());
    }

    fn apply(&mut self, what: &str) -> Report {
        let datapath = self.datapath.as_mut().expect("open");
        self.ns.run(|| {
            let began = busy();
            let report = datapath.apply(&self.desired);
            let report = report.unwrap_or_else(|e| panic!("{}", chain(&e)));
            println!("{what}: {:?}, {report:?}", busy() - began);
            report
        })
    }

    fn room(&self) -> Room {
        self.datapath.as_ref().expect("open").room()
    }

    /// One backend of one service takes no new flows.
    fn drain_one(&mut self) {
        let service = self.desired.services.get_mut("s0500");
        Arc::make_mut(service.expect("the service")).ingress[3].draining = true;
        let report = self.apply("one backend");
        assert_eq!(
            (report.written, report.removed),
            (2, 0),
            "the port's pool and the backend's entry"
        );
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        drop(self.datapath.take());
        let _ = self.ns.run(|| Datapath::remove(&self.config));
    }
}

#[test]
fn one_backend_of_many() {
    let size = Size {
        services: 1000,
        backends: |_| 10,
        vips: true,
    };
    let mut large = Large::new(&size, 1 << 17);
    let room = large.room();
    assert_eq!((room.short_rows, room.missing_rows), (0, 0));
    // 3 kB each.
    assert!(room.rows_bytes <= 2000 * 3000, "{room:?}");
    large.drain_one();
    let gone = task(0, 42);
    large.desired.endpoints.remove(&(INGRESS, gone.into()));
    for service in large.desired.services.values_mut() {
        Arc::make_mut(service).ingress.retain(|b| b.address != gone);
    }
    let report = large.apply("one task");
    assert_eq!(report.departed, 1);
    large.open();
    let report = large.apply("all, by another process");
    assert!(report.is_empty(), "step by step as at once");
}

/// With a virtual address each. Takes two minutes where it is not optimised.
#[test]
fn five_thousand_services_of_250_backends() {
    let size = Size {
        services: 5000,
        backends: |number| [150, 250, 350][number as usize % 3],
        vips: true,
    };
    let mut large = Large::new(&size, 10 << 18);
    let before = large.room();
    assert_eq!((before.short_rows, before.missing_rows), (0, 0));
    assert_eq!(before.backends_left_out, 0);
    assert!(before.rows_bytes < 530_000_000, "{before:?}");
    let spare = before.rows_allocated_bytes - before.rows_bytes;
    assert!(spare < 1 << 20, "{before:?}");
    large.drain_one();
    let after = large.room();
    assert!(after.rows_bytes - before.rows_bytes < 105_000, "{after:?}");
}
