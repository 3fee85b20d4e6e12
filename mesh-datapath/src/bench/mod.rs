//! What a packet costs in each program, against a program that does nothing.

mod cases;
mod frames;
mod world;

use std::{collections::BTreeMap, path::Path, thread};

use mesh_common::wire;
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;

use self::{
    cases::Case,
    world::{Addresses, World},
};
use crate::{
    Config, Datapath, Error, XdpMode, attach,
    trial::{AGAIN_XDP, EMPTY_TC, EMPTY_XDP, UNDO_XDP},
};

/// Runs before the clock counts, and runs that count.
const WARM_UP: usize = 500;
const RUNS: usize = 4000;
/// As those, of series; and packets in a series.
const SERIES_WARM_UP: usize = 5;
const SERIES: usize = 50;
const PACKETS: u32 = 10_000;

/// What a packet costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PacketCost {
    /// Program.
    pub program: &'static str,
    /// What the packet is.
    pub case: &'static str,
    /// Packets in a row of which the mean was taken: one, or a series as under load.
    pub packets: u32,
    /// Fastest run, nanoseconds.
    pub min_ns: u64,
    /// Median run, nanoseconds.
    pub median_ns: u64,
    /// Slowest run, nanoseconds.
    pub max_ns: u64,
    /// Median above that of the empty program measured in the same way, nanoseconds.
    pub above_empty_ns: u64,
}

/// Measures every program that packets enter, and its twin for IPv6, on typical packets: each on single packets, which finds caches and branch predictors as
/// the system call before it left them; `uplink_xdp` on series too, as a busy NIC would run it. Works in a network namespace of its own, with pins under `pin_dir`,
/// which is removed afterwards. Needs root and ip(8).
///
/// # Errors
/// When the data plane cannot be opened or the kernel refuses a run.
pub fn packets(pin_dir: &Path) -> Result<Vec<PacketCost>, Error> {
    let mut config = Config::new(pin_dir);
    config.xdp = XdpMode::Off;
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| Error::Netlink {
                action: "make a network namespace".into(),
                source: e.into(),
            })?;
            let result = Bench::new(&config).and_then(|mut bench| bench.run());
            let removed = Datapath::remove(&config);
            result.and_then(|costs| removed.map(|()| costs))
        });
        worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// How a case is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Single,
    Series,
}

struct Bench {
    datapath: Datapath,
    world: World,
}

impl Bench {
    fn new(config: &Config) -> Result<Self, Error> {
        let world = World::new()?;
        let mut datapath = Datapath::open(config)?;
        datapath.apply(&world.desired())?;
        Ok(Self { datapath, world })
    }

    fn run(&mut self) -> Result<Vec<PacketCost>, Error> {
        let mut costs = Vec::new();
        let mut base = BTreeMap::new();
        let nothing = cases::from_client(&Addresses::V4, 443, (wire::TCP, frames::ACK));
        for (program, way, name) in [
            (EMPTY_XDP, Way::Single, "nothing"),
            (EMPTY_TC, Way::Single, "nothing"),
            (UNDO_XDP, Way::Series, "nothing, but the packet is put back"),
        ] {
            let case = Case {
                program,
                entry: program,
                name,
                interface: self.world.uplink,
                packet: nothing.clone(),
            };
            let cost = self.measure(&case, program, way, 0)?;
            base.insert((program != EMPTY_TC, way), cost.median_ns);
            costs.push(cost);
        }
        for case in cases::all(self.world) {
            let is_xdp = case.entry == attach::UPLINK_XDP;
            let of = |way| base.get(&(is_xdp, way)).copied().unwrap_or(0);
            costs.push(self.measure(&case, case.entry, Way::Single, of(Way::Single))?);
            // Its twin does not put the packet back.
            if case.program == attach::UPLINK_XDP {
                costs.push(self.measure(&case, AGAIN_XDP, Way::Series, of(Way::Series))?);
            }
        }
        Ok(costs)
    }

    /// `program` is what runs for the case's program.
    fn measure(
        &mut self,
        case: &Case,
        program: &'static str,
        way: Way,
        base: u64,
    ) -> Result<PacketCost, Error> {
        let (warm_up, runs, packets) = match way {
            Way::Single => (WARM_UP, RUNS, 1),
            Way::Series => (SERIES_WARM_UP, SERIES, PACKETS),
        };
        let mut times = Vec::with_capacity(runs);
        for run in 0..warm_up + runs {
            let trial = self
                .datapath
                .trials(program, &case.packet, case.interface, packets)?;
            if run >= warm_up {
                times.push(u64::try_from(trial.took.as_nanos()).unwrap_or(u64::MAX));
            }
        }
        times.sort_unstable();
        let median_ns = times[runs / 2];
        Ok(PacketCost {
            program: case.program,
            case: case.name,
            packets,
            min_ns: times[0],
            median_ns,
            max_ns: times[runs - 1],
            above_empty_ns: median_ns.saturating_sub(base),
        })
    }
}
