//! `--cap-add` and `--cap-drop`: changes of what a template adds to the usual capabilities and drops of them.

use std::collections::BTreeSet;

/// Stands for every capability.
const ALL: &str = "ALL";
/// Forgets what was added or dropped before.
const RESET: &str = "RESET";

/// Capabilities that a template adds and drops.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub(crate) added: BTreeSet<String>,
    pub(crate) dropped: BTreeSet<String>,
}

impl Capabilities {
    /// Of the lists of a template.
    pub(crate) fn of(added: &[String], dropped: &[String]) -> Self {
        Self {
            added: normal(added),
            dropped: normal(dropped),
        }
    }

    /// One that was dropped and is added, or the other way round, is as it usually is again; what is both added and dropped at
    /// a time is added.
    pub(crate) fn change(mut self, add: &[String], drop: &[String]) -> Self {
        let (mut add, mut drop) = (normal(add), normal(drop));
        if add.remove(RESET) {
            self.added.clear();
        }
        if drop.remove(RESET) {
            self.dropped.clear();
        }
        drop.retain(|name| !add.contains(name));
        let (were_added, were_dropped) = (self.added.clone(), self.dropped.clone());
        for name in drop {
            self.added.remove(&name);
            if !were_added.contains(&name) {
                self.dropped.insert(name);
            }
        }
        for name in add {
            self.dropped.remove(&name);
            if !were_dropped.contains(&name) {
                self.added.insert(name);
            }
        }
        for names in [&mut self.added, &mut self.dropped] {
            if names.contains(ALL) {
                names.retain(|name| name == ALL);
            }
        }
        self
    }
}

/// `net_admin`, `NET_ADMIN` and `CAP_NET_ADMIN` are one.
fn normal(names: &[String]) -> BTreeSet<String> {
    let name = |name: &String| {
        let name = name.trim().to_uppercase();
        match name.as_str() {
            ALL | RESET => name,
            _ if name.starts_with("CAP_") => name,
            _ => format!("CAP_{name}"),
        }
    };
    names.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &str) -> Vec<String> {
        words.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn capabilities_are_added_dropped_and_forgotten() {
        for (added, dropped, add, drop, then_added, then_dropped) in [
            ("", "", "net_admin", "", "CAP_NET_ADMIN", ""),
            ("", "", "CAP_NET_ADMIN", "NET_ADMIN", "CAP_NET_ADMIN", ""),
            ("", "CAP_CHOWN", "chown", "", "", ""),
            ("CAP_SYS_TIME", "", "", "sys_time", "", ""),
            ("", "", "ALL sys_time", "chown", "ALL", "CAP_CHOWN"),
            ("CAP_SYS_TIME", "CAP_CHOWN", "RESET", "", "", "CAP_CHOWN"),
            (
                "CAP_SYS_TIME",
                "CAP_CHOWN",
                "",
                "RESET ALL",
                "CAP_SYS_TIME",
                "ALL",
            ),
        ] {
            let before = Capabilities::of(&list(added), &list(dropped));
            assert_eq!(
                before.change(&list(add), &list(drop)),
                Capabilities::of(&list(then_added), &list(then_dropped)),
                "+{add} -{drop} on +{added} -{dropped}"
            );
        }
    }
}
