//! What the command line may say.

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};

use crate::base::id::VolumeName;
use crate::config::{self, ConfigError, Keep, LogFormat, OneOrMany, Options, Source};
use crate::control::failure::{Answer, Code, Failure};
use crate::control::wire::UrlOf;

pub(super) mod keep;
pub(super) mod objects;
pub(super) mod past;

/// One folder on every node, whose history is git.
#[derive(Debug, Parser)]
#[command(name = "cellfs", version, after_help = exit_codes(), max_term_width = 100)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) verb: Verb,
}

fn exit_codes() -> String {
    let mut text = "Exit codes:".to_owned();
    for (code, meaning) in Code::TABLE {
        text += &format!("\n  {:<3} {meaning}", code.number());
    }
    text
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Mount the cell's folder; start a node if none runs
    Mount(Mount),
    /// Run a node without a folder
    Serve(Serve),
    /// Unmount a folder
    Umount(Umount),
    /// Show how the node is
    Status(Status),
    /// List the cell's nodes, and those who want in
    Members(Show),
    /// List commits, or the history of one file, newest first
    Log(Log),
    /// Compare a file or directory at two times or commits
    Diff(past::Diff),
    /// Bring a file or directory back as it was
    Restore(past::Restore),
    /// List conflict copies
    Conflicts(past::Conflicts),
    /// Settle a conflict
    Resolve(past::Resolve),
    /// List what was merged, and how to undo it
    Merges(past::Merges),
    /// Keep a file's bytes without a name in the folder, and print their id
    Add(objects::Add),
    /// Write the bytes that have an id to a file
    Get(objects::Get),
    /// Tell of the bytes that have an id
    #[command(subcommand)]
    Object(objects::Object),
    /// Keep the bytes of all files below a directory
    Import(objects::Import),
    /// Tell which nodes have the bytes of large files
    Where(keep::At),
    /// Tell why the bytes of large files are here, come, or do not
    Why(keep::At),
    /// Keep the bytes of large files at a path on this node
    Pin(keep::At),
    /// Say no more of a path whether its large files are kept here
    Unpin(keep::At),
    /// Do not keep large files at a path here; they go when other nodes keep them
    Drop(keep::At),
    /// List what nodes are for; say what this one is for
    Tags(keep::Tags),
    /// Make the node's repositories small; nothing is forgotten
    Gc(Show),
    /// Read all bytes of large files; what the disk damaged is fetched from other nodes
    Scrub(Show),
    /// Print a ticket with which other nodes may join
    Invite(Invite),
    /// Print the git URL of a volume, with a token in it
    Url(Url),
    /// Let the node in that shows this code
    Admit(Admit),
    /// Leave the cell
    Leave(Leave),
    /// Put a node out of the cell
    Forget(Forget),
    /// Print the version of cellfs and of its formats
    Version(Version),
    /// What git runs when somebody pushes
    #[command(hide = true)]
    Hook(Hook),
}

#[derive(Debug, Group)]
pub(super) struct State {
    /// State directory of the node [default: /var/lib/cellfs for root, else
    /// ~/.local/state/cellfs]
    #[arg(long, value_name = "DIR", env = "CELLFS_STATE")]
    state: Option<PathBuf>,
}

impl State {
    pub(super) fn dir(&self) -> PathBuf {
        let dir = self
            .state
            .clone()
            .unwrap_or_else(config::paths::default_state);
        std::path::absolute(&dir).unwrap_or(dir)
    }
}

#[derive(Debug, Group)]
pub(super) struct Mount {
    /// Folder to mount on; it must exist
    #[arg(value_name = "DIR")]
    pub(super) dir: PathBuf,
    #[command(flatten)]
    pub(super) node: Node,
    /// Options as of mount: ro, noexec, noatime, nodiratime, sync, allow_other
    #[arg(short = 'o', long, value_name = "LIST", help_heading = "Mounting")]
    pub(super) options: Vec<String>,
}

#[derive(Debug, Group)]
pub(super) struct Serve {
    #[command(flatten)]
    pub(super) node: Node,
}

#[derive(Debug, Group)]
pub(super) struct Node {
    /// Join through this ticket, host or host:port; may be repeated
    #[arg(
        long,
        value_name = "TICKET|HOST",
        env = "CELLFS_JOIN",
        value_delimiter = ',',
        help_heading = "Joining"
    )]
    join: Vec<String>,
    /// Token that goes with --join HOST
    #[arg(
        long,
        env = "CELLFS_TOKEN",
        hide_env_values = true,
        help_heading = "Joining"
    )]
    token: Option<String>,
    /// Confirm this pairing code without asking
    #[arg(long, value_name = "CODE", help_heading = "Joining")]
    pub(super) yes: Option<String>,
    /// Volume to show [default: cell]
    #[arg(long, value_name = "NAME", env = "CELLFS_VOLUME")]
    volume: Option<String>,
    #[command(flatten)]
    pub(super) state: State,
    /// UDP for peers, TCP of the same number for HTTP [default: 0.0.0.0:3838]
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "CELLFS_LISTEN",
        help_heading = "Network"
    )]
    listen: Option<String>,
    /// Certificate of the HTTP port, PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "CELLFS_TLS_CERT",
        help_heading = "Network"
    )]
    tls_cert: Option<PathBuf>,
    /// Private key of the HTTP port, PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "CELLFS_TLS_KEY",
        help_heading = "Network"
    )]
    tls_key: Option<PathBuf>,
    /// Let other machines use git and status without TLS; tokens travel in clear
    #[arg(long, env = "CELLFS_PLAIN_HTTP", value_name = "BOOL", num_args = 0..=1,
          require_equals = true, default_missing_value = "true", help_heading = "Network")]
    plain_http: Option<bool>,
    /// This node's name, for people [default: the host's name]
    #[arg(long, env = "CELLFS_NAME")]
    name: Option<String>,
    /// Refuse writes through the folder
    #[arg(long, env = "CELLFS_READ_ONLY", value_name = "BOOL", num_args = 0..=1,
          require_equals = true, default_missing_value = "true")]
    read_only: Option<bool>,
    /// Large files of which all bytes are kept here: all, those that are pinned here, or those
    /// and what is for a tag of this node. Of others what is read is fetched [default: all]
    #[arg(
        long,
        value_name = "WHICH",
        env = "CELLFS_KEEP",
        help_heading = "Large files"
    )]
    keep: Option<Which>,
    /// Room for what is not kept here, for example 20G [default: what the disk has]
    #[arg(
        long,
        value_name = "SIZE",
        env = "CELLFS_CACHE_SIZE",
        help_heading = "Large files"
    )]
    cache_size: Option<String>,
    /// Other nodes that must have promised to keep a file before it is let go here [default: 1]
    #[arg(
        long,
        value_name = "N",
        env = "CELLFS_COPIES",
        help_heading = "Large files"
    )]
    copies: Option<u32>,
    /// Stay in front
    #[arg(short, long)]
    pub(super) foreground: bool,
    /// File with the same keys as the long flags, TOML
    #[arg(long, value_name = "FILE", env = "CELLFS_CONFIG")]
    config: Option<PathBuf>,
    /// What to log, for example debug or warn,cellfs=debug [default: warn,cellfs=info]
    #[arg(
        long,
        value_name = "FILTER",
        env = "CELLFS_LOG",
        help_heading = "Logging"
    )]
    log: Option<String>,
    /// How log lines look [default: text]
    #[arg(
        long,
        value_name = "FORM",
        env = "CELLFS_LOG_FORMAT",
        help_heading = "Logging"
    )]
    log_format: Option<Format>,
    /// We are the node in the background; standard input leads to who started us
    #[arg(long, hide = true)]
    pub(super) detached: bool,
}

/// The long flag that tells a copy of this process that it is the node.
pub(super) const DETACHED: &str = "--detached";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    All,
    Pinned,
    Tagged,
}

impl Node {
    /// What flags, environment and file come to; and whether any of them names a volume.
    pub(super) fn options(
        &self,
        dir: Option<PathBuf>,
        mount: &[String],
    ) -> Answer<(Options, bool)> {
        let usage = |e: ConfigError| {
            let f = Failure::usage(&e);
            match e.hint() {
                Some(hint) => f.hint(hint),
                None => f,
            }
        };
        let file = match &self.config {
            Some(path) => Source::read(path).map_err(usage)?,
            None => Source::default(),
        };
        let mut own = self.source();
        own.options = (!mount.is_empty()).then(|| OneOrMany::Many(mount.to_vec()));
        let source = own.over(file);
        let names_volume = source.volume.is_some();
        let options = source.options(dir).map_err(usage)?;
        Ok((options, names_volume))
    }

    fn source(&self) -> Source {
        Source {
            join: (!self.join.is_empty()).then(|| OneOrMany::Many(self.join.clone())),
            token: self.token.clone(),
            volume: self.volume.clone(),
            state: self.state.state.clone(),
            listen: self.listen.clone(),
            tls_cert: self.tls_cert.clone(),
            tls_key: self.tls_key.clone(),
            plain_http: self.plain_http,
            name: self.name.clone(),
            read_only: self.read_only,
            options: None,
            keep: self.keep.map(|k| match k {
                Which::All => Keep::All,
                Which::Pinned => Keep::Pinned,
                Which::Tagged => Keep::Tagged,
            }),
            cache_size: self.cache_size.clone(),
            copies: self.copies,
            log: self.log.clone(),
            log_format: self.log_format.map(|f| match f {
                Format::Text => LogFormat::Text,
                Format::Json => LogFormat::Json,
            }),
        }
    }
}

#[derive(Debug, Group)]
pub(super) struct Umount {
    /// Folder to unmount
    #[arg(value_name = "DIR", required_unless_present = "all")]
    pub(super) dir: Option<PathBuf>,
    /// Unmount every folder and end the node
    #[arg(long, conflicts_with = "dir")]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) state: State,
}

#[derive(Debug, Group)]
pub(super) struct Show {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) state: State,
}

#[derive(Debug, Group)]
pub(super) struct Status {
    /// Show how far large files are that come, until all are here
    #[arg(short, long, conflicts_with = "json")]
    pub(super) follow: bool,
    #[command(flatten)]
    pub(super) show: Show,
}

#[derive(Debug, Group)]
pub(super) struct Version {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Group)]
pub(super) struct Volume {
    /// Volume, if not the node's own
    #[arg(long, value_name = "NAME", env = "CELLFS_VOLUME")]
    volume: Option<String>,
}

impl Volume {
    pub(super) fn name(&self) -> Answer<Option<VolumeName>> {
        let parse = |v: &String| {
            v.parse()
                .map_err(|e| Failure::usage(format!("--volume: {e}")))
        };
        self.volume.as_ref().map(parse).transpose()
    }
}

#[derive(Debug, Group)]
pub(super) struct Log {
    /// A file, through renames, or a directory: in a mounted folder, or with --volume from the
    /// volume's root
    pub(super) path: Option<PathBuf>,
    /// At most so many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    pub(super) limit: u32,
    #[command(flatten)]
    pub(super) volume: Volume,
    #[command(flatten)]
    pub(super) show: Show,
}

#[derive(Debug, Group)]
pub(super) struct Invite {
    /// How many nodes may join with the ticket
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) uses: u32,
    /// How long it is good: 30s, 10m, 24h, 7d
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    pub(super) expires: String,
    /// Print the token alone, for `--join HOST --token TOKEN`
    #[arg(long)]
    pub(super) token: bool,
    #[command(flatten)]
    pub(super) state: State,
}

#[derive(Debug, Group)]
pub(super) struct Url {
    /// With a token that may push
    #[arg(long)]
    write: bool,
    /// Host to put into it, with another port if there is one [default: the address of
    /// --listen; if that is all of them, 127.0.0.1 while only this machine may use the port, and
    /// with TLS or --plain-http this machine's first address for other nodes]
    #[arg(long, value_name = "HOST[:PORT]")]
    host: Option<String>,
    #[command(flatten)]
    volume: Volume,
    #[command(flatten)]
    pub(super) state: State,
}

impl Url {
    pub(super) fn what(&self) -> Answer<UrlOf> {
        Ok(UrlOf {
            volume: self.volume.name()?,
            write: self.write,
            host: self.host.clone(),
        })
    }
}

#[derive(Debug, Group)]
pub(super) struct Admit {
    /// The code, as `cellfs members` shows it
    pub(super) code: String,
    #[command(flatten)]
    pub(super) state: State,
}

#[derive(Debug, Group)]
pub(super) struct Leave {
    /// Also when no other member has what was written here
    #[arg(long)]
    pub(super) force: bool,
    #[command(flatten)]
    pub(super) state: State,
}

#[derive(Debug, Group)]
pub(super) struct Forget {
    /// The node: its id, the start of it, or its name
    pub(super) node: String,
    #[command(flatten)]
    pub(super) state: State,
}

#[derive(Debug, Group)]
pub(super) struct Hook {
    /// Which hook
    pub(super) name: HookName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum HookName {
    /// Before the push's objects are kept
    PreReceive,
    /// Instead of git's own moving of refs
    ProcReceive,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound_and_lists_exit_codes() {
        Args::command().debug_assert();
        let help = Args::command().render_help().to_string();
        assert!(help.contains("70  a bug in cellfs"), "{help}");
        assert!(!help.contains("hook"));
    }

    fn node(words: &[&str]) -> Node {
        let words = ["cellfs", "mount", "/mnt"].iter().chain(words);
        match Args::try_parse_from(words).expect("parses").verb {
            Verb::Mount(m) => m.node,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_become_options() {
        let words = "--join a --join b:9 --token T --yes C --volume v --state /s --listen :1 \
            --tls-cert c --tls-key k --plain-http --name n --read-only -f --log debug \
            --log-format json --keep pinned --cache-size 2G --copies 3";
        let n = node(&words.split_whitespace().collect::<Vec<_>>());
        assert!(n.foreground && n.yes.as_deref() == Some("C"));
        let (o, names_volume) = n.options(Some("/mnt".into()), &[]).expect("good");
        assert!(names_volume && o.plain_http && o.read_only);
        assert_eq!(
            (o.keep, o.cache_bytes, o.copies),
            (Keep::Pinned, Some(2 << 30), 3)
        );
        assert_eq!(o.join, ["a", "b:9"]);
        assert_eq!((o.volume.as_str(), o.name.as_str()), ("v", "n"));
        assert_eq!((o.state, o.listen.port()), ("/s".into(), 1));
        assert!(o.tls.is_some_and(|t| t.cert.is_absolute()));
    }

    #[test]
    fn half_of_tls_is_wrong_usage() {
        let f = node(&["--tls-cert", "c"])
            .options(None, &[])
            .expect_err("half");
        assert_eq!(f.code, Code::Usage);
        assert!(f.what.contains("--tls-key") && f.hint.is_some());
    }
}
