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
        for name in &names {
            rig.create(name, &["-d", "--replicas", "0"])?;
        }
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
