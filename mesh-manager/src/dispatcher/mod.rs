//! What each node is told: the part of the state that concerns it, as a full assignment and then
//! as deltas, and which node has applied what.

mod assignment;
mod catalog;
mod sessions;

pub(crate) use assignment::Sent;
pub(crate) use catalog::Catalog;
pub(crate) use sessions::{Session, Sessions};

#[cfg(test)]
mod tests;
