//! The stock `docker` command on our socket.

use std::fs;

use anyhow::{Context, ensure};
use mesh_tests::{eventually, image, rig::UP_LIMIT, scenario, stock::docker};

#[test]
fn the_docker_command_hands_out_secrets_and_configs() {
    scenario("stocksec", 1, |rig| {
        let node = rig.first();
        let file = rig.dir().join("sesame");
        fs::write(&file, "open sesame")?;
        let file = file.to_string_lossy();
        for noun in ["secret", "config"] {
            let made = docker(node, &[noun, "create", "-l", "a=b", "key", &file])?.ok()?;
            for args in [
                &[noun, "ls"][..],
                &[noun, "ls", "--filter", "label=a", "-q"],
                &[noun, "inspect", "key"],
                &[noun, "inspect", "--pretty", made.trim()],
                &[noun, "inspect", "--format", "{{.Spec.Name}} {{.ID}}", "key"],
            ] {
                let (theirs, ours) = (docker(node, args)?.ok()?, node.ok(args)?);
                ensure!(
                    theirs == ours,
                    "{args:?}: docker says\n{theirs}\nmesh-ctl says\n{ours}"
                );
            }
            let again = docker(node, &[noun, "create", "key", &file])?;
            let told = format!("{noun} key already exists");
            ensure!(again.code == 1 && again.err.contains(&told), "{again:?}");
        }
        let create = ["service", "create", "--name", "web"];
        let claims = [
            "--secret",
            "key",
            "--config",
            "source=key,target=/etc/key,mode=0400",
        ];
        let image = [image::WHOAMI];
        docker(node, &[&create[..], &claims, &image].concat())?.ok()?;
        let pretty = ["service", "inspect", "--pretty", "web"];
        let (theirs, ours) = (docker(node, &pretty)?.ok()?, node.ok(&pretty)?);
        ensure!(theirs == ours, "{theirs}\n{ours}");
        let task = rig.task("web")?;
        for path in ["/run/secrets/key", "/etc/key"] {
            let shown = docker(node, &["exec", &task.container, "cat", path])?.ok()?;
            ensure!(shown == "open sesame", "{path}: {shown}");
        }
        let used = docker(node, &["secret", "rm", "key"])?;
        let told = "secret 'key' is in use by the following service: web";
        ensure!(used.code == 1 && used.err.contains(told), "{used:?}");
        let update = [
            "service",
            "update",
            "--secret-rm",
            "key",
            "--config-rm",
            "key",
        ];
        docker(node, &[&update[..], &["web"]].concat())?.ok()?;
        for noun in ["secret", "config"] {
            docker(node, &[noun, "rm", "key"])?.ok()?;
        }
        let task = rig.task("web")?;
        let gone = docker(node, &["exec", &task.container, "cat", "/run/secrets/key"])?;
        ensure!(gone.code == 1, "{gone:?}");
        Ok(())
    });
}

#[test]
fn the_docker_command_runs_jobs() {
    scenario("stockjob", 2, |rig| {
        let node = rig.first();
        let create = ["service", "create", "--restart-delay", "100ms", "--mode"];
        let replicated = ["replicated-job", "--name", "some", "--replicas", "3"];
        let exit = [image::WHOAMI, "whoami", "exit", "0"];
        let all = [&create[..], &replicated, &["--max-concurrent", "2"], &exit].concat();
        for line in [
            &all[..],
            &[&create[..], &["global-job", "--name", "all"], &exit].concat(),
            &["service", "update", "--force", "some"],
            &["service", "scale", "some=2"],
            &["service", "update", "--env-add", "A=b", "all"],
            &["service", "rollback", "all"],
        ] {
            let told = docker(node, line)?.ok()?;
            ensure!(told.contains("job complete"), "{line:?}: {told}");
        }
        for args in [
            &["service", "ls"][..],
            &["service", "ps", "-q", "some"],
            &[
                "service",
                "ps",
                "--format",
                "{{.Name}} {{.DesiredState}}",
                "all",
            ],
            &[
                "service",
                "inspect",
                "--format",
                "{{json .JobStatus}}",
                "some",
            ],
            &[
                "service",
                "inspect",
                "--format",
                "{{json .Spec.Mode}}",
                "some",
                "all",
            ],
        ] {
            // The tasks of former runs are still on their way out.
            eventually("both to say the same", UP_LIMIT, || {
                let (theirs, ours) = (docker(node, args)?.ok()?, node.ok(args)?);
                ensure!(
                    theirs == ours,
                    "{args:?}: docker says\n{theirs}\nmesh-ctl says\n{ours}"
                );
                Ok(())
            })?;
        }
        let listed = docker(node, &["service", "ls"])?.ok()?;
        for replicas in ["0/2 (2/2 completed)", "0/0 (2/2 completed)"] {
            ensure!(listed.contains(replicas), "{listed}");
        }
        let scaled = docker(node, &["service", "scale", "all=2"])?;
        let told = "scale can only be used with replicated or replicated-job mode";
        ensure!(scaled.code == 1 && scaled.err.contains(told), "{scaled:?}");
        let update = ["service", "update", "--update-delay", "1s", "some"];
        let refused = docker(node, &update)?;
        let told = "Jobs may not have an update config";
        ensure!(
            refused.code == 1 && refused.err.contains(told),
            "{refused:?}"
        );
        docker(node, &["service", "rm", "some", "all"])?
            .ok()
            .map(drop)
    });
}

#[test]
fn the_docker_command_works_on_the_socket() {
    scenario("stock", 2, |rig| {
        let node = rig.first();
        let nodes = docker(node, &["node", "ls"])?.ok()?;
        ensure!(
            nodes.contains("Leader") && nodes.matches("Ready").count() == 2,
            "{nodes}"
        );
        for args in [&["version"][..], &["info"], &["network", "ls"], &["images"]] {
            docker(node, args)?.ok()?;
        }
        docker(node, &["network", "create", "-d", "overlay", "front"])?.ok()?;
        let create = [
            "service",
            "create",
            "--name",
            "web",
            "--replicas",
            "2",
            "-p",
            "80:80",
        ];
        let made = docker(
            node,
            &[&create[..], &["--network", "front", image::WHOAMI]].concat(),
        )?
        .ok()?;
        ensure!(made.contains("converged"), "{made}");
        let services = docker(node, &["service", "ls"])?.ok()?;
        ensure!(
            services.contains("2/2") && services.contains("*:80->80/tcp"),
            "{services}"
        );
        let logs = docker(node, &["service", "logs", "web"])?.ok()?;
        ensure!(logs.contains("web.1.") && logs.contains("web.2."), "{logs}");
        let tasks = docker(node, &["service", "ps", "web"])?.ok()?;
        ensure!(tasks.matches("Running").count() >= 4, "{tasks}");
        docker(node, &["service", "scale", "-d", "web=3"])?.ok()?;
        let tasks = rig.wait_running_for("web", 3, UP_LIMIT)?;
        let here = tasks.iter().find(|task| task.node == node.name);
        let here = here.with_context(|| format!("no task on {}: {tasks:?}", node.name))?;
        let listed = docker(node, &["ps", "--no-trunc"])?.ok()?;
        ensure!(listed.contains(&here.container), "{listed}");
        let missing = docker(node, &["exec", &here.container, "/no/such/command"])?;
        ensure!(missing.code == 127, "{missing:?}");
        let same = [
            &["node", "ls"][..],
            &["network", "ls"],
            &["service", "ls"],
            &["service", "inspect", "--pretty", "web"],
            &["node", "inspect", "--pretty", "self"],
            &["service", "ls", "--format", "{{.Name}} {{json .Ports}}"],
            &["service", "ps", "-q", "web"],
        ];
        for args in same {
            let (theirs, ours) = (docker(node, args)?.ok()?, node.ok(args)?);
            ensure!(
                theirs == ours,
                "{args:?}: docker says\n{theirs}\nmesh-ctl says\n{ours}"
            );
        }
        // Without a number of replicas: the client goes on only if it is told one.
        let one = docker(node, &["service", "create", "--name", "one", image::WHOAMI])?.ok()?;
        ensure!(one.contains("converged"), "{one}");
        let create = ["service", "create", "--name", "checked", "--mode", "global"];
        let check = ["--health-cmd", "true", "--health-interval", "100ms"];
        docker(node, &[&create[..], &check, &[image::WHOAMI]].concat())?.ok()?;
        let pretty = ["service", "inspect", "--pretty", "checked"];
        let (theirs, ours) = (docker(node, &pretty)?.ok()?, node.ok(&pretty)?);
        ensure!(
            theirs == ours,
            "docker says\n{theirs}\nmesh-ctl says\n{ours}"
        );
        let healthy = docker(node, &["ps", "--filter", "health=healthy", "-q"])?.ok()?;
        let listed = docker(node, &["inspect", healthy.trim()])?.ok()?;
        ensure!(listed.contains("\"FailingStreak\": 0"), "{listed}");
        let status = docker(node, &["ps", "--format", "{{.Names}} {{.Status}}"])?.ok()?;
        let marked = status.lines().find(|line| line.contains("(healthy)"));
        ensure!(
            marked.is_some_and(|line| line.starts_with("checked.")),
            "{status}"
        );
        let off = ["service", "update", "--no-healthcheck", "checked"];
        docker(node, &off)?.ok()?;
        let left = docker(node, &["ps", "--filter", "health=healthy", "-q"])?.ok()?;
        ensure!(left.is_empty(), "{left}");
        docker(node, &["service", "rm", "one", "checked"])?.ok()?;
        docker(node, &["service", "rm", "web"])?.ok()?;
        // It is in use until the last task has stopped, which is waited for.
        docker(node, &["network", "rm", "front"])?.ok().map(drop)
    });
}

#[test]
fn the_docker_command_deploys_a_stack_and_removes_it() {
    scenario("stack", 1, |rig| {
        let node = rig.first();
        let file = rig.dir().join("compose.yml");
        let compose = format!(
            "services: {{ web: {{ image: {}, networks: [front, pool], deploy: {{ replicas: 2 }} }} }}\n\
             networks: {{ front: {{}}, pool: {{ external: true }} }}\n",
            image::WHOAMI
        );
        fs::write(&file, compose)?;
        let file = file.to_string_lossy();
        let create = [
            "network",
            "create",
            "-d",
            "overlay",
            "--subnet",
            "10.61.0.0/24",
        ];
        let range = ["--ip-range", "10.61.0.64/29", "pool"];
        docker(node, &[&create[..], &range].concat())?.ok()?;
        docker(node, &["stack", "deploy", "-d", "-c", &file, "shop"])?.ok()?;
        let tasks = rig.wait_running("shop_web", 2)?;
        let services = docker(node, &["stack", "services", "shop"])?.ok()?;
        ensure!(services.contains("shop_web"), "{services}");
        let network = docker(node, &["network", "inspect", "pool"])?.ok()?;
        ensure!(network.contains("10.61.0.64/29"), "{network}");
        for task in &tasks {
            let show = ["exec", &task.container, "ip", "address"];
            let shown = docker(node, &show)?.ok()?;
            let mut range = (64..72).map(|last| format!("10.61.0.{last}/"));
            ensure!(range.any(|address| shown.contains(&address)), "{shown}");
        }
        docker(node, &["stack", "rm", "shop"])?.ok()?;
        let left = docker(node, &["network", "ls", "-q", "--filter", "name=shop"])?.ok()?;
        ensure!(left.is_empty(), "{left}");
        docker(node, &["stack", "deploy", "-d", "-c", &file, "shop"])?.ok()?;
        rig.wait_running("shop_web", 2)?;
        Ok(())
    });
}
