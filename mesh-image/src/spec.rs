//! The JSON documents of the OCI image specification and of Docker's archives, as far as needed.
