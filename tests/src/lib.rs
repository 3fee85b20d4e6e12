//! Multi-node tests: a rig that makes nodes of network namespaces, and the scenarios.
