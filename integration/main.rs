//! Tests without a kernel mount.
