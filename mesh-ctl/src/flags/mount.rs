//! `--mount type=bind|volume|tmpfs,source=..,target=..,...`

use anyhow::{Context, Result, bail};
use mesh_api::engine::{
    Mount, MountBindOptions, MountBindOptionsPropagationEnum as Propagation, MountTypeEnum as Kind,
    MountVolumeOptions, MountVolumeOptionsDriverConfig,
};

/// Reads one argument.
pub(crate) fn parse(text: &str) -> Result<Mount> {
    let mut mount = Mount {
        typ: Some(Kind::VOLUME),
        ..Mount::default()
    };
    for (key, value) in super::csv::fields(text)? {
        let flag = || truth(&key, value.as_deref());
        match key.as_str() {
            "readonly" | "ro" => mount.read_only = Some(flag()?),
            "volume-nocopy" => volume(&mut mount).no_copy = Some(flag()?),
            "bind-nonrecursive" => bind(&mut mount).non_recursive = Some(flag()?),
            _ => {
                let value = value.with_context(|| {
                    format!("invalid field '{key}' in a mount: it must be a key=value pair")
                })?;
                set(&mut mount, &key, value)?;
            }
        }
    }
    check(&mount, text)?;
    Ok(mount)
}

fn set(mount: &mut Mount, key: &str, value: String) -> Result<()> {
    match key {
        "type" => {
            mount.typ = Some(match value.as_str() {
                "bind" => Kind::BIND,
                "volume" => Kind::VOLUME,
                "tmpfs" => Kind::TMPFS,
                _ => bail!("invalid mount type {value:?}: it is bind, volume or tmpfs"),
            });
        }
        "source" | "src" => mount.source = Some(value),
        "target" | "dst" | "destination" => mount.target = Some(value),
        "consistency" => mount.consistency = Some(value),
        "bind-propagation" => {
            bind(mount).propagation = Some(match value.as_str() {
                "private" => Propagation::PRIVATE,
                "rprivate" => Propagation::RPRIVATE,
                "shared" => Propagation::SHARED,
                "rshared" => Propagation::RSHARED,
                "slave" => Propagation::SLAVE,
                "rslave" => Propagation::RSLAVE,
                _ => bail!("invalid propagation {value:?}"),
            });
        }
        "volume-subpath" => volume(mount).subpath = Some(value),
        "volume-label" => {
            let labels = volume(mount).labels.get_or_insert_default();
            labels.extend([super::pair(&value)]);
        }
        "volume-driver" => driver(mount).name = Some(value),
        "volume-opt" => {
            let options = driver(mount).options.get_or_insert_default();
            options.extend([super::pair(&value)]);
        }
        "tmpfs-size" => {
            let size = super::quantity::bytes(&value).map_err(anyhow::Error::msg)?;
            mount.tmpfs_options.get_or_insert_default().size_bytes = Some(size);
        }
        "tmpfs-mode" => match u32::from_str_radix(&value, 8) {
            Ok(mode) => mount.tmpfs_options.get_or_insert_default().mode = Some(mode.into()),
            Err(_) => bail!("invalid tmpfs-mode {value:?}: write it in octal, as 1770"),
        },
        _ => bail!("unexpected key '{key}' in a mount"),
    }
    Ok(())
}

fn check(mount: &Mount, text: &str) -> Result<()> {
    if mount.target.as_deref().unwrap_or_default().is_empty() {
        bail!("invalid mount {text:?}: target is required");
    }
    let (bind, volume, tmpfs) = (
        mount.bind_options.is_some(),
        mount.volume_options.is_some(),
        mount.tmpfs_options.is_some(),
    );
    match mount.typ {
        Some(Kind::BIND) if mount.source.as_deref().unwrap_or_default().is_empty() => {
            bail!("invalid mount {text:?}: source is required with type 'bind'")
        }
        Some(Kind::TMPFS) if mount.source.is_some() => {
            bail!("invalid mount {text:?}: type 'tmpfs' takes no source")
        }
        Some(Kind::BIND) if volume || tmpfs => {
            bail!("cannot mix 'volume-*' or 'tmpfs-*' options with mount type 'bind'")
        }
        Some(Kind::VOLUME) if bind || tmpfs => {
            bail!("cannot mix 'bind-*' or 'tmpfs-*' options with mount type 'volume'")
        }
        Some(Kind::TMPFS) if bind || volume => {
            bail!("cannot mix 'bind-*' or 'volume-*' options with mount type 'tmpfs'")
        }
        _ => Ok(()),
    }
}

fn bind(mount: &mut Mount) -> &mut MountBindOptions {
    mount.bind_options.get_or_insert_default()
}

fn volume(mount: &mut Mount) -> &mut MountVolumeOptions {
    mount.volume_options.get_or_insert_default()
}

fn driver(mount: &mut Mount) -> &mut MountVolumeOptionsDriverConfig {
    volume(mount).driver_config.get_or_insert_default()
}

fn truth(key: &str, value: Option<&str>) -> Result<bool> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(value) => bail!("invalid value for {key}: {value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        let bind = parse("type=bind,src=/a,dst=/b,readonly").expect("bind");
        assert_eq!(
            (
                bind.typ,
                bind.read_only,
                bind.source.as_deref(),
                bind.target.as_deref()
            ),
            (Some(Kind::BIND), Some(true), Some("/a"), Some("/b"))
        );
        let volume = parse(
            "source=data,target=/d,volume-driver=local,volume-opt=type=nfs,\"volume-opt=o=addr=1.2.3.4,rw\"",
        )
        .expect("volume");
        let driver = volume
            .volume_options
            .expect("options")
            .driver_config
            .expect("driver");
        assert_eq!(driver.options.expect("options")["o"], "addr=1.2.3.4,rw");
        let tmpfs = parse("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770").expect("tmpfs");
        let options = tmpfs.tmpfs_options.expect("options");
        assert_eq!(
            (options.size_bytes, options.mode),
            (Some(1 << 20), Some(0o1770))
        );
    }

    #[test]
    fn nonsense() {
        for text in [
            "type=bind,dst=/b",
            "type=nope,dst=/b",
            "src=/a",
            "type=tmpfs,src=x,dst=/t",
            "type=bind,src=/a,dst=/b,tmpfs-size=1",
            "dst=/b,wat=1",
            "dst=/b,ro=maybe",
            "type=tmpfs,dst=/t,tmpfs-mode=-7",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
