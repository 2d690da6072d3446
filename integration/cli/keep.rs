//! What is printed of where large files are.

use super::Home;

#[test]
fn where_large_files_are_is_told_to_people_and_programs() {
    let home = Home::new();
    home.ok(&["mount", &home.mnt()]);
    let at = ["--volume", "cell", "media/film"];
    let ask = |verb: &str| home.ok(&[&[verb][..], &at].concat());
    let told = ask("where");
    for part in [
        "media/film  20 MB",
        "a (5000 kB of 20 MB, not kept), b (all)",
        "and 2 files more",
        "not to be asked now: c",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let told = ask("why");
    for part in [
        "it is not to be kept here: --keep pinned",
        "not all of it is here; what is read of it",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let told = home.json(&[&["where", "--json"][..], &at].concat());
    assert_eq!(told["files"][0]["nodes"][1]["keeps"], true);
    assert_eq!(told["files"][0]["path"], "media/film");
    assert!(ask("pin").contains("1 large file, 5000 kB of 20 MB here"));
    assert!(ask("unpin").contains("1 large file"));
    let said = home.run(&[&["drop"][..], &at].concat());
    assert_eq!(said.code, 1);
    assert!(
        said.out.contains("stays: media/film: 0 other nodes have"),
        "{}",
        said.out
    );
    assert!(
        said.err.contains("1 of 1 files stay for now"),
        "{}",
        said.err
    );
    assert!(said.err.contains("cellfs pin"), "{}", said.err);
    assert!(
        home.ok(&["scrub"])
            .contains("cell    4000  2.0      2 pieces, which")
    );
    assert_eq!(home.json(&["scrub", "--json"])["scrub"][0]["damaged"], 2);
    let told = home.ok(&["tags", "--set", "ssd,berlin"]);
    assert!(told.contains("tagged  ssd, berlin  this node"), "{told}");
    assert_eq!(home.json(&["tags", "--json"])["nodes"][0]["us"], true);
    assert_eq!(home.run(&["tags", "--clear", "--set", "a"]).code, 2);
}
