//! The rules in force: those by which changes are applied, see [`RULES`](crate::RULES).

use super::State;
use crate::command::UNTOLD;
use serde::{Deserialize, Serialize};

/// Rules that every manager knows. Only ever more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct InForce(u32);

impl Default for InForce {
    /// A state that does not say is of a time when managers did not tell what they know.
    fn default() -> Self {
        Self(UNTOLD)
    }
}

impl InForce {
    /// Whether managers that do not tell their rules can go by them.
    pub(super) fn is_untold(&self) -> bool {
        self.0 == UNTOLD
    }
}

impl State {
    /// The rules in force.
    pub fn rules(&self) -> u32 {
        self.rules.0
    }

    /// These are in force from now on, unless later ones are.
    pub(crate) fn go_by(&mut self, rules: u32) {
        self.rules.0 = self.rules.0.max(rules);
    }
}
