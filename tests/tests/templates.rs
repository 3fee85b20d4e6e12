//! Secrets and configs that are templates: each task gets its own, and what cannot be filled in is told of.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use mesh_tests::{Answer, Node, eventually, image, rig::UP_LIMIT, scenario};

const SECRET: &str = "open-sesame-4711-of-the-secret";
const CONF: &str = r#"{{.Service.Name}} {{.Node.Hostname}} {{.Task.Slot}} {{env "MODE"}} {{env "NONE"}}.
{{if eq .Task.Slot "1"}}first{{else}}other{{end}} {{secret "key"}} {{config "plain"}}"#;

fn make(node: &Node, file: &Path, args: &[&str], data: &str) -> Result<Answer> {
    fs::write(file, data)?;
    let path = file.to_str().context("a path")?;
    node.ctl(&[args, &[path]].concat())
}

#[test]
fn tasks_get_secrets_and_configs_filled_in() {
    scenario("filled", 2, |rig| {
        let first = rig.first();
        let file = rig.dir().join("given");
        let golang = |noun| [noun, "create", "--template-driver", "golang"];
        make(first, &file, &["secret", "create", "key"], SECRET)?.ok()?;
        make(first, &file, &["config", "create", "plain"], "{{as it is")?.ok()?;
        make(
            first,
            &file,
            &[&golang("config")[..], &["conf"]].concat(),
            CONF,
        )?
        .ok()?;
        let of_secret = "{{env \"MODE\"}}:{{secret \"key\"}}";
        make(
            first,
            &file,
            &[&golang("secret")[..], &["made"]].concat(),
            of_secret,
        )?
        .ok()?;
        for (noun, name) in [("secret", "made"), ("config", "conf")] {
            let shown = first.ok(&[
                noun,
                "inspect",
                "--format",
                "{{.Spec.Templating.Name}}",
                name,
            ])?;
            ensure!(shown.trim() == "golang", "{shown}");
        }
        let plain = first.ok(&["config", "inspect", "plain"])?;
        ensure!(!plain.contains("Templating"), "{plain}");

        let place = ["--replicas", "2", "--replicas-max-per-node", "1"];
        let handed = [
            "--secret", "key", "--secret", "made", "--config", "conf", "--config", "plain",
        ];
        let mode = ["--env", "MODE=at {{.Node.Hostname}}"];
        rig.sleepers("holder", &[&place[..], &handed, &mode].concat())?;
        for task in rig.wait_running("holder", 2)? {
            let node = &task.node;
            let slot = task.name.rsplit('.').next().unwrap_or_default();
            let which = if slot == "1" { "first" } else { "other" };
            let expected = format!(
                "holder {node} {slot} at {node} .\n{which} {SECRET} {{{{as it is\nat {node}:{SECRET}"
            );
            let look = "cat /conf; echo; cat /run/secrets/made";
            let shown = rig.exec(&task, &["sh", "-c", look])?;
            ensure!(shown == expected, "{}: {shown:?}", task.name);
            let mounts = rig.exec(&task, &["cat", "/proc/mounts"])?;
            ensure!(mounts.contains("tmpfs /conf tmpfs ro,"), "{mounts}");
        }

        // What names nothing that the task has is not started.
        let create = [
            "service", "create", "-d", "--name", "lacking", "--config", "conf",
        ];
        first.ok(&[&create[..], &[image::WHOAMI]].concat())?;
        eventually("the task to be rejected", UP_LIMIT, || {
            let format = "{{.CurrentState}} {{.Error}}";
            let told = first.ok(&["service", "ps", "--no-trunc", "--format", format, "lacking"])?;
            let error = "error calling secret: secret target key not found";
            ensure!(told.contains("Rejected") && told.contains(error), "{told}");
            ensure!(
                told.contains("failed to expand templated config "),
                "{told}"
            );
            Ok(())
        })?;

        for (args, data, words) in [
            (
                &["config", "create", "--template-driver", "jinja", "a"][..],
                CONF,
                "unrecognized template type: jinja",
            ),
            (
                &["secret", "create", "--template-driver", "golang", "a"],
                "{{nothing}}",
                "failed to expand templated secret: template: expansion: function nothing not defined",
            ),
        ] {
            let told = make(first, &file, args, data)?.refused()?;
            ensure!(told.contains(words), "{told}");
        }
        ensure!(first.ok(&["secret", "ls", "-q"])?.lines().count() == 2);
        ensure!(first.ok(&["config", "ls", "-q"])?.lines().count() == 2);
        Ok(())
    });
}
