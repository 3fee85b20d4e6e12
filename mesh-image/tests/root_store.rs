//! The store with the kernel's help: overlay mounts, ownership, devices, whiteouts. Needs root.

#[path = "rig/world.rs"]
mod world;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::Duration;

use mesh_image::build::{ArchiveBuilder, LayerBuilder};
use mesh_image::{ErrorKind, ImageConfig, ImageError, ImageStore, Reference, silent};
use world::{World, config, docker, image, names, oci, xattr};

#[test]
fn a_docker_archive_and_an_oci_archive_give_the_same_image() {
    let world = World::new();
    let loaded = world.load(&docker(&image("whoami:1"))).unwrap();
    assert_eq!(
        loaded[0].references,
        [Reference::parse("whoami:1").unwrap()]
    );
    let again = world.load(&oci(&image("whoami:2"))).unwrap();
    assert_eq!(again[0].id, loaded[0].id);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&oci(&image("localhost:5000/a/whoami:3")))
        .unwrap();
    world.load(&gzip.finish().unwrap()).unwrap();

    let record = world.store().get("whoami:1").unwrap();
    assert_eq!(
        record.repo_tags,
        ["whoami:1", "whoami:2", "localhost:5000/a/whoami:3"]
    );
    assert_eq!(record.config, config());
    assert_eq!(
        (record.architecture.as_str(), record.os.as_str()),
        ("amd64", "linux")
    );
    assert_eq!(record.size, 5 + 4 + 3 + 3 + 3 + 3);
    for name in [
        record.id.to_string().as_str(),
        record.id.hex(),
        record.id.short(),
    ] {
        assert_eq!(world.store().get(name).unwrap().id, record.id, "{name}");
    }
    assert_eq!(world.store().list().len(), 1);
    assert_eq!(world.count("layers"), 2);
}

#[test]
fn the_mount_shows_the_layers_merged_and_is_private_to_its_container() {
    let world = World::new();
    world.load(&docker(&image("m:1"))).unwrap();
    let record = world.store().get("m:1").unwrap();
    let root = world.store().mount_rootfs(&record, "task1").unwrap();
    assert_eq!(names(&root.join("etc")), ["kept"]);
    assert_eq!(fs::read(root.join("etc/kept")).unwrap(), b"new");
    assert_eq!(names(&root.join("data")), ["new"]);
    assert_eq!(
        fs::metadata(root.join("tmp")).unwrap().mode() & 0o7777,
        0o1777
    );
    assert_eq!(
        fs::metadata(root.join("bin/hello")).unwrap().mode() & 0o7777,
        0o4755
    );
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::read(root.join("sbin/hello2")).unwrap(), b"hello");
    fs::write(root.join("etc/mine"), b"x").unwrap();
    fs::remove_file(root.join("etc/kept")).unwrap();

    let other = world.store().mount_rootfs(&record, "task2").unwrap();
    assert_eq!(names(&other.join("etc")), ["kept"]);
    assert_eq!(world.store().mount_rootfs(&record, "task1").unwrap(), root);
    assert_eq!(
        names(&root.join("etc")),
        ["mine"],
        "asked again, it is the same one"
    );

    let busy = world.store().remove("m:1", false).unwrap_err();
    assert!(matches!(&busy, ImageError::InUse { .. }), "{busy}");
    assert_eq!(busy.kind(), ErrorKind::Conflict);
    world.store().unmount_rootfs("task1").unwrap();
    world.store().unmount_rootfs("task1").unwrap();
    world.store().unmount_rootfs("task2").unwrap();
    assert_eq!((world.count("containers"), world.count("tmp")), (0, 0));
    let removed = world.store().remove("m:1", false).unwrap();
    assert_eq!(removed.untagged, ["m:1"]);
    assert_eq!(removed.deleted.len(), 3, "the image and two layers");
    assert_eq!(
        (
            world.count("layers"),
            world.count("blobs"),
            world.count("tmp")
        ),
        (0, 0, 0)
    );
}

#[test]
fn everything_survives_a_restart_and_leftovers_do_not() {
    let mut world = World::new();
    world.load(&docker(&image("m:1"))).unwrap();
    let record = world.store().get("m:1").unwrap();
    let root = world.store().mount_rootfs(&record, "task1").unwrap();
    fs::write(root.join("mine"), b"x").unwrap();
    // What an agent killed in the middle leaves.
    fs::create_dir_all(world.dir.path().join("tmp/half/layer/diff")).unwrap();
    fs::create_dir_all(world.dir.path().join("layers/0123456789abcdef/diff")).unwrap();
    fs::create_dir_all(world.dir.path().join("containers/half/upper")).unwrap();
    fs::write(world.dir.path().join("blobs/junk"), b"x").unwrap();
    world.reopen();
    assert_eq!(world.store().get("m:1").unwrap(), record);
    assert_eq!(world.containers(), ["task1"]);
    assert_eq!(world.store().mount_rootfs(&record, "task1").unwrap(), root);
    assert_eq!(fs::read(root.join("mine")).unwrap(), b"x");
    let counts = ["tmp", "layers", "blobs", "containers"].map(|name| world.count(name));
    assert_eq!(counts, [0, 2, 1, 1]);

    // After a reboot the mount is gone but what was written is not.
    nix::mount::umount(&root).unwrap();
    world.reopen();
    world.store().mount_rootfs(&record, "task1").unwrap();
    assert_eq!(fs::read(root.join("mine")).unwrap(), b"x");
}

#[test]
fn a_damaged_image_is_dropped_at_start_not_served() {
    let mut world = World::new();
    world.load(&docker(&image("m:1"))).unwrap();
    let id = world.store().get("m:1").unwrap().id;
    fs::write(world.dir.path().join("blobs").join(id.hex()), b"{}").unwrap();
    world.reopen();
    assert_eq!(
        world.store().get("m:1").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(world.count("layers"), 0);
    world.load(&docker(&image("m:1"))).unwrap();
}

#[test]
fn a_store_is_opened_by_one_at_a_time() {
    let world = World::new();
    let error = ImageStore::open(world.dir.path()).err().unwrap();
    assert!(matches!(error, ImageError::Locked { .. }), "{error}");
}

#[test]
fn bad_archives_say_what_is_wrong_and_change_nothing() {
    let world = World::new();
    let good = docker(&image("m:1"));
    let mut flipped = good.clone();
    let at = flipped.windows(5).position(|w| w == b"hello").unwrap();
    let content = at
        + flipped[at + 5..]
            .windows(5)
            .position(|w| w == b"hello")
            .unwrap();
    flipped[content + 512] ^= 0xff;
    let mut no_manifest = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    no_manifest
        .append_data(&mut header, "x.json", &b"{}"[..])
        .unwrap();
    let no_manifest = no_manifest.into_inner().unwrap();
    for (what, archive, kind) in [
        ("nothing", &b""[..], ErrorKind::Invalid),
        (
            "text",
            &b"this is not a tar archive".repeat(100)[..],
            ErrorKind::Invalid,
        ),
        ("cut", &good[..good.len() / 2], ErrorKind::Invalid),
        ("no manifest", &no_manifest[..], ErrorKind::Invalid),
    ] {
        let error = world.load(archive).expect_err(what);
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(
            error.to_string().starts_with("malformed image archive: "),
            "{what}: {error}"
        );
    }
    for at in (0..good.len()).step_by(509) {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        if world.load(&bad).is_ok() {
            let removed = world.store().prune(true).unwrap();
            assert!(!removed.removed.deleted.is_empty());
        }
    }
    assert!(world.store().list().is_empty());
    let counts = ["tmp", "blobs", "containers"].map(|name| world.count(name));
    assert_eq!(counts, [0, 0, 0]);
}

#[test]
fn names_move_and_images_go_with_their_last_name() {
    let world = World::new();
    world.load(&docker(&image("a:1"))).unwrap();
    let id = world.store().get("a:1").unwrap().id;
    let b = Reference::parse("b").unwrap();
    world.store().tag("a:1", &b).unwrap();
    let several = world.store().remove(id.short(), false).unwrap_err();
    assert!(
        matches!(several, ImageError::SeveralTags { .. }),
        "{several}"
    );
    assert_eq!(world.store().remove("a:1", false).unwrap().deleted, []);
    assert_eq!(world.store().get("b").unwrap().repo_tags, ["b:latest"]);
    let other = ArchiveBuilder::new("b", ImageConfig::default());
    world.load(&docker(&other)).unwrap();
    assert_ne!(world.store().get("b").unwrap().id, id, "the name moved");
    assert!(world.store().get(id.hex()).unwrap().repo_tags.is_empty());
    let pruned = world.store().prune(false).unwrap();
    assert!(pruned.removed.deleted.contains(&id) && pruned.bytes > 0);
    let empty = world.store().get("b").unwrap();
    let root = world.store().mount_rootfs(&empty, "none").unwrap();
    assert_eq!(names(&root), [""; 0]);
}

#[test]
fn devices_owners_and_capabilities_are_kept() {
    let world = World::new();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Char);
    header.set_path("null").unwrap();
    header.set_mode(0o666);
    header.set_uid(12);
    header.set_gid(34);
    header.set_mtime(5);
    header.set_size(0);
    header.set_device_major(1).unwrap();
    header.set_device_minor(3).unwrap();
    header.set_cksum();
    tar.append(&header, &b""[..]).unwrap();
    // cap_net_raw=ep, version 2
    let capability: &[u8] = &[
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    tar.append_pax_extensions([
        ("SCHILY.xattr.security.capability", capability),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
    ])
    .unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_path("ping").unwrap();
    header.set_mode(0o2755);
    header.set_cksum();
    tar.append(&header, &b""[..]).unwrap();
    let image = ArchiveBuilder::new("d", ImageConfig::default()).layer(tar.into_inner().unwrap());
    world.load(&docker(&image)).unwrap();
    let record = world.store().get("d").unwrap();
    let root = world.store().mount_rootfs(&record, "d").unwrap();
    let null = fs::metadata(root.join("null")).unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!(
        (null.rdev(), null.mode() & 0o7777),
        (libc::makedev(1, 3), 0o666)
    );
    let ping = fs::metadata(root.join("ping")).unwrap();
    assert_eq!(
        (ping.uid(), ping.gid(), ping.mode() & 0o7777),
        (12, 34, 0o2755)
    );
    assert_eq!(
        xattr(&root.join("ping"), c"security.capability").as_deref(),
        Some(capability)
    );
    let layer = names(&world.dir.path().join("layers"));
    let below = world
        .dir
        .path()
        .join("layers")
        .join(&layer[0])
        .join("diff/ping");
    assert_eq!(xattr(&below, c"trusted.overlay.redirect"), None);
}

#[test]
fn an_image_with_as_many_layers_as_allowed_mounts() {
    let world = World::new();
    let mut image = ArchiveBuilder::new("deep", ImageConfig::default());
    for at in 0..128 {
        let mut layer = LayerBuilder::new();
        layer.file(&format!("f{at}"), 0o644, b"x").unwrap();
        image = image.layer(layer.finish().unwrap());
    }
    world.load(&docker(&image)).unwrap();
    let record = world.store().get("deep").unwrap();
    let id = "x".repeat(128);
    let root = world.store().mount_rootfs(&record, &id).unwrap();
    assert_eq!(names(&root).len(), 128);
    let mut layer = LayerBuilder::new();
    layer.file("more", 0o644, b"x").unwrap();
    let error = world
        .load(&docker(&image.layer(layer.finish().unwrap())))
        .unwrap_err();
    assert!(error.to_string().contains("128"), "{error}");
}

/// Not a test by itself: the process that the next one kills.
#[test]
#[ignore = "started by the next test"]
fn helper_that_loads_until_it_is_killed() {
    let Some(dir) = std::env::var_os("MESH_IMAGE_TEST_STORE") else {
        return;
    };
    let store = ImageStore::open(dir).unwrap();
    let archive = docker(&image("m:1"));
    loop {
        store.load_blocking(&archive[..], &silent()).unwrap();
        let record = store.get("m:1").unwrap();
        store.mount_rootfs(&record, "task").unwrap();
        store.unmount_rootfs("task").unwrap();
        store.remove("m:1", false).unwrap();
    }
}

#[test]
fn killed_at_any_moment_the_store_is_whole() {
    let mut world = World::new();
    for round in 0..20 {
        world.store = None;
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "helper_that_loads_until_it_is_killed"])
            .arg("--ignored")
            .env("MESH_IMAGE_TEST_STORE", world.dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // No condition to wait for: the point is that any moment will do.
        std::thread::sleep(Duration::from_millis(20 + 17 * round));
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        world.reopen();
        assert_eq!(world.count("tmp"), 0);
        for id in world.containers() {
            world.store().unmount_rootfs(&id).unwrap();
        }
        let images = world.store().list();
        assert_eq!(world.count("layers"), 2 * images.len());
        for record in images {
            let root = world.store().mount_rootfs(&record, "check").unwrap();
            assert_eq!(fs::read(root.join("etc/kept")).unwrap(), b"new");
            assert_eq!(names(&root.join("data")), ["new"]);
            world.store().unmount_rootfs("check").unwrap();
        }
    }
}

#[test]
fn two_hundred_root_file_systems_at_once() {
    let world = World::new();
    world.load(&docker(&image("m:1"))).unwrap();
    let record = world.store().get("m:1").unwrap();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let (store, record) = (world.store(), &record);
            scope.spawn(move || {
                for at in 0..25 {
                    store
                        .mount_rootfs(record, &format!("t{worker}-{at}"))
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(world.containers().len(), 200);
    for id in world.containers() {
        world.store().unmount_rootfs(&id).unwrap();
    }
    assert_eq!((world.count("containers"), world.count("tmp")), (0, 0));
}
