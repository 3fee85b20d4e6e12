//! A service with what the engine types leave out of it.

use serde::{Deserialize, Serialize};

use crate::engine;

/// A service as the API shows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ShownService {
    /// All else.
    #[serde(flatten)]
    pub service: engine::Service,
    /// The spec before the last update, to which `rollback` goes back.
    #[serde(
        rename = "PreviousSpec",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub previous_spec: Option<engine::ServiceSpec>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_fields_are_side_by_side() {
        let told = json!({"ID": "x", "Spec": {"Name": "web"}, "PreviousSpec": {"Name": "web"}});
        let read: ShownService = serde_json::from_value(told.clone()).expect("a service");
        assert_eq!(read.service.id.as_deref(), Some("x"));
        assert_eq!(serde_json::to_value(&read).expect("json"), told);
        let first: ShownService = serde_json::from_value(json!({"ID": "x"})).expect("a service");
        assert_eq!(first.previous_spec, None);
    }
}
