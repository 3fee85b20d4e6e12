//! Bind mounts, local volumes and tmpfs of a task.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use mesh_api::engine::{Mount as EngineMount, MountTypeEnum, TaskSpecContainerSpec};
use mesh_image::ImageConfig;
use mesh_runtime::{BindMount, Mount, TmpfsMount};

use super::{Places, SpecError, template::Values};

type Planned = (Vec<Mount>, BTreeMap<String, PathBuf>);

pub(super) fn mounts(
    wanted: &TaskSpecContainerSpec,
    image: &ImageConfig,
    places: &Places,
    values: Values<'_>,
) -> Result<Planned, SpecError> {
    let mut mounts = Vec::new();
    let mut volumes = BTreeMap::new();
    for mount in wanted.mounts.iter().flatten() {
        mounts.push(one(mount, places, values, &mut volumes)?);
    }
    // Paths the image wants kept get a volume of their own, unless something is mounted there.
    for target in &image.volumes {
        let taken = mounts
            .iter()
            .any(|mount| target_of(mount) == Path::new(target));
        if !taken {
            let mount = EngineMount {
                target: Some(target.clone()),
                typ: Some(MountTypeEnum::VOLUME),
                ..EngineMount::default()
            };
            mounts.push(one(&mount, places, values, &mut volumes)?);
        }
    }
    Ok((mounts, volumes))
}

fn one(
    mount: &EngineMount,
    places: &Places,
    values: Values<'_>,
    volumes: &mut BTreeMap<String, PathBuf>,
) -> Result<Mount, SpecError> {
    let kind = mount.typ.unwrap_or(MountTypeEnum::VOLUME);
    let wrong = |cause: &str| SpecError::Mount {
        kind: kind.to_string(),
        cause: cause.to_owned(),
    };
    let (source, target) = values.paths(mount)?;
    let target = PathBuf::from(target);
    if !target.is_absolute() {
        return Err(wrong("the target must be an absolute path"));
    }
    let read_only = mount.read_only.unwrap_or_default();
    match kind {
        MountTypeEnum::BIND => {
            if !Path::new(&source).is_absolute() {
                return Err(wrong("the source must be an absolute path"));
            }
            let options = mount.bind_options.clone().unwrap_or_default();
            Ok(Mount::Bind(BindMount {
                source: source.into(),
                target,
                read_only,
                non_recursive: options.non_recursive.unwrap_or_default(),
                propagation: options
                    .propagation
                    .map(|p| p.to_string())
                    .unwrap_or_default(),
            }))
        }
        MountTypeEnum::VOLUME | MountTypeEnum::EMPTY => {
            let driver = mount
                .volume_options
                .as_ref()
                .and_then(|options| options.driver_config.as_ref()?.name.as_deref())
                .unwrap_or_default();
            if !matches!(driver, "" | "local") {
                return Err(wrong("only the local volume driver is known"));
            }
            // A volume without a name belongs to the one task.
            let name = if source.is_empty() {
                format!(
                    "{}{}",
                    values.task.id,
                    target.display().to_string().replace('/', "_")
                )
            } else {
                source
            };
            if !is_volume_name(&name) {
                return Err(wrong("a volume name has only [a-zA-Z0-9][a-zA-Z0-9_.-]"));
            }
            let directory = places.volumes.join(&name).join("_data");
            volumes.insert(name, directory.clone());
            Ok(Mount::Bind(BindMount {
                source: directory,
                target,
                read_only,
                ..BindMount::default()
            }))
        }
        MountTypeEnum::TMPFS => {
            if !source.is_empty() {
                return Err(wrong("a tmpfs has no source"));
            }
            let options = mount.tmpfs_options.clone().unwrap_or_default();
            let number = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
            Ok(Mount::Tmpfs(TmpfsMount {
                target,
                size: number(options.size_bytes).unwrap_or_default(),
                mode: number(options.mode)
                    .and_then(|mode| u32::try_from(mode).ok())
                    .unwrap_or_default(),
                read_only,
            }))
        }
        _ => Err(wrong("this mount type is not supported")),
    }
}

fn target_of(mount: &Mount) -> &Path {
    match mount {
        Mount::Bind(bind) => &bind.target,
        Mount::Tmpfs(tmpfs) => &tmpfs.target,
    }
}

fn is_volume_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}
