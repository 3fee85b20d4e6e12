//! JSON as Docker spells it. The engine types follow the API's description, in which a container specification has a
//! `HealthCheck`; Docker itself, and so every client, says `Healthcheck`.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Error, Value};

const DOCKERS: &str = "Healthcheck";
const OURS: &str = "HealthCheck";

/// An object of the engine types, for clients.
///
/// # Errors
/// When it has no JSON.
pub fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    let mut json = serde_json::to_vec(value)?;
    respell(&mut json);
    Ok(json)
}

/// What [`to_vec`] writes, as a value.
///
/// # Errors
/// When it has no JSON.
pub fn to_value<T: Serialize>(value: &T) -> Result<Value, Error> {
    serde_json::from_slice(&to_vec(value)?)
}

/// Gives Docker's name to every such object in JSON that was written from the engine types. In a text its quotation marks
/// would be escaped, and no map of theirs has objects as values.
pub fn respell(json: &mut [u8]) {
    let key = format!("\"{OURS}\":");
    let mut from = 0;
    while let Some(at) = find(&json[from..], &key) {
        let at = from + at;
        from = at + key.len();
        let rest = &json[from..];
        if rest.iter().find(|byte| **byte != b' ') == Some(&b'{') {
            json[at + 1..=at + DOCKERS.len()].copy_from_slice(DOCKERS.as_bytes());
        }
    }
}

/// Reads what a client or [`to_vec`] has written.
///
/// # Errors
/// When it is of another shape.
pub fn from_slice<T: DeserializeOwned>(json: &[u8]) -> Result<T, Error> {
    if find(json, DOCKERS).is_none() {
        return serde_json::from_slice(json);
    }
    let mut value = serde_json::from_slice(json)?;
    adopt(&mut value);
    serde_json::from_value(value)
}

/// Gives the types' name to the health checks of container specifications; configurations of containers have Docker's.
fn adopt(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(adopt),
        Value::Object(map) => {
            if let Some(Value::Object(spec)) = map.get_mut("ContainerSpec")
                && let Some(check) = spec.remove(DOCKERS)
            {
                spec.insert(OURS.to_owned(), check);
            }
            map.values_mut().for_each(adopt);
        }
        _ => {}
    }
}

fn find(json: &[u8], word: &str) -> Option<usize> {
    json.windows(word.len())
        .position(|part| part == word.as_bytes())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::{ContainerConfig, Service};

    #[test]
    fn a_specs_health_check_is_spelled_as_docker_does() {
        let docker = json!({"Spec": {
            "Labels": {"HealthCheck": "Healthcheck", "x": "\"HealthCheck\": {"},
            "TaskTemplate": {"ContainerSpec": {
                "Image": "a", "Healthcheck": {"Test": ["CMD", "HealthCheck"]},
            }},
        }});
        let service: Service = from_slice(docker.to_string().as_bytes()).expect("reads");
        let spec = service.spec.clone().expect("a spec");
        let container = spec.task_template.and_then(|task| task.container_spec);
        assert!(container.is_some_and(|container| container.health_check.is_some()));
        assert_eq!(to_value(&service).expect("writes"), docker);
        let bytes = to_vec(&[service]).expect("writes");
        let value: Value = serde_json::from_slice(&bytes).expect("reads");
        assert_eq!(value, json!([docker]));
    }

    #[test]
    fn nothing_else_is_touched() {
        let config = json!({"Healthcheck": {"Test": ["NONE"]}, "Labels": {"ContainerSpec": "x"}});
        let read: ContainerConfig = from_slice(config.to_string().as_bytes()).expect("reads");
        assert!(read.healthcheck.is_some());
        assert_eq!(to_value(&read).expect("writes"), config);
    }
}
