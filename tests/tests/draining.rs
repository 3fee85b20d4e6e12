//! Tasks that leave: what is open goes on and is counted, what is new goes elsewhere.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{Rig, Task, eventually, http_get, image, rig::UP_LIMIT, scenario};

/// A request that takes so long is still under way when its task is told to leave.
const UNDER_WAY: &str = "/sleep/6000";
/// Requests under way from each side.
const OPEN: u64 = 6;

fn service(rig: &Rig, name: &str, more: &[&str], command: &[&str]) -> Result<()> {
    let create = ["service", "create", "-q", "--name", name];
    let network = ["--network", "front"];
    let args = [&create[..], &network, more, &[image::WHOAMI], command].concat();
    rig.first().ok(&args).map(drop)
}

/// `web` of four tasks and `shell`, which only sleeps, on the network `front`.
fn services(rig: &Rig) -> Result<Task> {
    rig.first()
        .ok(&["network", "create", "--driver", "overlay", "front"])?;
    service(rig, "web", &["--replicas", "4", "--publish", "80:80"], &[])?;
    service(rig, "shell", &[], &["sleep", "1000000"])?;
    rig.wait_running("web", 4)?;
    rig.task("shell")
}

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
        let shell = services(rig)?;
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
            wait_open(rig, 0, UP_LIMIT)
        })
    });
}
