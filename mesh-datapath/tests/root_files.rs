//! A node that may open hardly any more files. The only test here, as the limit is the whole process's.

mod common;

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use common::{
    INGRESS,
    pair::{N1, N2, Pair, TARGET},
};
use mesh_datapath::{
    Backend, Desired, Endpoint, Location, PublishedPort, Room, Service, XdpMode, mac_of,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The row of one takes 161 lines; 16,384 are in one map, so that one row of all has lines in two. To write it takes two
/// files at a time, to do everything else one.
const SERVICES: u16 = 120;
const BACKENDS: u8 = 60;

/// Published while there are no files.
const MEANWHILE: u16 = 82;

/// All files that this process may open but one, until it is dropped.
struct Files {
    limit: (u64, u64),
    held: Vec<File>,
}

impl Files {
    fn but_one() -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        let open = fs::read_dir("/proc/self/fd").expect("open files").count() as u64;
        setrlimit(Resource::RLIMIT_NOFILE, open + 64, limit.1).expect("a lower limit");
        let mut held = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            held.push(file);
        }
        held.pop().expect("one file at least");
        Self { limit, held }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.held.clear();
        setrlimit(Resource::RLIMIT_NOFILE, self.limit.0, self.limit.1)
            .expect("the limit as it was");
    }
}

fn publish(service: &mut Service, published: u16) {
    let port = PublishedPort {
        protocol: 6,
        published,
        target: TARGET,
    };
    service.ports = [port].into();
}

/// Services whose tasks are all on the other node, and nowhere really.
fn add_many(desired: &mut Desired) {
    let task = |number| IpAddr::from(Ipv4Addr::new(10, 0, 1, number));
    let mut service = Service::default();
    for address in (0..BACKENDS).map(task) {
        let endpoint = Endpoint {
            mac: mac_of(address),
            location: Location::Remote(N2.into()),
            encrypted: false,
        };
        desired.endpoints.insert((INGRESS, address), endpoint);
        service.ingress.push(Backend {
            address,
            draining: false,
        });
    }
    for number in 0..SERVICES {
        let name = format!("many{number}");
        publish(&mut service, 20_000 + number);
        desired.services.insert(name, service.clone().into());
    }
}

#[test]
fn a_row_that_the_kernel_does_not_take_keeps_nothing_from_the_others() {
    let mut pair = Pair::new(XdpMode::Off);
    for node in &mut pair.nodes {
        let services = &mut node.desired.services;
        let mut other = services["web"].clone();
        let service = Arc::make_mut(&mut other);
        service.vips.clear();
        publish(service, MEANWHILE);
        services.insert("zzz".into(), other);
    }
    pair.nodes[1].apply();
    let node = &mut pair.nodes[0];
    add_many(&mut node.desired);
    let rows = |pair: &Pair| {
        let room: Room = pair.nodes[0].datapath.as_ref().expect("open").room();
        (room.refused_rows, room.missing_rows, room.short_rows)
    };

    let files = Files::but_one();
    node.apply();
    drop(files);
    assert_eq!(rows(&pair), (1, 0, 0));
    // Not before, as a thread that waits for a connection has a file for it.
    pair.serve();
    pair.both_answer(("meanwhile", &pair.client, N1.into(), MEANWHILE), 20);

    // Nothing has changed but that it can be had.
    let report = pair.nodes[0].apply();
    assert_eq!((report.written, report.removed), (1, 0), "the port's pool");
    assert_eq!(rows(&pair), (0, 0, 0));
    assert!(pair.nodes[0].apply().is_empty());
}
