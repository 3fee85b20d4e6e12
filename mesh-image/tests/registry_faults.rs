//! Pulling from a registry that does not behave, and from one that wants tokens. Without root.

#[path = "rig/scripted.rs"]
mod scripted;

use mesh_image::build::{ArchiveBuilder, LayerBuilder};
use mesh_image::{
    Digest, ErrorKind, ImageConfig, ImageError, ImageRecord, ImageStore, PullOptions, Reference,
    silent,
};
use scripted::Scripted;

fn image() -> ArchiveBuilder {
    let mut layer = LayerBuilder::new();
    layer.file("file", 0o644, &[7; 100_000]).unwrap();
    ArchiveBuilder::new("unused:1", ImageConfig::default()).layer(layer.finish().unwrap())
}

fn store() -> (tempfile::TempDir, ImageStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    (dir, store)
}

async fn pull(store: &ImageStore, name: &str) -> mesh_image::Result<ImageRecord> {
    store
        .pull(
            &Reference::parse(name).unwrap(),
            &PullOptions::default(),
            &silent(),
        )
        .await
}

#[tokio::test]
async fn a_token_is_fetched_where_one_is_wanted() {
    let registry = Scripted::start();
    registry.offer(&image());
    registry.want_token();
    let (_dir, store) = store();
    let record = pull(&store, &format!("{}/app:1", registry.host()))
        .await
        .unwrap();
    assert_eq!(record.id, Digest::of(&image().config_bytes()));
    assert!(registry.asked("/token?scope=repository%3Aapp%3Apull&service=test") >= 1);
}

#[tokio::test]
async fn a_broken_transfer_is_tried_again() {
    let registry = Scripted::start();
    let (_, layers) = registry.offer(&image());
    registry.break_blob(&layers[0], 2);
    let (_dir, store) = store();
    pull(&store, &format!("{}/app:1", registry.host()))
        .await
        .unwrap();
    assert_eq!(registry.asked(&layers[0].to_string()), 3);
}

#[tokio::test]
async fn a_manifest_other_than_the_one_asked_for_is_refused() {
    let registry = Scripted::start();
    let (digest, _) = registry.offer(&image());
    let other = Digest::of(b"something else");
    let manifest = br#"{"schemaVersion":2,"config":null,"layers":[]}"#.to_vec();
    let path = format!("/v2/app/manifests/{other}");
    registry.put(
        &path,
        "application/vnd.oci.image.manifest.v1+json",
        manifest,
    );
    let (_dir, store) = store();
    let error = pull(&store, &format!("{}/app@{other}", registry.host()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(
        error.to_string().to_lowercase().contains("digest"),
        "{error}"
    );
    pull(&store, &format!("{}/app@{digest}", registry.host()))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_blob_longer_than_announced_is_cut_off() {
    let registry = Scripted::start();
    let (_, layers) = registry.offer(&image());
    let path = format!("/v2/app/blobs/{}", layers[0]);
    registry.put(&path, "application/octet-stream", vec![0; 50_000_000]);
    let (_dir, store) = store();
    let error = pull(&store, &format!("{}/app:1", registry.host()))
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn answers_that_are_no_manifests_are_told_as_such() {
    let registry = Scripted::start();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    registry.put(
        "/v2/app/manifests/html",
        kind,
        b"<html>login here</html>".to_vec(),
    );
    registry.put(
        "/v2/app/manifests/bare",
        kind,
        br#"{"schemaVersion":2}"#.to_vec(),
    );
    let (_dir, store) = store();
    for tag in ["html", "bare"] {
        let error = pull(&store, &format!("{}/app:{tag}", registry.host()))
            .await
            .unwrap_err();
        assert!(
            matches!(error, ImageError::MalformedImage { .. }),
            "{tag}: {error}"
        );
    }
    assert!(store.list().is_empty());
}
