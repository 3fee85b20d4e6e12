//! A service of ten tasks under requests through every node, on new connections and on kept ones: it gets another image while
//! the leader is killed, is scaled to one task and back, and loses a node to a drain. No request fails.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Rig, eventually, image,
    load::Askers,
    managers::{self, leader},
    rig::test_name,
    scenario_on,
};

/// Replicas of `web`.
const REPLICAS: usize = 10;

/// The other tag of the test image.
const NEXT: &str = "whoami:next";

/// Tasks of [`NEXT`] that run when the leader is killed: some, and not nearly all.
const IN_THE_MIDDLE: usize = 3;

/// How long ten tasks may take to be replaced, two at a time, on a machine that is busy with their requests.
const LIMIT: Duration = Duration::from_secs(300);

/// Loads the test image under its other tag on every node.
fn load_next(rig: &Rig) -> Result<()> {
    let archive = image::changed_archive(&rig.dir(), NEXT, |config| {
        config.env.push("NEXT=1".to_owned());
    })?;
    rig.load_image(&archive)?;
    fs::remove_file(archive).context("the archive")
}

/// How many tasks of `web` run this image.
fn running_of(rig: &Rig, image: &str) -> Result<usize> {
    let format = "{{.Image}}\t{{.CurrentState}}";
    let list = rig
        .first()
        .ok(&["service", "ps", "--no-trunc", "--format", format, "web"])?;
    let pairs = list.lines().filter_map(|line| line.split_once('\t'));
    let runs = |(of, state): &(&str, &str)| *of == image && state.starts_with("Running");
    Ok(pairs.filter(runs).count())
}

/// Another image for all of them, and in the middle of it the leader is killed. It comes back at once, as what runs it has it.
fn update(rig: &mut Rig) -> Result<()> {
    let update = ["service", "update", "-d", "--image", NEXT];
    rig.first()
        .ok(&[&update[..], &["--update-parallelism", "2", "web"]].concat())?;
    let before = eventually("the middle of the update", LIMIT, || {
        let now = running_of(rig, NEXT)?;
        ensure!(now >= IN_THE_MIDDLE, "{now} of {REPLICAS}");
        Ok(now)
    })?;
    ensure!(before < REPLICAS, "the update is over");
    let leads = leader(rig, rig.first())?;
    rig.nodes[leads].kill()?;
    rig.nodes[leads].start()?;
    eventually("the update to be over", LIMIT, || {
        let state = ["--format", "{{.UpdateStatus.State}}", "web"];
        let state = rig
            .first()
            .ok(&[&["service", "inspect"][..], &state].concat())?;
        ensure!(state.trim() == "completed", "{state}");
        Ok(())
    })?;
    let now = running_of(rig, NEXT)?;
    ensure!(now == REPLICAS, "{now} of {REPLICAS} have the other image");
    Ok(())
}

fn scale(rig: &Rig, replicas: usize) -> Result<()> {
    let size = format!("web={replicas}");
    rig.first().ok(&["service", "scale", "-d", &size])?;
    rig.wait_running_for("web", replicas, LIMIT).map(drop)
}

/// Has all tasks of a node move to others.
fn drain(rig: &Rig, name: &str) -> Result<()> {
    let first = rig.first();
    first.ok(&["node", "update", "--availability", "drain", name])?;
    eventually("the drained node to be empty", LIMIT, || {
        let running = rig.running("web")?;
        let here = running.iter().filter(|task| task.node == name).count();
        let all = running.len();
        ensure!(here == 0 && all == REPLICAS, "{here} of {all}");
        Ok(())
    })?;
    first
        .ok(&["node", "update", "--availability", "active", name])
        .map(drop)
}

#[test]
fn an_update_a_lost_leader_scaling_and_a_drain_fail_no_request() {
    let builder = Rig::builder(&test_name("rolling")).nodes(4).without_swarm();
    scenario_on(builder, |rig| {
        managers::form_of(rig, 3)?;
        managers::join_workers(rig, &rig.nodes[3..])?;
        rig.wait_ready(4)?;
        // Nobody waits for a node that is down, which may go on sending requests where it did before: a killed agent is to be
        // back before it is taken for that, however busy the machine is.
        rig.first()
            .ok(&["swarm", "update", "--dispatcher-heartbeat", "20s"])?;
        load_next(rig)?;
        rig.network("front")?;
        // Its agent is not killed, and goes on having it ask.
        let on_worker = format!("node.hostname=={}", rig.nodes[3].name);
        rig.sleepers("shell", &["--network", "front", "--constraint", &on_worker])?;
        let replicas = REPLICAS.to_string();
        let web = [
            &["--network", "front", "--publish", "80:80"][..],
            &["--replicas", &replicas],
            // Longer than any request takes.
            &["--stop-grace-period", "2m"],
        ];
        rig.create("web", &web.concat())?;
        rig.wait_running("web", REPLICAS)?;
        let shell = rig.task("shell")?;
        let ((), asked) = Askers::of(rig, &shell)?.while_asking(|| {
            update(rig)?;
            scale(rig, 1)?;
            scale(rig, REPLICAS)?;
            let name = rig.nodes[1].name.clone();
            drain(rig, &name)?;
            // And under way once more, when the manager that decides is gone.
            rig.first().ok(&["service", "scale", "-d", "web=1"])?;
            let leads = leader(rig, rig.first())?;
            rig.nodes[leads].kill()?;
            rig.nodes[leads].start()?;
            rig.wait_running_for("web", 1, LIMIT)?;
            scale(rig, REPLICAS)?;
            rig.wait_ready(4)
        })?;
        println!(
            "{} answers from outside, {} inside",
            asked.answers, asked.inside
        );
        asked.all_answered()?;
        ensure!(asked.inside > 0, "nothing was asked by its name");
        Ok(())
    });
}
