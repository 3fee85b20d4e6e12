//! How a service's traffic is spread, where its user says so by labels: Swarm's specs have no field for it.

use std::collections::HashMap;

/// Label: `client-ip` or `client-ip:SECONDS`, what one client asks goes to one task.
pub(crate) const AFFINITY: &str = "mesh.affinity";
/// Label: `local`, a published port is answered by the asked node's own tasks only; `cluster`, by all.
pub(crate) const POLICY: &str = "mesh.policy";
/// Label: `dsr`, replies go straight from the task's node to the client where the network takes that; `symmetric`, through the
/// node that was asked.
pub(crate) const RETURN: &str = "mesh.return";
/// Longest time that a client keeps its task after a change of the tasks: the packet path keeps the row before the
/// change for as long.
const MOST_SECONDS: u32 = 3600;

/// What the labels of a service say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Traffic {
    /// What one client asks goes to one task; so long after a change of the tasks too, while that task lives.
    /// Seconds; zero without affinity.
    pub(crate) affinity_seconds: u32,
    /// Published ports are answered by the asked node's own tasks only.
    pub(crate) local_only: bool,
    /// Replies to clients of published ports need not go back through the node that was asked.
    pub(crate) direct_return: bool,
}

impl Traffic {
    /// From a service's labels.
    ///
    /// # Errors
    /// With the label, its value and what it may be.
    pub(crate) fn of(labels: Option<&HashMap<String, String>>) -> Result<Self, String> {
        let label = |name| labels.and_then(|all| all.get(name)).map(String::as_str);
        let affinity_seconds = match label(AFFINITY) {
            None => 0,
            Some("client-ip") => MOST_SECONDS,
            Some(text) => text
                .strip_prefix("client-ip:")
                .and_then(|seconds| seconds.parse().ok())
                .filter(|seconds| (1..=MOST_SECONDS).contains(seconds))
                .ok_or_else(|| {
                    format!(
                        "label {AFFINITY}={text} is invalid: expected client-ip or \
                         client-ip:SECONDS, with 1 to {MOST_SECONDS} seconds"
                    )
                })?,
        };
        let local_only = match label(POLICY) {
            None | Some("cluster") => false,
            Some("local") => true,
            Some(text) => {
                return Err(format!(
                    "label {POLICY}={text} is invalid: expected local or cluster"
                ));
            }
        };
        let direct_return = match label(RETURN) {
            None | Some("symmetric") => false,
            Some("dsr") => true,
            Some(text) => {
                return Err(format!(
                    "label {RETURN}={text} is invalid: expected dsr or symmetric"
                ));
            }
        };
        Ok(Self {
            affinity_seconds,
            local_only,
            direct_return,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(labels: &[(&str, &str)]) -> Result<Traffic, String> {
        let labels = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Traffic::of(Some(&labels))
    }

    #[test]
    fn labels_say_how_traffic_is_spread() {
        let traffic = |affinity_seconds, local_only| {
            Ok(Traffic {
                affinity_seconds,
                local_only,
                direct_return: false,
            })
        };
        assert_eq!(Traffic::of(None), traffic(0, false));
        assert_eq!(of(&[("com.example", "client-ip")]), traffic(0, false));
        assert_eq!(of(&[(AFFINITY, "client-ip")]), traffic(3600, false));
        assert_eq!(
            of(&[(AFFINITY, "client-ip:60"), (POLICY, "local")]),
            traffic(60, true)
        );
        assert_eq!(of(&[(POLICY, "cluster")]), traffic(0, false));
        for bad in ["", "client-ip:", "client-ip:0", "client-ip:3601", "cookie"] {
            let error = of(&[(AFFINITY, bad)]).expect_err(bad);
            assert!(error.contains("client-ip:SECONDS"), "{error}");
        }
        let error = of(&[(POLICY, "Local")]).expect_err("no such policy");
        assert!(error.contains("mesh.policy=Local"), "{error}");
        let direct = |mode| of(&[(RETURN, mode)]).map(|traffic| traffic.direct_return);
        assert_eq!(direct("dsr"), Ok(true));
        assert_eq!(direct("symmetric"), Ok(false));
        let error = direct("direct").expect_err("no such return");
        assert!(error.contains("expected dsr or symmetric"), "{error}");
    }
}
