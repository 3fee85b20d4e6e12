//! `node update`

use anyhow::{Context, Result};
use mesh_api::{
    Client,
    engine::{NodeSpec, NodeSpecAvailabilityEnum as Availability, NodeSpecRoleEnum},
};

use crate::{cmd::swarm::Role, flags::labels};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Node: host name, id, unique prefix or self
    node: String,
    /// active, pause (no new tasks) or drain (no tasks)
    #[arg(long, value_parser = availability)]
    availability: Option<Availability>,
    /// Worker or manager
    #[arg(long)]
    role: Option<Role>,
    /// Set a label, as key=value
    #[arg(long, value_name = "LABEL")]
    label_add: Vec<String>,
    /// Remove a label
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
}

fn availability(text: &str) -> Result<Availability, String> {
    match text {
        "active" => Ok(Availability::ACTIVE),
        "pause" => Ok(Availability::PAUSE),
        "drain" => Ok(Availability::DRAIN),
        _ => Err("it is active, pause or drain".to_owned()),
    }
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let node = super::find(client, &args.node).await?;
    let id = node.id.context("the agent gave a node without an id")?;
    let version = node
        .version
        .and_then(|version| version.index)
        .context("the agent gave a node without a version")?;
    let mut spec = node.spec.unwrap_or_default();
    change(&mut spec, &args);
    client.node_update(&id, version, &spec).await?;
    say!("{}", args.node)?;
    Ok(())
}

fn change(spec: &mut NodeSpec, args: &Args) {
    spec.availability = args.availability.or(spec.availability);
    let role = args.role.map(|role| match role {
        Role::Worker => NodeSpecRoleEnum::WORKER,
        Role::Manager => NodeSpecRoleEnum::MANAGER,
    });
    spec.role = role.or(spec.role);
    let map = spec.labels.get_or_insert_default();
    map.retain(|key, _| !args.label_rm.contains(key));
    map.extend(labels(&args.label_add));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::arguments;

    #[test]
    fn only_what_is_given_changes() {
        let mut spec: NodeSpec = serde_json::from_value(serde_json::json!({
            "Role": "manager", "Availability": "active", "Labels": {"a": "1", "b": "2"}
        }))
        .expect("spec");
        let given: Args = arguments(&[
            "--availability",
            "drain",
            "--label-rm",
            "a",
            "--label-add",
            "c=3",
            "n1",
        ])
        .expect("arguments");
        change(&mut spec, &given);
        assert_eq!(
            serde_json::to_value(&spec).expect("json"),
            serde_json::json!({"Role": "manager", "Availability": "drain", "Labels": {"b": "2", "c": "3"}})
        );
        assert!(arguments::<Args>(&["--availability", "gone", "n1"]).is_err());
    }
}
