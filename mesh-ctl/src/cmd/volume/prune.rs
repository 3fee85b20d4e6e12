//! `volume prune`

use anyhow::{Result, bail};
use mesh_api::{Client, engine::VolumePruneResponse};

use crate::{flags, format::human, terminal};

/// Docker's words.
const WARNING: &str =
    "WARNING! This will remove anonymous local volumes not used by at least one container.";

/// The same with `--all`.
const WARNING_ALL: &str =
    "WARNING! This will remove all local volumes not used by at least one container.";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Those that have a name, too
    #[arg(short, long)]
    all: bool,
    /// Filter, as key=value
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let mut filters = flags::filters(&args.filters)?;
    if args.all {
        if filters.contains("all") {
            bail!("conflicting options: cannot specify both --all and --filter all=1");
        }
        filters = filters.with("all", "true");
    }
    if !args.force {
        terminal::confirm("volume prune", if args.all { WARNING_ALL } else { WARNING })?;
    }
    let pruned = client.volumes_prune(&filters).await?;
    say!("{}", told(&pruned))?;
    Ok(())
}

fn told(pruned: &VolumePruneResponse) -> String {
    let bytes = u64::try_from(pruned.space_reclaimed.unwrap_or(0)).unwrap_or(0);
    let total = format!("Total reclaimed space: {}", human::total(bytes));
    match pruned.volumes_deleted.as_deref() {
        None | Some([]) => total,
        Some(names) => format!("Deleted Volumes:\n{}\n\n{total}", names.join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let pruned = |names: &[&str], bytes| VolumePruneResponse {
            volumes_deleted: Some(names.iter().map(|name| (*name).to_owned()).collect()),
            space_reclaimed: Some(bytes),
        };
        assert_eq!(told(&pruned(&[], 0)), "Total reclaimed space: 0B");
        assert_eq!(
            told(&pruned(&["a", "b"], 1234)),
            "Deleted Volumes:\na\nb\n\nTotal reclaimed space: 1.234kB"
        );
    }
}
