//! Layers as they should be and as an attacker would make them. Runs without root: ownership and
//! devices are tested in `tests/root_store.rs`.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use tar::EntryType;
use tempfile::TempDir;

use super::*;

/// One raw entry: names go into the header unchecked, as an attacker's would.
struct Raw<'a> {
    kind: EntryType,
    name: &'a str,
    link: &'a str,
    content: &'a [u8],
}

const fn file<'a>(name: &'a str, content: &'a [u8]) -> Raw<'a> {
    Raw {
        kind: EntryType::Regular,
        name,
        link: "",
        content,
    }
}

const fn dir(name: &str) -> Raw<'_> {
    Raw {
        kind: EntryType::Directory,
        name,
        link: "",
        content: b"",
    }
}

const fn link<'a>(kind: EntryType, name: &'a str, link: &'a str) -> Raw<'a> {
    Raw {
        kind,
        name,
        link,
        content: b"",
    }
}

fn tar_of(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(0o750);
        // Not `set_path`: it would refuse the names that are tested here.
        let bytes = header.as_mut_bytes();
        bytes[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        bytes[157..157 + entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_uid(u64::from(nix::unistd::geteuid().as_raw()));
        header.set_gid(u64::from(nix::unistd::getegid().as_raw()));
        header.set_mtime(1_000_000_000);
        header.set_size(entry.content.len() as u64);
        header.set_cksum();
        tar.append(&header, entry.content).unwrap();
    }
    tar.into_inner().unwrap()
}

struct World {
    _top: TempDir,
    dest: PathBuf,
    outside: PathBuf,
}

fn world() -> World {
    let top = tempfile::tempdir().unwrap();
    let (dest, outside) = (top.path().join("dest"), top.path().join("outside"));
    fs::create_dir(&dest).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "untouched").unwrap();
    World {
        _top: top,
        dest,
        outside,
    }
}

impl World {
    fn unpack(&self, entries: &[Raw<'_>]) -> Result<Unpacked> {
        unpack(&tar_of(entries)[..], &self.dest, &[])
    }

    fn assert_outside_untouched(&self) {
        let names: Vec<_> = fs::read_dir(&self.outside).unwrap().collect();
        assert_eq!(names.len(), 1, "something was made outside: {names:?}");
        let secret = self.outside.join("secret");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "untouched");
        assert_eq!(
            fs::metadata(&secret).unwrap().nlink(),
            1,
            "a hard link leads outside"
        );
    }
}

#[test]
fn a_plain_layer_keeps_content_modes_and_times() {
    let w = world();
    let entries = [
        dir("./"),
        dir("bin/"),
        file("bin/sh", b"#!"),
        link(EntryType::Symlink, "bin/ash", "sh"),
        link(EntryType::Link, "bin/bash", "bin/sh"),
        file("etc/made/up", b"implied"),
    ];
    let done = w.unpack(&entries).unwrap();
    assert_eq!(done.diff_id, Digest::of(&tar_of(&entries)));
    assert_eq!(done.size, 2 + 7);
    let sh = fs::metadata(w.dest.join("bin/sh")).unwrap();
    assert_eq!(
        (sh.mode() & 0o7777, sh.mtime(), sh.nlink()),
        (0o750, 1_000_000_000, 2)
    );
    assert_eq!(
        fs::metadata(w.dest.join("bin")).unwrap().mtime(),
        1_000_000_000
    );
    assert_eq!(
        fs::read_link(w.dest.join("bin/ash")).unwrap(),
        Path::new("sh")
    );
    let implied = fs::metadata(w.dest.join("etc/made")).unwrap();
    assert_eq!(implied.mode() & 0o7777, 0o755);
}

#[test]
fn compressed_layers_have_the_diff_id_of_the_plain_one() {
    let tar = tar_of(&[file("a", b"x")]);
    let zstd = zstd::encode_all(&tar[..], 1).unwrap();
    let w = world();
    assert_eq!(
        unpack(&zstd[..], &w.dest, &[]).unwrap().diff_id,
        Digest::of(&tar)
    );
}

#[test]
fn implied_directories_look_as_in_the_layer_below() {
    let (below, above) = (world(), world());
    below.unpack(&[dir("tmp/")]).unwrap();
    fs::set_permissions(below.dest.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    let tar = tar_of(&[file("tmp/x", b"")]);
    unpack(&tar[..], &above.dest, std::slice::from_ref(&below.dest)).unwrap();
    assert_eq!(
        fs::metadata(above.dest.join("tmp")).unwrap().mode() & 0o7777,
        0o1777
    );
}

#[test]
fn names_that_climb_are_refused() {
    for name in ["../outside/evil", "a/../../outside/evil", "..", "a/.."] {
        let w = world();
        let error = w.unpack(&[dir("a/"), file(name, b"x")]).err().expect(name);
        assert!(
            matches!(error, ImageError::UnsafeEntry { .. }),
            "{name}: {error}"
        );
        w.assert_outside_untouched();
    }
}

#[test]
fn absolute_names_stay_inside() {
    let w = world();
    let name = format!("{}/evil", w.outside.display());
    w.unpack(&[file(&name, b"x")]).unwrap();
    assert!(w.dest.join(name.trim_start_matches('/')).exists());
    w.assert_outside_untouched();
}

#[test]
fn links_never_lead_a_write_outside() {
    for target in [
        "OUT",
        "../outside",
        "/../../outside",
        "../../../../../../../OUT",
    ] {
        let w = world();
        let outside = w.outside.display().to_string();
        let target = target.replace("OUT", &outside);
        let outcome = w.unpack(&[
            link(EntryType::Symlink, "way", &target),
            file("way/evil", b"x"),
            file("way/secret", b"changed"),
            dir("way/.wh..wh..opq"),
        ]);
        w.assert_outside_untouched();
        drop(outcome);
    }
}

#[test]
fn the_last_part_of_a_name_is_replaced_not_followed() {
    let w = world();
    let secret = w.outside.join("secret").display().to_string();
    w.unpack(&[link(EntryType::Symlink, "x", &secret), file("x", b"mine")])
        .unwrap();
    assert_eq!(fs::read(w.dest.join("x")).unwrap(), b"mine");
    w.assert_outside_untouched();

    let w = world();
    let out = w.outside.display().to_string();
    w.unpack(&[
        link(EntryType::Symlink, "d", &out),
        dir("d/"),
        file("d/evil", b"x"),
    ])
    .unwrap();
    assert!(w.dest.join("d").symlink_metadata().unwrap().is_dir());
    w.assert_outside_untouched();
}

#[test]
fn hard_links_reach_only_what_is_inside() {
    let w = world();
    let secret = w.outside.join("secret").display().to_string();
    for target in [secret.as_str(), "../outside/secret", "missing", "/"] {
        let error = w
            .unpack(&[link(EntryType::Link, "h", target)])
            .err()
            .expect(target);
        assert!(
            matches!(error, ImageError::UnsafeEntry { .. }),
            "{target}: {error}"
        );
    }
    let out = w.outside.display().to_string();
    let through = [
        link(EntryType::Symlink, "way", &out),
        link(EntryType::Link, "h", "way/secret"),
    ];
    assert!(w.unpack(&through).is_err());
    w.assert_outside_untouched();
}

#[test]
fn a_hard_link_to_a_symbolic_link_links_the_link() {
    let w = world();
    let secret = w.outside.join("secret").display().to_string();
    w.unpack(&[
        link(EntryType::Symlink, "s", &secret),
        link(EntryType::Link, "h", "s"),
        file("h", b"mine"),
    ])
    .unwrap();
    w.assert_outside_untouched();
    assert!(w.dest.join("s").symlink_metadata().unwrap().is_symlink());
}

#[test]
fn loops_and_files_as_directories_are_errors() {
    let looped = [link(EntryType::Symlink, "l", "l"), file("l/x", b"")];
    let under_file = [file("f", b""), file("f/x", b"")];
    for entries in [&looped[..], &under_file] {
        let error = world().unpack(entries).err().unwrap();
        assert!(matches!(error, ImageError::UnsafeEntry { .. }), "{error}");
    }
}

#[test]
fn whiteouts_become_overlayfs_whiteouts() {
    let w = world();
    w.unpack(&[
        file("a/.wh.gone", b""),
        file("kept", b"x"),
        file(".wh.kept", b""),
        file("a/.wh..wh.plnk", b""),
    ])
    .unwrap();
    let gone = fs::symlink_metadata(w.dest.join("a/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(fs::read(w.dest.join("kept")).unwrap(), b"x");
    assert_eq!(fs::read_dir(w.dest.join("a")).unwrap().count(), 1);
    for bad in [".wh.", ".wh..", ".wh..."] {
        assert!(world().unpack(&[file(bad, b"")]).is_err(), "{bad}");
    }
}

#[test]
fn broken_tars_are_errors_not_panics() {
    let good = tar_of(&[file("a", &[7; 5000]), dir("d/")]);
    let w = world();
    assert!(unpack(&good[..2000], &w.dest, &[]).is_err(), "truncated");
    let mut seed = 7u32;
    for _ in 0..200 {
        let mut bad = good.clone();
        for _ in 0..8 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = seed as usize % 1024;
            bad[at] = (seed >> 24) as u8;
        }
        let w = world();
        drop(unpack(&bad[..], &w.dest, &[]));
        w.assert_outside_untouched();
    }
}

#[test]
fn zeros_of_a_sparse_file_take_no_space() {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_path("huge").unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.realsize.copy_from_slice(b"00400000000\0");
    gnu.sparse[0].offset.copy_from_slice(b"00400000000\0");
    gnu.sparse[0].numbytes.copy_from_slice(b"00000000000\0");
    header.set_cksum();
    let mut tar = header.as_bytes().to_vec();
    tar.extend_from_slice(&[0; 1024]);
    let w = world();
    assert_eq!(unpack(&tar[..], &w.dest, &[]).unwrap().size, 64 << 20);
    assert!(fs::metadata(w.dest.join("huge")).unwrap().blocks() < 100);
}
