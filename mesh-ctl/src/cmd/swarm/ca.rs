//! `swarm ca`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use mesh_api::{
    Client, Rotate,
    engine::{Swarm, SwarmSpec},
};

use crate::{flags::quantity, progress};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Put another root CA in the place of the one that there is; a new one, if none is given
    #[arg(long)]
    rotate: bool,
    /// File with the certificate of that root, PEM
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// File with its key, PEM
    #[arg(long, value_name = "FILE")]
    ca_key: Option<PathBuf>,
    /// How long node certificates live
    #[arg(long, value_parser = quantity::duration, value_name = "DURATION")]
    cert_expiry: Option<i64>,
    /// Refused: managers sign certificates themselves
    #[arg(long, value_name = "EXTERNAL-CA")]
    external_ca: Vec<String>,
    /// Do not wait until every node has a certificate of the new root
    #[arg(short, long)]
    detach: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    if !args.rotate {
        args.refuse_without_rotate()?;
        return show(&client.swarm().await?);
    }
    args.check()?;
    let (version, mut spec) = super::settings(client).await?;
    let read = |file: &Option<PathBuf>| file.as_deref().map(read).transpose();
    let (certificate, key) = (read(&args.ca_cert)?, read(&args.ca_key)?);
    change(&mut spec, certificate, key, args.cert_expiry);
    let nothing = Rotate::default();
    client.swarm_update(version, &spec, nothing).await?;
    if args.detach {
        return Ok(());
    }
    if progress::root::wait(client, args.quiet).await? && !args.quiet {
        show(&client.swarm().await?)?;
    }
    Ok(())
}

impl Args {
    /// As Docker refuses what is of no use.
    fn refuse_without_rotate(&self) -> Result<()> {
        for (flag, is_given) in [
            ("ca-cert", self.ca_cert.is_some()),
            ("ca-key", self.ca_key.is_some()),
            ("cert-expiry", self.cert_expiry.is_some()),
            ("external-ca", !self.external_ca.is_empty()),
        ] {
            ensure!(
                !is_given,
                "`--{flag}` flag requires the `--rotate` flag to update the CA"
            );
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if !self.external_ca.is_empty() {
            bail!(
                "external CAs are not supported: managers sign certificates themselves. To have them do so by a root of \
                 yours, give it with --ca-cert and --ca-key"
            );
        }
        ensure!(
            self.ca_cert.is_none() || self.ca_key.is_some(),
            "the --ca-cert flag requires that a --ca-key flag be provided as well"
        );
        Ok(())
    }
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn change(
    spec: &mut SwarmSpec,
    certificate: Option<String>,
    key: Option<String>,
    expiry: Option<i64>,
) {
    let ca = spec.ca_config.get_or_insert_default();
    ca.node_cert_expiry = expiry.or(ca.node_cert_expiry);
    if certificate.is_none() && key.is_none() {
        ca.force_rotate = Some(ca.force_rotate.unwrap_or(0).wrapping_add(1));
    }
    (ca.signing_ca_cert, ca.signing_ca_key) = (certificate, key);
}

fn show(swarm: &Swarm) -> Result<()> {
    let info = swarm.tls_info.as_ref();
    let root = info.and_then(|info| info.trust_root.as_deref());
    match root.map(str::trim).filter(|root| !root.is_empty()) {
        Some(root) => say!("{root}")?,
        None => bail!("No CA information available"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::arguments;

    #[test]
    fn flags_are_refused_as_docker_does() {
        let table: [(&[&str], &str); 6] = [
            (
                &["--ca-cert", "f"],
                "`--ca-cert` flag requires the `--rotate` flag to update the CA",
            ),
            (
                &["--ca-key", "f"],
                "`--ca-key` flag requires the `--rotate` flag to update the CA",
            ),
            (
                &["--cert-expiry", "2h"],
                "`--cert-expiry` flag requires the `--rotate` flag to update the CA",
            ),
            (
                &["--external-ca", "protocol=cfssl,url=https://ca"],
                "`--external-ca` flag requires the `--rotate` flag to update the CA",
            ),
            (
                &["--rotate", "--external-ca", "protocol=cfssl,url=https://ca"],
                "external CAs are not supported",
            ),
            (
                &["--rotate", "--ca-cert", "f"],
                "the --ca-cert flag requires that a --ca-key flag be provided as well",
            ),
        ];
        for (words, expected) in table {
            let args: Args = arguments(words).expect("arguments");
            let said = match args.rotate {
                true => args.check(),
                false => args.refuse_without_rotate(),
            };
            let said = said.expect_err("refused").to_string();
            assert!(said.starts_with(expected), "{said}");
        }
        for words in [&[][..], &["-q"], &["--detach"]] {
            let args: Args = arguments(words).expect("arguments");
            args.refuse_without_rotate()
                .expect("of no use, as in Docker");
        }
    }

    #[test]
    fn a_new_root_is_asked_for_by_a_number_and_a_given_one_by_itself() {
        let mut spec = SwarmSpec::default();
        change(&mut spec, None, None, Some(7_200_000_000_000));
        change(&mut spec, None, None, None);
        let json = |spec: &SwarmSpec| serde_json::to_value(spec).expect("json");
        assert_eq!(
            json(&spec),
            serde_json::json!({"CAConfig": {"NodeCertExpiry": 7_200_000_000_000_i64, "ForceRotate": 2}})
        );
        let given = |text: &str| Some(text.to_owned());
        change(&mut spec, given("certificate"), given("key"), None);
        let ca = &json(&spec)["CAConfig"];
        assert_eq!(ca["ForceRotate"], 2);
        assert_eq!(
            (&ca["SigningCACert"], &ca["SigningCAKey"]),
            (&"certificate".into(), &"key".into())
        );
    }
}
