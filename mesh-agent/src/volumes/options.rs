//! The options of the local driver: `type`, `o` and `device`, as in `mount -t type -o o device`. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use nix::mount::MsFlags;
use serde::{Deserialize, Serialize};

/// Options of a volume by name.
pub type Options = BTreeMap<String, String>;

/// What to mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Source {
    /// Device, path or whatever the file system takes.
    pub(super) device: String,
    /// File system.
    pub(super) kind: String,
    /// Flags of `mount(2)`.
    pub(super) flags: u64,
    /// What is the file system's own to understand.
    pub(super) data: String,
}

/// Why options are refused. The texts are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// None that the driver knows.
    #[error("invalid option: {0:?}")]
    Unknown(String),
    /// One that goes with another is not there.
    #[error("missing required option: {0:?}")]
    Missing(&'static str),
    /// It is there and says nothing.
    #[error("missing device in volume options")]
    NoDevice,
    /// A limit of the volume's size, which takes project quotas.
    #[error("quota size requested but no quota support")]
    Quota,
    /// A text that the kernel takes none of.
    #[error("invalid option {0:?}: it holds a NUL")]
    Nul(String),
}

/// Options of which each needs all others.
const TOGETHER: [(&str, &[&str]); 3] = [
    ("device", &["type"]),
    ("o", &["device", "type"]),
    ("type", &["device"]),
];

/// Refuses options that nothing could be mounted by. None at all are fine.
///
/// # Errors
/// The first that is wrong.
pub fn check(options: &Options) -> Result<(), OptionError> {
    for (name, value) in options {
        match name.as_str() {
            "type" | "o" | "device" if value.contains('\0') => {
                return Err(OptionError::Nul(name.clone()));
            }
            "type" | "o" | "device" => {}
            "size" => return Err(OptionError::Quota),
            _ => return Err(OptionError::Unknown(name.clone())),
        }
    }
    for (name, others) in TOGETHER {
        if options.contains_key(name)
            && let Some(missing) = others.iter().find(|other| !options.contains_key(**other))
        {
            return Err(OptionError::Missing(missing));
        }
    }
    match options.get("device") {
        Some(device) if device.is_empty() => Err(OptionError::NoDevice),
        _ => Ok(()),
    }
}

/// What to mount; `None` without options.
pub(super) fn source(options: &Options) -> Option<Source> {
    let device = options.get("device")?.clone();
    let text = |name: &str| options.get(name).cloned().unwrap_or_default();
    let (flags, data) = flags(&text("o"));
    Some(Source {
        device,
        kind: text("type"),
        flags: flags.bits(),
        data,
    })
}

/// Flags, and all else as the file system's data.
fn flags(words: &str) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for word in words.split(',').filter(|word| !word.is_empty()) {
        match flag(word) {
            Some((flag, true)) => flags.insert(flag),
            Some((flag, false)) => flags.remove(flag),
            None => data.push(word),
        }
    }
    (flags, data.join(","))
}

/// The flag that a word of `mount -o` sets or clears.
fn flag(word: &str) -> Option<(MsFlags, bool)> {
    Some(match word {
        "defaults" => (MsFlags::empty(), true),
        "ro" => (MsFlags::MS_RDONLY, true),
        "rw" => (MsFlags::MS_RDONLY, false),
        "nosuid" => (MsFlags::MS_NOSUID, true),
        "suid" => (MsFlags::MS_NOSUID, false),
        "nodev" => (MsFlags::MS_NODEV, true),
        "dev" => (MsFlags::MS_NODEV, false),
        "noexec" => (MsFlags::MS_NOEXEC, true),
        "exec" => (MsFlags::MS_NOEXEC, false),
        "sync" => (MsFlags::MS_SYNCHRONOUS, true),
        "async" => (MsFlags::MS_SYNCHRONOUS, false),
        "dirsync" => (MsFlags::MS_DIRSYNC, true),
        "mand" => (MsFlags::MS_MANDLOCK, true),
        "nomand" => (MsFlags::MS_MANDLOCK, false),
        "noatime" => (MsFlags::MS_NOATIME, true),
        "atime" => (MsFlags::MS_NOATIME, false),
        "nodiratime" => (MsFlags::MS_NODIRATIME, true),
        "diratime" => (MsFlags::MS_NODIRATIME, false),
        "relatime" => (MsFlags::MS_RELATIME, true),
        "norelatime" => (MsFlags::MS_RELATIME, false),
        "strictatime" => (MsFlags::MS_STRICTATIME, true),
        "nostrictatime" => (MsFlags::MS_STRICTATIME, false),
        "bind" => (MsFlags::MS_BIND, true),
        "rbind" => (MsFlags::MS_BIND | MsFlags::MS_REC, true),
        "private" => (MsFlags::MS_PRIVATE, true),
        "rprivate" => (MsFlags::MS_PRIVATE | MsFlags::MS_REC, true),
        "shared" => (MsFlags::MS_SHARED, true),
        "rshared" => (MsFlags::MS_SHARED | MsFlags::MS_REC, true),
        "slave" => (MsFlags::MS_SLAVE, true),
        "rslave" => (MsFlags::MS_SLAVE | MsFlags::MS_REC, true),
        "unbindable" => (MsFlags::MS_UNBINDABLE, true),
        "runbindable" => (MsFlags::MS_UNBINDABLE | MsFlags::MS_REC, true),
        _ => return None,
    })
}

impl Source {
    /// The name of the server that has to be an address, as the kernel resolves none: of NFS in `addr=`, of SMB there or in
    /// the device.
    pub(super) fn server(&self) -> Option<&str> {
        let named = match self.kind.as_str() {
            "nfs" | "nfs4" | "cifs" => self.value("addr"),
            _ => return None,
        };
        let named = match self.kind.as_str() {
            "cifs" => named.or_else(|| {
                let rest = self.device.strip_prefix("//")?;
                rest.split(['/', '\\']).next()
            }),
            _ => named,
        };
        named.filter(|name| !name.is_empty() && name.parse::<IpAddr>().is_err())
    }

    /// The same with the server's address.
    pub(super) fn at(mut self, address: IpAddr) -> Self {
        let words: Vec<_> = self
            .data
            .split(',')
            .filter(|word| !word.is_empty() && !word.starts_with("addr="))
            .map(str::to_owned)
            .chain([format!("addr={address}")])
            .collect();
        self.data = words.join(",");
        self
    }

    fn value(&self, key: &str) -> Option<&str> {
        let mut words = self.data.split(',');
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    /// `mount(2)`'s arguments for an error's text, without a password.
    pub(super) fn shown(&self, at: &str) -> String {
        let mut text = format!("mount {}:{at}", self.device);
        if self.flags != 0 {
            text.push_str(&format!(", flags: {:#x}", self.flags));
        }
        if !self.data.is_empty() {
            let hidden = self.data.split(',').map(|word| {
                let is_secret = word.starts_with("password=") || word.starts_with("pass=");
                match word.split_once('=') {
                    Some((key, _)) if is_secret => format!("{key}=********"),
                    _ => word.to_owned(),
                }
            });
            text.push_str(", data: ");
            text.push_str(&hidden.collect::<Vec<_>>().join(","));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        let owned = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        owned.collect()
    }

    #[test]
    fn what_is_refused() {
        let told = |pairs: &[(&str, &str)]| check(&options(pairs)).map_err(|e| e.to_string());
        let nfs = [
            ("type", "nfs"),
            ("o", "addr=10.0.0.1,rw"),
            ("device", ":/x"),
        ];
        for fine in [&[][..], &nfs, &[("type", "tmpfs"), ("device", "tmpfs")]] {
            assert_eq!(told(fine), Ok(()));
        }
        for (bad, words) in [
            (&[("colour", "red")][..], "invalid option: \"colour\""),
            (&[("type", "nfs")], "missing required option: \"device\""),
            (&[("device", "x")], "missing required option: \"type\""),
            (&[("o", "ro")], "missing required option: \"device\""),
            (
                &[("o", "ro"), ("type", "tmpfs")],
                "missing required option: \"device\"",
            ),
            (
                &[("type", "nfs"), ("device", "")],
                "missing device in volume options",
            ),
            (
                &[("size", "1g")],
                "quota size requested but no quota support",
            ),
        ] {
            assert_eq!(told(bad), Err(words.to_owned()));
        }
    }

    #[test]
    fn words_become_flags_or_data() {
        for (words, expected, data) in [
            ("", MsFlags::empty(), ""),
            (
                "addr=1.2.3.4,ro,nfsvers=4",
                MsFlags::MS_RDONLY,
                "addr=1.2.3.4,nfsvers=4",
            ),
            ("ro,rw,defaults", MsFlags::empty(), ""),
            ("bind", MsFlags::MS_BIND, ""),
            (
                "rbind,nosuid",
                MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_NOSUID,
                "",
            ),
            ("size=100m,uid=1000", MsFlags::empty(), "size=100m,uid=1000"),
        ] {
            assert_eq!(flags(words), (expected, data.to_owned()), "{words}");
        }
    }

    #[test]
    fn servers_become_addresses() {
        let source = |kind: &str, device: &str, o: &str| {
            let all = options(&[("type", kind), ("device", device), ("o", o)]);
            source(&all).expect("options")
        };
        let server = |kind, device, o| source(kind, device, o).server().map(str::to_owned);
        assert_eq!(server("nfs", ":/x", "addr=1.2.3.4"), None);
        assert_eq!(server("nfs", ":/x", "rw"), None);
        assert_eq!(
            server("nfs", ":/x", "rw,addr=store"),
            Some("store".to_owned())
        );
        assert_eq!(
            server("cifs", "//store/x", "username=a"),
            Some("store".to_owned())
        );
        assert_eq!(server("cifs", "//1.2.3.4/x", ""), None);
        assert_eq!(server("tmpfs", "tmpfs", "addr=store"), None);
        let at = source("nfs", ":/x", "soft,addr=store").at("10.0.0.7".parse().expect("address"));
        assert_eq!(at.data, "soft,addr=10.0.0.7");
    }

    #[test]
    fn passwords_are_not_shown() {
        let all = options(&[
            ("type", "cifs"),
            ("device", "//s/x"),
            ("o", "ro,username=a,password=secret"),
        ]);
        let source = source(&all).expect("options");
        assert_eq!(
            source.shown("/v"),
            "mount //s/x:/v, flags: 0x1, data: username=a,password=********"
        );
    }
}
