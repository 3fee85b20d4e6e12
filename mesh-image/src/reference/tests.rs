//! What is a reference and what is not.

use super::*;

const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn references_normalise_as_docker_does() {
    let pinned = format!("nginx:1@{D}");
    let pinned_full = format!("docker.io/library/nginx:1@{D}");
    let bare = format!("nginx@{D}");
    let bare_full = format!("docker.io/library/nginx@{D}");
    for (given, canonical, familiar) in [
        ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27"),
        (
            "docker.io/nginx",
            "docker.io/library/nginx:latest",
            "nginx:latest",
        ),
        (
            "index.docker.io/nginx",
            "docker.io/library/nginx:latest",
            "nginx:latest",
        ),
        (
            "library/nginx",
            "docker.io/library/nginx:latest",
            "nginx:latest",
        ),
        ("foo/bar", "docker.io/foo/bar:latest", "foo/bar:latest"),
        (
            "library/a/b",
            "docker.io/library/a/b:latest",
            "library/a/b:latest",
        ),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        (
            "localhost:5000/x",
            "localhost:5000/x:latest",
            "localhost:5000/x:latest",
        ),
        (
            "127.0.0.1:5000/a/b:t",
            "127.0.0.1:5000/a/b:t",
            "127.0.0.1:5000/a/b:t",
        ),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        (
            "ghcr.io/a/b__c-d.e",
            "ghcr.io/a/b__c-d.e:latest",
            "ghcr.io/a/b__c-d.e:latest",
        ),
        (&pinned, &pinned_full, &pinned),
        (&bare, &bare_full, &bare),
    ] {
        let parsed = Reference::parse(given).unwrap_or_else(|e| panic!("{given}: {e}"));
        assert_eq!(parsed.canonical(), canonical, "{given}");
        assert_eq!(parsed.to_string(), familiar, "{given}");
        assert_eq!(
            Reference::parse(&parsed.canonical()).unwrap(),
            parsed,
            "{given}"
        );
    }
}

#[test]
fn bad_references_are_refused_with_a_reason() {
    let long = "a/".repeat(130) + "b";
    let id = "a".repeat(64);
    for bad in [
        "",
        ":",
        ":tag",
        "@",
        "Nginx",
        "foo/Bar",
        "a//b",
        "/a",
        "a/",
        "-a",
        "a-",
        "a..b",
        "a___b",
        "nginx:",
        "nginx:-x",
        "nginx:a b",
        "nginx@sha256:12",
        "host:99999/x",
        "host:/x",
        "host:x/y",
        "[zz]:1/x",
        "a b",
        "../etc",
        "x/../y",
        &long,
        &id,
        "é",
    ] {
        let error = Reference::parse(bad).expect_err(bad).to_string();
        assert!(error.starts_with("invalid reference format"), "{error}");
    }
}

#[test]
fn loopback_registries_are_known() {
    for yes in [
        "localhost",
        "localhost:5000",
        "127.0.0.1:5000",
        "127.9.9.9",
        "[::1]:5000",
    ] {
        assert!(is_loopback(yes), "{yes}");
    }
    for no in [
        "docker.io",
        "10.0.0.1:5000",
        "localhost.example.com",
        "[2001:db8::1]:5000",
    ] {
        assert!(!is_loopback(no), "{no}");
    }
}
