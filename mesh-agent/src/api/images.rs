//! `/images`: the images of this node.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, Query as QueryOf, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use futures::{StreamExt, TryStreamExt};
use mesh_api::{
    engine::{
        DriverData, ImageConfig, ImageDeleteResponseItem, ImageInspect, ImageInspectRootFs,
        ImagePruneResponse, ImageSummary,
    },
    moment,
    progress::{ProgressDetail, ProgressLine},
};
use mesh_image::{
    Credentials, ImageRecord, ProgressEvent, ProgressFn, PullOptions, Reference, Removed,
};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

use super::{
    Answer, Api,
    args::{Query, registry_auth},
    errors::ApiError,
    stream::json_lines,
};

const FILTERS: [&str; 4] = ["dangling", "label", "reference", "id"];

/// Lines of progress waiting for a slow client. Further ones are dropped, the last ones never.
const BACKLOG: usize = 256;

pub(super) async fn list(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Json<Vec<ImageSummary>>> {
    let filters = query.filters(&FILTERS)?;
    let dangling = filters.boolean("dangling")?;
    let images = api
        .node
        .images()
        .list()
        .into_iter()
        .filter(|image| dangling.is_none_or(|wanted| wanted == image.repo_tags.is_empty()))
        .filter(|image| filters.prefix("id", &image.id.to_string()))
        .filter(|image| {
            filters.labels("label", |name| {
                image.config.labels.get(name).map(String::as_str)
            })
        })
        .filter(|image| {
            filters.matches("reference", |wanted| {
                image
                    .repo_tags
                    .iter()
                    .any(|tag| reference_matches(tag, wanted))
            })
        })
        .map(summary)
        .collect();
    Ok(Json(images))
}

/// A name with or without its tag; `*` stands for anything within it.
fn reference_matches(tag: &str, wanted: &str) -> bool {
    let name = match tag.rsplit_once(':') {
        Some((name, rest)) if !rest.contains('/') => name,
        _ => tag,
    };
    glob(wanted, tag) || glob(wanted, name)
}

fn glob(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    let inside = text
        .strip_prefix(start)
        .and_then(|text| text.strip_suffix(end));
    // The leftmost place of a part leaves the most room for the next.
    inside.is_some_and(|inside| {
        middle
            .split('*')
            .try_fold(inside, |left, part| {
                left.find(part).map(|at| &left[at + part.len()..])
            })
            .is_some()
    })
}

fn created(image: &ImageRecord) -> Option<chrono::DateTime<chrono::Utc>> {
    moment::read(image.created.as_deref())
}

fn size(image: &ImageRecord) -> i64 {
    i64::try_from(image.size).unwrap_or(i64::MAX)
}

fn summary(image: ImageRecord) -> ImageSummary {
    ImageSummary {
        id: image.id.to_string(),
        created: created(&image).map_or(0, |at| at.timestamp()),
        size: size(&image),
        shared_size: -1,
        containers: -1,
        repo_tags: image.repo_tags,
        repo_digests: image.repo_digests,
        labels: image.config.labels.into_iter().collect(),
        ..Default::default()
    }
}

pub(super) async fn inspect(
    State(api): State<Api>,
    Path(path): Path<String>,
) -> Answer<Json<ImageInspect>> {
    let name = path
        .strip_suffix("/json")
        .ok_or_else(ApiError::page_not_found)?;
    let image = api.node.images().get(name)?;
    let config = &image.config;
    let keys = |set: &std::collections::BTreeSet<String>| {
        Some(
            set.iter()
                .map(|key| (key.clone(), Default::default()))
                .collect(),
        )
    };
    Ok(Json(ImageInspect {
        id: Some(image.id.to_string()),
        repo_tags: Some(image.repo_tags.clone()),
        repo_digests: Some(image.repo_digests.clone()),
        created: created(&image).map(moment::to_text),
        author: image.author.clone(),
        architecture: Some(image.architecture.clone()),
        variant: image.variant.clone(),
        os: Some(image.os.clone()),
        size: Some(size(&image)),
        graph_driver: Some(DriverData {
            name: "overlay2".to_owned(),
            data: Default::default(),
        }),
        root_fs: Some(ImageInspectRootFs {
            typ: "layers".to_owned(),
            layers: Some(image.diff_ids.iter().map(ToString::to_string).collect()),
        }),
        config: Some(ImageConfig {
            user: Some(config.user.clone()),
            env: Some(config.env.clone()),
            entrypoint: Some(config.entrypoint.clone()),
            cmd: Some(config.cmd.clone()),
            working_dir: Some(config.working_dir.clone()),
            exposed_ports: keys(&config.exposed_ports),
            volumes: keys(&config.volumes),
            labels: Some(config.labels.clone().into_iter().collect()),
            stop_signal: config.stop_signal.clone(),
            ..Default::default()
        }),
        ..Default::default()
    }))
}

pub(super) async fn remove(
    State(api): State<Api>,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Json<Vec<ImageDeleteResponseItem>>> {
    let images = api.node.images().clone();
    let force = query.flag("force");
    let removed = blocking(move || images.remove(&name, force)).await?;
    Ok(Json(deleted(removed)))
}

fn deleted(removed: Removed) -> Vec<ImageDeleteResponseItem> {
    let untagged = removed
        .untagged
        .into_iter()
        .map(|name| ImageDeleteResponseItem {
            untagged: Some(name),
            deleted: None,
        });
    let deleted = removed
        .deleted
        .into_iter()
        .map(|id| ImageDeleteResponseItem {
            untagged: None,
            deleted: Some(id.to_string()),
        });
    untagged.chain(deleted).collect()
}

pub(super) async fn prune(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Json<ImagePruneResponse>> {
    // A filter taken but not followed would remove more than was asked for.
    let filters = query.filters(&["dangling"])?;
    let all = filters.boolean("dangling")? == Some(false);
    let images = api.node.images().clone();
    let pruned = blocking(move || images.prune(all)).await?;
    Ok(Json(ImagePruneResponse {
        images_deleted: Some(deleted(pruned.removed)),
        space_reclaimed: i64::try_from(pruned.bytes).ok(),
    }))
}

pub(super) async fn tag(
    State(api): State<Api>,
    Path(path): Path<String>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<StatusCode> {
    let source = path
        .strip_suffix("/tag")
        .ok_or_else(ApiError::page_not_found)?
        .to_owned();
    let repository = query
        .get("repo")
        .ok_or_else(|| ApiError::bad_argument("repo", ""))?;
    let target = Reference::parse(repository)?.with_tag(query.get("tag").unwrap_or("latest"))?;
    let images = api.node.images().clone();
    blocking(move || images.tag(&source, &target)).await?;
    Ok(StatusCode::CREATED)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> mesh_image::Result<T> + Send + 'static,
) -> Result<T, ApiError> {
    let result = tokio::task::spawn_blocking(work)
        .await
        .map_err(ApiError::internal)?;
    Ok(result?)
}

pub(super) async fn load(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
    body: Body,
) -> Answer<Response> {
    let archive = body.into_data_stream().map_err(std::io::Error::other);
    let archive = StreamReader::new(Box::pin(archive));
    let images = api.node.images().clone();
    let quiet = query.flag("quiet");
    Ok(report(quiet, move |progress, lines| async move {
        for image in images.load(archive, &progress).await? {
            let names: Vec<String> = match image.references.is_empty() {
                true => vec![format!("Loaded image ID: {}\n", image.id)],
                false => image
                    .references
                    .iter()
                    .map(|name| format!("Loaded image: {name}\n"))
                    .collect(),
            };
            for name in names {
                // The client may have gone; the image stays.
                let _ = lines.send(ProgressLine::stream(name)).await;
            }
        }
        Ok(())
    }))
}

pub(super) async fn pull(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
    headers: HeaderMap,
) -> Answer<Response> {
    let name = query.get("fromImage").ok_or_else(|| {
        ApiError::bad_request("fromImage is missing: importing a root file system is not supported")
    })?;
    let reference = match query.get("tag") {
        None => Reference::parse(name)?,
        Some(digest) if digest.contains(':') => Reference::parse(&format!("{name}@{digest}"))?,
        Some(tag) => Reference::parse(name)?.with_tag(tag)?,
    };
    let auth = registry_auth(&headers).unwrap_or_default();
    let options = PullOptions {
        credentials: Credentials::from_registry_auth(&auth)?,
        platform: query.get("platform").map(mesh_image::Platform::parse),
    };
    let images = api.node.images().clone();
    Ok(report(false, move |progress, _| async move {
        images.pull(&reference, &options, &progress).await?;
        Ok(())
    }))
}

/// Runs work that tells of its progress, and answers with that as lines of JSON. What goes wrong is
/// the last line: the status has been sent by then.
fn report<F, Fut>(quiet: bool, work: F) -> Response
where
    F: FnOnce(ProgressFn, mpsc::Sender<ProgressLine>) -> Fut,
    Fut: Future<Output = Result<(), ApiError>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let events = sender.clone();
    let progress: ProgressFn = Arc::new(move |event| {
        if !quiet {
            // A slow client misses some lines rather than slowing the work.
            let _ = events.try_send(line(event));
        }
    });
    let work = work(progress, sender.clone());
    tokio::spawn(async move {
        if let Err(error) = work.await {
            // The client may have gone.
            let _ = sender.send(ProgressLine::error(error.message())).await;
        }
    });
    json_lines(tokio_stream::wrappers::ReceiverStream::new(receiver).boxed())
}

fn line(event: ProgressEvent) -> ProgressLine {
    ProgressLine {
        status: Some(event.status),
        id: event.id,
        detail: event.current.map(|current| ProgressDetail {
            current,
            total: event.total.unwrap_or(0),
        }),
        ..ProgressLine::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        for (tag, wanted, expected) in [
            ("whoami:1", "whoami", true),
            ("whoami:1", "w*o*mi", true),
            ("whoami:1", "*ami*", true),
            ("whoami:1", "who*hoami", false),
            (&"a".repeat(200), &"*a".repeat(60), true),
            (&"a".repeat(200), &format!("{}b", "*a".repeat(60)), false),
            ("whoami:1", "whoami:1", true),
            ("whoami:1", "whoami:2", false),
            ("host:5000/a/b:1", "host:5000/a/b", true),
            ("host:5000/a/b:1", "host:5000/*:1", true),
            ("whoami:1", "who*", true),
            ("whoami:1", "ami*", false),
        ] {
            assert_eq!(reference_matches(tag, wanted), expected, "{tag} {wanted}");
        }
    }
}
