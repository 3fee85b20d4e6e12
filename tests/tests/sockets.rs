//! Virtual addresses as applications in tasks see them.

use anyhow::{Result, ensure};
use mesh_tests::{Rig, eventually, rig::UP_LIMIT, scenario};

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
