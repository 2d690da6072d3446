//! The command line and the control socket, with a stand-in for the node.

mod fake;
mod keep;
mod objects;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use cellfs::control::lock::StateLock;

use fake::cellfs;

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Said {
    fn from(o: Output) -> Self {
        let out = String::from_utf8(o.stdout).expect("text");
        let out = out.strip_prefix(fake::NOISE).unwrap_or(&out).to_owned();
        Self {
            code: o.status.code().unwrap_or(-1),
            out,
            err: String::from_utf8(o.stderr).expect("text"),
        }
    }
}

/// A state directory and a folder; the node on it ends with the test.
struct Home {
    dir: tempfile::TempDir,
    state: PathBuf,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("mnt")).expect("made");
        let state = dir.path().join("state");
        Self { dir, state }
    }

    fn mnt(&self) -> String {
        let mnt = self.dir.path().join("mnt").canonicalize().expect("there");
        mnt.display().to_string()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut c = cellfs(words);
        c.env("CELLFS_STATE", &self.state);
        c
    }

    fn run(&self, words: &[&str]) -> Said {
        self.command(words).output().expect("runs").into()
    }

    fn run_as(&self, fake: &str, words: &[&str]) -> Said {
        let mut c = self.command(words);
        c.env(fake::ENV_KIND, fake).output().expect("runs").into()
    }

    fn ok(&self, words: &[&str]) -> String {
        let said = self.run(words);
        assert_eq!(said.code, 0, "{words:?}: {}", said.err);
        said.out
    }

    fn json(&self, words: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(words)).expect("JSON")
    }

    fn pid(&self) -> Option<u32> {
        StateLock::holder(&self.state)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            kill(pid, "TERM");
            let begin = Instant::now();
            while self.pid().is_some() && begin.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn kill(pid: u32, signal: &str) {
    let _ = Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .status();
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn mount_goes_to_the_background_and_prints_what_one_needs() {
    let home = Home::new();
    let mnt = home.mnt();
    let out = home.ok(&["mount", &mnt, "--name", "n1", "--listen", "127.0.0.1:9"]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.first(), Some(&"node abc123"));
    let join = format!("join cellfs mount {mnt} --join TICKET-1-86400");
    assert_eq!(lines.get(1), Some(&join.as_str()));
    assert_eq!(
        lines.get(2),
        Some(&"git http://cell:read@127.0.0.1:9/cell.git")
    );
    let status = home.json(&["status", "--json"]);
    assert_eq!(status["v"], 1);
    assert_eq!(status["name"], "n1");
    assert_eq!(status["pid"], home.pid().expect("runs"));
    assert_eq!(status["mounts"][0]["dir"], mnt.as_str());
    let volume = &status["volumes"][0];
    for key in ["name", "view", "heads", "dirty", "behind", "journal"] {
        assert!(volume.get(key).is_some(), "{key}");
    }
    for key in ["node", "branch", "seq", "id", "content"] {
        assert!(volume["heads"][0].get(key).is_some(), "{key}");
    }
    assert!(home.ok(&["status"]).contains("VOLUME  VIEW"));
    assert!(home.state.join("log").exists());
}

#[test]
fn a_second_mount_is_attached_and_umount_detaches() {
    let home = Home::new();
    home.ok(&["serve"]);
    let pid = home.pid().expect("runs");
    let out = home.ok(&["mount", &home.mnt(), "--volume", "other", "--read-only"]);
    assert!(out.starts_with("node abc123\n"), "{out}");
    assert_eq!(home.pid(), Some(pid));
    let mounts = &home.json(&["status", "--json"])["mounts"];
    assert_eq!(mounts[0]["volume"], "other");
    assert_eq!(mounts[0]["read_only"], true);
    home.ok(&["umount", &home.mnt()]);
    let again = home.run(&["umount", &home.mnt()]);
    assert_eq!(again.code, 1);
    assert!(
        again.err.contains("Error: nothing is mounted on"),
        "{}",
        again.err
    );
    home.ok(&["umount", "--all"]);
    assert_eq!(home.pid(), None);
    let gone = home.run(&["status"]);
    assert_eq!(gone.code, 4);
    assert!(
        gone.err
            .contains("Hint: start one: cellfs mount DIR --state")
    );
}

#[test]
fn invite_and_url_print_one_thing_only() {
    let home = Home::new();
    home.ok(&["serve", "--listen", "127.0.0.1:9"]);
    let ticket = home.ok(&["invite", "--uses", "3", "--expires", "10m"]);
    assert_eq!(ticket, "TICKET-3-600\n");
    assert_eq!(home.ok(&["url"]), "http://cell:read@127.0.0.1:9/cell.git\n");
    let url = home.ok(&["url", "--write", "--volume", "v"]);
    assert_eq!(url, "http://cell:write@127.0.0.1:9/v.git\n");
    let url = home.ok(&["url", "--host", "files.example.org"]);
    assert_eq!(url, "http://cell:read@files.example.org/cell.git\n");
    let wrong = home.run(&["invite", "--expires", "soon"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.err.contains("--expires 24h"), "{}", wrong.err);
}

#[test]
fn people_and_scripts_see_members_log_and_conflicts() {
    let home = Home::new();
    home.ok(&["mount", &home.mnt()]);
    let members = home.ok(&["members"]);
    assert!(
        members.contains("pending") && members.contains("AB-12"),
        "{members}"
    );
    assert_eq!(
        home.json(&["members", "--json"])["members"][0]["code"],
        "AB-12"
    );
    assert_eq!(home.ok(&["admit", "AB-12"]), "admitted def456 (n2)\n");
    let refused = home.run(&["admit", "XX-99"]);
    assert_eq!((refused.code, refused.out.as_str()), (5, ""));
    home.ok(&["forget", "def456"]);
    home.ok(&["leave"]);
    let path = format!("{}/src/../a b", home.mnt());
    let log = home.json(&["log", &path, "-n", "7", "--json"]);
    assert_eq!(log["log"][0]["summary"], "cell a b 7");
    assert!(home.ok(&["log"]).contains("2026-11-21 07:55:03Z"));
    let outside = home.run(&["log", "/nowhere/x"]);
    assert_eq!(outside.code, 1);
    assert_eq!(
        home.json(&["conflicts", "--json"])["conflicts"][0]["path"],
        "a"
    );
    let both = home.json(&["conflicts", "--json"]);
    assert_eq!(both["conflicts"].as_array().map(Vec::len), Some(2));
    assert!(home.ok(&["conflicts"]).contains("WRITTEN"));
    // With a volume's name a path is from that volume's root.
    let said = home.run(&["resolve", "d/f", "--take", "node:n2", "--volume", "v"]);
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("Node(\"n2\")") && said.err.contains("\"d/f\""),
        "{}",
        said.err
    );
    assert!(said.err.contains("Hint: cellfs conflicts"), "{}", said.err);
    assert_eq!(home.run(&["resolve", "f"]).code, 2);
    assert_eq!(home.run(&["restore", "f"]).code, 2);
    let done = home.json(&["restore", &path, "--at", "1h", "--json"]);
    assert_eq!(
        (&done["path"], &done["commit"]),
        (&"a b".into(), &"1h".into())
    );
    assert_eq!(
        home.json(&["merges", "-n", "3", "--json"])["merges"][0]["what"],
        "text 3"
    );
    assert_eq!(home.json(&["gc", "--json"])["gc"][0]["after"]["packs"], 1);
    assert!(home.ok(&["gc"]).contains("3 -> 1"));
    let said = home.run(&["diff", "1h", "main", &path]);
    assert_eq!((said.code, said.err.as_str()), (1, "Error: 1h main a b\n"));
}

#[test]
fn a_node_that_cannot_start_says_why_with_its_own_code() {
    let home = Home::new();
    let said = home.run_as("refuse", &["mount", &home.mnt()]);
    assert_eq!(said.code, 5);
    assert_eq!(
        said.err,
        "Error: the ticket has expired\nHint: ask for another: cellfs invite\n"
    );
    assert_eq!(home.pid(), None);
    let said = home.run_as("die", &["mount", &home.mnt()]);
    assert_eq!(said.code, 70);
    assert!(
        said.err.contains("ended before it was ready"),
        "{}",
        said.err
    );
    let said = home.run_as("panic", &["mount", &home.mnt()]);
    assert_eq!(said.code, 70, "{}", said.err);
    let what = "Error: a bug in cellfs: as told\n";
    assert!(said.err.starts_with(what), "{}", said.err);
    let said = home.run_as("quit", &["serve"]);
    assert_eq!(said.code, 1, "{}", said.err);
    let said = home.run_as("refuse", &["serve", "-f"]);
    assert_eq!(said.code, 5);
    assert!(said.err.contains("Hint: ask for another"));
}

#[test]
fn codes_are_compared_by_yes_or_by_a_person() {
    let home = Home::new();
    let said = home.run_as("pair", &["mount", &home.mnt()]);
    assert_eq!(said.code, 5);
    let shown = said.err.matches("pairing code QX-77").count();
    assert_eq!(shown, 1, "{}", said.err);
    assert!(said.err.contains("--yes QX-77"), "{}", said.err);
    let said = home.run_as("pair", &["mount", &home.mnt(), "--yes", "QX-78"]);
    assert_eq!(said.code, 5);
    let said = home.run_as("pair", &["mount", &home.mnt(), "--yes", "qx77"]);
    assert_eq!(said.code, 0, "{}", said.err);
}

#[test]
fn one_node_for_one_state() {
    let home = Home::new();
    home.ok(&["serve"]);
    let pid = home.pid().expect("runs");
    for words in [
        &["serve"][..],
        &["serve", "-f"],
        &["mount", "-f", &home.mnt()],
    ] {
        let said = home.run(words);
        assert_eq!(said.code, 1, "{words:?}");
        let state = home.state.clone();
        let what = format!(
            "Error: state {} is in use by process {pid}\n",
            state.display()
        );
        assert!(said.err.starts_with(&what), "{}", said.err);
    }
    // Killed, it leaves a socket behind that nobody answers; the next one replaces it.
    kill(pid, "KILL");
    eventually("the lock is free", || home.pid().is_none());
    assert!(home.state.join("control.sock").exists());
    assert_eq!(home.run(&["status"]).code, 4);
    home.ok(&["serve"]);
    assert_ne!(home.pid(), Some(pid));
}

#[test]
fn in_front_it_ends_by_sigterm_with_success() {
    let home = Home::new();
    let mut child = home
        .command(&["mount", "-f", &home.mnt()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    eventually("it runs", || home.run(&["status"]).code == 0);
    assert_eq!(home.pid(), Some(child.id()));
    kill(child.id(), "TERM");
    assert_eq!(child.wait().expect("waited").code(), Some(0));
    let mut out = String::new();
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_to_string(&mut out).expect("text");
    assert!(out.contains("node abc123\njoin cellfs mount"), "{out}");
}

#[test]
fn a_starter_that_goes_takes_the_node_with_it() {
    let home = Home::new();
    let mut child = home
        .command(&["mount", &home.mnt()])
        .env(fake::ENV_KIND, "slow")
        .stdout(Stdio::null())
        .spawn()
        .expect("runs");
    eventually("the node begins", || home.pid().is_some());
    child.kill().expect("ours");
    child.wait().expect("waited");
    eventually("the node has gone", || home.pid().is_none());
}

#[test]
fn wrong_usage_and_configuration_exit_with_2() {
    let home = Home::new();
    let file = home.dir.path().join("c.toml");
    let config = |text: &str| {
        std::fs::write(&file, text).expect("written");
        let file = file.display().to_string();
        home.run(&["mount", &home.mnt(), "--config", &file])
    };
    let said = config("lisen = '1.2.3.4'\n");
    assert_eq!(said.code, 2);
    assert!(said.err.contains("unknown key `lisen`"), "{}", said.err);
    assert!(
        said.err.ends_with("Hint: did you mean `listen`?\n"),
        "{}",
        said.err
    );
    assert_eq!(config("listen = 5\n").code, 2);
    assert_eq!(config("listen = 'x'\n").code, 2);
    assert_eq!(config("log = '==='\n").code, 2);
    for words in [
        &["mount"][..],
        &["mout", "x"],
        &["invite", "--uses", "0"],
        &["hook", "x"],
        &[],
    ] {
        let said = home.run(words);
        assert_eq!(said.code, 2, "{words:?}: {}{}", said.out, said.err);
    }
    assert!(
        home.run(&["mout"])
            .err
            .starts_with("Error: unrecognized subcommand")
    );
    let missing = home.run(&["mount", "/nonexistent/x"]);
    assert_eq!(missing.code, 1);
    assert!(
        missing.err.contains("Hint: mkdir -p /nonexistent/x\n"),
        "{}",
        missing.err
    );
    assert_eq!(home.run(&["umount", "/"]).code, 1);
}

#[test]
fn environment_stands_between_flag_and_file() {
    let home = Home::new();
    let file = home.dir.path().join("c.toml");
    std::fs::write(
        &file,
        "name = 'file'\nlisten = '127.0.0.1:7'\nvolume = 'fv'\n",
    )
    .expect("written");
    let said: Said = home
        .command(&["mount", &home.mnt(), "--volume", "flag"])
        .env("CELLFS_CONFIG", &file)
        .env("CELLFS_NAME", "env")
        .env("CELLFS_VOLUME", "env")
        .output()
        .expect("runs")
        .into();
    assert_eq!(said.code, 0, "{}", said.err);
    let status = home.json(&["status", "--json"]);
    assert_eq!(status["name"], "env");
    assert_eq!(status["listen"], "127.0.0.1:7");
    assert_eq!(status["mounts"][0]["volume"], "flag");
}

#[test]
fn help_version_and_readers_who_go() {
    let home = Home::new();
    let help = home.ok(&["--help"]);
    assert!(
        help.contains("4   no node runs on this state directory"),
        "{help}"
    );
    assert!(home.ok(&["version"]).starts_with("cellfs 0."));
    for what in ["control protocol ", "peer protocol ", "disk formats: "] {
        assert!(home.ok(&["version"]).contains(what), "{what}");
    }
    let version = home.json(&["version", "--json"]);
    assert_eq!(version["v"], 1);
    assert_eq!(version["peer"], cellfs::peers::PROTOCOL_VERSION);
    assert_eq!(version["disk"]["journal"], 1);
    // `sh` closes standard output's reader before anything is written.
    let program = env!("CARGO_BIN_EXE_cellfs");
    let script = format!("{{ sleep 0.2; {program} version; echo $? >&2; }} | true; sleep 0.5");
    let out = Command::new("sh")
        .args(["-c", &script])
        .output()
        .expect("sh");
    assert_eq!(String::from_utf8_lossy(&out.stderr), "3\n");
}

#[test]
fn the_shipped_program_runs_hooks_only_for_git() {
    for hook in ["pre-receive", "proc-receive"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cellfs"))
            .args(["hook", hook])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("runs");
        assert_eq!(child.wait().expect("waited").code(), Some(1));
        let mut said = String::new();
        child
            .stderr
            .take()
            .expect("piped")
            .read_to_string(&mut said)
            .expect("text");
        assert!(said.starts_with("Error: "), "{said}");
    }
}

fn ask(state: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(state.join("control.sock")).expect("connected");
    // The node may hang up on what it will not read.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn the_control_socket_bears_garbage() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    home.ok(&["serve"]);
    let state = home.state.clone();
    let mode = |p: &str| {
        let m = std::fs::metadata(state.join(p)).expect("there");
        m.permissions().mode() & 0o777
    };
    assert_eq!(
        (mode(""), mode("control.sock"), mode("log")),
        (0o700, 0o600, 0o600)
    );
    assert!(ask(&state, b"{\"v\":1,\"op\":\"status\"}\n").contains("\"ok\":"));
    assert!(ask(&state, b"{\"v\":2,\"op\":\"future\"}\n").contains("control protocol 2"));
    assert!(ask(&state, b"{\"v\":1,\"op\":\"nonsense\"}\n").contains("\"error\""));
    assert!(ask(&state, &vec![b'a'; 3 << 20]).contains("at most 1048576 bytes"));
    for n in 0..300_usize {
        let mut bytes = vec![0; n];
        getrandom::fill(&mut bytes).expect("chance");
        bytes.push(b'\n');
        ask(&state, &bytes);
    }
    home.ok(&["status"]);
}

#[test]
fn a_state_with_a_long_path_works() {
    let mut home = Home::new();
    home.state = home.dir.path().join("x".repeat(120)).join("state");
    home.ok(&["mount", &home.mnt()]);
    home.ok(&["status"]);
    home.ok(&["umount", "--all"]);
}
