//! Labels of the mesh's own that it does not know. They are refused here, as the manager's log may hold services that have some.

use std::collections::HashMap;

use mesh_api::engine::ServiceSpec;
use mesh_manager::SERVICE_LABELS;

use crate::api::errors::ApiError;

/// What the names of the mesh's own labels begin with.
const OURS: &str = "mesh.";

/// Refuses labels of the mesh's own that mean nothing, but for those that the service has had before.
///
/// # Errors
/// Names the first, and those that there are.
pub(super) fn check(old: Option<&ServiceSpec>, spec: &ServiceSpec) -> Result<(), ApiError> {
    let had = |name: &String| {
        let had = old.and_then(|old| old.labels.as_ref());
        had.is_some_and(|had| had.contains_key(name))
    };
    let names = spec.labels.iter().flat_map(HashMap::keys);
    let unknown = names.filter(|name| {
        name.starts_with(OURS) && !SERVICE_LABELS.contains(&name.as_str()) && !had(name)
    });
    match unknown.min() {
        None => Ok(()),
        Some(name) => Err(ApiError::bad_request(format!(
            "label {name} is unknown: of those that begin with {OURS} there are {}",
            SERVICE_LABELS.join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(labels: &[&str]) -> ServiceSpec {
        let labels = labels
            .iter()
            .map(|name| ((*name).to_owned(), String::new()));
        ServiceSpec {
            labels: Some(labels.collect()),
            ..Default::default()
        }
    }

    #[test]
    fn unknown_ones_are_not_given_anew() {
        let others = ["a", "mesh", "meshed.b", "com.example.mesh.c"];
        assert_eq!(check(None, &ServiceSpec::default()), Ok(()));
        assert_eq!(check(None, &spec(&SERVICE_LABELS)), Ok(()));
        assert_eq!(check(None, &spec(&others)), Ok(()));
        let bad = spec(&["mesh.policy", "mesh.b", "mesh.afinity"]);
        let told = check(None, &bad).unwrap_err();
        assert_eq!(
            told.message(),
            "label mesh.afinity is unknown: of those that begin with mesh. there are mesh.affinity, mesh.policy, \
             mesh.progress-deadline, mesh.rebalance, mesh.return"
        );
        let old = spec(&["mesh.afinity"]);
        let told = check(Some(&old), &bad).unwrap_err();
        assert!(told.message().starts_with("label mesh.b is unknown"));
        assert_eq!(check(Some(&bad), &bad), Ok(()));
        assert_eq!(check(Some(&bad), &spec(&["mesh.b"])), Ok(()));
    }
}
