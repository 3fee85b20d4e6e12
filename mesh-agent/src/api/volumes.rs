//! `/volumes`: the node's local volumes, made by hand or for tasks.

use std::collections::{BTreeMap, HashMap};

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query as QueryOf, State},
    http::StatusCode,
};
use mesh_api::{
    Filters,
    engine::{
        Volume, VolumeCreateOptions, VolumeListResponse, VolumePruneResponse, VolumeScopeEnum,
    },
    moment,
};

use super::{Answer, Api, args, args::Query, errors::ApiError, server::ApiVersion};
use crate::volumes::{self, ANONYMOUS, Record, VolumeError};

const FILTERS: [&str; 4] = ["dangling", "driver", "label", "name"];

const PRUNE_FILTERS: [&str; 3] = ["all", "label", "label!"];

/// Clients before this version expect named volumes to be pruned, too.
const PRUNES_ANONYMOUS: ApiVersion = ApiVersion(1, 42);

pub(super) async fn list(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Json<VolumeListResponse>> {
    let filters = query.filters(&FILTERS)?;
    let dangling = filters.boolean("dangling")?;
    let volumes = api.node.volumes();
    let found = volumes.list()?.into_iter().filter(|volume| {
        let label = |name: &str| volume.record.labels.get(name).map(String::as_str);
        filters.substring("name", &volume.name)
            && filters.exact("driver", "local")
            && filters.labels("label", label)
            && dangling.is_none_or(|dangling| dangling != volumes.is_used(&volume.name))
    });
    Ok(Json(VolumeListResponse {
        volumes: Some(found.map(shown).collect()),
        warnings: None,
    }))
}

pub(super) async fn inspect(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Answer<Json<Volume>> {
    Ok(Json(shown(api.node.volumes().get(&name)?)))
}

pub(super) async fn create(
    State(api): State<Api>,
    body: Body,
) -> Answer<(StatusCode, Json<Volume>)> {
    let wanted: VolumeCreateOptions = args::json(body).await?;
    if wanted.cluster_volume_spec.is_some() {
        return Err(ApiError::bad_request(
            "cluster volumes are not supported: only the local driver is there",
        ));
    }
    let sorted = |map: Option<HashMap<_, _>>| map.into_iter().flatten().collect::<BTreeMap<_, _>>();
    let record = Record {
        options: sorted(wanted.driver_opts),
        labels: sorted(wanted.labels),
        ..Record::default()
    };
    let name = wanted.name.unwrap_or_default();
    let driver = wanted.driver.unwrap_or_default();
    let made = api.node.volumes().create(&name, &driver, record).await?;
    Ok((StatusCode::CREATED, Json(shown(made))))
}

pub(super) async fn remove(
    State(api): State<Api>,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<StatusCode> {
    match api.node.volumes().remove(&name).await {
        Err(VolumeError::NotFound(_)) if query.flag("force") => {}
        removed => removed?,
    }
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn prune(
    State(api): State<Api>,
    version: Option<Extension<ApiVersion>>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Json<VolumePruneResponse>> {
    let filters = query.filters(&PRUNE_FILTERS)?;
    let is_old = version.is_some_and(|Extension(version)| version < PRUNES_ANONYMOUS);
    let all = filters.boolean("all")?.unwrap_or(is_old);
    let Ok(_pruning) = api.pruning.try_lock() else {
        return Err(ApiError::prune_running());
    };
    let volumes = api.node.volumes();
    let (mut names, mut bytes) = (Vec::new(), 0);
    for volume in volumes.list()? {
        if !is_pruned(&volume.record, &filters, all) || volumes.is_used(&volume.name) {
            continue;
        }
        let size = volumes.size(&volume).await;
        match volumes.remove(&volume.name).await {
            Ok(()) => {
                bytes += size;
                names.push(volume.name);
            }
            // Taken by a task meanwhile.
            Err(error) => tracing::warn!(%error, "a volume is not pruned"),
        }
    }
    Ok(Json(VolumePruneResponse {
        volumes_deleted: Some(names),
        space_reclaimed: i64::try_from(bytes).ok(),
    }))
}

/// Whether a volume that nobody uses goes; one with options is elsewhere, where nothing would be won.
fn is_pruned(record: &Record, filters: &Filters, all: bool) -> bool {
    let label = |name: &str| record.labels.get(name).map(String::as_str);
    let unwanted = |key: &str| filters.contains(key) && filters.labels(key, label);
    record.options.is_empty()
        && (all || record.labels.contains_key(ANONYMOUS))
        && filters.labels("label", label)
        && !unwanted("label!")
}

fn shown(volume: volumes::Volume) -> Volume {
    let record = volume.record;
    Volume {
        name: volume.name,
        driver: "local".to_owned(),
        mountpoint: volume.path.display().to_string(),
        created_at: record.created.map(moment::to_text),
        labels: record.labels.into_iter().collect(),
        options: record.options.into_iter().collect(),
        scope: Some(VolumeScopeEnum::LOCAL),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pruned() {
        let record = |labels: &[&str], options: &[&str]| {
            let map = |names: &[&str]| names.iter().map(|n| ((*n).into(), "x".into())).collect();
            Record {
                labels: map(labels),
                options: map(options),
                ..Record::default()
            }
        };
        let none = Filters::new();
        let is =
            |labels: &[&str], filters: &Filters, all| is_pruned(&record(labels, &[]), filters, all);
        assert!(is(&[ANONYMOUS], &none, false));
        assert!(!is(&[], &none, false) && is(&[], &none, true));
        assert!(!is_pruned(&record(&[], &["type"]), &none, true));
        let kept = Filters::new().with("label!", "keep");
        assert!(is(&["a"], &kept, true) && !is(&["keep"], &kept, true));
        let only = Filters::new().with("label", "a=x");
        assert!(is(&["a"], &only, true) && !is(&["b"], &only, true));
    }
}
