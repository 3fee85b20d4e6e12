//! What clients of three managers read and write while managers are killed, stopped and cut off, or have slow or full disks:
//! there has to be an order of all calls that explains every answer.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Engine, Node, Rig, SmallDisk, eventually,
    history::{Call, Event, History, Value},
    managers::{self, Way, leader},
    rig::{UP_LIMIT, test_name},
    scenario_on,
};
use nix::mount::MsFlags;
use serde_json::json;

/// Objects that are read and written.
const OBJECTS: usize = 3;
/// Clients at each manager that read and write, and others that only read: a leader that has lost the others lets writes
/// wait, and might still tell what is no longer so.
const WRITERS: usize = 2;
const READERS: usize = 1;
/// Answers that are waited for in each state of the cluster that can give any.
const ENOUGH: u64 = 40;

/// How much longer what is written takes to be kept: less than a leader waits for it, and more.
const SYNC_DELAYS: [Duration; 2] = [Duration::from_millis(150), Duration::from_millis(900)];

/// The label that is written.
const LABEL: &str = "value";

/// All that is recorded.
struct Record {
    objects: Vec<Mutex<History>>,
    /// The number of the last write.
    last: AtomicU64,
    /// Reads and writes that were done.
    answers: AtomicU64,
    over: AtomicBool,
}

impl Record {
    fn new() -> Self {
        Self {
            objects: (0..OBJECTS).map(|_| Mutex::default()).collect(),
            last: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    fn with<T>(&self, object: usize, act: impl FnOnce(&mut History) -> T) -> T {
        let mut history = self.objects[object]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        act(&mut history)
    }

    /// Reads one object after the other, until it is over, and writes each where it `writes`.
    fn client(&self, engine: &Engine, first: usize, writes: bool) -> Result<()> {
        let mut object = first;
        while !self.over.load(Ordering::Relaxed) {
            object = (object + 1) % OBJECTS;
            match self.read(engine, object)? {
                Some((version, value)) if writes => self.write(engine, object, version, value)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Version and value, if a leader says so.
    fn read(&self, engine: &Engine, object: usize) -> Result<Option<(u64, Value)>> {
        let begun = Instant::now();
        // A manager that was killed does not answer, or with half an answer; without a leader, it tells what it knows.
        let Ok(answer) = engine.get(&format!("/configs/{}", name(object))) else {
            return Ok(None);
        };
        let ended = Instant::now();
        let Ok(told) = answer.json() else {
            return Ok(None);
        };
        if !answer.is_success() || !answer.header("warning").is_empty() {
            return Ok(None);
        }
        let version = told["Version"]["Index"].as_u64().context("no version")?;
        let value = told["Spec"]["Labels"][LABEL].as_str().unwrap_or("0");
        let value = value.parse().context("not a value of ours")?;
        self.with(object, |history| {
            history.version(version, value)?;
            history.add(Event {
                call: Call::Read(value),
                begun,
                ended,
            });
            anyhow::Ok(())
        })?;
        self.answers.fetch_add(1, Ordering::Relaxed);
        Ok(Some((version, value)))
    }

    fn write(&self, engine: &Engine, object: usize, version: u64, from: Value) -> Result<()> {
        let to = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let spec = json!({"Name": name(object), "Labels": {LABEL: to.to_string()}});
        let begun = Instant::now();
        let path = format!("/configs/{}/update?version={version}", name(object));
        let answer = engine.post(&path, &spec);
        let ended = Instant::now();
        let call = match &answer {
            Ok(answer) if answer.is_success() => Call::Write { from, to },
            Ok(answer) if answer.status.starts_with("500") => {
                let told = String::from_utf8_lossy(&answer.body);
                ensure!(told.contains("update out of sequence"), "{told}");
                Call::Refused { from }
            }
            // The leader may have been lost before it could answer.
            Ok(answer) if answer.status.starts_with("503") => Call::Lost { from, to },
            Ok(answer) => anyhow::bail!("{}: {:?}", answer.status, answer.json()),
            Err(_) => Call::Lost { from, to },
        };
        self.with(object, |history| history.add(Event { call, begun, ended }));
        if !matches!(call, Call::Lost { .. }) {
            self.answers.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Waits until some more was answered.
    fn goes_on(&self, when: &str) -> Result<()> {
        let before = self.answers.load(Ordering::Relaxed);
        eventually(&format!("answers {when}"), UP_LIMIT, || {
            let since = self.answers.load(Ordering::Relaxed) - before;
            ensure!(since >= ENOUGH, "{since} of {ENOUGH}");
            Ok(())
        })
    }
}

fn name(object: usize) -> String {
    format!("object{object}")
}

/// Index in `rig.nodes` of the leader. A manager that has just come back does not know it yet.
fn led_by(rig: &Rig) -> Result<usize> {
    eventually("a leader", UP_LIMIT, || leader(rig, rig.first()))
}

/// All that can happen to managers, one after the other.
fn faults(rig: &mut Rig, record: &Record) -> Result<()> {
    let addresses: Vec<_> = rig.nodes.iter().map(|node| node.address).collect();
    record.goes_on("to begin with")?;

    let leads = led_by(rig)?;
    rig.nodes[leads].kill()?;
    record.goes_on("with the leader killed")?;
    rig.nodes[leads].start()?;
    record.goes_on("with it back")?;

    let leads = led_by(rig)?;
    rig.nodes[leads].pause()?;
    record.goes_on("with the leader stopped")?;
    // It wakes as one who leads, and does not any more.
    rig.nodes[leads].resume()?;
    record.goes_on("with it going on")?;

    for way in [Way::Both, Way::In, Way::Out] {
        let leads = led_by(rig)?;
        let others: Vec<_> = (1..3).map(|n| addresses[(leads + n) % 3]).collect();
        managers::cut(&rig.nodes[leads], &others, way)?;
        record.goes_on(&format!("with the leader cut off: {way:?}"))?;
        managers::mend(&rig.nodes[leads])?;
        record.goes_on("with it mended")?;
    }
    // Two that do not hear each other, and one that hears both.
    let leads = led_by(rig)?;
    let other = addresses[(leads + 1) % 3];
    managers::cut(&rig.nodes[leads], &[other], Way::Both)?;
    record.goes_on("with the leader cut off from one other")?;
    managers::mend(&rig.nodes[leads])?;

    for node in &mut rig.nodes {
        node.kill()?;
    }
    for node in &mut rig.nodes {
        node.start()?;
    }
    record.goes_on("after all were killed")
}

/// Five managers fall into parts: those of three go on, those of two do not, and say so.
fn parts(rig: &mut Rig, record: &Record) -> Result<()> {
    let addresses: Vec<_> = rig.nodes.iter().map(|node| node.address).collect();
    record.goes_on("to begin with")?;
    // The leader is with the two, and then with the three.
    for with_leader in [true, false] {
        let leads = led_by(rig)?;
        let few: Vec<usize> = match with_leader {
            true => vec![leads, (leads + 1) % 5],
            false => vec![(leads + 1) % 5, (leads + 2) % 5],
        };
        let many: Vec<usize> = (0..5).filter(|at| !few.contains(at)).collect();
        let others: Vec<_> = many.iter().map(|at| addresses[*at]).collect();
        for at in &few {
            managers::cut(&rig.nodes[*at], &others, Way::Both)?;
        }
        record.goes_on("with two of five cut off")?;
        let at = &rig.nodes[few[1]];
        eventually("the two to say that nobody leads", UP_LIMIT, || {
            let answer = at.engine().get("/services")?;
            let told = answer.header("warning");
            ensure!(
                answer.is_success() && told.contains("does not have a leader"),
                "{told}"
            );
            let spec = json!({"Name": "none", "Data": "eA=="});
            let refused = at.engine().post("/configs/create", &spec)?;
            ensure!(refused.status.starts_with("503"), "{}", refused.status);
            let told = String::from_utf8_lossy(&refused.body).into_owned();
            ensure!(told.contains("The swarm does not have a leader."), "{told}");
            Ok(())
        })?;
        for at in &few {
            managers::mend(&rig.nodes[*at])?;
        }
        record.goes_on("with all five again")?;
    }
    Ok(())
}

/// Followers are cut off, one and then both, and managers are stopped and started one after the other.
fn one_after_the_other(rig: &mut Rig, record: &Record) -> Result<()> {
    let addresses: Vec<_> = rig.nodes.iter().map(|node| node.address).collect();
    record.goes_on("to begin with")?;
    for way in [Way::Both, Way::In, Way::Out] {
        let leads = led_by(rig)?;
        let (one, other) = ((leads + 1) % 3, (leads + 2) % 3);
        managers::cut(&rig.nodes[one], &[addresses[leads], addresses[other]], way)?;
        record.goes_on(&format!("with a follower cut off: {way:?}"))?;
        managers::mend(&rig.nodes[one])?;
        record.goes_on("with it mended")?;
    }
    // Each is alone: nobody leads until that is over.
    let leads = led_by(rig)?;
    for offset in [1, 2] {
        let others = [1, 2].map(|n| addresses[(leads + offset + n) % 3]);
        managers::cut(&rig.nodes[(leads + offset) % 3], &others, Way::Both)?;
    }
    eventually("the leader to lead no more", UP_LIMIT, || {
        let spec = json!({"Name": "none", "Data": "eA=="});
        let refused = rig.nodes[leads].engine().post("/configs/create", &spec)?;
        ensure!(refused.status.starts_with("503"), "{}", refused.status);
        Ok(())
    })?;
    for offset in [1, 2] {
        managers::mend(&rig.nodes[(leads + offset) % 3])?;
    }
    record.goes_on("with both followers back")?;
    for at in 0..rig.nodes.len() {
        rig.nodes[at].stop()?;
        record.goes_on("with one stopped")?;
        rig.nodes[at].start()?;
        record.goes_on("with it started again")?;
    }
    // And without a pause in between: the next one goes once the one before answers.
    for node in &mut rig.nodes {
        node.kill()?;
        node.start()?;
    }
    record.goes_on("after all were killed in turn")
}

/// What disks do to managers: those of the leader and of a follower are slow, or full, and at last all are slow.
fn bad_disks(rig: &mut Rig, record: &Record, disks: &[SmallDisk]) -> Result<()> {
    record.goes_on("to begin with")?;
    for offset in [0, 1] {
        let whose = ["the leader", "a follower"][offset];
        for delay in SYNC_DELAYS {
            let at = (led_by(rig)? + offset) % rig.nodes.len();
            rig.nodes[at].set_sync_delay(delay)?;
            record.goes_on(&format!("with the disk of {whose} slow by {delay:?}"))?;
            rig.nodes[at].set_sync_delay(Duration::ZERO)?;
            record.goes_on("with it fast")?;
        }
        let at = (led_by(rig)? + offset) % rig.nodes.len();
        disks[at].fill()?;
        record.goes_on(&format!("with the disk of {whose} full"))?;
        // It has no room for what it missed, either.
        rig.nodes[at].kill()?;
        rig.nodes[at].start()?;
        record.goes_on("with it started again")?;
        disks[at].make_room()?;
        record.goes_on("with room on it")?;
    }
    for node in &rig.nodes {
        node.set_sync_delay(SYNC_DELAYS[0])?;
    }
    record.goes_on("with all disks slow")?;
    for node in &mut rig.nodes {
        node.kill()?;
    }
    for node in &mut rig.nodes {
        node.start()?;
    }
    record.goes_on("after all were killed")?;
    let fast = rig
        .nodes
        .iter()
        .map(|node| node.set_sync_delay(Duration::ZERO));
    fast.collect()
}

/// Makes three managers, lets clients read and write while all of this happens, and looks for an order of their calls.
fn play(rig: &mut Rig, happen: impl FnOnce(&mut Rig, &Record) -> Result<()>) -> Result<()> {
    managers::form(rig)?;
    for object in 0..OBJECTS {
        let spec = json!({"Name": name(object), "Data": "eA=="});
        let made = rig.first().engine().post("/configs/create", &spec)?;
        ensure!(made.status == "201 Created", "{}", made.status);
    }
    let record = Record::new();
    let engines: Vec<Engine> = rig.nodes.iter().map(Node::engine).collect();
    std::thread::scope(|scope| {
        let record = &record;
        let clients: Vec<_> = engines
            .iter()
            .enumerate()
            .flat_map(|(at, engine)| (0..WRITERS + READERS).map(move |n| (at, n, engine)))
            .map(|(at, number, engine)| {
                scope.spawn(move || {
                    let ended = record.client(engine, at + number, number < WRITERS);
                    // With one gone, what waits for answers need not wait for long.
                    ended.inspect_err(|_| record.over.store(true, Ordering::Relaxed))
                })
            })
            .collect();
        let happened = happen(rig, record);
        record.over.store(true, Ordering::Relaxed);
        for client in clients {
            match client.join() {
                Ok(ended) => ended?,
                Err(_) => anyhow::bail!("a client panicked"),
            }
        }
        happened
    })?;
    // What every manager says in the end is part of it.
    for node in &rig.nodes {
        for object in 0..OBJECTS {
            eventually("the last answer", UP_LIMIT, || {
                let read = record.read(&node.engine(), object)?;
                read.context("nobody leads").map(drop)
            })?;
        }
    }
    println!(
        "{} answers, {} writes asked for",
        record.answers.load(Ordering::Relaxed),
        record.last.load(Ordering::Relaxed)
    );
    for object in 0..OBJECTS {
        record
            .with(object, History::check)
            .with_context(|| name(object))?;
    }
    Ok(())
}

#[test]
fn what_was_answered_has_an_order() {
    let builder = Rig::builder(&test_name("hist")).nodes(3).without_swarm();
    scenario_on(builder, |rig| play(rig, faults));
}

#[test]
fn what_was_answered_has_an_order_whatever_the_disks_do() {
    let builder = Rig::builder(&test_name("hdisk")).nodes(3).without_swarm();
    scenario_on(builder, |rig| {
        let mut disks = Vec::new();
        for node in &mut rig.nodes {
            node.stop()?;
            disks.push(SmallDisk::mount(&node.data_dir(), MsFlags::empty())?);
            node.may_be_slow = true;
            node.start()?;
        }
        play(rig, |rig, record| bad_disks(rig, record, &disks))?;
        // Nothing may be left below the mounts when they go.
        for node in &mut rig.nodes {
            node.ok(&["swarm", "leave", "--force"])?;
            node.stop()?;
        }
        Ok(())
    });
}

#[test]
fn what_was_answered_has_an_order_in_parts_of_three_and_two() {
    let builder = Rig::builder(&test_name("hparts")).nodes(5).without_swarm();
    scenario_on(builder, |rig| play(rig, parts));
}

#[test]
fn what_was_answered_has_an_order_one_after_the_other() {
    let builder = Rig::builder(&test_name("hturn")).nodes(3).without_swarm();
    scenario_on(builder, |rig| play(rig, one_after_the_other));
}
