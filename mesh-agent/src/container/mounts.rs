//! Bind mounts, local volumes and tmpfs of a task.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use mesh_api::engine::{Mount as EngineMount, MountTypeEnum, TaskSpecContainerSpec};
use mesh_image::ImageConfig;
use mesh_runtime::{BindMount, Mount, TmpfsMount};
use sha2::{Digest, Sha256};

use super::{Places, SpecError, template::Values};
use crate::volumes::{self, Wanted};

/// Mounts, and what has to be there first.
#[derive(Default)]
pub(super) struct Planned {
    pub(super) mounts: Vec<Mount>,
    /// Volumes by name.
    pub(super) volumes: BTreeMap<String, Wanted>,
    /// Directories of the node.
    pub(super) folders: Vec<PathBuf>,
}

pub(super) fn mounts(
    wanted: &TaskSpecContainerSpec,
    image: &ImageConfig,
    places: &Places,
    values: Values<'_>,
) -> Result<Planned, SpecError> {
    let mut planned = Planned::default();
    for mount in wanted.mounts.iter().flatten() {
        let mount = one(mount, places, values, &mut planned)?;
        planned.mounts.push(mount);
    }
    // Paths the image wants kept get a volume of their own, unless something is mounted there.
    for target in &image.volumes {
        let taken = (planned.mounts)
            .iter()
            .any(|mount| target_of(mount) == Path::new(target));
        if !taken {
            let mount = EngineMount {
                target: Some(target.clone()),
                typ: Some(MountTypeEnum::VOLUME),
                ..EngineMount::default()
            };
            let mount = one(&mount, places, values, &mut planned)?;
            planned.mounts.push(mount);
        }
    }
    Ok(planned)
}

fn one(
    mount: &EngineMount,
    places: &Places,
    values: Values<'_>,
    planned: &mut Planned,
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
            if options.create_mountpoint.unwrap_or_default() {
                planned.folders.push(source.clone().into());
            }
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
            let options = mount.volume_options.clone().unwrap_or_default();
            let driver = options.driver_config.unwrap_or_default();
            if !matches!(driver.name.as_deref(), None | Some("" | "local")) {
                return Err(wrong("only the local volume driver is known"));
            }
            // A volume without a name belongs to the one task.
            let (name, is_anonymous) = match source.is_empty() {
                true => (anonymous_name(&values.task.id, &target), true),
                false => (source, false),
            };
            volumes::check_name(&name).map_err(|error| SpecError::VolumeName(error.to_string()))?;
            let directory = places.volumes.join(&name).join("_data");
            let wanted = planned.volumes.entry(name).or_insert_with(|| Wanted {
                options: driver.options.unwrap_or_default().into_iter().collect(),
                labels: options.labels.unwrap_or_default().into_iter().collect(),
                is_anonymous,
                copy: Vec::new(),
            });
            if !options.no_copy.unwrap_or_default() {
                wanted.copy.push(target.clone());
            }
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

/// The name of a task's own volume; as long as those that Docker makes up, and the same if it is asked for again.
fn anonymous_name(task: &str, target: &Path) -> String {
    let mut hasher = Sha256::new();
    hasher.update(task.as_bytes());
    hasher.update([0]);
    hasher.update(target.as_os_str().as_encoded_bytes());
    let bytes = hasher.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
