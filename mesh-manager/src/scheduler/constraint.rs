//! Placement constraints: `key==value` and `key!=value`.

use crate::state::Node;
use ipnetwork::IpNetwork;
use std::net::IpAddr;

/// A constraint that does not parse. The texts are Swarm's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// Neither operator is there.
    #[error("constraint expected one operator from ==, !=")]
    Operator,
    /// The left side is not a key.
    #[error("key '{0}' is invalid")]
    Key(String),
    /// The right side is not a value.
    #[error("value '{0}' is invalid")]
    Value(String),
}

/// One parsed constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    key: String,
    equal: bool,
    value: String,
}

impl Constraint {
    /// Parses `key==value` or `key!=value`; blanks around both sides do not count.
    ///
    /// # Errors
    /// When it is none, with Swarm's words.
    pub fn parse(text: &str) -> Result<Self, ConstraintError> {
        let (key, equal, value) = match (text.find("=="), text.find("!=")) {
            (Some(at), None) => (&text[..at], true, &text[at + 2..]),
            (None, Some(at)) => (&text[..at], false, &text[at + 2..]),
            (Some(eq), Some(ne)) if eq < ne => (&text[..eq], true, &text[eq + 2..]),
            (Some(_), Some(ne)) => (&text[..ne], false, &text[ne + 2..]),
            (None, None) => return Err(ConstraintError::Operator),
        };
        let (key, value) = (key.trim(), value.trim());
        let key_start = |c: char| c.is_ascii_alphabetic() || c == '_';
        let key_char = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if key.len() < 2 || !key.starts_with(key_start) || !key.chars().all(key_char) {
            return Err(ConstraintError::Key(key.to_owned()));
        }
        let value_char = |c: char| c.is_ascii_alphanumeric() || ":-_ .*()?+[]\\^$|/".contains(c);
        if value.is_empty() || !value.chars().all(value_char) {
            return Err(ConstraintError::Value(value.to_owned()));
        }
        Ok(Self {
            key: key.to_owned(),
            equal,
            value: value.to_owned(),
        })
    }

    /// Whether a node meets it. Unknown keys are met by no node, whatever the operator.
    pub fn matches(&self, node: &Node) -> bool {
        let key = self.key.to_ascii_lowercase();
        let report = &node.description;
        let actual = match key.as_str() {
            "node.id" => node.id.clone(),
            "node.hostname" => report.hostname.clone(),
            "node.role" => node.role.to_string(),
            "node.platform.os" => report.os.clone(),
            "node.platform.arch" => report.architecture.clone(),
            "node.ip" => return self.matches_address(&report.address),
            _ => match label(node, &self.key) {
                Some(value) => value,
                None => return false,
            },
        };
        actual.eq_ignore_ascii_case(&self.value) == self.equal
    }

    fn matches_address(&self, address: &str) -> bool {
        let Ok(address) = address.parse::<IpAddr>() else {
            return false;
        };
        let is_inside = match (
            self.value.parse::<IpAddr>(),
            self.value.parse::<IpNetwork>(),
        ) {
            (Ok(ip), _) => ip == address,
            (_, Ok(network)) => network.contains(address),
            _ => return false,
        };
        is_inside == self.equal
    }
}

/// The value of `node.labels.x` or `engine.labels.x`; an absent label is the empty string, another
/// key is `None`.
pub(super) fn label(node: &Node, key: &str) -> Option<String> {
    let after = |prefix: &str| {
        key.get(..prefix.len())
            .filter(|head| head.eq_ignore_ascii_case(prefix))
            .map(|head| &key[head.len()..])
    };
    if let Some(name) = after("node.labels.") {
        let labels = node.spec.labels.as_ref();
        return Some(
            labels
                .and_then(|l| l.get(name))
                .cloned()
                .unwrap_or_default(),
        );
    }
    let name = after("engine.labels.")?;
    Some(
        node.description
            .engine_labels
            .get(name)
            .cloned()
            .unwrap_or_default(),
    )
}
