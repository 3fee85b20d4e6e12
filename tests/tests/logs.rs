//! `service logs -f`: new tasks are followed, an agent's restart and a leader's end cost no line, and it ends with the
//! service.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::Path,
    process::{Child, Stdio},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Node, Rig, eventually, image, managers,
    rig::{UP_LIMIT, test_name},
    scenario, scenario_on,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Writes a number, one more each time.
const TICK: &str = "n=0; while sleep 0.1; do n=$((n+1)); echo tick $n; done";

/// A command that follows logs: most of them a `service logs -f`.
struct Follower(Child);

impl Follower {
    fn start(node: &Node, file: &Path) -> Result<Self> {
        let logs = ["service", "logs", "-f", "--no-trunc", "tick"];
        Self::of(node, &logs, file)
    }

    /// The same with other words.
    fn of(node: &Node, args: &[&str], file: &Path) -> Result<Self> {
        let mut command = node.ctl_command()?;
        command.args(args);
        let output = File::create(file)?;
        command.stdin(Stdio::null()).stdout(output);
        Ok(Self(command.spawn()?))
    }

    /// Waits until it ends by itself, with success.
    fn wait_end(&mut self) -> Result<()> {
        let status = eventually("the follower to end", UP_LIMIT, || {
            self.0.try_wait()?.context("it runs on")
        })?;
        ensure!(status.success(), "{status}");
        Ok(())
    }

    /// Ends it by Ctrl-C.
    fn interrupt(mut self) -> Result<()> {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGINT)?;
        eventually("the follower to end", UP_LIMIT, || {
            self.0.try_wait()?.context("it runs on").map(drop)
        })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The numbers of each task, in the order they came.
fn ticks(file: &Path) -> Result<BTreeMap<String, Vec<u64>>> {
    let mut all: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let text = fs::read_to_string(file)?;
    // The last line may be on its way.
    for line in text.split_inclusive('\n').filter(|l| l.ends_with('\n')) {
        let (task, number) = line.split_once("| tick ").context(line.to_owned())?;
        let (task, _) = task.split_once('@').context(line.to_owned())?;
        let numbers = all.entry(task.to_owned()).or_default();
        numbers.push(number.trim().parse()?);
    }
    Ok(all)
}

/// Waits until so many tasks have been heard, and each of `running` goes on. Gives what was heard.
fn wait_ticks(file: &Path, tasks: usize, running: &[String]) -> Result<BTreeMap<String, Vec<u64>>> {
    let before = ticks(file)?;
    eventually("all tasks to be followed", UP_LIMIT, || {
        let now = ticks(file)?;
        ensure!(now.len() == tasks, "{:?}", now.keys());
        for task in running {
            let heard = |all: &BTreeMap<String, Vec<u64>>| all.get(task).map_or(0, Vec::len);
            ensure!(heard(&now) > heard(&before) + 2, "{task} is silent");
        }
        Ok(now)
    })
}

/// Waits until the task whose container's name ends so is heard on.
fn wait_more(file: &Path, id: &str) -> Result<()> {
    let heard = || -> Result<usize> {
        let all = ticks(file)?;
        let found = all.iter().find(|(task, _)| task.ends_with(id.trim()));
        Ok(found.map_or(0, |(_, numbers)| numbers.len()))
    };
    let before = heard()?;
    eventually("a task to be followed", UP_LIMIT, || {
        ensure!(heard()? > before + 2, "{id} is silent");
        Ok(())
    })
}

/// No line is missing, and none came twice.
fn is_whole(file: &Path) -> Result<()> {
    for (task, numbers) in ticks(file)? {
        let whole: Vec<u64> = (1..).take(numbers.len()).collect();
        ensure!(numbers == whole, "{task}: {numbers:?}");
    }
    Ok(())
}

/// What the service's tasks are called, once so many run.
fn containers(rig: &Rig, count: usize) -> Result<Vec<String>> {
    let tasks = rig.wait_running("tick", count)?;
    Ok(tasks.into_iter().map(|task| task.container).collect())
}

/// Waits until the agents of all nodes together read so many logs.
fn wait_reads(rig: &Rig, expected: usize) -> Result<()> {
    let reads = |node: &Node| -> Result<usize> {
        let pid = node.pid().context("no agent")?;
        let fds = fs::read_dir(format!("/proc/{pid}/fd"))?;
        // Some are closed meanwhile.
        let files = fds.flatten().flat_map(|fd| fs::read_link(fd.path()));
        Ok(files.filter(|file| file.ends_with("output.log")).count())
    };
    eventually("the logs to be read", UP_LIMIT, || {
        let all: Result<Vec<_>> = rig.nodes.iter().map(reads).collect();
        let all = all?;
        ensure!(all.iter().sum::<usize>() == expected, "{all:?} are");
        Ok(())
    })
}

/// Nodes read no log any more that nobody listens to: beside one who follows all six tasks, others come and go.
fn others_give_up(rig: &Rig) -> Result<()> {
    let node = rig.first();
    let task = rig.wait_running("tick", 6)?;
    let own = task.iter().find(|task| task.node == node.name);
    let own = own.context("no task here")?.container.clone();
    let service = ["service", "logs", "-f", "tick"];
    let container = ["logs", "-f", &own];
    wait_reads(rig, 6)?;
    for (args, more) in [(&service[..], 6), (&container[..], 1)] {
        let file = rig.dir().join("given-up");
        let follower = Follower::of(node, args, &file)?;
        eventually("a line", UP_LIMIT, || {
            let text = fs::read_to_string(&file)?;
            ensure!(text.contains("tick"), "{text:?}");
            Ok(())
        })?;
        wait_reads(rig, 6 + more)?;
        follower.interrupt()?;
        wait_reads(rig, 6)?;
    }
    Ok(())
}

#[test]
fn logs_are_followed_as_long_as_there_are_any() {
    scenario("follow", 2, |rig| {
        let create = ["service", "create", "-q", "--name", "tick", "--replicas"];
        let rest = ["2", "--restart-delay", "0s", image::WHOAMI];
        let command = ["sh", "-c", TICK];
        rig.first().ok(&[&create[..], &rest, &command].concat())?;
        let file = rig.dir().join("followed");
        let mut follower = Follower::start(rig.first(), &file)?;
        wait_ticks(&file, 2, &containers(rig, 2)?)?;

        // More tasks, some of them on nodes that have been asked already.
        rig.first().ok(&["service", "scale", "tick=6"])?;
        wait_ticks(&file, 6, &containers(rig, 6)?)?;

        let killed = rig.task("tick")?;
        let pid = rig.task_pid(&killed)?;
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL)?;
        wait_ticks(&file, 7, &[])?;

        rig.nodes[1].kill()?;
        rig.nodes[1].start()?;
        rig.wait_ready(2)?;
        wait_ticks(&file, 7, &containers(rig, 6)?)?;
        others_give_up(rig)?;
        wait_ticks(&file, 7, &containers(rig, 6)?)?;
        is_whole(&file)?;

        rig.first().ok(&["service", "rm", "tick"])?;
        follower.wait_end()
    });
}

#[test]
fn the_next_leader_goes_on_with_what_is_followed() {
    let builder = Rig::builder(&test_name("folead")).nodes(3).without_swarm();
    scenario_on(builder, |rig| {
        managers::form(rig)?;
        let create = [
            "service",
            "create",
            "-q",
            "--name",
            "tick",
            "--replicas",
            "3",
        ];
        let rest = ["--replicas-max-per-node", "1", image::WHOAMI];
        let command = ["sh", "-c", TICK];
        rig.first().ok(&[&create[..], &rest, &command].concat())?;
        let tasks = rig.wait_running("tick", 3)?;
        let files: Vec<_> = (0..3)
            .map(|n| rig.dir().join(format!("heard-{n}")))
            .collect();
        let mut followers = Vec::new();
        for (node, file) in rig.nodes.iter().zip(&files) {
            followers.push(Follower::start(node, file)?);
        }
        for file in &files {
            let containers: Vec<_> = tasks.iter().map(|task| task.container.clone()).collect();
            wait_ticks(file, 3, &containers)?;
        }

        let leads = managers::leader(rig, rig.first())?;
        let asked = (leads + 1) % 3;
        rig.nodes[leads].kill()?;
        eventually("another leader", UP_LIMIT, || {
            let now = managers::leader(rig, &rig.nodes[asked])?;
            ensure!(now != leads, "{now} still leads");
            Ok(())
        })?;
        // Who asked the one that is gone has to ask again.
        let others = [asked, (leads + 2) % 3];
        let gone = rig.nodes[leads].name.clone();
        for number in others {
            for task in tasks.iter().filter(|task| task.node != gone) {
                wait_more(&files[number], &task.id)?;
            }
        }
        // What it wrote meanwhile comes later.
        rig.nodes[leads].start()?;
        rig.wait_ready(3)?;
        let running = rig.wait_running("tick", 3)?;
        for number in others {
            for task in &running {
                wait_more(&files[number], &task.id)?;
            }
            is_whole(&files[number])?;
        }

        rig.nodes[asked].ok(&["service", "rm", "tick"])?;
        for number in others {
            followers[number].wait_end()?;
            is_whole(&files[number])?;
        }
        Ok(())
    });
}

/// Waits for `service logs` to be refused the lines of these nodes in its own words, with those of `ticks` tasks.
fn wait_incomplete(rig: &Rig, ticks: usize, nodes: &[String]) -> Result<()> {
    eventually("the missing nodes to be named", UP_LIMIT, || {
        let answer = rig
            .first()
            .ctl(&["service", "logs", "--tail", "1", "tick"])?;
        ensure!(answer.code == 1, "{}: {}", answer.code, answer.err);
        ensure!(
            answer.out.lines().count() == ticks,
            "of {ticks} tasks: {}",
            answer.out
        );
        let warning = "error from daemon in stream: Error grabbing logs: rpc error: code = Unknown desc = warning: incomplete \
                       log stream. some logs could not be retrieved for the following reasons: ";
        let (_, reasons) = answer.err.split_once(warning).context(answer.err.clone())?;
        for node in nodes {
            let reason = format!("node {node} is not available");
            ensure!(reasons.contains(&reason), "{reasons}");
        }
        ensure!(
            reasons.trim().split(", ").count() == nodes.len(),
            "{reasons}"
        );
        Ok(())
    })
}

#[test]
fn a_node_that_gives_no_lines_is_named() {
    scenario("missing", 3, |rig| {
        let create = ["service", "create", "-q", "--name", "tick", "--mode"];
        let command = ["global", image::WHOAMI, "sh", "-c", "echo once; sleep 9999"];
        rig.first().ok(&[&create[..], &command].concat())?;
        rig.wait_running("tick", 3)?;
        let ids = |rig: &Rig, number: usize| -> Result<String> {
            let node = &rig.nodes[number];
            let id = node.ok(&["info", "--format", "{{.Swarm.NodeID}}"])?;
            Ok(id.trim().to_owned())
        };
        let [killed, frozen] = [ids(rig, 1)?, ids(rig, 2)?];
        let all = rig.first().ok(&["service", "logs", "tick"])?;
        ensure!(all.lines().count() == 3, "{all}");
        rig.nodes[1].kill()?;
        wait_incomplete(rig, 2, std::slice::from_ref(&killed))?;
        rig.nodes[2].pause()?;
        let named = wait_incomplete(rig, 1, &[killed, frozen]);
        rig.nodes[2].resume()?;
        named?;
        rig.nodes[1].start()?;
        rig.wait_ready(3)?;
        eventually("all lines again", UP_LIMIT, || {
            // A node that came back has a new task as well.
            let all = rig.first().ok(&["service", "logs", "tick"])?;
            ensure!(all.lines().count() >= 3, "{all}");
            Ok(())
        })
    });
}
