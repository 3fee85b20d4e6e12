//! Volumes: made by hand and by tasks, with the local driver's options and without, by mesh-ctl and by the docker command.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use mesh_tests::{Node, eventually, image, rig::UP_LIMIT, scenario, stock::docker};
use serde_json::{Value, json};

#[test]
fn volumes_are_made_listed_and_removed() {
    scenario("volumes", 1, |rig| {
        let node = rig.first();
        let made = docker(node, &["volume", "create", "--label", "a=b", "theirs"])?.ok()?;
        ensure!(made == "theirs\n", "{made}");
        let made = node.ok(&["volume", "create", "--label", "a", "ours"])?;
        ensure!(made == "ours\n", "{made}");
        let unnamed = node.ok(&["volume", "create"])?;
        ensure!(unnamed.trim().len() == 64, "{unnamed}");
        // As it was: what is there is given.
        node.ok(&["volume", "create", "ours"])?;
        for args in [
            &["volume", "ls"][..],
            &["volume", "ls", "-q", "--filter", "label=a"],
            &["volume", "ls", "-q", "--filter", "label=a=b"],
            &["volume", "ls", "-q", "--filter", "name=our"],
            &["volume", "ls", "-q", "--filter", "driver=nfs"],
            &["volume", "ls", "-q", "--filter", "dangling=false"],
            &["volume", "ls", "--format", "{{.Name}} {{.Labels}}"],
            &["volume", "ls", "--format", "json"],
            &["volume", "inspect", "ours", "theirs"],
            &["volume", "inspect", "-f", "{{.Mountpoint}}", "ours"],
            &[
                "inspect",
                "--type",
                "volume",
                "-f",
                "{{json .Labels}}",
                "ours",
            ],
        ] {
            let (theirs, ours) = (docker(node, args)?.ok()?, node.ok(args)?);
            ensure!(
                theirs == ours,
                "{args:?}: docker says\n{theirs}\nmesh-ctl says\n{ours}"
            );
        }
        for (args, words) in [
            (
                &["volume", "create", "x"][..],
                "create x: volume name is too short",
            ),
            (
                &["volume", "create", "a/b"],
                "create a/b: \"a/b\" includes invalid characters for a local volume name",
            ),
            (
                &["volume", "create", "-d", "nfs", "other"],
                "error looking up volume plugin nfs: plugin \"nfs\" not found",
            ),
            (
                &["volume", "create", "-o", "type=nfs", "other"],
                "create other: missing required option: \"device\"",
            ),
            (
                &["volume", "create", "-o", "colour=red", "other"],
                "create other: invalid option: \"colour\"",
            ),
            (&["volume", "inspect", "none"], "get none: no such volume"),
            (&["volume", "rm", "none"], "get none: no such volume"),
            (
                &["volume", "ls", "--filter", "colour=red"],
                "invalid filter 'colour'",
            ),
            (&["inspect", "none"], "o such object: none"),
        ] {
            for told in [docker(node, args)?.refused()?, node.ctl(args)?.refused()?] {
                ensure!(told.contains(words), "{args:?}: {told}");
            }
        }
        node.ok(&["volume", "rm", "--force", "none"])?;
        let removed = docker(node, &["volume", "rm", "theirs"])?.ok()?;
        ensure!(removed == "theirs\n", "{removed}");
        fs::write(data(node, unnamed.trim()).join("f"), [0; 1234])?;
        let pruned = node.ok(&["volume", "prune", "--force"])?;
        let expected = format!("Deleted Volumes:\n{unnamed}\nTotal reclaimed space: 1.234kB\n");
        ensure!(pruned == expected, "{pruned}");
        let pruned = docker(node, &["volume", "prune", "--force", "--all"])?.ok()?;
        ensure!(
            pruned == "Deleted Volumes:\nours\n\nTotal reclaimed space: 0B\n",
            "{pruned}"
        );
        // Clients of before 1.42 know nothing of `all`.
        node.ok(&["volume", "create", "old"])?;
        let answer = node.engine().post("/v1.41/volumes/prune", &Value::Null)?;
        ensure!(answer.json()?["VolumesDeleted"] == json!(["old"]));
        Ok(())
    });
}

#[test]
fn a_new_volume_has_what_the_image_has_and_stays_while_it_is_used() {
    scenario("volumes-use", 1, |rig| {
        let node = rig.first();
        let copied = ["--mount", "type=volume,source=copied,target=/etc"];
        let bare = ["--mount", "source=bare,target=/bare/etc,volume-nocopy"];
        let label = ["--mount", "source=labelled,target=/l,volume-label=k=v"];
        let own = ["--mount", "type=volume,target=/tmp"];
        rig.sleepers("user", &[copied, bare, label, own].concat())?;
        let task = rig.task("user")?;
        let passwd = rig.exec(&task, &["cat", "/etc/passwd"])?;
        ensure!(
            fs::read_to_string(data(node, "copied").join("passwd"))? == passwd,
            "{passwd}"
        );
        // Docker's own files are mounted over it.
        let hosts = rig.exec(&task, &["cat", "/etc/hosts"])?;
        ensure!(hosts.contains("localhost"), "{hosts}");
        ensure!(rig.exec(&task, &["ls", "/bare/etc"])?.is_empty());
        let mode = rig.exec(&task, &["stat", "-c", "%a", "/tmp"])?;
        ensure!(mode == "1777\n", "{mode}");
        let listed = node.ok(&["volume", "ls", "-q", "--filter", "label=k=v"])?;
        ensure!(listed == "labelled\n", "{listed}");
        let shown = format!("{{{{json .Mounts}}}} {}", "{{.Id}}");
        let told = node.ok(&["inspect", "--format", &shown, &task.container])?;
        let (mounts, id) = told.trim().rsplit_once(' ').context("two words")?;
        let mounts: Vec<Value> = serde_json::from_str(mounts)?;
        let named = mounts.iter().find(|mount| mount["Name"] == "copied");
        let named = named.with_context(|| told.clone())?;
        let source = data(node, "copied").display().to_string();
        ensure!(
            named["Source"] == source.as_str() && named["Driver"] == "local",
            "{named}"
        );
        let by_volume = ["ps", "-q", "--no-trunc", "--filter", "volume=copied"];
        let (theirs, ours) = (docker(node, &by_volume)?.ok()?, node.ok(&by_volume)?);
        ensure!(theirs.trim() == id && ours == theirs, "{theirs}, {ours}");
        let none = node.ok(&["ps", "-q", "--filter", "volume=none"])?;
        ensure!(none.is_empty(), "{none}");

        let words = format!("remove copied: volume is in use - [{id}]");
        for told in [
            docker(node, &["volume", "rm", "copied"])?.refused()?,
            node.ctl(&["volume", "rm", "copied"])?.refused()?,
        ] {
            ensure!(told.contains(&words), "{told}");
        }
        let pruned = node.ok(&["volume", "prune", "-af"])?;
        ensure!(pruned == "Total reclaimed space: 0B\n", "{pruned}");
        node.ok(&["service", "rm", "user"])?;
        eventually("the task to be forgotten", UP_LIMIT, || {
            node.ok(&["volume", "rm", "copied"]).map(drop)
        })?;
        // The task's own went with it.
        let left = node.ok(&["volume", "ls", "-q"])?;
        ensure!(left == "bare\nlabelled\n", "{left}");
        Ok(())
    });
}

#[test]
fn options_are_mounted_while_tasks_use_the_volume() {
    scenario("volumes-opts", 1, |rig| {
        let mount = "type=volume,source=mem,target=/mem,volume-driver=local,volume-opt=type=tmpfs,volume-opt=device=tmpfs,\
                     \"volume-opt=o=size=1m,mode=0700\"";
        rig.sleepers("first", &["--mount", mount])?;
        let task = rig.task("first")?;
        rig.exec(&task, &["sh", "-c", "echo kept > /mem/f"])?;
        let mounts = rig.exec(&task, &["grep", " /mem ", "/proc/mounts"])?;
        ensure!(
            mounts.starts_with("tmpfs ") && mounts.contains("size=1024k"),
            "{mounts}"
        );
        let shown = rig
            .first()
            .ok(&["volume", "inspect", "-f", "{{json .Options}}", "mem"])?;
        let options = json!({"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=0700"});
        ensure!(serde_json::from_str::<Value>(&shown)? == options, "{shown}");

        // A second task, of another agent's life, shares the mount.
        rig.nodes[0].stop()?;
        rig.nodes[0].start()?;
        eventually("the node to be back", UP_LIMIT, || {
            rig.first().ok(&["node", "ls"]).map(drop)
        })?;
        rig.sleepers("second", &["--mount", mount])?;
        let other = rig.task("second")?;
        let read = |task| rig.exec(task, &["cat", "/mem/f"]);
        ensure!(read(&other)? == "kept\n");
        ensure!(is_mounted(rig.first(), "mem")?);

        let node = rig.first();
        node.ok(&["service", "rm", "first"])?;
        eventually("the first task to be gone", UP_LIMIT, || {
            let left = node.ok(&["ps", "-aq"])?;
            ensure!(left.lines().count() == 1, "{left}");
            Ok(())
        })?;
        ensure!(is_mounted(node, "mem")? && read(&other)? == "kept\n");
        node.ok(&["service", "rm", "second"])?;
        eventually("the volume to be unmounted", UP_LIMIT, || {
            ensure!(!is_mounted(node, "mem")?);
            Ok(())
        })?;
        // Other options are refused for it, where it is.
        let told = node
            .ctl(&[
                "volume",
                "create",
                "-o",
                "type=tmpfs",
                "-o",
                "device=x",
                "mem",
            ])?
            .refused()?;
        ensure!(told.contains("already has volume 'mem'"), "{told}");
        Ok(())
    });
}

#[test]
fn mounts_of_others_stay_and_what_cannot_be_mounted_is_told() {
    scenario("volumes-bad", 1, |rig| {
        let node = rig.first();
        let shared = rig.dir().join("shared");
        fs::create_dir(&shared)?;
        let device = format!("device={}", shared.display());
        let bind = ["-o", "type=none", "-o", "o=bind,ro", "-o"];
        let create = ["volume", "create"];
        node.ok(&[&create[..], &bind, &[&device, "bound"]].concat())?;
        rig.sleepers("binder", &["--mount", "source=bound,target=/b"])?;
        fs::write(shared.join("f"), "from outside")?;
        let task = rig.task("binder")?;
        let script = "cat /b/f; touch /b/g 2>/dev/null || echo ' read-only'";
        let seen = rig.exec(&task, &["sh", "-c", script])?;
        ensure!(seen == "from outside read-only\n", "{seen}");

        let nowhere = ["-o", "type=none", "-o", "o=bind", "-o", "device=/nowhere"];
        node.ok(&[&create[..], &nowhere, &["lost"]].concat())?;
        let service = ["service", "create", "-d", "--name", "loser", "--mount"];
        let mount = ["source=lost,target=/l", image::WHOAMI];
        node.ok(&[&service[..], &mount].concat())?;
        let at = data(node, "lost").display().to_string();
        eventually("a rejected task", UP_LIMIT, || {
            let told = node.ok(&["service", "ps", "--no-trunc", "loser"])?;
            ensure!(told.contains("Rejected"), "{told}");
            let error = format!(
                "error while mounting volume '{at}': failed to mount local volume: mount /nowhere:{at}, flags: 0x1000: no such \
                 file or directory"
            );
            ensure!(told.contains(&error), "{told}");
            Ok(())
        })?;
        node.ok(&["service", "rm", "loser"])?;

        // An administrator's disk, in the place of a volume.
        node.ok(&["volume", "create", "disk"])?;
        let disk = Foreign::mount(&data(node, "disk"))?;
        fs::write(data(node, "disk").join("f"), "the administrator's")?;
        rig.sleepers("guest", &["--mount", "source=disk,target=/d"])?;
        let seen = rig.exec(&rig.task("guest")?, &["cat", "/d/f"])?;
        ensure!(seen == "the administrator's", "{seen}");
        node.ok(&["service", "rm", "guest", "binder"])?;
        eventually("tasks and mounts to be gone", UP_LIMIT, || {
            let left = node.ok(&["ps", "-aq"])?;
            ensure!(left.is_empty() && !is_mounted(node, "bound")?, "{left}");
            Ok(())
        })?;
        ensure!(is_mounted(node, "disk")?);
        let told = node.ctl(&["volume", "rm", "disk"])?.refused()?;
        ensure!(
            told.contains("remove disk: volume has active mounts"),
            "{told}"
        );
        drop(disk);
        node.ok(&["volume", "rm", "disk", "bound"])?;
        ensure!(fs::read_to_string(shared.join("f"))? == "from outside");
        Ok(())
    });
}

#[test]
fn short_commands_do_what_their_long_forms_do() {
    scenario("short", 1, |rig| {
        let node = rig.first();
        let archive = image::whoami_archive(&rig.dir())?;
        let input = archive.to_string_lossy();
        let loaded = node.ok(&["load", "-i", &input])?;
        ensure!(loaded.contains(image::WHOAMI), "{loaded}");
        let told = node.ctl(&["pull", "127.0.0.1:1/none:1"])?.refused()?;
        ensure!(told.contains("127.0.0.1:1"), "{told}");
        rig.sleepers("web", &[])?;
        let task = rig.task("web")?;
        for (object, kind) in [
            (task.container.as_str(), "container"),
            (image::WHOAMI, "image"),
            ("ingress", "network"),
            ("web", "service"),
            ("n1", "node"),
        ] {
            let format = match kind {
                "container" | "image" | "network" => "{{.Id}}",
                _ => "{{.ID}}",
            };
            let any = node.ok(&["inspect", "-f", format, object])?;
            let one = node.ok(&["inspect", "--type", kind, "-f", format, object])?;
            ensure!(any == one && any.trim().len() >= 25, "{object}: {any}{one}");
        }
        let some = node.ctl(&["inspect", "-f", "{{.ID}}", "web", "none"])?;
        ensure!(
            some.code == 1 && !some.out.is_empty() && some.err.contains("No such object: none"),
            "{some:?}"
        );
        let told = node.ctl(&["rm", &task.container])?.refused()?;
        ensure!(told.contains("container is running"), "{told}");
        let removed = node.ok(&["rm", "-f", &task.container])?;
        ensure!(removed.trim() == task.container, "{removed}");
        eventually("another task", UP_LIMIT, || {
            ensure!(rig.task("web")?.id != task.id);
            Ok(())
        })?;
        rig.network("used")?;
        rig.network("unused")?;
        node.ok(&["service", "update", "-q", "--network-add", "used", "web"])?;
        // What an update put aside is shown, by either command.
        let previous = ["service", "inspect", "-f", "{{.PreviousSpec.Name}}", "web"];
        let (theirs, ours) = (docker(node, &previous)?.ok()?, node.ok(&previous)?);
        ensure!(theirs == "web\n" && ours == theirs, "{theirs}{ours}");
        let pruned = node.ok(&["network", "prune", "-f"])?;
        ensure!(pruned == "Deleted Networks:\nunused\n\n", "{pruned}");
        Ok(())
    });
}

/// Where a volume's content is.
fn data(node: &Node, volume: &str) -> std::path::PathBuf {
    node.data_dir().join("volumes").join(volume).join("_data")
}

/// Whether something is mounted there.
fn is_mounted(node: &Node, volume: &str) -> Result<bool> {
    let at = format!(" {} ", data(node, volume).display());
    Ok(fs::read_to_string("/proc/self/mountinfo")?.contains(&at))
}

/// A file system that somebody else has mounted.
struct Foreign(std::path::PathBuf);

impl Foreign {
    fn mount(at: &Path) -> Result<Self> {
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), at, Some("tmpfs"), flags, None::<&str>)?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Err(error) = nix::mount::umount(&self.0) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}
