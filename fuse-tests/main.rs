//! Tests through a real mount.

mod dead_mount;
