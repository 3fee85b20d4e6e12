//! A manager whose disk is full, or cannot be written: what runs goes on, nothing changes, and all is well again once
//! it can.

use std::{
    fs::{self, File},
    io::Read,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Node, Rig, SmallDisk, ctl::Answer, eventually, http_get, image, rig, rig::UP_LIMIT, scenario,
    scenario_on,
};
use nix::{mount::MsFlags, sys::stat::Mode, unistd::mkfifo};

/// Requests while nothing can be written.
const REQUESTS: usize = 50;
/// Long enough for a node that is not heard of to be given up, whatever the machine does meanwhile.
const SILENCE: Duration = Duration::from_secs(8);

/// Asks the first node for a service without tasks.
fn create(rig: &Rig, name: &str) -> Result<Answer> {
    let words = ["service", "create", "-d", "-q", "--replicas", "0", "--name"];
    rig.first()
        .ctl(&[&words[..], &[name, image::WHOAMI]].concat())
}

/// Every node answers.
fn ask_all(rig: &Rig) -> Result<()> {
    for node in &rig.nodes {
        for number in 0..REQUESTS {
            let reply = rig.client.enter(|| http_get(node.address, 80, "/"));
            let reply = reply.with_context(|| format!("{}, request {number}", node.name))?;
            ensure!(reply.status == 200, "{}: {}", node.name, reply.status);
        }
    }
    Ok(())
}

#[test]
fn a_manager_outlives_a_full_disk() {
    let builder = Rig::builder(&rig::test_name("full")).nodes(2);
    scenario_on(builder.without_swarm(), |rig| {
        let first = &mut rig.nodes[0];
        first.stop()?;
        let disk = SmallDisk::mount(&first.data_dir(), MsFlags::empty())?;
        first.start()?;
        let archive = image::whoami_archive(&rig.dir())?;
        let first = rig.first();
        first.ok(&["image", "load", "-i", &archive.to_string_lossy()])?;
        rig.form_swarm(Node::ok)?;
        rig.create("web", &["--replicas", "4", "--publish", "80:80"])?;
        let tasks = rig.wait_running("web", 4)?;

        disk.fill()?;
        // The log's file has room for some more; and perhaps again, once it was opened anew.
        let mut number = 0;
        let mut refused = || {
            eventually("a change to be refused", UP_LIMIT, || {
                number += 1;
                let name = format!("more{number}");
                let answer = create(rig, &name)?;
                ensure!(answer.code != 0, "{} was made", answer.out);
                Ok((name, answer))
            })
        };
        let refusals = [refused()?, refused()?];
        let names = ["service", "ls", "--format", "{{.Name}}"];
        let before = first.ok(&names)?;
        let has = |list: &str, name: &str| list.lines().any(|line| line == name);
        for (name, refusal) in &refusals {
            ensure!(!has(&before, name), "{name} is in {before}");
            ensure!(refusal.code == 1, "{refusal:?}");
            let said = &refusal.err;
            ensure!(said.contains("cannot write the swarm's state"), "{said}");
            ensure!(said.contains("No space left on device"), "{said}");
        }
        ask_all(rig)?;
        ensure!(first.ok(&names)? == before, "{before}");
        ensure!(rig.running("web")? == tasks);

        // Not even a restart needs room.
        rig.nodes[0].kill()?;
        rig.nodes[0].start()?;
        ask_all(rig)?;
        let first = rig.first();

        disk.make_room()?;
        let made = eventually("changes to be taken again", UP_LIMIT, || {
            let answer = create(rig, "after")?;
            ensure!(answer.code == 0, "{}", answer.err);
            first.ok(&names)
        })?;
        ensure!(refusals.iter().all(|(name, _)| !has(&made, name)), "{made}");
        ensure!(made.lines().count() == before.lines().count() + 1, "{made}");
        rig.wait_ready(2)?;
        first.ok(&["service", "scale", "after=2"])?;
        rig.wait_running("after", 2)?;
        ask_all(rig)?;
        ensure!(rig.running("web")? == tasks, "tasks were replaced");

        // Nothing may be left below the mount when it goes.
        let first = &mut rig.nodes[0];
        first.ok(&["swarm", "leave", "--force"])?;
        first.stop()
    });
}

#[test]
fn an_agent_that_cannot_write_says_so() {
    let builder = Rig::builder(&rig::test_name("rodisk")).nodes(1);
    scenario_on(builder.without_swarm(), |rig| {
        let node = &mut rig.nodes[0];
        node.stop()?;
        let disk = SmallDisk::mount(&node.data_dir(), MsFlags::MS_RDONLY)?;
        let refusal = node.start().expect_err("nothing can be written");
        let said = format!("{refusal:#}");
        ensure!(said.contains("Read-only file system"), "{said}");
        ensure!(said.contains(&disk.path().display().to_string()), "{said}");
        drop(disk);
        node.kill()?;
        node.start()
    });
}

#[test]
fn a_node_whose_disk_stands_still_is_not_given_up() {
    scenario("stall", 2, |rig| {
        let second = &rig.nodes[1];
        // The agent's next write of its assignment waits until somebody reads this.
        let stall = second.data_dir().join("swarm/assignment.next");
        mkfifo(&stall, Mode::S_IRWXU)?;
        rig.create("web", &["-d", "--mode", "global"])?;
        rig.wait_running("web", 1)?;
        let end = Instant::now() + SILENCE;
        while Instant::now() < end {
            rig.wait_ready(2)?;
            let status =
                rig.first()
                    .ok(&["node", "ls", "--format", "{{.Hostname}} {{.Status}}"])?;
            ensure!(!status.contains("Down"), "{status}");
        }
        ensure!(
            rig.running("web")?.len() == 1,
            "the disk did not stand still"
        );
        // Away before the write that waits is over, so that the next one does not wait as well.
        let mut written = File::open(&stall)?;
        fs::remove_file(&stall)?;
        written.read_to_end(&mut Vec::new())?;
        rig.wait_running("web", 2).map(drop)
    });
}
