//! Tasks that leave: what is open goes on and is counted, what is new goes elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{KeptConnection, Rig, eventually, http_get, rig::UP_LIMIT, scenario};

/// A request that takes so long is still under way when its task is told to leave.
const UNDER_WAY: &str = "/sleep/6000";
/// Requests under way from each side.
const OPEN: u64 = 6;

/// Open flows to `web`'s tasks by network and state.
fn open_flows(rig: &Rig) -> Result<BTreeMap<(String, String), u64>> {
    let text = rig.first().ok(&["vip", "inspect", "web"])?;
    let vips: serde_json::Value = serde_json::from_str(&text)?;
    let mut open = BTreeMap::new();
    for vip in vips.as_array().context("no list")? {
        ensure!(vip.get("SilentNodes").is_none(), "{text}");
        let network = vip["NetworkName"].as_str().unwrap_or_default();
        for backend in vip["Backends"].as_array().context("no backends")? {
            let state = backend["State"].as_str().unwrap_or_default();
            let count = backend["Load"]["OpenFlows"].as_u64().context("no load")?;
            *open
                .entry((network.to_owned(), state.to_owned()))
                .or_default() += count;
        }
    }
    Ok(open)
}

/// Waits until so many flows are open on each network, all states together.
fn wait_open(rig: &Rig, wanted: u64, limit: Duration) -> Result<()> {
    eventually("the open flows", limit, || {
        let open = open_flows(rig)?;
        for network in ["ingress", "front"] {
            let own = open.iter().filter(|((name, _), _)| name == network);
            ensure!(own.map(|(_, open)| open).sum::<u64>() == wanted, "{open:?}");
        }
        Ok(())
    })
}

#[test]
fn open_flows_are_counted_until_they_end() {
    scenario("count", 2, |rig| {
        let shell = rig.web_and_shell()?;
        let asked = rig.nodes[1].address;
        wait_open(rig, 0, UP_LIMIT)?;
        std::thread::scope(|scope| {
            let (rig, shell) = (&*rig, &shell);
            let requests: Vec<_> = (0..OPEN)
                .flat_map(|_| {
                    let outside = move || {
                        let reply = rig.client.enter(|| http_get(asked, 80, UNDER_WAY))?;
                        ensure!(reply.status == 200, "{}", reply.status);
                        Ok(())
                    };
                    let url = format!("http://web{UNDER_WAY}");
                    let inside = move || rig.exec(shell, &["curl", "-f", &url]).map(drop);
                    [scope.spawn(outside), scope.spawn(inside)]
                })
                .collect();
            wait_open(rig, OPEN, UP_LIMIT)?;
            // Until after the tasks that leave have answered all, and are gone.
            let load =
                scope.spawn(move || rig.exec(shell, &["whoami", "load", "conn", "web:80", "8"]));
            rig.first().ok(&["service", "scale", "-d", "web=1"])?;
            eventually("open flows of tasks that leave", UP_LIMIT, || {
                let open = open_flows(rig)?;
                let draining = open.iter().filter(|((_, state), _)| state == "draining");
                let left = draining.map(|(_, open)| open).sum::<u64>();
                ensure!(left > 0, "{open:?}");
                Ok(())
            })?;
            for request in requests {
                request.join().expect("no panic")?;
            }
            let figures = load.join().expect("no panic")?;
            ensure!(figures.contains("\"failed\":0"), "{figures}");
            wait_open(rig, 0, UP_LIMIT)
        })
    });
}

/// Asks a node again and again, on new connections or on a kept one; gives the number of answers.
fn ask(rig: &Rig, node: Ipv4Addr, keep: bool, stop: &AtomicBool) -> Result<usize> {
    rig.client.enter(|| {
        let mut kept = KeptConnection::new(node, 80);
        let mut answers = 0;
        while !stop.load(Ordering::Relaxed) {
            let status = if keep {
                kept.get("/")?
            } else {
                http_get(node, 80, "/")?.status
            };
            ensure!(status == 200, "{node}: {status}");
            answers += 1;
            // As many requests as one likes fit between two changes; others need the processors as well.
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(answers)
    })
}

/// All of `web`'s running tasks are others than before.
fn wait_replaced(rig: &Rig, before: &BTreeSet<String>) -> Result<()> {
    eventually("all tasks to be replaced", 2 * UP_LIMIT, || {
        let running = rig.running("web")?;
        let old = running.iter().filter(|task| before.contains(&task.id));
        let old = old.count();
        ensure!(old == 0 && running.len() == before.len(), "{running:?}");
        Ok(())
    })
}

#[test]
fn an_update_fails_no_request() {
    scenario("roll", 3, |rig| {
        let shell = rig.web_and_shell()?;
        let before = rig.wait_running("web", 4)?.into_iter().map(|task| task.id);
        let before: BTreeSet<String> = before.collect();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (rig, stop, shell) = (&*rig, &stop, &shell);
            let outside: Vec<_> = rig
                .nodes
                .iter()
                .flat_map(|node| [false, true].map(|keep| (node.address, keep)))
                .map(|(node, keep)| scope.spawn(move || ask(rig, node, keep, stop)))
                .collect();
            let inside = scope.spawn(move || {
                let mut figures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    figures.push(rig.exec(shell, &["whoami", "load", "conn", "web:80", "1"])?);
                }
                Ok::<_, anyhow::Error>(figures)
            });
            let update = || -> Result<()> {
                rig.first()
                    .ok(&["service", "update", "--force", "-d", "web"])?;
                wait_replaced(rig, &before)
            };
            let updated = update();
            stop.store(true, Ordering::Relaxed);
            for requests in outside {
                let answers = requests.join().expect("no panic")?;
                ensure!(answers > 0, "nothing was asked");
            }
            for figures in inside.join().expect("no panic")? {
                ensure!(figures.contains("\"failed\":0"), "{figures}");
            }
            updated
        })
    });
}
