//! Reading image archives: OCI layouts and `docker save` output.
