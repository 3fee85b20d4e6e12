//! Pulling from a real registry: plain HTTP, TLS, passwords, digests, platforms, and what goes wrong.

#[path = "rig/registry.rs"]
mod rig;

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mesh_image::{
    Credentials, Digest, ErrorKind, ImageError, ImageRecord, ImageStore, Platform, ProgressFn,
    PullOptions, Reference, RegistryOptions, silent,
};
use oci_client::manifest::{ImageIndexEntry, OciImageIndex};
use rig::{Registry, USER, image};

struct Store {
    store: ImageStore,
    dir: tempfile::TempDir,
}

fn store(options: RegistryOptions) -> Store {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let dir = tempfile::tempdir().unwrap();
    Store {
        store: ImageStore::open_with(dir.path(), options).unwrap(),
        dir,
    }
}

impl Store {
    async fn pull(&self, name: &str) -> mesh_image::Result<ImageRecord> {
        self.pull_as(name, Credentials::Anonymous).await
    }

    async fn pull_as(&self, name: &str, who: Credentials) -> mesh_image::Result<ImageRecord> {
        let options = PullOptions {
            credentials: who,
            platform: None,
        };
        self.store
            .pull(&Reference::parse(name).unwrap(), &options, &silent())
            .await
    }

    /// Waits until nothing unfinished is left: a layer being unpacked while another one fails is
    /// ended in the background.
    async fn assert_tidy(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while fs::read_dir(self.dir.path().join("tmp")).unwrap().count() > 0 {
            assert!(Instant::now() < deadline, "unfinished files are left");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Collects progress lines as text.
fn recorder() -> (ProgressFn, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = lines.clone();
    (
        Arc::new(move |event| kept.lock().unwrap().push(event.status)),
        lines,
    )
}

fn basic(user: &str, password: &str) -> Credentials {
    Credentials::Basic {
        username: user.into(),
        password: password.into(),
    }
}

#[tokio::test]
async fn an_image_comes_by_tag_and_by_digest_from_a_loopback_registry() {
    let registry = Registry::start(false, false);
    let (_, digest) = registry.push("team/app:1", &image(3, "v1")).await;
    let s = store(RegistryOptions::default());
    let name = format!("{}/team/app:1", registry.host());
    let reference = Reference::parse(&name).unwrap();

    let told = s
        .store
        .resolve_digest(&reference, &Credentials::Anonymous)
        .await
        .unwrap();
    assert_eq!(
        (&told.digest, &told.platforms[..]),
        (&digest, &[Platform::host()][..])
    );

    let (progress, lines) = recorder();
    let record = s
        .store
        .pull(&reference, &PullOptions::default(), &progress)
        .await
        .unwrap();
    assert_eq!(record.repo_tags, std::slice::from_ref(&name));
    assert_eq!(
        record.repo_digests,
        [format!("{}/team/app@{digest}", registry.host())]
    );
    assert_eq!(record.id, Digest::of(&image(3, "v1").config_bytes()));
    let lines = lines.lock().unwrap().clone();
    assert_eq!(
        lines.iter().filter(|line| *line == "Pull complete").count(),
        3
    );
    assert_eq!(
        lines.last().unwrap(),
        &format!("Status: Downloaded newer image for {name}")
    );

    let root = s.store.mount_rootfs(&record, "t").unwrap();
    assert_eq!(fs::read_to_string(root.join("file2")).unwrap(), "v1 2");
    s.store.unmount_rootfs("t").unwrap();

    let fresh = store(RegistryOptions::default());
    let pinned = format!("{name}@{digest}");
    let by_digest = fresh.pull(&pinned).await.unwrap();
    assert_eq!(by_digest.id, record.id);
    assert!(
        by_digest.repo_tags.is_empty(),
        "a pull by digest gives no tag"
    );
    assert_eq!(fresh.store.get(&pinned).unwrap().id, record.id);
    assert_eq!(by_digest.repo_digests, record.repo_digests);
    fresh.assert_tidy().await;
}

#[tokio::test]
async fn a_moved_tag_is_followed_and_shared_layers_are_not_fetched_again() {
    let registry = Registry::start(false, false);
    let name = format!("{}/app:1", registry.host());
    registry.push("app:1", &image(2, "v1")).await;
    let s = store(RegistryOptions::default());
    let first = s.pull(&name).await.unwrap();
    let (progress, lines) = recorder();
    let reference = Reference::parse(&name).unwrap();
    s.store
        .pull(&reference, &PullOptions::default(), &progress)
        .await
        .unwrap();
    let up_to_date = format!("Status: Image is up to date for {name}");
    assert_eq!(lines.lock().unwrap().last(), Some(&up_to_date));
    assert_eq!(
        lines
            .lock()
            .unwrap()
            .iter()
            .filter(|l| *l == "Already exists")
            .count(),
        2
    );

    registry.push("app:1", &image(3, "v1")).await;
    let second = s.pull(&name).await.unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(s.store.get(&name).unwrap().id, second.id);
    assert!(s.store.get(first.id.hex()).unwrap().repo_tags.is_empty());
    let layers = fs::read_dir(s.dir.path().join("layers")).unwrap().count();
    assert_eq!(layers, 3, "two of them shared");
}

#[tokio::test]
async fn many_pulls_at_once_fetch_each_layer_once() {
    let registry = Registry::start(false, false);
    registry.push("app:1", &image(4, "same")).await;
    registry.push("app:2", &image(3, "same")).await;
    let s = store(RegistryOptions::default());
    let (progress, lines) = recorder();
    let pulls = (0..10).map(|at| {
        let name = format!("{}/app:{}", registry.host(), 1 + at % 2);
        let (store, progress) = (s.store.clone(), progress.clone());
        tokio::spawn(async move {
            let reference = Reference::parse(&name).unwrap();
            store
                .pull(&reference, &PullOptions::default(), &progress)
                .await
                .unwrap()
        })
    });
    for pull in pulls.collect::<Vec<_>>() {
        pull.await.unwrap();
    }
    let lines = lines.lock().unwrap().clone();
    assert_eq!(
        lines
            .iter()
            .filter(|line| *line == "Verifying Checksum")
            .count(),
        4
    );
    assert_eq!(s.store.list().len(), 2);
    s.assert_tidy().await;
}

#[tokio::test]
async fn passwords_are_asked_for_and_checked() {
    let registry = Registry::start(false, true);
    registry.push("app:1", &image(1, "x")).await;
    let s = store(RegistryOptions::default());
    let name = format!("{}/app:1", registry.host());
    for who in [
        Credentials::Anonymous,
        basic("user", "wrong"),
        basic("nobody", "secret"),
    ] {
        let error = s.pull_as(&name, who.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{who:?}: {error}");
        let text = error.to_string();
        let repository = format!("{}/app", registry.host());
        assert!(
            text.starts_with(&format!("pull access denied for {repository},")),
            "{text}"
        );
    }
    s.pull_as(&name, basic(USER.0, USER.1)).await.unwrap();
}

#[tokio::test]
async fn tls_needs_the_registrys_own_ca() {
    let registry = Registry::start(true, true);
    registry.push("app:1", &image(1, "x")).await;
    let name = format!("{}/app:1", registry.host());
    let trusting = RegistryOptions {
        certs_dir: Some(registry.certs_dir()),
        ..RegistryOptions::default()
    };
    store(trusting)
        .pull_as(&name, basic(USER.0, USER.1))
        .await
        .unwrap();

    let stranger = store(RegistryOptions::default());
    let error = stranger
        .pull_as(&name, basic(USER.0, USER.1))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(
        error.to_string().contains("its certificate is not trusted"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_not_there_is_told_apart() {
    let registry = Registry::start(false, false);
    let (_, digest) = registry.push("app:1", &image(1, "x")).await;
    let s = store(RegistryOptions::default());
    let host = registry.host();
    let tag = format!("{host}/app:nope");
    let error = s.pull(&tag).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let text = error.to_string();
    let expected = format!("manifest for {tag} not found: manifest unknown: manifest unknown");
    assert_eq!(text, expected);

    let other = Digest::of(digest.hex().as_bytes());
    let error = s.pull(&format!("{host}/app@{other}")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let error = s.pull(&format!("{host}/other:1")).await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unauthorized),
        "{error}"
    );
    let absent = Reference::parse(&tag).unwrap();
    let resolve = s.store.resolve_digest(&absent, &Credentials::Anonymous);
    assert_eq!(resolve.await.unwrap_err().kind(), ErrorKind::NotFound);

    drop(registry);
    let error = s.pull(&format!("{host}/app:1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(s.store.list().is_empty());
}

#[tokio::test]
async fn altered_content_is_never_used() {
    let registry = Registry::start(false, false);
    let (manifest, digest) = registry.push("app:1", &image(2, "x")).await;
    let name = format!("{}/app:1", registry.host());
    let layer: Digest = manifest.layers[1].digest.parse().unwrap();
    let config: Digest = manifest.config.digest.parse().unwrap();
    for (what, blob) in [("layer", layer), ("configuration", config)] {
        let path = registry.blob_path(&blob);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        let at = bad.len() - 12;
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        let s = store(RegistryOptions::default());
        let error = s.pull(&format!("{name}@{digest}")).await.expect_err(what);
        assert!(
            matches!(error, ImageError::DigestMismatch { .. }),
            "{what}: {error}"
        );
        assert!(s.store.list().is_empty());
        s.assert_tidy().await;
        fs::write(&path, &good).unwrap();
        s.pull(&format!("{name}@{digest}")).await.unwrap();
    }
}

#[tokio::test]
async fn a_layer_that_is_not_what_the_configuration_says_is_refused() {
    let registry = Registry::start(false, false);
    // The layers of one image under the configuration of another.
    let (mut manifest, _) = registry.push("app:1", &image(1, "x")).await;
    let (other, _) = registry.push("app:2", &image(1, "y")).await;
    manifest.layers = other.layers;
    let forged = serde_json::to_vec(&manifest).unwrap();
    let digest = Digest::of(&forged);
    let url = format!("/v2/app/manifests/{digest}");
    put_manifest(&registry.host(), &url, &forged);
    let s = store(RegistryOptions::default());
    let error = s
        .pull(&format!("{}/app@{digest}", registry.host()))
        .await
        .unwrap_err();
    assert!(
        matches!(error, ImageError::DigestMismatch { .. }),
        "{error}"
    );
    assert!(error.to_string().starts_with("layer "), "{error}");
    assert!(s.store.list().is_empty());
}

fn put_manifest(host: &str, url: &str, body: &[u8]) {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(host.replace("localhost", "127.0.0.1")).unwrap();
    let head = format!(
        "PUT {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: \
         application/vnd.oci.image.manifest.v1+json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

#[tokio::test]
async fn an_index_gives_the_image_of_the_platform_asked_for() {
    let registry = Registry::start(false, false);
    let mut entries = Vec::new();
    for platform in ["linux/arm64", "linux/amd64"] {
        let platform = Platform::parse(platform);
        let image = image(1, &platform.architecture).platform(platform.clone());
        let (manifest, digest) = registry
            .push(&format!("app:{}", platform.architecture), &image)
            .await;
        let entry = serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest.to_string(),
            "size": serde_json::to_vec(&manifest).unwrap().len(),
            "platform": { "os": platform.os, "architecture": platform.architecture },
        });
        entries.push(serde_json::from_value::<ImageIndexEntry>(entry).unwrap());
    }
    let index: OciImageIndex = serde_json::from_value(serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    }))
    .unwrap();
    registry.push_index("app:all", &index).await;
    let s = store(RegistryOptions::default());
    let reference = Reference::parse(&format!("{}/app:all", registry.host())).unwrap();
    let told = s
        .store
        .resolve_digest(&reference, &Credentials::Anonymous)
        .await
        .unwrap();
    assert_eq!(
        told.platforms,
        [
            Platform::parse("linux/arm64"),
            Platform::parse("linux/amd64")
        ]
    );

    for architecture in ["arm64", "amd64"] {
        let platform = Some(Platform::parse(&format!("linux/{architecture}")));
        let options = PullOptions {
            platform,
            ..PullOptions::default()
        };
        let record = s.store.pull(&reference, &options, &silent()).await.unwrap();
        assert_eq!(record.architecture, architecture);
        let pinned = format!("{}@{}", reference.repository(), told.digest);
        assert_eq!(record.repo_digests, [pinned]);
    }
    let options = PullOptions {
        platform: Some(Platform::parse("linux/s390x")),
        ..PullOptions::default()
    };
    let error = s
        .store
        .pull(&reference, &options, &silent())
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::NoPlatform { .. }), "{error}");
}

#[tokio::test]
async fn a_mirror_answers_for_docker_hub() {
    let registry = Registry::start(false, false);
    registry.push("library/app:1", &image(1, "x")).await;
    let s = store(RegistryOptions {
        mirrors: vec![registry.host()],
        ..RegistryOptions::default()
    });
    let record = s.pull("app:1").await.unwrap();
    assert_eq!(record.repo_tags, ["app:1"]);
}
