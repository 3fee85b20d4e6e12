//! Tasks that leave: what is open goes on and is counted until the grace ends, what is new goes elsewhere.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Rig,
    client::{hold_open, http_get_within},
    eventually, lan,
    load::while_all_ask,
    rig::UP_LIMIT,
    scenario,
};

/// A request that takes so long is still under way when its task is told to leave, on a busy machine too.
const UNDER_WAY: &str = "/sleep/12000";
/// How long it may take at most, seconds.
const ANSWER_LIMIT: u64 = 60;
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
    wait_open_on(rig, [("ingress", wanted), ("front", wanted)], limit)
}

/// Waits until so many flows are open on these networks, all states together.
fn wait_open_on(rig: &Rig, wanted: [(&str, u64); 2], limit: Duration) -> Result<()> {
    eventually("the open flows", limit, || {
        let open = open_flows(rig)?;
        for (network, wanted) in wanted {
            let own = open.iter().filter(|((name, _), _)| name == network);
            ensure!(own.map(|(_, open)| open).sum::<u64>() == wanted, "{open:?}");
        }
        Ok(())
    })
}

/// What is open is listed one by one: what the client outside asked a node, and what the task asked the virtual address.
fn flows_are_listed(rig: &Rig) -> Result<()> {
    let vips = ["vip", "ls", "--filter", "network=front", "--format"];
    let vips = rig
        .first()
        .ok(&[&vips[..], &["{{.Service}} {{.Address}}"]].concat())?;
    let vip = vips.lines().find_map(|line| line.strip_prefix("web "));
    let vip = format!(" {}:80", vip.context("no address")?.trim());
    let format = "{{.State}} {{.Idle}} {{.Client}} {{.Front}}";
    let list = ["flow", "ls", "--all-nodes", "--service", "web", "--format"];
    let listed = rig.first().ok(&[&list[..], &[format]].concat())?;
    let client = rig.client_address();
    let clients = [format!(" {client}:"), format!(" [{}]:", lan::v6(client))];
    let is_outside = |line: &&str| clients.iter().any(|client| line.contains(client));
    let (outside, inside): (Vec<_>, Vec<_>) = listed.lines().partition(is_outside);
    ensure!(
        outside.len() == OPEN as usize && inside.len() == OPEN as usize,
        "{listed}"
    );
    for flow in &inside {
        ensure!(flow.starts_with("open ") && flow.ends_with(&vip), "{flow}");
    }
    Ok(())
}

#[test]
fn open_flows_are_counted_until_they_end() {
    scenario("count", 2, |rig| {
        let shell = rig.web_and_shell()?;
        let asked = rig.nodes[1].address;
        let asked = [IpAddr::from(asked), lan::v6(asked).into()];
        wait_open(rig, 0, UP_LIMIT)?;
        std::thread::scope(|scope| {
            let (rig, shell) = (&*rig, &shell);
            let limit = Duration::from_secs(ANSWER_LIMIT);
            let in_turn = asked.into_iter().cycle();
            let requests: Vec<_> = in_turn
                .take(OPEN as usize)
                .flat_map(|asked| {
                    let outside = move || {
                        let reply = rig
                            .client
                            .enter(|| http_get_within(asked, 80, UNDER_WAY, limit))?;
                        ensure!(reply.status == 200, "{}", reply.status);
                        Ok(())
                    };
                    let url = format!("http://web{UNDER_WAY}");
                    let seconds = ANSWER_LIMIT.to_string();
                    let inside = move || {
                        rig.exec(shell, &["curl", "-f", "-m", &seconds, &url])
                            .map(drop)
                    };
                    [scope.spawn(outside), scope.spawn(inside)]
                })
                .collect();
            wait_open(rig, OPEN, UP_LIMIT)?;
            flows_are_listed(rig)?;
            // Until after the tasks that leave have answered all, and are gone.
            let load =
                scope.spawn(move || rig.exec(shell, &["whoami", "load", "conn", "web:80", "17"]));
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

#[test]
fn an_update_fails_no_request() {
    scenario("roll", 3, |rig| {
        let shell = rig.web_and_shell()?;
        let ((), asked) = while_all_ask(rig, &shell, || rig.replace_all("web"))?;
        asked.all_answered()?;
        ensure!(asked.inside > 0, "nothing was asked by its name");
        Ok(())
    });
}

/// How long tasks may go on after their stop signal: long enough to see their flows drain, on a busy machine as well.
const GRACE: Duration = Duration::from_secs(20);

#[test]
fn open_flows_are_cut_when_the_grace_ends() {
    scenario("cut", 2, |rig| {
        let network = ["network", "create", "--driver", "overlay", "--ipv6"];
        rig.first()
            .ok(&[&network[..], &["--subnet", "fd00:7::/64", "front"]].concat())?;
        let grace = format!("{}s", GRACE.as_secs());
        let web = ["--network", "front", "--publish", "80:80"];
        rig.create(
            "web",
            &[&web[..], &["--stop-grace-period", &grace]].concat(),
        )?;
        rig.sleepers("shell", &["--network", "front"])?;
        let shell = rig.task("shell")?;
        rig.wait_running("web", 1)?;
        let names = rig.exec(&shell, &["nslookup", "-type=aaaa", "web"])?;
        let mut found = names
            .lines()
            .filter_map(|line| line.strip_prefix("Address: "));
        let vip = found.next().with_context(|| names.clone())?.trim();
        let targets = ["web:80".to_owned(), format!("[{vip}]:80")];
        // One node has the task, the other one not.
        let asked: Vec<IpAddr> = rig
            .nodes
            .iter()
            .flat_map(|node| [node.address.into(), lan::v6(node.address).into()])
            .collect();
        std::thread::scope(|scope| {
            let (rig, shell) = (&*rig, &shell);
            let outside: Vec<_> = asked
                .iter()
                .map(|&address| {
                    let hold = move || rig.client.enter(|| hold_open(address, 80));
                    (address, scope.spawn(hold))
                })
                .collect();
            // A silent socket of a task that is gone is closed by the agent.
            let kinds = [("tcp", "ConnectionReset"), ("udp", "ConnectionAborted")];
            let inside: Vec<_> = targets
                .iter()
                .flat_map(|to| kinds.map(|(kind, cut)| (to, kind, cut)))
                .map(|(to, kind, cut)| {
                    let hold = move || rig.exec(shell, &["whoami", "hold", kind, to]);
                    (to, kind, cut, scope.spawn(hold))
                })
                .collect();
            let (open, within) = (asked.len() as u64, inside.len() as u64);
            wait_open_on(rig, [("ingress", open), ("front", within)], UP_LIMIT)?;
            let begun = Instant::now();
            rig.first().ok(&["service", "scale", "-d", "web=0"])?;
            eventually("all flows to drain", GRACE, || {
                let open = open_flows(rig)?;
                let draining = open.iter().filter(|((_, state), _)| state == "draining");
                let left = draining.map(|(_, open)| open).sum::<u64>();
                ensure!(left == asked.len() as u64 + within, "{open:?}");
                Ok(())
            })?;
            for (address, flow) in outside {
                let cut = flow.join().expect("no panic")?;
                ensure!(cut == ErrorKind::ConnectionReset, "{address}: {cut}");
            }
            for (to, kind, cut, flow) in inside {
                let said = flow.join().expect("no panic");
                let said = said.with_context(|| format!("{kind} to {to}"))?;
                ensure!(said.trim() == cut, "{kind} to {to}: {said}");
            }
            ensure!(begun.elapsed() >= GRACE, "cut after {:?}", begun.elapsed());
            Ok(())
        })
    });
}
