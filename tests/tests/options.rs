//! What a network or a log is asked to be beyond the usual: followed, or refused with the reason.

use std::fs;

use anyhow::{Context, Result, ensure};
use mesh_tests::{Node, Task, eventually, image, rig::UP_LIMIT, scenario, stock::docker};
use serde_json::{Value, json};

#[test]
fn networks_keep_addresses_free_and_have_an_mtu() {
    scenario("netopts", 1, |rig| {
        let node = rig.first();
        let subnet = [
            "network",
            "create",
            "-d",
            "overlay",
            "--subnet",
            "10.62.0.0/29",
        ];
        let kept = [
            "--aux-address",
            "a=10.62.0.2",
            "--aux-address",
            "b=10.62.0.4",
        ];
        let mtu = ["--opt", "com.docker.network.driver.mtu=1200", "kept"];
        docker(node, &[&subnet[..], &kept, &mtu].concat())?.ok()?;
        let shown = node.ok(&["network", "inspect", "kept"])?;
        let network: Value = serde_json::from_str(&shown)?;
        let config = &network[0]["IPAM"]["Config"][0];
        ensure!(
            config["AuxiliaryAddresses"] == json!({"a": "10.62.0.2", "b": "10.62.0.4"}),
            "{shown}"
        );
        // What is left are .3, .5 and .6: a virtual address and two tasks.
        rig.sleepers("web", &["--network", "kept", "--replicas", "2"])?;
        for task in &rig.wait_running("web", 2)? {
            let shown = rig.exec(task, &["ip", "address"])?;
            let mut left = [3, 5, 6]
                .map(|last| format!("10.62.0.{last}/29"))
                .into_iter();
            ensure!(left.any(|address| shown.contains(&address)), "{shown}");
            let mtus = rig.exec(task, &["cat", "/sys/class/net/eth0/mtu"])?;
            ensure!(mtus == "1200\n", "{mtus}");
            // The way out is no part of the network.
            let mtus = rig.exec(task, &["cat", "/sys/class/net/eth1/mtu"])?;
            ensure!(mtus == "1450\n", "{mtus}");
        }
        let create = ["network", "create", "--subnet", "10.63.0.0/24"];
        for (args, words) in [
            (
                &["--opt", "com.docker.network.driver.mtu=9", "n"][..],
                "invalid value for com.docker.network.driver.mtu: \"9\": expected 68 to 65535 bytes",
            ),
            (
                &["--opt", "colour=red", "n"],
                "unknown option colour: networks take encrypted and com.docker.network.driver.mtu",
            ),
            (
                &["--aux-address", "a=10.64.0.1", "n"],
                "no matching subnet for aux-address 10.64.0.1",
            ),
            (
                &["--aux-address", "a=10.63.0.1", "n"],
                "invalid auxiliary address a=10.63.0.1: it is the gateway's",
            ),
        ] {
            let told = node.ctl(&[&create[..], args].concat())?.refused()?;
            ensure!(told.contains(words), "{args:?}: {told}");
        }
        Ok(())
    });
}

#[test]
fn logs_are_kept_as_their_driver_says() {
    scenario("logopts", 1, |rig| {
        let node = rig.first();
        let create = ["service", "create", "-q", "--name"];
        let write = [
            image::WHOAMI,
            "sh",
            "-c",
            "i=0; while [ $i -lt 400 ]; do echo $i; i=$((i+1)); done; echo end; exec sleep 1000000",
        ];
        let small = [
            "--log-driver",
            "local",
            "--log-opt",
            "max-size=2k",
            "--log-opt",
            "max-file=2",
        ];
        node.ok(&[&create[..], &["small"], &small, &write].concat())?;
        docker(
            node,
            &[&create[..], &["none", "--log-driver", "none"], &write].concat(),
        )?
        .ok()?;
        let task = rig.task("small")?;
        eventually("the last line", UP_LIMIT, || {
            let log = node.ok(&["logs", &task.container])?;
            ensure!(log.ends_with("399\nend\n"), "{log}");
            // Two kilobytes are some fifty lines.
            ensure!(
                !log.starts_with("0\n") && log.lines().count() < 150,
                "{log}"
            );
            Ok(())
        })?;
        let sizes = files(node, &task)?;
        ensure!(
            (1..=2).contains(&sizes.len()) && sizes.iter().all(|size| *size <= 2000),
            "{sizes:?}"
        );
        let shown =
            "{{.HostConfig.LogConfig.Type}} {{index .HostConfig.LogConfig.Config \"max-file\"}}";
        let told = docker(node, &["inspect", "-f", shown, &task.container])?.ok()?;
        ensure!(told == "local 2\n", "{told}");

        let task = rig.task("none")?;
        for told in [
            docker(node, &["logs", &task.container])?.refused()?,
            node.ctl(&["logs", &task.container])?.refused()?,
        ] {
            let words = "configured logging driver does not support reading";
            ensure!(told.contains(words), "{told}");
        }
        // Nobody waits for it to be read, and nothing is written.
        ensure!(files(node, &task)?.iter().sum::<u64>() == 0);
        for (options, words) in [
            (
                &["--log-driver", "gelf"][..],
                "no log driver named 'gelf' is registered",
            ),
            (
                &["--log-driver", "json-file", "--log-opt", "tag=x"],
                "unknown log opt 'tag' for json-file log driver",
            ),
            (
                &["--log-driver", "json-file", "--log-opt", "max-file=0"],
                "max-file cannot be less than 1",
            ),
        ] {
            let all = [&create[..], &["bad"], options, &[image::WHOAMI]].concat();
            for told in [docker(node, &all)?.refused()?, node.ctl(&all)?.refused()?] {
                ensure!(told.contains(words), "{options:?}: {told}");
            }
        }
        Ok(())
    });
}

/// Sizes of a task's log files.
fn files(node: &Node, task: &Task) -> Result<Vec<u64>> {
    let dir = node.data_dir().join("containers").join(&task.id);
    let mut sizes = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with("output.log")
        {
            sizes.push(entry.metadata()?.len());
        }
    }
    Ok(sizes)
}
