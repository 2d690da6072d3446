//! The TOML file.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{ConfigError, OneOrMany, Source, suggest};

/// Every key, which is every long flag that a file may set.
pub const KEYS: [&str; 16] = [
    "join",
    "token",
    "volume",
    "state",
    "listen",
    "tls-cert",
    "tls-key",
    "plain-http",
    "name",
    "options",
    "read-only",
    "keep",
    "cache-size",
    "copies",
    "log",
    "log-format",
];

pub(super) fn read(path: &Path) -> Result<Source, ConfigError> {
    let io = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let syntax = |why: toml::de::Error| ConfigError::Syntax {
        path: path.to_owned(),
        why: why.to_string().trim_end().to_owned(),
    };
    let text = std::fs::read_to_string(path).map_err(io)?;
    let table: toml::Table = text.parse().map_err(syntax)?;
    if let Some(key) = table.keys().find(|k| !KEYS.contains(&k.as_str())) {
        return Err(ConfigError::UnknownKey {
            path: path.to_owned(),
            key: key.clone(),
            nearest: suggest::nearest(key, &KEYS),
        });
    }
    // From the text again: its errors show the line.
    let source: Source = toml::from_str(&text).map_err(syntax)?;
    if holds_secret(&source) && std::fs::metadata(path).map_err(io)?.mode() & 0o077 != 0 {
        return Err(ConfigError::OpenSecret {
            path: path.to_owned(),
        });
    }
    Ok(source)
}

/// Whether who reads this could join the cell with it.
fn holds_secret(source: &Source) -> bool {
    let is_ticket = |j: &str| j.starts_with("cellfs1");
    let ticket = match &source.join {
        None => false,
        Some(OneOrMany::One(j)) => is_ticket(j),
        Some(OneOrMany::Many(all)) => all.iter().any(|j| is_ticket(j)),
    };
    source.token.is_some() || ticket
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_known_to_the_parser() {
        for key in KEYS {
            let text = format!("{key} = {{}}");
            let why = toml::from_str::<Source>(&text).expect_err("no key is a table");
            assert!(!why.to_string().contains("unknown field"), "{key}: {why}");
        }
    }
}
