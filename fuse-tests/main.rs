//! Tests through a real mount. They need `/dev/fuse` and root, and fail without.

mod dead_mount;
mod demo;
