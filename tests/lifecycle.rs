//! The life of a mount.
