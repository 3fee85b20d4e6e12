//! Container images: pull, load, verification, storage and overlayfs layers.
