//! `swarm update`

use anyhow::Result;
use mesh_api::{Client, Rotate, engine::SwarmSpec};

use super::unlock_key;
use crate::flags::quantity;

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Args {
    /// Whether managers are locked when they start again, until they are given the unlock key
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    autolock: Option<bool>,
    /// Ended tasks kept per slot
    #[arg(long)]
    task_history_limit: Option<i64>,
    /// How long node certificates live
    #[arg(long, value_parser = quantity::duration, value_name = "DURATION")]
    cert_expiry: Option<i64>,
    /// How often nodes report that they are there
    #[arg(long, value_parser = quantity::duration, value_name = "DURATION")]
    dispatcher_heartbeat: Option<i64>,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let (version, mut spec) = super::settings(client).await?;
    let was_locked = super::is_autolock(&spec);
    change(&mut spec, &args);
    let nothing = Rotate::default();
    client.swarm_update(version, &spec, nothing).await?;
    say!("Swarm updated.")?;
    if super::is_autolock(&spec) && !was_locked {
        unlock_key::tell(&client.swarm_unlock_key().await?)?;
    }
    Ok(())
}

fn change(spec: &mut SwarmSpec, args: &Args) {
    if args.autolock.is_some() {
        spec.encryption_config
            .get_or_insert_default()
            .auto_lock_managers = args.autolock;
    }
    if args.task_history_limit.is_some() {
        let orchestration = spec.orchestration.get_or_insert_default();
        orchestration.task_history_retention_limit = args.task_history_limit;
    }
    if args.cert_expiry.is_some() {
        spec.ca_config.get_or_insert_default().node_cert_expiry = args.cert_expiry;
    }
    if args.dispatcher_heartbeat.is_some() {
        spec.dispatcher.get_or_insert_default().heartbeat_period = args.dispatcher_heartbeat;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::arguments;

    #[test]
    fn only_what_is_given_changes() {
        let given = arguments(&["--cert-expiry", "2h"]).expect("arguments");
        let mut spec = SwarmSpec::default();
        change(&mut spec, &given);
        assert_eq!(
            serde_json::to_value(&spec).expect("json"),
            serde_json::json!({"CAConfig": {"NodeCertExpiry": 7_200_000_000_000_i64}})
        );
        assert!(arguments::<Args>(&[]).is_err(), "nothing to change");
        for (flag, expected) in [
            ("--autolock", true),
            ("--autolock=true", true),
            ("--autolock=false", false),
        ] {
            change(&mut spec, &arguments(&[flag]).expect(flag));
            assert_eq!(super::super::is_autolock(&spec), expected, "{flag}");
        }
        assert!(arguments::<Args>(&["--autolock=perhaps"]).is_err());
    }
}
