//! Tasks on a node: the per-task shim, containers, stdio, exit status and exec.
