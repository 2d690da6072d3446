//! How commands talk to the node of a state directory, and how the node owns it.
//!
//! A node holds `<state>/lock` for its life and answers on `<state>/control.sock` (mode
//! 0600): one JSON request a line, one JSON answer a line, each with the protocol's version; bytes
//! of files between them as [`flow`] says.
//! [`node::Node`] is what the node implements; [`server`] serves it; [`client`] is what
//! commands use, without a runtime; [`readiness`] is how a node that starts tells its
//! starter how it goes.
//!
//! Invariant: lines and connections are bounded; foreign bytes give an error answer, never
//! a panic. The server runs on the caller's tokio runtime; the client blocks its thread.

pub mod client;
pub mod failure;
pub mod flow;
pub mod lock;
pub mod node;
pub mod readiness;
pub mod server;
pub(crate) mod socket;
pub mod wire;

/// Version of the request and answer lines.
pub const PROTOCOL_VERSION: u32 = 1;
/// Longest request or answer, in bytes.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// Most connections served at once; more wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 64;
/// Name of the socket in a state directory.
pub const SOCKET_NAME: &str = "control.sock";
