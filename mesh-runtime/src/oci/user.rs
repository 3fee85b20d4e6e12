//! Users and groups of a container, looked up in the container's own files.
//!
//! The root file system is untrusted: `/etc/passwd` may be a symbolic link that points outside, so
//! every path is resolved with the container's root as its root.

use std::io::Read;
use std::path::Path;

use crate::error::{Result, RuntimeError};

/// Largest passwd or group file that is read; a hostile image must not fill the agent's memory.
const MAX_DATABASE: u64 = 1 << 20;

/// A user as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// Looks up `user` (`name`, `uid`, `name:group`, `uid:gid`, or empty for root) and the extra
/// `groups` in the root file system `rootfs`.
///
/// # Errors
/// A name that is in neither file, or a number out of range.
pub(crate) fn resolve(rootfs: &Path, user: &str, groups: &[String]) -> Result<User> {
    let passwd = read_inside(rootfs, "etc/passwd");
    let group = read_inside(rootfs, "etc/group");
    lookup(&passwd, &group, user, groups)
}

fn read_inside(rootfs: &Path, path: &str) -> String {
    let open = || -> Option<String> {
        let root = pathrs::Root::open(rootfs).ok()?;
        let file = root
            .resolve(path)
            .ok()?
            .reopen(pathrs::flags::OpenFlags::O_RDONLY | pathrs::flags::OpenFlags::O_NONBLOCK)
            .ok()?;
        let mut text = Vec::new();
        file.take(MAX_DATABASE).read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    };
    open().unwrap_or_default()
}

fn lookup(passwd: &str, group: &str, user: &str, extra: &[String]) -> Result<User> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|g| !g.is_empty())),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.len() >= 6 && (fields[0] == name || fields[2] == name));
    let (login, uid, mut gid, home) = match entry {
        Some(fields) => (
            Some(fields[0]),
            number(fields[2], "user")?,
            number(fields[3], "group")?,
            fields[5].to_owned(),
        ),
        None if name.bytes().all(|b| b.is_ascii_digit()) => {
            (None, number(name, "user")?, 0, "/".to_owned())
        }
        None => return Err(unknown("user", name, "passwd")),
    };
    let mut groups = Vec::new();
    match group_name {
        Some(wanted) => gid = group_id(group, wanted)?,
        // As Docker does: memberships count only when no group was asked for.
        None => {
            for line in group.lines() {
                let fields = line.split(':').collect::<Vec<_>>();
                let member = fields.len() >= 4
                    && login.is_some_and(|login| fields[3].split(',').any(|m| m == login));
                if member {
                    groups.push(number(fields[2], "group")?);
                }
            }
        }
    }
    for wanted in extra {
        groups.push(group_id(group, wanted)?);
    }
    // A file of the primary group must not become inaccessible to a process that lists groups.
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    Ok(User {
        uid,
        gid,
        groups,
        home: if home.is_empty() {
            "/".to_owned()
        } else {
            home
        },
    })
}

fn group_id(group: &str, wanted: &str) -> Result<u32> {
    for line in group.lines() {
        let fields = line.split(':').collect::<Vec<_>>();
        if fields.len() >= 3 && fields[0] == wanted {
            return number(fields[2], "group");
        }
    }
    if wanted.bytes().all(|b| b.is_ascii_digit()) {
        return number(wanted, "group");
    }
    Err(unknown("group", wanted, "group"))
}

fn number(text: &str, what: &str) -> Result<u32> {
    text.parse::<u32>()
        .ok()
        .filter(|id| *id <= i32::MAX as u32)
        .ok_or_else(|| RuntimeError::InvalidSpec {
            reason: format!("{what} id \"{text}\" is out of range 0..=2147483647"),
        })
}

fn unknown(what: &str, name: &str, file: &str) -> RuntimeError {
    RuntimeError::InvalidSpec {
        reason: format!("unable to find {what} {name}: no matching entries in {file} file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:33:\nlog:x:4:web,other\n";

    fn user(text: &str) -> Result<User> {
        lookup(PASSWD, GROUP, text, &[])
    }

    #[test]
    fn names_numbers_and_groups() {
        let web = user("web").unwrap();
        assert_eq!((web.uid, web.gid, web.groups), (33, 33, vec![4, 33]));
        assert_eq!(web.home, "/var/www");
        assert_eq!(user("").unwrap().home, "/root");
        let by_number = user("1000").unwrap();
        assert_eq!((by_number.uid, by_number.gid), (1000, 0));
        let with_group = user("web:log").unwrap();
        assert_eq!((with_group.gid, with_group.groups), (4, vec![4]));
        assert_eq!(user("7:8").unwrap().gid, 8);
        let extra = lookup(PASSWD, GROUP, "7", &["log".into(), "99".into()]).unwrap();
        assert_eq!(extra.groups, [0, 4, 99]);
    }

    #[test]
    fn unknown_names_are_refused() {
        let message = user("nobody").unwrap_err().to_string();
        assert!(message.contains("unable to find user nobody"), "{message}");
        assert!(user("web:nogroup").is_err());
        assert!(user("99999999999").is_err());
    }
}
