//! Virtual addresses as applications in tasks see them, and tasks that leave while they are asked.

use anyhow::{Result, ensure};
use mesh_tests::{Rig, eventually, http_get, rig::UP_LIMIT, scenario};

/// Length of the requests that are under way when their task is told to stop, milliseconds.
const UNDER_WAY: &str = "/sleep/2500";

/// `web`'s virtual address on `front`.
fn vip(rig: &Rig) -> Result<String> {
    let format = "{{.Network}} {{.Address}}";
    let list = rig
        .first()
        .ok(&["vip", "ls", "--filter", "service=web", "--format", format])?;
    let found = list.lines().find_map(|line| line.strip_prefix("front "));
    Ok(found.unwrap_or_default().trim().to_owned())
}

#[test]
fn sockets_are_told_the_virtual_address() {
    scenario("peers", 2, |rig| {
        let shell = rig.web_and_shell()?;
        let vip = vip(rig)?;
        for round in 0..2 {
            for (kind, lines) in [("tcp", 1), ("connected", 2), ("udp", 1)] {
                let said = rig.exec(&shell, &["whoami", "peer", kind, "web:80"])?;
                let wanted = format!("{vip}:80\n").repeat(lines);
                ensure!(said == wanted, "round {round}, {kind}: {said}");
            }
            // The next agents attach their own programs in the place of those that are there.
            for node in &mut rig.nodes {
                node.kill()?;
                node.start()?;
            }
            rig.wait_ready(2)?;
            eventually("names to be answered again", UP_LIMIT, || {
                rig.exec(&shell, &["nslookup", "-type=a", "web"])
            })?;
        }
        Ok(())
    });
}

#[test]
fn requests_under_way_are_answered_by_tasks_that_leave() {
    scenario("leave", 2, |rig| {
        let shell = rig.web_and_shell()?;
        let asked = rig.nodes[1].address;
        std::thread::scope(|scope| {
            let rig = &*rig;
            let shell = &shell;
            let outside: Vec<_> = (0..8)
                .map(|_| scope.spawn(move || rig.client.enter(|| http_get(asked, 80, UNDER_WAY))))
                .collect();
            let url = format!("http://web{UNDER_WAY}");
            let inside: Vec<_> = (0..8)
                .map(|_| {
                    let url = url.clone();
                    scope.spawn(move || rig.exec(shell, &["curl", "-f", &url]))
                })
                .collect();
            let load = scope
                .spawn(move || rig.exec(shell, &["whoami", "load", "conn", "web:80", "4", "2"]));
            std::thread::sleep(std::time::Duration::from_millis(500));
            rig.first().ok(&["service", "scale", "-d", "web=1"])?;
            for request in outside {
                let reply = request.join().expect("no panic")?;
                ensure!(reply.status == 200, "{}", reply.status);
            }
            for request in inside {
                request.join().expect("no panic")?;
            }
            let figures = load.join().expect("no panic")?;
            ensure!(figures.contains("\"failed\":0"), "{figures}");
            rig.wait_running("web", 1).map(drop)
        })
    });
}
