//! The cluster's identity: root CA, join tokens, node certificates, TLS configurations and ids.
