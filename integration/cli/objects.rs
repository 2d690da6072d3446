//! Bytes by their ids: what goes over the socket, with a stand-in for the node.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use super::Home;

/// Of `abc`.
const ABC: &str = "bafkreif2pall7dybz7vecqka3zo24irdwabwdi4wc55jznaq75q7eaavvu";

fn home() -> Home {
    let home = Home::new();
    home.ok(&["mount", &home.mnt()]);
    home
}

#[test]
fn bytes_go_to_the_node_and_come_from_it() {
    let home = home();
    let dir = home.dir.path().join("files");
    fs::create_dir(&dir).expect("made");
    let path = |name: &str| dir.join(name).display().to_string();
    fs::write(path("abc"), "abc").expect("written");
    assert_eq!(home.ok(&["add", &path("abc")]).trim(), ABC);
    let mut child = home
        .command(&["add", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(b"abc")
        .expect("sent");
    let out = child.wait_with_output().expect("a child");
    assert!(String::from_utf8(out.stdout).expect("text").contains(ABC));

    home.ok(&["get", ABC, &path("got")]);
    assert_eq!(fs::read(path("got")).expect("there"), b"abc");
    assert_eq!(home.ok(&["get", ABC, "-"]), "abc");
    let told = home.json(&["object", "stat", ABC, "--json"]);
    assert_eq!((&told["length"], &told["v"]), (&300.into(), &1.into()));
    let told = home.ok(&["object", "stat", ABC]);
    assert!(
        told.contains("3, 1 of them here") && told.contains("100 of 300 bytes"),
        "{told}"
    );
}

#[test]
fn nothing_is_left_of_bytes_that_are_others_or_stop() {
    let home = home();
    let out = home.dir.path().join("out").display().to_string();
    // The stand-in says that all files are `abc`.
    let other = home.run(&["get", &"00".repeat(32), &out]);
    assert!(
        other.code == 1 && other.err.contains("damaged"),
        "{}",
        other.err
    );
    let stops = home.run(&["get", &"00".repeat(20), &out]);
    assert!(
        stops.code == 1 && stops.err.contains("the rest is gone"),
        "{}",
        stops.err
    );
    assert!(stops.err.contains("ask again"), "{}", stops.err);
    assert_eq!(home.run(&["get", &"00".repeat(32), "-"]).code, 1);
    let left = fs::read_dir(home.dir.path()).expect("there").flatten();
    let left: Vec<_> = left.map(|e| e.file_name()).collect();
    assert!(left.iter().all(|n| n == "mnt" || n == "state"), "{left:?}");
    let bad = home.dir.path().join("bad");
    fs::write(&bad, vec![b'b'; 40 << 20]).expect("written");
    let file = fs::File::options().write(true).open(&bad).expect("there");
    std::os::unix::fs::FileExt::write_all_at(&file, b"bad", 0).expect("written");
    let full = home.run(&["add", &bad.display().to_string()]);
    assert!(
        full.code == 1 && full.err.contains("is full"),
        "{}",
        full.err
    );
}

#[test]
fn an_import_lists_what_failed_and_tries_it_again_the_next_time() {
    let home = home();
    let dir = home.dir.path().join("tree");
    fs::create_dir_all(dir.join("sub")).expect("made");
    for (name, text) in [("one", "1"), ("sub/bad", "bad"), ("sub/two", "2")] {
        fs::write(dir.join(name), text).expect("written");
    }
    let text = dir.display().to_string();
    let record = home.dir.path().join("record").display().to_string();
    let words = ["import", &text, "--record", &record, "--retry", "1"];
    let said = home.run(&words);
    assert_eq!(
        (said.code, said.out.lines().count()),
        (1, 2),
        "{}",
        said.err
    );
    let listed = format!("failed: {text}/sub/bad: the disk of the node is full");
    assert!(said.err.contains(&listed), "{}", said.err);
    assert!(
        said.err
            .contains("2 added, 0 known from the record, 1 failed"),
        "{}",
        said.err
    );
    fs::write(dir.join("sub/bad"), "good").expect("written");
    let said = home.run(&words);
    assert_eq!(
        (said.code, said.out.lines().count()),
        (0, 1),
        "{}",
        said.err
    );
    assert!(
        said.err
            .contains("1 added, 2 known from the record, 0 failed"),
        "{}",
        said.err
    );
    assert_eq!(home.run(&["import", &text, "--parallel", "0"]).code, 2);
}
