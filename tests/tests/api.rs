//! The Engine API on the socket, byte by byte where clients depend on the bytes: versions, headers,
//! statuses, error texts, upgraded streams.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use mesh_tests::{Node, Rig, image, rig, scenario, scenario_on};
use serde_json::{Value, json};

#[test]
fn outside_of_a_cluster() {
    let builder = Rig::builder(&rig::test_name("apiout"))
        .nodes(1)
        .without_swarm();
    scenario_on(builder, |rig| {
        let node = rig.first();
        for method in ["GET", "HEAD"] {
            let ping = node
                .engine()
                .send(method, "/_ping", "Connection: close\r\n", "")?;
            ensure!(ping.status == "200 OK", "{}", ping.status);
            for (name, value) in [
                ("api-version", "1.51"),
                ("ostype", "linux"),
                ("docker-experimental", "false"),
                ("swarm", "inactive"),
            ] {
                ensure!(
                    ping.header(name) == value,
                    "{name}: {:?}",
                    ping.header(name)
                );
            }
        }
        for path in ["/version", "/v1.24/version", "/v1.51/version"] {
            ensure!(
                node.engine().get(path)?.json()?["ApiVersion"] == "1.51",
                "{path}"
            );
        }
        let new = node.engine().get("/v1.52/version")?.refused("400")?;
        ensure!(
            new.contains("1.52 is too new. Maximum supported API version is 1.51"),
            "{new}"
        );
        let old = node.engine().get("/v1.23/version")?.refused("400")?;
        ensure!(old.contains("1.23 is too old"), "{old}");
        ensure!(node.engine().get("/v1.51/nonsense")?.refused("404")? == "page not found");
        let refusal = "This node is not a swarm manager. Use \"docker swarm init\" or \
                       \"docker swarm join\" to connect this node to swarm and try again.";
        for path in [
            "/swarm",
            "/nodes",
            "/services",
            "/tasks",
            "/services/x/logs?stdout=1",
        ] {
            let told = node.engine().get(path)?.refused("503")?;
            ensure!(told == refusal, "{path}: {told}");
        }
        let bad = node
            .engine()
            .post("/swarm/init", &json!({"Availability": "asleep"}))?
            .refused("400")?;
        ensure!(bad.contains("asleep"), "{bad}");
        let forced = node
            .engine()
            .post("/swarm/init", &json!({"ForceNewCluster": true}))?
            .refused("400")?;
        ensure!(forced.contains("there is no swarm to rebuild"), "{forced}");
        let garbage = node
            .engine()
            .send("POST", "/swarm/join", "Connection: close\r\n", "{")?;
        ensure!(garbage.refused("400")?.contains("invalid JSON"));
        Ok(())
    });
}

#[test]
fn in_a_cluster() {
    scenario("apiin", 1, |rig| {
        let node = rig.first();
        ensure!(node.engine().get("/_ping")?.header("swarm") == "active/manager");
        let unknown = node
            .engine()
            .get("/services?filters=%7B%22colour%22%3A%7B%22red%22%3Atrue%7D%7D")?;
        ensure!(unknown.refused("400")? == "invalid filter 'colour'");
        let spec = json!({
            "Name": "web", "Labels": null,
            "TaskTemplate": {"ContainerSpec": {"Image": image::WHOAMI, "Init": false, "DNSConfig": {}}},
            "Mode": {"Replicated": {"Replicas": 1}},
            "EndpointSpec": {"Mode": "vip"}
        });
        let made = node.engine().post("/v1.43/services/create", &spec)?;
        ensure!(made.status == "201 Created", "{}", made.status);
        let id = made.json()?["ID"].as_str().context("an id")?.to_owned();
        ensure!(id.len() == 25, "{id}");
        node.engine()
            .post("/services/create", &spec)?
            .refused("409")?;
        let by_prefix = node
            .engine()
            .get(&format!("/services/{}?insertDefaults=true", &id[..10]))?
            .json()?;
        ensure!(
            by_prefix["Spec"]["UpdateConfig"]["FailureAction"] == "pause",
            "{by_prefix}"
        );
        ensure!(
            node.engine().get("/services/nobody")?.refused("404")? == "service nobody not found"
        );
        let version = by_prefix["Version"]["Index"]
            .as_u64()
            .context("a version")?;
        let stale = node.engine().post(
            &format!("/services/{id}/update?version={}", version + 100),
            &spec,
        )?;
        ensure!(stale.refused("500")?.contains("update out of sequence"));
        exec(rig)?;
        let mut bad = spec.clone();
        bad["Name"] = json!("bad");
        bad["TaskTemplate"]["ContainerSpec"]["Env"] = json!(["A=\0"]);
        let told = node
            .engine()
            .post("/services/create", &bad)?
            .refused("400")?;
        ensure!(told.contains("env \"A=\\0\" holds a NUL"), "{told}");
        // What the framework refuses looks like all other refusals.
        node.engine().get("/services/%ff")?.refused("400")?;
        let gone = node
            .engine()
            .send("DELETE", "/services/web", "Connection: close\r\n", "")?;
        ensure!(gone.status == "200 OK", "{}", gone.status);
        past_events(node)
    });
}

/// `since` and `until`: what happened to `web`, though it is gone.
fn past_events(node: &Node) -> Result<()> {
    let web = "filters=%7B%22service%22%3A%5B%22web%22%5D%7D";
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let asked = |since, until| -> Result<Vec<String>> {
        let path = format!("/events?since={since}&until={until}&{web}");
        let response = node.engine().get(&path)?;
        let text = String::from_utf8(response.body)?;
        let objects = text.lines().filter(|line| line.starts_with('{'));
        objects
            .map(|line| {
                let event: Value = serde_json::from_str(line)?;
                ensure!(event["Actor"]["Attributes"]["name"] == "web", "{event}");
                Ok(event["Action"].as_str().unwrap_or_default().to_owned())
            })
            .collect()
    };
    let all = asked(1, now + 1)?;
    ensure!(
        all.first().is_some_and(|action| action == "create")
            && all.last().is_some_and(|action| action == "remove"),
        "{all:?}"
    );
    ensure!(asked(1, 2)?.is_empty() && asked(now + 1, now + 1)?.is_empty());
    Ok(())
}

/// Secrets and configs: what comes in, what goes out, and what may change.
fn handouts(node: &Node) -> Result<()> {
    for (noun, shown) in [
        ("secret", Value::Null),
        ("config", json!("b3BlbiBzZXNhbWU=")),
    ] {
        let path = |rest: &str| format!("/{noun}s{rest}");
        ensure!(node.engine().get(&path(""))?.json()? == json!([]), "{noun}");
        let spec = json!({"Name": "key", "Labels": {"a": "b"}, "Data": "b3BlbiBzZXNhbWU="});
        let made = node.engine().post(&path("/create"), &spec)?;
        ensure!(made.status == "201 Created", "{}", made.status);
        let id = made.json()?["ID"].as_str().context("an id")?.to_owned();
        ensure!(id.len() == 25, "{id}");
        let told = node
            .engine()
            .post(&path("/create"), &spec)?
            .refused("409")?;
        ensure!(told == format!("{noun} key already exists"), "{told}");
        let missing = node.engine().get(&path("/nobody"))?.refused("404")?;
        ensure!(missing == format!("{noun} nobody not found"), "{missing}");
        for key in [&*id, "key", &id[..9]] {
            let one = node.engine().get(&path(&format!("/{key}")))?.json()?;
            ensure!(one["ID"] == *id && one["Spec"]["Name"] == "key", "{one}");
            ensure!(one["Spec"]["Data"] == shown, "{one}");
            ensure!(one["CreatedAt"] == one["UpdatedAt"], "{one}");
        }
        let filters = |text: &str| path(&format!("?filters={text}"));
        let found = node
            .engine()
            .get(&filters("%7B%22name%22%3A%5B%22ke%22%5D%7D"))?
            .json()?;
        ensure!(found[0]["ID"] == *id, "{found}");
        let unknown = node
            .engine()
            .get(&filters("%7B%22x%22%3A%5B%22y%22%5D%7D"))?
            .refused("400")?;
        ensure!(unknown == "invalid filter 'x'", "{unknown}");

        let one = node.engine().get(&path("/key"))?.json()?;
        let version = one["Version"]["Index"].as_u64().context("a version")?;
        let update = |version: u64, spec: &Value| {
            node.engine()
                .post(&path(&format!("/key/update?version={version}")), spec)
        };
        let labels = json!({"Name": "key", "Labels": {"c": "d"}});
        let stale = update(version - 1, &labels)?.refused("500")?;
        ensure!(stale.contains("update out of sequence"), "{stale}");
        let renamed = update(version, &json!({"Name": "other"}))?.refused("400")?;
        ensure!(
            renamed.contains("only updates to Labels are allowed"),
            "{renamed}"
        );
        let changed = update(version, &labels)?;
        ensure!(changed.status == "200 OK", "{}", changed.status);
        let one = node.engine().get(&path("/key"))?.json()?;
        ensure!(one["Spec"]["Labels"] == json!({"c": "d"}), "{one}");
        ensure!(one["Spec"]["Data"] == shown, "{one}");
        let removed = node
            .engine()
            .send("DELETE", &path("/key"), "Connection: close\r\n", "")?;
        ensure!(removed.status == "204 No Content", "{}", removed.status);
        let bad = json!({"Name": "key", "Data": "b3Bl~"});
        let told = node.engine().post(&path("/create"), &bad)?.refused("400")?;
        ensure!(told == "invalid JSON: illegal base64 data", "{told}");
        ensure!(node.engine().get(&path(""))?.json()? == json!([]), "{noun}");
    }
    Ok(())
}

/// Kinds of objects that few clients make.
#[test]
fn lists_that_clients_ask_for() {
    scenario("lists", 1, |rig| {
        let node = rig.first();
        handouts(node)?;
        ensure!(node.engine().get("/volumes")?.json()?["Volumes"] == json!([]));
        let create = ["service", "create", "-q", "--name", "kept", "--mount"];
        let mount = ["type=volume,source=store,target=/store", image::WHOAMI];
        node.ok(&[&create[..], &mount].concat())?;
        let volumes = node.engine().get("/volumes")?.json()?;
        ensure!(volumes["Volumes"][0]["Name"] == "store", "{volumes}");
        let one = node.engine().get("/volumes/store")?.json()?;
        ensure!(one["Driver"] == "local", "{one}");
        let told = node.engine().get("/volumes/other")?.refused("404")?;
        ensure!(told.contains("no such volume"), "{told}");
        Ok(())
    });
}

/// An upgraded stream: `101 UPGRADED`, frames, and the exit code once it has ended.
fn exec(rig: &Rig) -> Result<()> {
    let node = rig.first();
    let task = rig.wait_running("web", 1)?.remove(0);
    let logs = node
        .engine()
        .get(&format!("/containers/{}/logs", task.id))?
        .refused("400")?;
    ensure!(logs.contains("at least one stream"), "{logs}");
    let wanted = json!({"Cmd": ["sh", "-c", "echo out; echo err >&2; exit 7"], "AttachStdout": true, "AttachStderr": true});
    let made = node
        .engine()
        .post(&format!("/containers/{}/exec", task.id), &wanted)?;
    ensure!(
        made.status == "201 Created",
        "{}: {}",
        made.status,
        made.json()?
    );
    let made = made.json()?;
    let exec = made["Id"].as_str().context("an exec's id")?.to_owned();
    let path = format!("/exec/{exec}/start");
    let upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n";
    let body = json!({"Detach": false, "Tty": false}).to_string();
    let stream = node.engine().send("POST", &path, upgrade, &body)?;
    ensure!(stream.status == "101 UPGRADED", "{}", stream.status);
    let kind = stream.header("content-type");
    ensure!(
        kind == "application/vnd.docker.multiplexed-stream",
        "{kind}"
    );
    let mut rest = &stream.body[..];
    let mut frames = 0;
    while let Some((header, after)) = rest.split_first_chunk::<8>() {
        ensure!(
            matches!(header[0], 1 | 2) && header[1..4] == [0; 3],
            "{header:?}"
        );
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        rest = after.get(length..).context("a frame is cut short")?;
        frames += 1;
    }
    ensure!(
        frames > 0 && rest.is_empty(),
        "{frames} frames and {} bytes",
        rest.len()
    );
    let ended = node.engine().get(&format!("/exec/{exec}/json"))?.json()?;
    ensure!(
        ended["Running"] == false && ended["ExitCode"] == 7,
        "{ended}"
    );
    let again = node
        .engine()
        .send("POST", &path, "Connection: close\r\n", &body)?;
    again.refused("409").map(drop)
}
