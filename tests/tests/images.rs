//! Images of a registry with passwords: each node fetches what its tasks need, by the digest that
//! the tag stood for when the service was made.

use std::{path::Path, process::Stdio};

use anyhow::{Result, ensure};
use mesh_tests::{
    Answer, Node, Rig, eventually, image, registry, registry::Registry, rig, scenario_on,
};

/// `mesh-ctl` of somebody who has logged in.
fn ctl(node: &Node, login: &Path, args: &[&str]) -> Result<Answer> {
    let output = node
        .ctl_command()?
        .env("DOCKER_CONFIG", login)
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    Ok(Answer::of(format!("mesh-ctl {}", args.join(" ")), &output))
}

#[test]
fn a_service_runs_an_image_of_a_registry_with_passwords() {
    let builder = Rig::builder(&rig::test_name("reg")).nodes(2);
    // The registry's address is the client's, the same in every rig.
    let host = format!("{}:{}", mesh_tests::lan::address(200), registry::PORT);
    let builder = builder.agent_arg("--insecure-registry").agent_arg(&host);
    scenario_on(builder, |rig| {
        ensure!(host.starts_with(&rig.client_address().to_string()));
        for node in &rig.nodes {
            node.ok(&["image", "rm", image::WHOAMI])?;
        }
        let registry = Registry::start(rig)?;
        let first = rig.first();
        let name = format!("{host}/{}:1", registry::REPOSITORY);
        let (right, wrong) = (
            registry.login(&host, "secret")?,
            registry.login(&host, "guess")?,
        );

        for login in [&wrong, &rig.dir()] {
            let told = ctl(first, login, &["image", "pull", &name])?.refused()?;
            ensure!(told.contains("pull access denied"), "{told}");
        }
        ctl(first, &right, &["image", "pull", &name])?.ok()?;
        let made = first.ok(&["image", "ls", "--format", "{{.CreatedAt}}"])?;
        ensure!(!made.starts_with("1970"), "made {made}");
        let unknown = format!("{host}/{}:2", registry::REPOSITORY);
        let told = ctl(first, &right, &["image", "pull", &unknown])?.refused()?;
        ensure!(told.contains("manifest unknown"), "{told}");
        let create = ["service", "create", "-d", "--name", "none", &unknown];
        let created = ctl(first, &right, &create)?;
        let warning = format!("image {unknown} could not be accessed on a registry");
        ensure!(
            created.code == 0 && created.err.starts_with(&warning),
            "{created:?}"
        );
        eventually("a rejected task", rig::UP_LIMIT, || {
            let told = first.ok(&["service", "ps", "--no-trunc", "none"])?;
            ensure!(told.contains("Rejected"), "{told}");
            let error = format!("No such image: {unknown}: ");
            ensure!(told.contains(&error), "{told}");
            Ok(())
        })?;
        first.ok(&["service", "rm", "none"])?;

        let create = [
            "service",
            "create",
            "-q",
            "--with-registry-auth",
            "--name",
            "app",
            "--replicas",
            "4",
            &name,
        ];
        ctl(first, &right, &create)?.ok()?;
        let tasks = rig.wait_running("app", 4)?;
        ensure!(
            tasks.iter().any(|task| task.node == "n2"),
            "none on n2: {tasks:?}"
        );
        let pinned = first.ok(&["service", "inspect", "--format", "json", "app"])?;
        let wanted = format!("{name}@{}", registry.digest);
        ensure!(pinned.contains(&wanted), "not pinned to {wanted}: {pinned}");
        let second = &rig.nodes[1];
        let ids = |node: &Node| node.ok(&["image", "ls", "-q", "--no-trunc"]);
        ensure!(ids(second)? == ids(first)?, "the nodes have other images");

        // An image in use stays; the service gone, it can be removed.
        let pull = format!("{host}/{}@{}", registry::REPOSITORY, registry.digest);
        let told = second.ctl(&["image", "rm", &pull])?.refused()?;
        ensure!(told.contains("being used"), "{told}");
        first.ok(&["service", "rm", "app"])?;
        eventually("the image to be free", rig::UP_LIMIT, || {
            second.ok(&["image", "rm", "-f", &pull]).map(drop)
        })
    });
}
