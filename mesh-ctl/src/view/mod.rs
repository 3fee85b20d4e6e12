//! How objects of the API are put into words: shared by the commands that list them.

pub(crate) mod ports;
pub(crate) mod task_table;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use mesh_api::{engine::Task, moment};
use serde::Serialize;

use crate::flags::image::split;

/// The wire's word for an enum's value; empty for none.
pub(crate) fn word<T: Serialize>(value: Option<T>) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}

/// When a task was made.
pub(crate) fn created_at(task: &Task) -> Option<DateTime<Utc>> {
    moment::read(task.created_at.as_deref())
}

/// A text; empty for none.
pub(crate) fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// A map in the order of its keys.
pub(crate) fn sorted(map: Option<&HashMap<String, String>>) -> Vec<(&str, &str)> {
    let mut pairs: Vec<_> = map
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    pairs.sort_unstable();
    pairs
}

/// Labels as `a=1,b=2`.
pub(crate) fn label_text(labels: Option<&HashMap<String, String>>) -> String {
    let pairs: Vec<String> = sorted(labels)
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join(",")
}

/// An image without the digest that its tag was pinned to.
pub(crate) fn image_name(image: &str) -> &str {
    match image.split_once('@') {
        Some((name, _)) if split(name).1.is_some() => name,
        _ => image,
    }
}
