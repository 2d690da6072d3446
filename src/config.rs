//! From flags, environment and file to checked options: default < file < environment < flag.
//!
//! The keys of the TOML file are the long names of the flags; an unknown key is an error
//! that names the nearest one. Nothing here starts anything.

mod file;
pub mod paths;
mod suggest;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::base::id::VolumeName;
use crate::base::mount_options::MountOptions;
use crate::base::size;

pub use file::KEYS;

/// The port of peers (UDP) and of HTTP (TCP).
pub const PORT: u16 = 3838;
/// The volume that `mount` shows when nobody says which.
pub const VOLUME: &str = "cell";
/// What is logged when nobody says what.
pub const LOG: &str = "warn,cellfs=info";
/// How many other nodes keep a large file before it is let go, when nobody says how many.
pub const COPIES: u32 = 1;
/// At most so many.
pub const COPIES_MAX: u32 = 16;
/// Longest name of a node, in bytes.
pub const NODE_NAME_BYTES_MAX: usize = 64;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Of which large files all bytes are kept here. Of others what is read is fetched when it is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Of all.
    #[default]
    All,
    /// Of those that are pinned here.
    Pinned,
    /// Of those, and of those that are for one of this node's tags.
    Tagged,
}

impl std::fmt::Display for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Pinned => "pinned",
            Self::Tagged => "tagged",
        })
    }
}

/// Certificate and key of the HTTP port, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// What one source says: flags, environment or file. Absent where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Source {
    /// Nodes or tickets to join through.
    pub join: Option<OneOrMany>,
    /// A token for `join`.
    pub token: Option<String>,
    /// The volume to show.
    pub volume: Option<String>,
    /// The state directory.
    pub state: Option<PathBuf>,
    /// `ADDR:PORT`, `ADDR` or `:PORT`.
    pub listen: Option<String>,
    /// Certificate of the HTTP port.
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    pub tls_key: Option<PathBuf>,
    /// Whether other machines may use HTTP without TLS.
    pub plain_http: Option<bool>,
    /// The node's name.
    pub name: Option<String>,
    /// Whether writes through the mount are refused.
    pub read_only: Option<bool>,
    /// Options of the mount, as `mount -o` spells them.
    pub options: Option<OneOrMany>,
    /// Which large files are kept here.
    pub keep: Option<Keep>,
    /// Room for what is not kept.
    pub cache_size: Option<String>,
    /// How many other nodes keep a file before it is let go here.
    pub copies: Option<u32>,
    /// Filter of log lines.
    pub log: Option<String>,
    /// Form of log lines.
    pub log_format: Option<LogFormat>,
}

/// One text or several, as TOML may write it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// `key = "a"`.
    One(String),
    /// `key = ["a", "b"]`.
    Many(Vec<String>),
}

impl From<OneOrMany> for Vec<String> {
    fn from(v: OneOrMany) -> Self {
        match v {
            OneOrMany::One(s) => vec![s],
            OneOrMany::Many(v) => v,
        }
    }
}

/// What a node runs with. Checked: paths are absolute, TLS files come in pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The folder to mount; none for `serve`.
    pub dir: Option<PathBuf>,
    /// Nodes (`host[:port]`) or tickets to join through, in order.
    pub join: Vec<String>,
    /// A token for `join`.
    pub token: Option<String>,
    /// The volume to show.
    pub volume: VolumeName,
    /// The state directory.
    pub state: PathBuf,
    /// UDP for peers, TCP of the same number for HTTP.
    pub listen: SocketAddr,
    /// TLS on the HTTP port.
    pub tls: Option<TlsFiles>,
    /// Whether other machines may use HTTP without TLS.
    pub plain_http: bool,
    /// The node's name, for people.
    pub name: String,
    /// Whether writes through the mount are refused.
    pub read_only: bool,
    /// Options of the mount.
    pub mount: MountOptions,
    /// Which large files are kept here.
    pub keep: Keep,
    /// Bytes of large files that are not kept here and may be here all the same; none: as many as
    /// there is room for.
    pub cache_bytes: Option<u64>,
    /// How many other nodes must have promised to keep a large file before it is let go here.
    pub copies: u32,
    /// Filter of log lines.
    pub log: String,
    /// Form of log lines.
    pub log_format: LogFormat,
}

/// Why there are no options.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML, or a value is of the wrong type.
    #[error("configuration {}: {why}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        why: String,
    },
    /// A key that we do not know.
    #[error("configuration {}: unknown key `{key}`", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The known key nearest to it.
        nearest: Option<&'static str>,
    },
    /// A secret that others can read.
    #[error("configuration {} holds a token or a ticket and can be read by other users", path.display())]
    OpenSecret {
        /// The file.
        path: PathBuf,
    },
    /// A value that cannot be used.
    #[error("{key} {value:?}: {why}")]
    Value {
        /// The key, as a flag.
        key: &'static str,
        /// What it was given.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// Only one of certificate and key.
    #[error("--{0} is given without --{1}")]
    HalfTls(&'static str, &'static str),
}

impl ConfigError {
    /// What mends it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey {
                nearest: Some(n), ..
            } => Some(format!("did you mean `{n}`?")),
            Self::UnknownKey { nearest: None, .. } => {
                Some(format!("the keys are: {}", KEYS.join(", ")))
            }
            Self::OpenSecret { path } => Some(format!("chmod 600 {}", path.display())),
            Self::HalfTls(..) => Some("give both: --tls-cert FILE --tls-key FILE (PEM)".to_owned()),
            Self::Value {
                key: "--listen", ..
            } => Some(format!("for example: --listen 0.0.0.0:{PORT}")),
            Self::Value {
                key: "--cache-size",
                ..
            } => Some("for example: --cache-size 20G".to_owned()),
            Self::Value { key: "-o", .. } => {
                Some("for example: -o ro,noexec,noatime (cellfs mount --help)".to_owned())
            }
            _ => None,
        }
    }
}

impl Source {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// When it cannot be read, is not TOML, or has a key that we do not know.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        file::read(path)
    }

    /// What this source says, and what `below` says where this one is silent.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            join: self.join.or(below.join),
            token: self.token.or(below.token),
            volume: self.volume.or(below.volume),
            state: self.state.or(below.state),
            listen: self.listen.or(below.listen),
            tls_cert: self.tls_cert.or(below.tls_cert),
            tls_key: self.tls_key.or(below.tls_key),
            plain_http: self.plain_http.or(below.plain_http),
            name: self.name.or(below.name),
            read_only: self.read_only.or(below.read_only),
            options: self.options.or(below.options),
            keep: self.keep.or(below.keep),
            cache_size: self.cache_size.or(below.cache_size),
            copies: self.copies.or(below.copies),
            log: self.log.or(below.log),
            log_format: self.log_format.or(below.log_format),
        }
    }

    /// Checks, and fills in what nobody said.
    ///
    /// # Errors
    /// When a value cannot be used.
    pub fn options(self, dir: Option<PathBuf>) -> Result<Options, ConfigError> {
        let volume = self.volume.unwrap_or_else(|| VOLUME.to_owned());
        let tls = match (self.tls_cert, self.tls_key) {
            (Some(cert), Some(key)) => Some(TlsFiles {
                cert: absolute(cert),
                key: absolute(key),
            }),
            (None, None) => None,
            (Some(_), None) => return Err(ConfigError::HalfTls("tls-cert", "tls-key")),
            (None, Some(_)) => return Err(ConfigError::HalfTls("tls-key", "tls-cert")),
        };
        Ok(Options {
            dir: dir.map(absolute),
            join: self.join.map(Vec::from).unwrap_or_default(),
            token: self.token,
            volume: volume.parse().map_err(|_| ConfigError::Value {
                key: "--volume",
                value: volume,
                why: "a volume's name has letters, digits, '.', '_' and '-', at most 100".into(),
            })?,
            state: absolute(self.state.unwrap_or_else(paths::default_state)),
            listen: listen(self.listen.as_deref().unwrap_or(""))?,
            tls,
            plain_http: self.plain_http.unwrap_or(false),
            name: node_name(self.name)?,
            read_only: self.read_only.unwrap_or(false),
            mount: mount_options(self.options)?,
            keep: self.keep.unwrap_or_default(),
            cache_bytes: cache_bytes(self.cache_size)?,
            copies: copies(self.copies)?,
            log: self.log.unwrap_or_else(|| LOG.to_owned()),
            log_format: self.log_format.unwrap_or_default(),
        })
    }
}

fn mount_options(said: Option<OneOrMany>) -> Result<MountOptions, ConfigError> {
    let lists = said.map(Vec::from).unwrap_or_default();
    let mut out = MountOptions::default();
    for word in lists.iter().flat_map(|l| l.split(',')) {
        let why = match out.set(word) {
            Ok(true) => continue,
            _ if word.is_empty() => continue,
            Ok(false) => format!("there is no option {word}"),
            Err(why) => why,
        };
        return Err(ConfigError::Value {
            key: "-o",
            value: word.to_owned(),
            why,
        });
    }
    Ok(out)
}

fn cache_bytes(said: Option<String>) -> Result<Option<u64>, ConfigError> {
    let parse = |value: String| {
        size::parse(&value).map_err(|why| ConfigError::Value {
            key: "--cache-size",
            why: why.to_owned(),
            value,
        })
    };
    said.map(parse).transpose()
}

fn copies(said: Option<u32>) -> Result<u32, ConfigError> {
    match said.unwrap_or(COPIES) {
        n @ 1..=COPIES_MAX => Ok(n),
        n => Err(ConfigError::Value {
            key: "--copies",
            value: n.to_string(),
            why: format!("from 1 to {COPIES_MAX} other nodes"),
        }),
    }
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// `ADDR:PORT`, `ADDR`, `[V6]:PORT`, `:PORT` or nothing.
fn listen(text: &str) -> Result<SocketAddr, ConfigError> {
    let any = std::net::IpAddr::from([0, 0, 0, 0]);
    if text.is_empty() {
        return Ok(SocketAddr::new(any, PORT));
    }
    let parsed = text
        .parse::<SocketAddr>()
        .ok()
        .or_else(|| text.parse().ok().map(|ip| SocketAddr::new(ip, PORT)))
        .or_else(|| {
            let port = text.strip_prefix(':')?.parse().ok()?;
            Some(SocketAddr::new(any, port))
        });
    parsed.ok_or_else(|| ConfigError::Value {
        key: "--listen",
        value: text.to_owned(),
        why: "not an IP address with a port".to_owned(),
    })
}

fn node_name(given: Option<String>) -> Result<String, ConfigError> {
    let name = given.unwrap_or_else(paths::host_name);
    let ok = !name.is_empty()
        && name.len() <= NODE_NAME_BYTES_MAX
        && !name.chars().any(|c| c.is_control() || c.is_whitespace());
    if ok {
        return Ok(name);
    }
    Err(ConfigError::Value {
        key: "--name",
        value: name,
        why: format!("a node's name has 1 to {NODE_NAME_BYTES_MAX} bytes and no spaces"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &str) -> tempfile::NamedTempFile {
        let f = tempfile::NamedTempFile::new().expect("tempfile");
        std::fs::write(f.path(), text).expect("written");
        f
    }

    #[test]
    fn flags_stand_over_the_file_and_the_file_over_defaults() {
        let f =
            write("volume = 'a'\nname = 'n'\nplain-http = true\njoin = 'x'\nlog-format = 'json'\n");
        let file = Source::read(f.path()).expect("good");
        let flags = Source {
            volume: Some("b".to_owned()),
            plain_http: Some(false),
            ..Source::default()
        };
        let o = flags.over(file).options(None).expect("good");
        assert_eq!(
            (o.volume.as_str(), o.name.as_str(), o.plain_http),
            ("b", "n", false)
        );
        assert_eq!(o.join, ["x"]);
        assert_eq!(o.listen.to_string(), "0.0.0.0:3838");
        assert_eq!(o.log_format, LogFormat::Json);
        assert!(o.state.is_absolute());
    }

    #[test]
    fn an_unknown_key_names_its_neighbour() {
        for (text, nearest) in [
            ("volumne = 'a'", Some("volume")),
            ("plain_http = true", Some("plain-http")),
            ("tlscert = 'a'", Some("tls-cert")),
            ("gargantuan = 1", None),
        ] {
            let f = write(text);
            match Source::read(f.path()) {
                Err(ConfigError::UnknownKey { nearest: n, .. }) => assert_eq!(n, nearest),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn wrong_types_and_open_secrets_are_errors() {
        let f = write("plain-http = 'yes'");
        assert!(matches!(
            Source::read(f.path()),
            Err(ConfigError::Syntax { .. })
        ));
        for secret in ["token = 'secret'", "join = ['host', 'cellfs1abc']"] {
            let f = write(secret);
            assert!(Source::read(f.path()).is_ok());
            let mut open = std::fs::metadata(f.path()).expect("there").permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut open, 0o644);
            std::fs::set_permissions(f.path(), open).expect("ours");
            let e = Source::read(f.path()).expect_err("open");
            assert!(e.hint().is_some_and(|h| h.starts_with("chmod 600 ")));
        }
    }

    #[test]
    fn listen_takes_what_people_type() {
        let wrong = [
            Source {
                copies: Some(0),
                ..Source::default()
            },
            Source {
                cache_size: Some("12".to_owned()),
                ..Source::default()
            },
        ];
        for source in wrong {
            assert!(matches!(
                source.options(None),
                Err(ConfigError::Value { .. })
            ));
        }
        for (text, addr) in [
            ("", "0.0.0.0:3838"),
            ("127.0.0.1", "127.0.0.1:3838"),
            (":99", "0.0.0.0:99"),
            ("[::1]:5", "[::1]:5"),
            ("::1", "[::1]:3838"),
        ] {
            assert_eq!(listen(text).expect(text).to_string(), addr);
        }
        assert!(listen("here:1").is_err());
    }
}
