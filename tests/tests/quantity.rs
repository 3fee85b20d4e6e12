//! Many of everything: a thousand services, two hundred tasks.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use mesh_tests::{eventually, http_get, scenario};

/// How long two hundred tasks may take to start on two cores.
const MANY_LIMIT: Duration = Duration::from_secs(300);

#[test]
fn a_thousand_services_are_created_listed_and_removed() {
    const COUNT: usize = 1000;
    scenario("many", 1, |rig| {
        let first = rig.first();
        let names: Vec<String> = (0..COUNT).map(|number| format!("svc{number}")).collect();
        first.ok(&["network", "create", "--driver", "overlay", "front"])?;
        for (number, name) in names.iter().enumerate() {
            let port = format!("{}:80", 10_000 + number);
            let args = ["-d", "--replicas", "0", "--network", "front"];
            rig.create(name, &[&args[..], &["--publish", &port]].concat())?;
        }
        let vips = || first.ok(&["vip", "ls", "--format", "{{.Address}}"]);
        let told = vips()?;
        let addresses: BTreeSet<&str> = told.lines().collect();
        ensure!(
            addresses.len() == 2 * COUNT && told.lines().count() == 2 * COUNT,
            "{} virtual addresses",
            addresses.len()
        );
        let list = first.ok(&["service", "ls", "--format", "{{.Name}}"])?;
        let listed: BTreeSet<&str> = list.lines().collect();
        ensure!(listed.len() == COUNT, "{} are listed", listed.len());
        for some in names.chunks(100) {
            let mut remove = vec!["service", "rm"];
            remove.extend(some.iter().map(String::as_str));
            first.ok(&remove)?;
        }
        let left = first.ok(&["service", "ls", "-q"])?;
        ensure!(left.trim().is_empty(), "left: {left}");
        ensure!(vips()?.trim().is_empty(), "{}", vips()?);
        first.ok(&["network", "rm", "front"])?;
        Ok(())
    });
}

#[test]
fn two_hundred_tasks_start_and_answer() {
    const COUNT: usize = 200;
    scenario("tasks", 2, |rig| {
        let first = rig.first();
        let replicas = COUNT.to_string();
        rig.create(
            "web",
            &["-d", "--publish", "80:80", "--replicas", &replicas],
        )?;
        rig.wait_running_for("web", COUNT, MANY_LIMIT)?;
        let mut replicas = BTreeSet::new();
        eventually("every task to answer", MANY_LIMIT, || {
            let answers = rig.client.enter(|| {
                (0..COUNT)
                    .map(|_| http_get(first.address, 80, "/")?.replica())
                    .collect::<Result<Vec<_>>>()
            })?;
            replicas.extend(answers);
            ensure!(replicas.len() == COUNT, "{} have answered", replicas.len());
            Ok(())
        })
    });
}
