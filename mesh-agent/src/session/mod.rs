//! The stream to a manager, and what it brings.

pub mod assignment;
