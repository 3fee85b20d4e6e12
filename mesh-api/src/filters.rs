//! The `filters` argument of list calls: `{"key":{"value":true}}`, or the older
//! `{"key":["value"]}`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// Filters by key; the values of one key are alternatives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

/// Why filters are refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FilterError {
    /// Not JSON of either shape.
    #[error("invalid filters: {0}")]
    Malformed(String),
    /// A key that the call does not know.
    #[error("invalid filter '{0}'")]
    UnknownKey(String),
    /// A value the key cannot take.
    #[error("invalid filter '{key}={value}'")]
    BadValue {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    Map(BTreeMap<String, bool>),
    List(BTreeSet<String>),
}

impl Filters {
    /// No filters: everything matches.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the query argument. An empty text is no filters.
    ///
    /// # Errors
    /// [`FilterError::Malformed`] when the text is of neither shape.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let read: BTreeMap<String, Values> = serde_json::from_str(text)
            .map_err(|error| FilterError::Malformed(error.to_string()))?;
        Ok(Self(
            read.into_iter()
                .map(|(key, values)| {
                    let values = match values {
                        Values::Map(map) => map
                            .into_iter()
                            .filter(|(_, on)| *on)
                            .map(|(value, _)| value)
                            .collect(),
                        Values::List(list) => list,
                    };
                    (key, values)
                })
                .collect(),
        ))
    }

    /// Adds a value to a key.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.entry(key.into()).or_default().insert(value.into());
        self
    }

    /// Adds `key=value` as typed on a command line.
    ///
    /// # Errors
    /// [`FilterError::Malformed`] without an equals sign.
    pub fn add_argument(&mut self, argument: &str) -> Result<(), FilterError> {
        let (key, value) = argument.split_once('=').ok_or_else(|| {
            FilterError::Malformed(format!("'{argument}' has no value: write it as key=value"))
        })?;
        let key = key.trim().to_ascii_lowercase();
        let values = self.0.entry(key).or_default();
        values.insert(value.trim().to_owned());
        Ok(())
    }

    /// The query argument, or nothing when there are no filters.
    pub fn to_query(&self) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let shape: BTreeMap<&str, BTreeMap<&str, bool>> = self
            .0
            .iter()
            .map(|(key, values)| {
                (
                    key.as_str(),
                    values.iter().map(|value| (value.as_str(), true)).collect(),
                )
            })
            .collect();
        Some(serde_json::to_string(&shape).expect("maps of text are JSON"))
    }

    /// Refuses every key that is not in `known`.
    ///
    /// # Errors
    /// [`FilterError::UnknownKey`] with the first such key.
    pub fn validate(&self, known: &[&str]) -> Result<(), FilterError> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(FilterError::UnknownKey(key.clone())),
            None => Ok(()),
        }
    }

    /// The values of a key.
    pub fn get(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// Has a key ask for `to` in the place of `from`; false if it does not ask for that.
    pub fn replace(&mut self, key: &str, from: &str, to: &str) -> bool {
        let values = self.0.get_mut(key).filter(|values| values.contains(from));
        let Some(values) = values else { return false };
        values.remove(from);
        values.insert(to.to_owned());
        true
    }

    /// Whether the key is there.
    pub fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Whether one of the key's values is exactly `text`; true without the key.
    pub fn exact(&self, key: &str, text: &str) -> bool {
        self.matches(key, |value| value == text)
    }

    /// Whether `text` starts with one of the key's values; true without the key.
    pub fn prefix(&self, key: &str, text: &str) -> bool {
        self.matches(key, |value| text.starts_with(value))
    }

    /// Whether `text` contains one of the key's values; true without the key.
    pub fn substring(&self, key: &str, text: &str) -> bool {
        self.matches(key, |value| text.contains(value))
    }

    /// Whether one of the key's values satisfies `test`; true without the key.
    pub fn matches(&self, key: &str, test: impl FnMut(&str) -> bool) -> bool {
        !self.contains(key) || self.get(key).any(test)
    }

    /// Whether `labels` have every `name` or `name=value` asked for by the key.
    pub fn labels<'a>(&self, key: &str, find: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.get(key).all(|wanted| match wanted.split_once('=') {
            Some((name, value)) => find(name) == Some(value),
            None => find(wanted).is_some(),
        })
    }

    /// A boolean key: `None` without it.
    ///
    /// # Errors
    /// [`FilterError::BadValue`] for anything but true, 1, false and 0.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, FilterError> {
        let mut answer = None;
        for value in self.get(key) {
            let read = match value {
                "true" | "1" => true,
                "false" | "0" => false,
                _ => {
                    return Err(FilterError::BadValue {
                        key: key.to_owned(),
                        value: value.to_owned(),
                    });
                }
            };
            answer = Some(read);
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_are_read() {
        let map = Filters::parse(r#"{"name":{"a":true,"b":true,"c":false}}"#).expect("map");
        let list = Filters::parse(r#"{"name":["a","b"]}"#).expect("list");
        assert_eq!(map, list);
        assert_eq!(map.get("name").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(
            Filters::parse(&map.to_query().expect("some")).expect("own"),
            map
        );
    }

    #[test]
    fn unknown_keys_are_named() {
        let filters = Filters::new().with("color", "red");
        assert_eq!(
            filters
                .validate(&["id", "name"])
                .expect_err("unknown")
                .to_string(),
            "invalid filter 'color'"
        );
    }

    #[test]
    fn labels_all_have_to_match() {
        let filters = Filters::new().with("label", "a=1").with("label", "b");
        let labels = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
        };
        assert!(filters.labels("label", labels(&[("a", "1"), ("b", "x")])));
        assert!(!filters.labels("label", labels(&[("a", "2"), ("b", "x")])));
        assert!(!filters.labels("label", labels(&[("a", "1")])));
    }

    #[test]
    fn garbage_is_refused() {
        assert!(Filters::parse("[]").is_err());
        assert!(Filters::parse("{").is_err());
        assert!(Filters::new().add_argument("name").is_err());
    }
}
