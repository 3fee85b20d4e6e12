//! `/distribution/{name}/json`: what a registry has under a name.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
    http::HeaderMap,
};
use mesh_api::engine::{DistributionInspect, OciDescriptor, OciPlatform};
use mesh_image::{Credentials, Reference};

use super::{Answer, Api, args::registry_auth, errors::ApiError};

/// How long a registry may take. `service create` waits for the answer, and goes on without one.
const LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn inspect(
    State(api): State<Api>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Answer<Json<DistributionInspect>> {
    let name = path
        .strip_suffix("/json")
        .ok_or_else(ApiError::page_not_found)?;
    let reference = Reference::parse(name)?;
    // An image that was loaded by hand has no registry; asking one would only hold up the caller.
    let local = api.node.images().get(name);
    if local.is_ok_and(|image| image.repo_digests.is_empty()) {
        return Err(ApiError::only_local(name));
    }
    let auth = registry_auth(&headers).unwrap_or_default();
    let credentials = Credentials::from_registry_auth(&auth)?;
    let asked = api.node.images().resolve_digest(&reference, &credentials);
    let found = tokio::time::timeout(LIMIT, asked)
        .await
        .map_err(|_| ApiError::registry_timeout(name, LIMIT.as_secs()))??;
    Ok(Json(DistributionInspect {
        descriptor: OciDescriptor {
            media_type: Some(found.media_type),
            digest: Some(found.digest.to_string()),
            size: i64::try_from(found.size).ok(),
            ..Default::default()
        },
        platforms: found
            .platforms
            .into_iter()
            .map(|platform| OciPlatform {
                architecture: Some(platform.architecture),
                os: Some(platform.os),
                variant: platform.variant,
                ..Default::default()
            })
            .collect(),
    }))
}
