//! Unpacking layers.
