//! Drivers by example and on random bytes.

use proptest::prelude::{ProptestConfig, any, prop_oneof, proptest};
use proptest::strategy::{Just, Strategy};

use super::attributes::driver;
use super::{BYTES_MAX, Driver, NAMES};

/// What the driver makes of `a` and `b`, and that it is nothing else with the sides changed.
fn both(name: &str, base: &str, a: &str, b: &str) -> Option<String> {
    let driver = Driver::named(name);
    let merge = |a: &str, b: &str| driver.merge(a.as_bytes(), base.as_bytes(), b.as_bytes());
    let (one, other) = (merge(a, b), merge(b, a));
    assert_eq!(
        one.is_some(),
        other.is_some(),
        "{name}: {base:?} {a:?} {b:?}"
    );
    one.map(|bytes| String::from_utf8(bytes).expect("text"))
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn lines_apart_from_each_other_merge() {
    let base = "1\n2\n3\n4\n5\n6\n7\n";
    let a = "1a\n2\n3\n4\n5\n6\n7\n";
    let b = "1\n2\n3\n4\n5\n6\n7b\n";
    for name in NAMES {
        let merged = both(name, base, a, b);
        match name {
            // Not of these formats: no result of theirs can be checked.
            "lww" | "binary" | "json" | "toml" => assert_eq!(merged, None, "{name}"),
            _ => assert_eq!(merged, some("1a\n2\n3\n4\n5\n6\n7b\n"), "{name}"),
        }
    }
    assert_eq!(both("text", "o\n", "x\n", "y\n"), None);
    assert_eq!(both("text", "o\n", "x\0\n", "o\n"), None);
    let large = "a".repeat(BYTES_MAX + 1);
    assert_eq!(both("text", "o\n", &large, "o\n"), None);
    assert_eq!(both("unheard-of", base, a, b), None);
}

#[test]
fn union_keeps_the_lines_of_both() {
    assert_eq!(both("union", "o\n", "o\na\n", "o\nb\n"), some("o\na\nb\n"));
    assert_eq!(both("union", "o", "o\na", "o\nb"), some("o\na\nb\n"));
    assert_eq!(both("union", "o\n", "a\n", "b\n"), some("a\nb\n"));
    assert_eq!(both("union", "", "a\n", "b\n"), some("a\nb\n"));
}

#[test]
fn json_merges_by_keys_and_keeps_the_form_of_what_one_side_has() {
    let base = "{\n  \"a\": 1,\n  \"b\": {\"x\": [1, 2], \"y\": 1.50},\n  \"c\": null\n}\n";
    let a =
        "{\n  \"a\": 2,\n  \"b\": {\"x\": [1, 2], \"y\": 1.50, \"z\": 7e0},\n  \"c\": null\n}\n";
    let b = "{\n  \"a\": 1,\n  \"b\": {\"x\": [1,  2, 3], \"y\": 1.50},\n  \"new\": \"é\"\n}\n";
    let made = "{\n  \"a\": 2,\n  \"b\": {\"x\": [1,  2, 3], \"y\": 1.50, \"z\": 7e0},\n  \"new\": \"é\"\n}\n";
    assert_eq!(both("json", base, a, b), some(made));
    // One number, two values.
    assert_eq!(both("json", "{\"a\": 1}", "{\"a\": 2}", "{\"a\": 3}"), None);
    // Both added one key: objects merge, others must be equal.
    let merged = both("json", "{}", "{\"k\": {\"a\": 1}}", "{\"k\": {\"b\": 2}}");
    assert_eq!(merged, some("{\"k\": {\"a\": 1, \"b\": 2}}"));
    // Removed and changed: it stays, changed.
    let merged = both(
        "json",
        "{\"a\": 1, \"b\": 1}",
        "{\"b\": 1}",
        "{\"a\": 5, \"b\": 1}",
    );
    assert_eq!(merged, some("{\"a\": 5, \"b\": 1}"));
    // Items of lists of one length, and items added at different places.
    let merged = both(
        "json",
        "[{\"n\": 1}, {\"n\": 2}]",
        "[{\"n\": 5}, {\"n\": 2}]",
        "[{\"n\": 1}, {\"n\": 6}]",
    );
    assert_eq!(merged, some("[{\"n\": 5}, {\"n\": 6}]"));
    let merged = both(
        "json",
        "[1, 2, 3, 4, 5]",
        "[0, 1, 2, 3, 4, 5]",
        "[1, 2, 3, 4, 5, 6]",
    );
    assert_eq!(merged, some("[0, 1, 2, 3, 4, 5, 6]"));
    // Doubled keys mean different things to different readers.
    assert_eq!(
        both("json", "{\"a\":1,\"a\":2}", "{\"a\":1}", "{\"a\":2}"),
        None
    );
    // Lines that merge into what is no JSON are no result.
    let (base, a, b) = (
        "{\n\"a\": 1\n}\n",
        "{\n\"n\": 0,\n\"a\": 1\n}\n",
        "{\n\"a\": 1,\n\"z\": 2\n}\n",
    );
    let merged = both("json", base, a, b).expect("keys differ");
    assert_eq!(merged, "{\n\"n\": 0,\n\"a\": 1,\n\"z\": 2\n}\n");
}

#[test]
fn toml_merges_by_keys_and_keeps_comments() {
    let base = "# Top.\ntitle = 'x' # why\n\n[server]\n# The port.\nport = 1\nhosts = [\n  'a', # first\n]\n\n[[user]]\nname = 'u'\n\n# End.\n";
    let a = base
        .replace("port = 1", "port = 2")
        .replace("[server]", "[server]\nip = '::1'");
    let b = base
        .replace(
            "# The port.\nport = 1",
            "# The port.\nport = 1\nfast = true",
        )
        .replace("[[user]]", "[log]\nlevel = 3\n\n[[user]]");
    let merged = both("toml", base, &a, &b).expect("keys differ");
    for part in [
        "# Top.\n",
        "'x' # why",
        "[server]\nip = '::1'\n# The port.\nport = 2\nfast = true",
        "'a', # first",
        "[log]\nlevel = 3\n",
        "# End.\n",
    ] {
        assert!(merged.contains(part), "{part:?} in {merged}");
    }
    assert_eq!(both("toml", "a = 1\n", "a = 2\n", "a = 3\n"), None);
    // Each removed what the other left.
    let merged = both("toml", "a = 1\nb = 1\n", "b = 1\n", "a = 1\n");
    assert_eq!(merged, some(""));
    assert_eq!(
        both("toml", "a = 1\nb = 1\n", "a = 2\nb = 1\n", "a = 1\nb = 2\n"),
        some("a = 2\nb = 2\n")
    );
    // Both give one table, with other keys.
    let merged = both("toml", "", "[t]\na = 1\n", "[t]\nb = 2\n");
    assert_eq!(merged, some("[t]\na = 1\nb = 2\n"));
    // The same comment changed twice.
    assert_eq!(
        both("toml", "# o\na = 1\n", "# x\na = 1\n", "# y\na = 1\n"),
        None
    );
    // Keys with dots, at the top and within.
    let merged = both(
        "toml",
        "a.b = 1\na.c = 1\n",
        "a.b = 2\na.c = 1\n",
        "a.b = 1\na.c = 2\n",
    );
    assert_eq!(merged, some("a.b = 2\na.c = 2\n"));
}

#[test]
fn yaml_merges_by_keys_and_keeps_comments() {
    let base = "# Top.\nname: x # why\nserver:\n  # The port.\n  port: 1\n  hosts:\n    - a\n    - b\ntext: |\n  # not a comment\n  line\n# End.\n";
    let a = base
        .replace("port: 1", "port: 2")
        .replace("name: x", "name: y");
    let b = base
        .replace("  port: 1\n", "  port: 1\n  fast: true\n")
        .replace("text: |", "level: 3\ntext: |");
    let merged = both("yaml", base, &a, &b).expect("keys differ");
    let expected = "# Top.\nname: y # why\nserver:\n  # The port.\n  port: 2\n  fast: true\n  hosts:\n    - a\n    - b\nlevel: 3\ntext: |\n  # not a comment\n  line\n# End.\n";
    assert_eq!(merged, expected);
    assert_eq!(both("yaml", "a: 1\n", "a: 2\n", "a: 3\n"), None);
    assert_eq!(
        both("yaml", "a: 1\nb: 1\n", "a: 2\nb: 1\n", "a: 1\nb: 2\n"),
        some("a: 2\nb: 2\n")
    );
    let merged = both("yaml", "o: 1\n", "o: 1\nt:\n  a: 1\n", "o: 1\nt:\n  b: 2\n");
    assert_eq!(merged, some("o: 1\nt:\n  a: 1\n  b: 2\n"));
    // "1" is a text and 1 a number: both changed it, to different things.
    assert_eq!(both("yaml", "a: 0\n", "a: 1\n", "a: \"1\"\n"), None);
    // What an anchor means is not in one place.
    assert_eq!(
        both(
            "yaml",
            "a: &x 1\nb: *x\n",
            "a: &x 2\nb: *x\n",
            "a: &x 1\nb: 3\n"
        ),
        None
    );
    // Lists are taken whole.
    assert_eq!(both("yaml", "a:\n- 1\n", "a:\n- 2\n", "a:\n- 3\n"), None);
}

#[test]
fn attributes_name_the_driver_as_git_reads_them() {
    let root = |text: &str| vec![(Vec::new(), text.as_bytes().to_vec())];
    let named = |files: &[(Vec<u8>, Vec<u8>)], path: &str| driver(files, path.as_bytes());
    for (rules, path, expected) in [
        ("", "a", Driver::Text),
        ("* merge=union\n", "d/a", Driver::Union),
        ("*.json merge=json\n", "d/a.json", Driver::Json),
        ("*.json merge=json\n", "d/a.toml", Driver::Text),
        ("/a merge=lww\n", "a", Driver::Lww),
        ("/a merge=lww\n", "d/a", Driver::Text),
        ("d/** merge=yaml\n", "d/e/a", Driver::Yaml),
        ("*.png binary\n", "x.png", Driver::Binary),
        ("* -merge\na merge\n", "a", Driver::Text),
        ("* merge=union\na !merge\n", "a", Driver::Text),
        ("* merge=union\na merge=toml\n", "a", Driver::Toml),
        (
            "[attr]log merge=union\n*.log log\n",
            "d/x.log",
            Driver::Union,
        ),
        ("* merge=mine\n", "a", Driver::Unknown("mine".into())),
        (
            "# a merge=lww\n\n!a merge=lww\n\"a b\" merge=lww\n",
            "a b",
            Driver::Lww,
        ),
    ] {
        assert_eq!(named(&root(rules), path), expected, "{rules:?} {path}");
    }
    let mut files = root("* merge=union\n[attr]m merge=lww\n");
    files.push((b"d".to_vec(), b"a merge=json\n/b merge=toml\n".to_vec()));
    assert_eq!(named(&files, "d/a"), Driver::Json);
    assert_eq!(named(&files, "d/e/a"), Driver::Json);
    assert_eq!(named(&files, "d/b"), Driver::Toml);
    assert_eq!(named(&files, "d/e/b"), Driver::Union);
    assert_eq!(named(&files, "a"), Driver::Union);
}

fn text() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just("a: 1\n"),
        Just("b: 2\n"),
        Just("  c: x\n"),
        Just("  - d\n"),
        Just("e = 5\n"),
        Just("[t]\n"),
        Just("[[u]]\n"),
        Just("f = \"\"\"\n"),
        Just("\"\"\"\n"),
        Just("# g\n"),
        Just("{\"h\": [1, {}],\n"),
        Just("\"i\": 2}\n"),
        Just("k: |\n"),
        Just("\n"),
        Just("d"),
        Just("\r\n"),
        Just("? q\n"),
        Just("--- \n"),
    ];
    proptest::collection::vec(line, 0..8).prop_map(|l| l.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_side_without_changes_yields_to_the_other(base in text(), a in text(), b in text()) {
        for name in NAMES {
            let driver = Driver::named(name);
            let merge = |a: &str, b: &str| {
                driver.merge(a.as_bytes(), base.as_bytes(), b.as_bytes())
            };
            // The result must never be less than one whole side where only that side changed.
            for merged in [merge(&a, &base), merge(&base, &a)].into_iter().flatten() {
                let ended = if name == "union" && !a.is_empty() && !a.ends_with('\n') { "\n" } else { "" };
                assert_eq!(String::from_utf8_lossy(&merged), format!("{a}{ended}"), "{name}");
            }
            if let Some(merged) = merge(&a, &b) {
                let merged = String::from_utf8(merged).expect("text");
                for marker in ["<<<<<<<", "=======", ">>>>>>>"] {
                    assert!(!merged.contains(marker), "{name}: {merged}");
                }
            }
        }
    }

    #[test]
    fn no_bytes_break_a_driver(base in any::<Vec<u8>>(), a in any::<Vec<u8>>(), b in any::<Vec<u8>>()) {
        for name in NAMES {
            let _any = Driver::named(name).merge(&a, &base, &b);
        }
        let _any = driver(&[(b"d".to_vec(), a)], &b);
    }
}

/// Lines that one side alone has were written by it: whatever the other did, they are in the result.
#[test]
fn no_line_that_a_side_wrote_is_left_out() {
    let mut seed = 7_u64;
    let mut below = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(seed >> 33).unwrap() % n
    };
    let mut merged = 0;
    for round in 0..20_000 {
        let base: Vec<String> = (0..below(12)).map(|n| format!("o{n}")).collect();
        let mut sides = [base.clone(), base.clone()];
        for (i, side) in sides.iter_mut().enumerate() {
            for edit in 0..1 + below(3) {
                let new = format!("{}{round}-{edit}", ["a", "b"][i]);
                let at = below(side.len() + 1);
                match below(3) {
                    0 if at < side.len() => side[at] = new,
                    1 if at < side.len() => {
                        let end = at + below(side.len() - at) + 1;
                        side.drain(at..end);
                    }
                    _ => side.insert(at, new),
                }
            }
        }
        let text = |lines: &[String]| -> Vec<u8> {
            lines
                .iter()
                .flat_map(|l| format!("{l}\n").into_bytes())
                .collect()
        };
        let (a, o, b) = (text(&sides[0]), text(&base), text(&sides[1]));
        let Some(m) = Driver::Text.merge(&a, &o, &b) else {
            continue;
        };
        merged += 1;
        let m = String::from_utf8(m).unwrap();
        let found: Vec<&str> = m.lines().collect();
        for line in sides.iter().flatten().filter(|l| !base.contains(l)) {
            assert!(
                found.contains(&line.as_str()),
                "{base:?} {sides:?} {found:?}"
            );
        }
    }
    assert!(merged > 2_000, "{merged}");
}
