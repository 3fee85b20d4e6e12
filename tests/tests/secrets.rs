//! Secrets and configs: what a task is handed, who else gets to see it, and what outlives what.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    path::Path,
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Answer, Node, Rig, Task, eventually,
    managers::{self, leader},
    rig::{UP_LIMIT, test_name},
    scenario, scenario_on,
};

/// What nobody but the tasks may see.
const SECRET: &str = "open-sesame-4711-of-the-secret";
/// What only the managers' disks must not show.
const CONFIG: &str = "four-and-twenty-blackbirds-of-the-config";
/// Both as they are in JSON.
const ENCODED: [&str; 2] = [
    "b3Blbi1zZXNhbWUtNDcxMS1vZi10aGUtc2VjcmV0",
    "Zm91ci1hbmQtdHdlbnR5LWJsYWNrYmlyZHMtb2YtdGhlLWNvbmZpZ",
];
/// Bytes of a process that are looked at at once.
const PIECE: usize = 1 << 20;

/// Makes one of standard input.
fn make(node: &Node, noun: &str, name: &str, data: &[u8]) -> Result<Answer> {
    let args = [noun, "create", "--label", "a=b", name, "-"];
    let mut child = node
        .ctl_command()?
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("a standard input")?;
    // One that is too large is not read to its end.
    let _ = stdin.write_all(data);
    drop(stdin);
    let output = child.wait_with_output()?;
    Ok(Answer::of(format!("mesh-ctl {}", args.join(" ")), &output))
}

fn contains(bytes: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(bytes).contains(text)
}

/// Files below a folder that show one of these texts.
fn files_with(dir: &Path, texts: &[&str], found: &mut Vec<String>) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        // It went meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let (kind, path) = match entry.file_type() {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            kind => (kind?, entry.path()),
        };
        if kind.is_dir() {
            files_with(&path, texts, found)?;
        } else if kind.is_file() {
            let bytes = match fs::read(&path) {
                // Replaced meanwhile, or the name of a network namespace.
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) =>
                {
                    continue;
                }
                bytes => bytes?,
            };
            let shown = texts.iter().filter(|text| contains(&bytes, text));
            found.extend(shown.map(|text| format!("{text} in {}", path.display())));
        }
    }
    Ok(())
}

/// Nothing of what is handed out is on any disk, log or folder of sockets of the nodes.
fn nothing_on_disk(rig: &Rig) -> Result<()> {
    let mut found = Vec::new();
    let mut known = Vec::new();
    for node in &rig.nodes {
        files_with(
            &node.dir,
            &[SECRET, CONFIG, ENCODED[0], ENCODED[1]],
            &mut found,
        )?;
        files_with(&node.dir, &["holder"], &mut known)?;
    }
    ensure!(found.is_empty(), "{}", found.join("\n"));
    // The name of the service is in what its nodes keep.
    ensure!(
        known.iter().any(|file| file.ends_with("/assignment")),
        "{known:?}"
    );
    Ok(())
}

/// Whether a process has the text in its memory.
fn has_in_memory(pid: u32, text: &str) -> Result<bool> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut buffer = vec![0; PIECE + text.len()];
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let range = line
            .split(' ')
            .next()
            .and_then(|range| range.split_once('-'));
        let (start, end) = range.context("a range")?;
        let (start, end) = (
            u64::from_str_radix(start, 16)?,
            u64::from_str_radix(end, 16)?,
        );
        for at in (start..end).step_by(PIECE) {
            let length = buffer.len().min(usize::try_from(end - at)?);
            memory.seek(SeekFrom::Start(at))?;
            // Some devices' memory cannot be read.
            if let Ok(read) = memory.read(&mut buffer[..length])
                && contains(&buffer[..read], text)
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The task sees both as it was asked for.
fn is_handed(rig: &Rig, task: &Task) -> Result<()> {
    let mounts = rig.exec(task, &["cat", "/proc/mounts"])?;
    for (path, text, stat) in [
        ("/run/secrets/key", SECRET, "0 0 444"),
        ("/etc/app/own", SECRET, "65534 33 400"),
        ("/conf", CONFIG, "0 0 444"),
        ("/etc/app.conf", CONFIG, "0 44 640"),
    ] {
        let look = format!("stat -c '%u %g %a' {path} && cat {path}");
        let shown = rig.exec(task, &["sh", "-c", &look])?;
        let expected = format!("{stat}\n{text}");
        ensure!(shown == expected, "{path} of {}: {shown:?}", task.name);
        let line = mounts
            .lines()
            .find(|line| line.split(' ').nth(1) == Some(path));
        let line = line.with_context(|| format!("{path} is no mount in {mounts}"))?;
        let mut words = line.split(' ').skip(2);
        ensure!(words.next() == Some("tmpfs"), "{line}");
        let options: Vec<&str> = words.next().unwrap_or_default().split(',').collect();
        for option in ["ro", "nosuid", "nodev", "noexec"] {
            ensure!(options.contains(&option), "{line} has no {option}");
        }
        let write = format!("echo x > {path}");
        let written = rig
            .node(&task.node)?
            .ctl(&["exec", &task.container, "sh", "-c", &write])?;
        ensure!(
            written.code != 0 && written.err.contains("Read-only"),
            "{written:?}"
        );
    }
    Ok(())
}

#[test]
fn secrets_reach_tasks_and_nobody_else() {
    scenario("secret", 3, |rig| {
        let first = rig.first();
        let id = make(first, "secret", "key", SECRET.as_bytes())?.ok()?;
        make(first, "config", "conf", CONFIG.as_bytes())?.ok()?;
        for noun in ["secret", "config"] {
            let listed = first.ok(&[noun, "ls"])?;
            ensure!(listed.lines().count() == 2, "{listed}");
        }
        let by_label = ["secret", "ls", "-q", "--filter", "label=a=b"];
        ensure!(first.ok(&by_label)? == id);
        let shown = first.ok(&["secret", "inspect", "key"])?;
        ensure!(shown.contains("\"a\": \"b\""), "{shown}");
        ensure!(!shown.contains("Data"), "{shown}");
        let data = first.ok(&["config", "inspect", "--pretty", "conf"])?;
        ensure!(data.contains(CONFIG), "{data}");

        let claims = [
            "--secret",
            "key",
            "--secret",
            "source=key,target=/etc/app/own,uid=65534,gid=33,mode=0400",
            "--config",
            "conf",
            "--config",
            "source=conf,target=/etc/app.conf,gid=44,mode=0640",
        ];
        // Two nodes of three: the manager's and one other.
        let place = [
            "--replicas",
            "2",
            "--replicas-max-per-node",
            "1",
            "--constraint",
            "node.hostname!=n3",
        ];
        rig.sleepers("holder", &[&claims[..], &place].concat())?;
        for task in rig.wait_running("holder", 2)? {
            is_handed(rig, &task)?;
        }
        nothing_on_disk(rig)?;
        let memory = |name: &str| {
            let pid = rig.node(name)?.pid().context("an agent")?;
            Ok::<_, anyhow::Error>([has_in_memory(pid, SECRET)?, has_in_memory(pid, CONFIG)?])
        };
        ensure!(
            memory("n2")? == [true, true],
            "n2's agent does not hold them"
        );
        ensure!(
            memory("n3")? == [false, false],
            "n3's agent holds what is none of its business"
        );
        for node in &rig.nodes {
            let log = fs::read_to_string(node.log())?;
            ensure!(!log.contains(SECRET), "{} logs it", node.name);
        }

        for (noun, name) in [("secret", "key"), ("config", "conf")] {
            let told = first.ctl(&[noun, "rm", name])?.refused()?;
            let expected = format!("{noun} '{name}' is in use by the following service: holder");
            ensure!(told.contains(&expected), "{told}");
        }

        // The manager, and with it its node's agent, killed and started again.
        let before = rig.running("holder")?;
        rig.nodes[0].kill()?;
        // An agent that begins without a manager leaves its task what it has.
        rig.nodes[1].kill()?;
        rig.nodes[1].start()?;
        let on_second = before.iter().find(|task| task.node == "n2");
        let on_second = on_second.context("a task on n2")?;
        let kept = eventually("the task to be adopted", UP_LIMIT, || {
            rig.exec(on_second, &["cat", "/run/secrets/key"])
        })?;
        ensure!(kept == SECRET, "{kept}");
        rig.nodes[0].start()?;
        rig.wait_ready(3)?;
        ensure!(rig.first().ok(&["secret", "ls", "-q"])? == id);
        ensure!(rig.running("holder")? == before, "tasks were replaced");
        rig.replace_all("holder")?;
        for task in rig.wait_running("holder", 2)? {
            is_handed(rig, &task)?;
        }
        nothing_on_disk(rig)?;

        // One goes by an update, and the other with the service.
        let first = rig.first();
        first.ok(&["service", "update", "-q", "--secret-rm", "key", "holder"])?;
        for task in rig.wait_running("holder", 2)? {
            let shown = rig.exec(&task, &["cat", "/conf"])?;
            ensure!(shown == CONFIG, "{shown}");
            let gone =
                rig.node(&task.node)?
                    .ctl(&["exec", &task.container, "cat", "/run/secrets/key"])?;
            ensure!(gone.code == 1, "{gone:?}");
        }
        first.ok(&["secret", "rm", "key"])?;
        first.ok(&["service", "rm", "holder"])?;
        first.ok(&["config", "rm", "conf"])?;
        for noun in ["secret", "config"] {
            ensure!(first.ok(&[noun, "ls", "-q"])?.is_empty());
        }
        Ok(())
    });
}

#[test]
fn what_cannot_be_is_refused() {
    scenario("nosecret", 1, |rig| {
        let first = rig.first();
        let id = make(first, "secret", "key", SECRET.as_bytes())?.ok()?;
        let listed = || first.ok(&["secret", "ls", "--format", "{{.ID}} {{.Name}} {{.Labels}}"]);
        let before = listed()?;
        let large = vec![b'x'; (500 << 10) + 1];
        for (name, data, word) in [
            ("key", &b"other"[..], "secret key already exists"),
            ("empty", b"", "must be larger than 0"),
            ("large", &large, "less than 512001 bytes"),
            ("a b", b"x", "invalid name, only 64"),
        ] {
            let told = make(first, "secret", name, data)?.refused()?;
            ensure!(told.contains(word), "{name}: {told}");
            ensure!(!told.contains("other"), "{told}");
        }
        make(first, "config", "largest", &vec![b'x'; 1000 << 10])?.ok()?;
        let create = ["service", "create", "-d", "--name", "a"];
        for (claim, word) in [
            ("nobody", "secret nobody not found"),
            (
                "source=key,target=../../etc/passwd",
                "is not the path of a file",
            ),
            ("source=key,uid=root", "is not a number"),
            ("source=key,mode=rw", "invalid mode"),
            ("target=x", "source is required"),
        ] {
            let args = [&create[..], &["--secret", claim, mesh_tests::image::WHOAMI]].concat();
            let told = first.ctl(&args)?.refused()?;
            ensure!(told.contains(word), "{claim}: {told}");
        }
        for args in [
            &["secret", "rm", "nobody"][..],
            &["secret", "inspect", "nobody"],
            &["config", "rm", "key"],
        ] {
            let told = first.ctl(args)?.refused()?;
            ensure!(told.contains("not found"), "{told}");
        }
        ensure!(listed()? == before, "{before} became {}", listed()?);
        ensure!(first.ok(&["service", "ls", "-q"])?.is_empty());
        // By the start of its id as well.
        rig.sleepers("b", &["--read-only", "--secret", &id[..10]])?;
        let shown = rig.exec(&rig.task("b")?, &["cat", "/run/secrets/key"])?;
        ensure!(shown == SECRET, "{shown}");
        Ok(())
    });
}

#[test]
fn every_manager_answers_for_them_and_none_shows_them() {
    let builder = Rig::builder(&test_name("secmgr")).nodes(3).without_swarm();
    scenario_on(builder, |rig| {
        managers::form(rig)?;
        let leads = leader(rig, rig.first())?;
        let asked = &rig.nodes[(leads + 1) % 3];
        let id = make(asked, "secret", "key", SECRET.as_bytes())?.ok()?;
        make(asked, "config", "conf", CONFIG.as_bytes())?.ok()?;
        let claims = ["--secret", "key", "--config", "conf", "--mode", "global"];
        rig.sleepers("holder", &claims)?;
        for node in &rig.nodes {
            ensure!(node.ok(&["secret", "ls", "-q"])? == id, "{}", node.name);
            let shown = node.ok(&["config", "inspect", "--pretty", "conf"])?;
            ensure!(shown.contains(CONFIG), "{shown}");
            let told = node.ctl(&["secret", "rm", "key"])?.refused()?;
            ensure!(told.contains("is in use"), "{told}");
        }
        // Who takes over has them too.
        rig.nodes[leads].kill()?;
        let asked = &rig.nodes[(leads + 1) % 3];
        eventually("another secret", UP_LIMIT, || {
            let made = make(asked, "secret", "other", SECRET.as_bytes())?;
            ensure!(
                made.code == 0 || made.err.contains("already exists"),
                "{made:?}"
            );
            Ok(())
        })?;
        ensure!(asked.ok(&["secret", "inspect", "--format", "{{.ID}}", "key"])? == id);
        rig.nodes[leads].start()?;
        rig.wait_ready(3)?;
        for task in rig.wait_running("holder", 3)? {
            let shown = rig.exec(&task, &["cat", "/run/secrets/key", "/conf"])?;
            ensure!(shown == format!("{SECRET}{CONFIG}"), "{shown}");
        }
        nothing_on_disk(rig)
    });
}
