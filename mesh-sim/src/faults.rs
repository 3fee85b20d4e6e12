//! What goes wrong, and when. Each fault is healed again; at the end all are.

use crate::{
    cluster::Cluster, disk::End, machine::Host, membership, network::Weather, sim::Sim, tokens,
};
use mesh_manager::{RULES, UNTOLD};
use rand::Rng;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// One thing that goes wrong, or right.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Crash,
    CrashWhileWriting,
    CrashAll,
    Restart,
    Isolate,
    IsolateLeader,
    Split,
    OneWay,
    Mend,
    Weather,
    FullDisk,
    SlowDisk,
    Clock,
    StopWorker,
    StartWorker,
    RebootWorker,
    Replace,
    Lose,
    Turn,
    MakeAvailable,
    RotateToken,
    OtherProgram,
}

const ALL: [Fault; 38] = [
    Fault::Crash,
    Fault::CrashWhileWriting,
    Fault::CrashWhileWriting,
    Fault::CrashAll,
    Fault::Restart,
    Fault::Restart,
    Fault::Isolate,
    Fault::IsolateLeader,
    Fault::IsolateLeader,
    Fault::Split,
    Fault::OneWay,
    Fault::Mend,
    Fault::Weather,
    Fault::FullDisk,
    Fault::SlowDisk,
    Fault::Clock,
    Fault::Restart,
    Fault::Restart,
    Fault::Restart,
    Fault::Mend,
    Fault::Mend,
    Fault::StopWorker,
    Fault::StartWorker,
    Fault::StartWorker,
    Fault::RebootWorker,
    Fault::RebootWorker,
    Fault::Replace,
    Fault::Replace,
    Fault::Lose,
    Fault::Turn,
    Fault::Turn,
    Fault::MakeAvailable,
    Fault::MakeAvailable,
    Fault::MakeAvailable,
    Fault::RotateToken,
    Fault::OtherProgram,
    Fault::OtherProgram,
    Fault::OtherProgram,
];

/// Lets things go wrong for some time, with pauses of some length at most. Programs of managers are exchanged where they
/// `are_mixed`.
pub(crate) async fn happen(
    sim: &Arc<Sim>,
    cluster: &Arc<Cluster>,
    time: Duration,
    pause: Duration,
    are_mixed: bool,
) {
    let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    let until = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < until {
        let fault = sim.pick(&ALL).copied().unwrap_or(Fault::Mend);
        if are_mixed || !matches!(fault, Fault::OtherProgram) {
            apply(sim, cluster, fault).await;
        }
        tokio::time::sleep(sim.millis(0, pause)).await;
    }
}

async fn apply(sim: &Arc<Sim>, cluster: &Arc<Cluster>, fault: Fault) {
    let machines = cluster.machines();
    let picked = (
        sim.pick(&cluster.in_use()).copied(),
        sim.pick(&cluster.workers),
        cluster.any_without_worker(),
    );
    let (Some(number), Some(worker), Some(manager)) = picked else {
        return;
    };
    let host = &cluster.hosts[number - 1];
    match fault {
        Fault::Crash => {
            cluster.crash(number, any_end(sim));
        }
        Fault::CrashWhileWriting => {
            let steps = sim.dice().random_range(1..60);
            sim.note(format_args!("machine {number}: crash in {steps} writes"));
            host.crash_while_writing(steps);
        }
        Fault::CrashAll => {
            let how = any_end(sim);
            for host in &cluster.hosts {
                cluster.crash(host.number, how);
            }
        }
        Fault::Restart => {
            let down: Vec<usize> = down(cluster);
            if let Some(number) = sim.pick(&down) {
                cluster.restart(*number).await;
            }
        }
        Fault::Isolate => {
            let number = sim.dice().random_range(1..=machines);
            isolate(sim, machines, number);
        }
        Fault::IsolateLeader => {
            let leads = |host: &&Arc<Host>| {
                let manager = host.manager();
                manager.is_some_and(|(manager, _)| manager.is_leader())
            };
            if let Some(leader) = cluster.hosts.iter().find(leads) {
                isolate(sim, machines, leader.number);
                // Another one is elected meanwhile.
                tokio::time::sleep(sim.millis(2000, 4000)).await;
            }
        }
        Fault::Split => {
            let sides: Vec<bool> = (0..machines).map(|_| sim.chance(0.5)).collect();
            sim.note(format_args!("network: split {sides:?}"));
            let all = (1..=machines).flat_map(|a| (1..=machines).map(move |b| (a, b)));
            let ways = all.filter(|(a, b)| sides[a - 1] != sides[b - 1]);
            sim.network.cut(ways.collect());
        }
        Fault::OneWay => {
            let number = sim.dice().random_range(1..=machines);
            let other = sim.dice().random_range(1..=machines);
            sim.note(format_args!("network: nothing from {number} to {other}"));
            sim.network.cut(BTreeSet::from([(number, other)]));
        }
        Fault::Mend => {
            sim.note(format_args!("network: whole"));
            sim.network.cut(BTreeSet::new());
        }
        Fault::Weather => {
            let weather = Weather::foul(sim);
            sim.note(format_args!("network: {weather:?}"));
            sim.network.set_weather(weather);
        }
        Fault::FullDisk => {
            let is_full = sim.chance(0.5);
            sim.note(format_args!("machine {number}: full disk: {is_full}"));
            host.fill(is_full);
        }
        Fault::SlowDisk => {
            let most = sim.millis(0, 300);
            sim.note(format_args!("machine {number}: writes take {most:?}"));
            host.set_slowest_write(most);
        }
        Fault::StopWorker => {
            sim.note(format_args!("worker {}: stop", worker.number));
            worker.stop();
        }
        Fault::StartWorker => {
            sim.note(format_args!("worker {}: start", worker.number));
            worker.start(false);
        }
        Fault::RebootWorker => {
            sim.note(format_args!("worker {}: reboot", worker.number));
            worker.start(true);
        }
        Fault::Replace => {
            let work = membership::replace(sim.clone(), cluster.clone(), manager.clone());
            cluster.change(work);
        }
        Fault::Lose => {
            cluster.change(membership::lose(
                sim.clone(),
                cluster.clone(),
                manager.clone(),
            ));
        }
        Fault::Turn => {
            cluster.change(membership::turn(
                sim.clone(),
                cluster.clone(),
                worker.clone(),
            ));
        }
        // There is always a node that takes tasks: the first.
        Fault::MakeAvailable if Arc::ptr_eq(worker, &cluster.workers[0]) => {}
        Fault::MakeAvailable => {
            let (cluster, worker) = (cluster.clone(), worker.clone());
            tokio::spawn(membership::make_available(sim.clone(), cluster, worker));
        }
        Fault::RotateToken => {
            tokio::spawn(tokens::rotate(sim.clone(), cluster.clone()));
        }
        Fault::OtherProgram => {
            let program = match host.program() < RULES {
                true => RULES,
                // More are upgraded than taken back.
                false if sim.chance(0.3) => sim.dice().random_range(UNTOLD..RULES),
                false => return,
            };
            cluster.crash(number, any_end(sim));
            host.install(program);
            cluster.restart(number).await;
        }
        Fault::Clock => {
            let seconds = sim.dice().random_range(-3600..=3600);
            sim.note(format_args!(
                "machine {number}: its clock is {seconds} s off"
            ));
            host.set_skew(seconds);
        }
    }
}

fn isolate(sim: &Sim, machines: usize, number: usize) {
    sim.note(format_args!("network: machine {number} is alone"));
    let others = (1..=machines).filter(|m| *m != number);
    let ways = others.flat_map(|m| [(m, number), (number, m)]);
    sim.network.cut(ways.collect());
}

fn any_end(sim: &Sim) -> End {
    let ends = [End::Killed, End::PowerCut, End::TornPowerCut];
    sim.pick(&ends).copied().unwrap_or(End::Killed)
}

fn down(cluster: &Cluster) -> Vec<usize> {
    let down = cluster.hosts.iter().filter(|host| host.has_ended());
    down.map(|host| host.number).collect()
}

/// How long a manager that comes or goes may take for it then.
const CHANGED: Duration = Duration::from_secs(120);

/// Mends everything, but for clocks that are wrong.
pub(crate) async fn heal(sim: &Arc<Sim>, cluster: &Arc<Cluster>) {
    sim.note(format_args!("every fault is healed"));
    sim.network.cut(BTreeSet::new());
    sim.network.set_weather(Weather::FAIR);
    for host in &cluster.hosts {
        host.heal_disk();
        if host.program() < RULES {
            cluster.crash(host.number, End::Killed);
            host.install(RULES);
        }
    }
    for number in down(cluster) {
        cluster.restart(number).await;
    }
    for worker in &cluster.workers {
        worker.heal();
    }
    cluster.changed(CHANGED).await;
    // One that was coming in had begun with the program from before.
    for host in cluster.hosts.iter().filter(|host| host.runs_older()) {
        cluster.crash(host.number, End::Killed);
    }
    // One that came back may have crashed on its way, before all was healed.
    for number in down(cluster) {
        cluster.restart(number).await;
    }
}
