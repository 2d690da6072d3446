//! Log lines of a node: to standard error, which in the background is `<state>/log`.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Options};
use crate::control::failure::{Answer, Failure};

/// Starts logging for this process.
pub(super) fn start(options: &Options) -> Answer<()> {
    let filter = EnvFilter::try_new(&options.log).map_err(|e| {
        Failure::usage(format!("--log {}: {e}", options.log))
            .hint("for example: --log debug, or --log warn,cellfs=debug")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // It would complain of a full disk to the same file, and end the thread if that fails.
        .log_internal_errors(false)
        .with_ansi(false);
    let started = match options.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|e| Failure::bug(format!("logging was started twice: {e}")))
}
