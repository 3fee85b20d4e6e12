//! Makes image archives from files in memory: what the project's own test images are made with.
//! Not a builder of Dockerfiles.
