//! `/volumes`: the node's local volumes, as the tasks' mounts have made them.

use axum::{
    Json,
    extract::{Path, Query as QueryOf, State},
};
use mesh_api::{
    engine::{Volume, VolumeListResponse, VolumeScopeEnum},
    moment,
};

use super::{Answer, Api, args::Query, errors::ApiError};

const FILTERS: [&str; 3] = ["driver", "label", "name"];

pub(super) async fn list(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Json<VolumeListResponse>> {
    let filters = query.filters(&FILTERS)?;
    let mut volumes = read(&api)?;
    volumes.retain(|volume| {
        filters.substring("name", &volume.name)
            && filters.exact("driver", &volume.driver)
            && filters.labels("label", |_| None)
    });
    Ok(Json(VolumeListResponse {
        volumes: Some(volumes),
        warnings: None,
    }))
}

pub(super) async fn inspect(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Answer<Json<Volume>> {
    let mut volumes = read(&api)?.into_iter();
    let found = volumes.find(|volume| volume.name == name);
    found
        .map(Json)
        .ok_or_else(|| ApiError::no_such_volume(&name))
}

/// Every volume of this node, by name.
fn read(api: &Api) -> Answer<Vec<Volume>> {
    let directory = api.node.config().volumes_dir();
    let entries = std::fs::read_dir(&directory).map_err(ApiError::internal)?;
    let mut volumes = Vec::new();
    for entry in entries.flatten() {
        let made = entry.metadata().and_then(|data| data.modified());
        volumes.push(Volume {
            name: entry.file_name().to_string_lossy().into_owned(),
            driver: "local".to_owned(),
            mountpoint: entry.path().join("_data").display().to_string(),
            created_at: made.ok().map(|at| moment::to_text(at.into())),
            scope: Some(VolumeScopeEnum::LOCAL),
            ..Default::default()
        });
    }
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(volumes)
}
