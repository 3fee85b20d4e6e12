//! What Docker says to a manager that leaves without `--force`. Pure.

const MANAGER: &str =
    "You are attempting to leave the swarm on a node that is participating as a manager. ";
const LAST: &str = "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message.";
const UNKNOWN: &str = "Doing so may lose the consensus of your cluster. ";
const FORCE: &str = "The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. Use `--force` to suppress this message.";

/// The refusal while the manager waits for `swarm unlock`.
pub(super) const LEAVING_LOCKED: &str = "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.";

/// The refusal, by how many managers answer, this one included, and how many do not; `None` if nobody knows.
pub(super) fn leaving_manager(managers: Option<(usize, usize)>) -> String {
    let what = match managers {
        Some((1, 0)) => return format!("{MANAGER}{LAST}"),
        Some((reachable, unreachable)) if reachable.saturating_sub(2) <= unreachable => {
            let (left, all) = (reachable.saturating_sub(1), reachable + unreachable);
            format!(
                "Removing this node leaves {left} managers out of {all}. Without a Raft quorum your swarm will be inaccessible. "
            )
        }
        Some(_) => String::new(),
        None => UNKNOWN.to_owned(),
    };
    format!("{MANAGER}{what}{FORCE}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_docker_words_it() {
        let table = [
            (Some((1, 0)), "Removing the last manager erases"),
            (Some((2, 0)), "leaves 1 managers out of 2. Without"),
            (Some((2, 1)), "leaves 1 managers out of 3. Without"),
            (Some((3, 0)), "as a manager. The only way"),
            (Some((5, 0)), "as a manager. The only way"),
            (Some((4, 1)), "as a manager. The only way"),
            (Some((3, 2)), "leaves 2 managers out of 5. Without"),
            (None, "Doing so may lose"),
        ];
        for (managers, expected) in table {
            let said = leaving_manager(managers);
            assert!(said.contains(expected), "{managers:?}: {said}");
            assert!(said.contains("`--force`"), "{said}");
        }
    }
}
