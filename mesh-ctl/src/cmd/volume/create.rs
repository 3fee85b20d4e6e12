//! `volume create`

use anyhow::{Result, bail};
use mesh_api::{Client, engine::VolumeCreateOptions};

use crate::flags::labels;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the volume; made up without one
    #[arg(value_name = "VOLUME")]
    name: Option<String>,
    /// Name of the volume
    #[arg(long = "name", value_name = "VOLUME", hide = true)]
    by_flag: Option<String>,
    /// Driver
    #[arg(short, long, default_value = "local")]
    driver: String,
    /// Option of the driver, as key=value: type, device and o are those of mount(8)
    #[arg(short, long = "opt", value_name = "OPTION")]
    options: Vec<String>,
    /// Label, as key=value
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let made = client.volume_create(&request(args)?).await?;
    say!("{}", made.name)?;
    Ok(())
}

fn request(args: Args) -> Result<VolumeCreateOptions> {
    if args.name.is_some() && args.by_flag.is_some() {
        bail!(
            "conflicting options: cannot specify a volume-name through both --name and as a positional arg"
        );
    }
    Ok(VolumeCreateOptions {
        name: Some(args.name.or(args.by_flag).unwrap_or_default()),
        driver: Some(args.driver),
        driver_opts: Some(labels(&args.options)),
        labels: Some(labels(&args.labels)),
        cluster_volume_spec: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::arguments;

    fn made(words: &[&str]) -> Result<VolumeCreateOptions> {
        request(arguments(words)?)
    }

    #[test]
    fn requests() {
        let bare = made(&[]).expect("nothing");
        assert_eq!(bare.name.as_deref(), Some(""));
        assert_eq!(bare.driver.as_deref(), Some("local"));
        let nfs = made(&[
            "--opt",
            "type=nfs",
            "-o",
            "o=addr=10.0.0.1,rw",
            "-o",
            "device=:/x",
            "--label",
            "a",
            "data",
        ])
        .expect("options");
        assert_eq!(nfs.name.as_deref(), Some("data"));
        let options = nfs.driver_opts.expect("options");
        assert_eq!(options["o"], "addr=10.0.0.1,rw");
        assert_eq!(options["device"], ":/x");
        assert_eq!(nfs.labels.expect("labels")["a"], "");
        let named = made(&["--name", "data"]).expect("a name");
        assert_eq!(named.name.as_deref(), Some("data"));
        made(&["--name", "data", "data"]).expect_err("two names");
    }
}
