//! Requests that no git-lfs sends: wrong, too large, cut off, hostile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use cellfs::doors::lfs::{BATCH_OBJECTS_MAX, JSON_BYTES_MAX, UPLOADS_MAX};
use serde_json::{Value, json};

use super::client::{noise, sha256};
use crate::git_door::host::{READ, Served, WRITE, eventually};

const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";

/// What came back.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        format!("{}\n{}", self.head, String::from_utf8_lossy(&self.body))
    }

    fn json(&self) -> Value {
        let kind = format!("content-type: {MEDIA_TYPE}");
        assert!(self.head.contains(&kind), "{}", self.text());
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// An error, as the API has them.
    fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        let said = self.json();
        let message = said["message"].as_str().expect("a message").to_owned();
        assert!(!message.is_empty());
        message
    }
}

fn head(method: &str, path: &str, token: &str, more: &str) -> String {
    let pair = data_encoding::BASE64.encode(format!("cell:{token}").as_bytes());
    format!(
        "{method} {path} HTTP/1.1\r\nHost: cell.example:1\r\nAuthorization: Basic {pair}\r\n\
         Connection: close\r\n{more}\r\n"
    )
}

fn exchange(served: &Served, head: &str, body: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(served.addr).expect("connected");
    let patience = Some(Duration::from_secs(30));
    stream.set_read_timeout(patience).expect("set");
    stream.write_all(head.as_bytes()).expect("sent");
    // The server may hang up on what it will not read.
    let _ = stream.write_all(body);
    reply(&mut stream)
}

fn reply(stream: &mut TcpStream) -> Reply {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    let end = all.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&all)));
    let head = String::from_utf8_lossy(&all[..end]).to_lowercase();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    Reply {
        status: status.expect("a status"),
        head,
        body: all[end + 4..].to_vec(),
    }
}

fn api(volume: &str, rest: &str) -> String {
    format!("/{volume}.git/info/lfs/{rest}")
}

/// A request with a JSON body.
pub(crate) fn json(
    served: &Served,
    method: &str,
    volume: &str,
    rest: &str,
    token: &str,
    body: &str,
) -> Reply {
    let more = format!(
        "Content-Type: {MEDIA_TYPE}; charset=utf-8\r\nContent-Length: {}\r\n",
        body.len()
    );
    let head = head(method, &api(volume, rest), token, &more);
    exchange(served, &head, body.as_bytes())
}

fn get(served: &Served, rest: &str, token: &str, more: &str) -> Reply {
    exchange(served, &head("GET", &api("cell", rest), token, more), b"")
}

fn put(served: &Served, rest: &str, length: usize, body: &[u8]) -> Reply {
    let more = format!("Content-Length: {length}\r\n");
    let head = head("PUT", &api("cell", rest), WRITE, &more);
    exchange(served, &head, body)
}

fn batch(served: &Served, operation: &str, objects: &Value) -> Reply {
    let body = json!({ "operation": operation, "objects": objects }).to_string();
    json(served, "POST", "cell", "objects/batch", WRITE, &body)
}

/// A door with one object behind it, and the object.
fn begun() -> (Served, Vec<u8>, String) {
    let served = Served::start();
    let bytes = noise(300_000);
    let id = sha256(&bytes);
    let r = put(&served, &format!("objects/{id}"), bytes.len(), &bytes);
    assert_eq!(r.status, 200, "{}", r.text());
    assert_eq!(served.objects("cell"), (vec![id.clone()], 0));
    (served, bytes, id)
}

#[test]
fn a_batch_says_of_each_object_what_to_do() {
    let (served, bytes, id) = begun();
    let other = sha256(b"other");
    let empty = sha256(b"");
    let asked = json!([
        { "oid": id, "size": bytes.len() },
        { "oid": other, "size": 5 },
        { "oid": id, "size": 5 },
        { "oid": empty, "size": 0 },
        { "oid": "../../../../etc/passwd", "size": 5 },
        { "oid": id.to_uppercase(), "size": bytes.len() },
        { "oid": other, "size": -1 },
    ]);
    let base = "http://cell.example:1/cell.git/info/lfs/objects";
    let told = batch(&served, "download", &asked).json();
    assert_eq!(
        (&told["transfer"], &told["hash_algo"]),
        (&"basic".into(), &"sha256".into())
    );
    let objects = told["objects"].as_array().expect("a list");
    let codes: Vec<_> = objects
        .iter()
        .map(|o| o["error"]["code"].as_u64())
        .collect();
    let (none, wrong) = (None, Some(422));
    assert_eq!(codes, [none, Some(404), wrong, none, wrong, wrong, wrong]);
    let href = &objects[0]["actions"]["download"]["href"];
    assert_eq!(*href, json!(format!("{base}/{id}")));
    assert_eq!(objects[4]["oid"], "../../../../etc/passwd");
    assert!(objects[1].get("actions").is_none() && objects[0].get("error").is_none());
    let told = batch(&served, "upload", &asked).json();
    let objects = told["objects"].as_array().expect("a list");
    let codes: Vec<_> = objects
        .iter()
        .map(|o| o["error"]["code"].as_u64())
        .collect();
    assert_eq!(codes, [none, none, wrong, none, wrong, wrong, wrong]);
    // What is here is not sent again.
    assert!(objects[0].get("actions").is_none() && objects[3].get("actions").is_none());
    let actions = &objects[1]["actions"];
    assert_eq!(
        actions["upload"]["href"],
        json!(format!("{base}/{other}?size=5"))
    );
    assert_eq!(actions["verify"]["href"], json!(format!("{base}/verify")));
    let huge = json!([{ "oid": other, "size": (1_u64 << 40) + 1 }]);
    let told = batch(&served, "upload", &huge).json();
    assert_eq!(told["objects"][0]["error"]["code"], 422);
}

#[test]
fn a_batch_that_is_wrong_as_a_whole_is_refused() {
    let (served, _, id) = begun();
    let send = |body: &str| json(&served, "POST", "cell", "objects/batch", WRITE, body);
    for garbage in [
        "",
        "{",
        "[]",
        "null",
        "\u{0}",
        "{\"operation\":\"download\"}",
    ] {
        send(garbage).error(400);
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    send(&deep).error(400);
    let one = json!([{ "oid": id, "size": 1 }]);
    let with = |key: &str, value: Value| {
        let mut body = json!({ "operation": "download", "objects": one });
        body[key] = value;
        send(&body.to_string())
    };
    with("operation", json!("delete")).error(422);
    with("transfers", json!(["tus", "ssh"])).error(422);
    with("objects", json!([{ "oid": id, "size": 1.5 }])).error(400);
    let told = with("hash_algo", json!("sha512")).json();
    assert_eq!(told["objects"][0]["error"]["code"], 409);
    assert_eq!(with("transfers", json!(["tus", "basic"])).status, 200);
    assert_eq!(
        with("ref", json!({ "name": "refs/heads/main" })).status,
        200
    );
    assert_eq!(with("ref", Value::Null).status, 200);
    let many = |n: usize| {
        let all: Vec<_> = (0..n)
            .map(|n| json!({ "oid": sha256(&n.to_le_bytes()), "size": 8 }))
            .collect();
        batch(&served, "upload", &json!(all))
    };
    assert_eq!(many(BATCH_OBJECTS_MAX).status, 200);
    many(10_000).error(413);
    send(&" ".repeat(JSON_BYTES_MAX + 1)).error(413);
    let plain = head(
        "POST",
        &api("cell", "objects/batch"),
        WRITE,
        "Content-Length: 2\r\n",
    );
    exchange(&served, &plain, b"{}").error(415);
    let body = json!({ "operation": "download", "objects": one }).to_string();
    json(&served, "POST", "none", "objects/batch", READ, &body).error(404);
    json(&served, "POST", "..", "objects/batch", READ, &body).error(404);
    json(&served, "GET", "cell", "objects/batch", READ, &body).error(405);
}

#[test]
fn who_may_do_what_is_as_for_git() {
    let (served, bytes, id) = begun();
    let object = format!("objects/{id}");
    for token in ["wrong", ""] {
        let r = get(&served, &object, token, "");
        r.error(401);
        assert!(r.head.contains("lfs-authenticate: basic"), "{}", r.text());
        assert!(r.head.contains("www-authenticate: basic"), "{}", r.text());
        assert!(json(&served, "POST", "cell", "locks", token, "{}").status == 401);
    }
    assert_eq!(get(&served, &object, READ, "").body, bytes);
    let as_reader = |method: &str, rest: &str, body: &str| {
        json(&served, method, "cell", rest, READ, body).error(403);
    };
    let batch = json!({ "operation": "upload", "objects": [] }).to_string();
    as_reader("POST", "objects/batch", &batch);
    as_reader("PUT", &object, "x");
    as_reader("POST", "objects/verify", "{}");
    as_reader("POST", "locks", "{\"path\":\"a\"}");
    as_reader("POST", "locks/verify", "{}");
    as_reader("POST", "locks/1/unlock", "{}");
    assert_eq!(
        get(&served, "locks", READ, "").json(),
        json!({ "locks": [] })
    );
}

#[test]
fn parts_of_an_object_are_sent_as_asked_for() {
    let (served, bytes, id) = begun();
    let object = format!("objects/{id}");
    let all = get(&served, &object, READ, "");
    assert!(all.status == 200 && all.body == bytes);
    for line in [
        "accept-ranges: bytes",
        "content-length: 300000",
        "content-type: application/octet-stream",
    ] {
        assert!(all.head.contains(line), "{line}: {}", all.head);
    }
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=65535-65536", 65_535, 65_537),
        ("bytes=100000-", 100_000, 300_000),
        ("bytes=-5", 299_995, 300_000),
        ("bytes=299999-999999999", 299_999, 300_000),
    ] {
        let r = get(&served, &object, READ, &format!("Range: {range}\r\n"));
        assert_eq!(r.status, 206, "{range}: {}", r.head);
        assert!(r.body == bytes[from..to], "{range}");
        let line = format!("content-range: bytes {from}-{}/300000", to - 1);
        assert!(r.head.contains(&line), "{range}: {}", r.head);
    }
    let r = get(&served, &object, READ, "Range: bytes=300000-\r\n");
    r.error(416);
    assert!(
        r.head.contains("content-range: bytes */300000"),
        "{}",
        r.head
    );
    let tagged = |tag: &str| {
        let more = format!("Range: bytes=0-9\r\nIf-Range: {tag}\r\n");
        get(&served, &object, READ, &more).status
    };
    assert_eq!(tagged(&format!("\"{id}\"")), 206);
    assert_eq!(tagged("\"another\""), 200);
    let head = head("HEAD", &api("cell", &object), READ, "");
    let r = exchange(&served, &head, b"");
    assert!(r.status == 200 && r.body.is_empty());
    assert!(r.head.contains("content-length: 300000"), "{}", r.head);
    let empty = get(&served, &format!("objects/{}", sha256(b"")), READ, "");
    assert!(empty.status == 200 && empty.body.is_empty());
    let absent = format!("objects/{}", sha256(b"x"));
    assert!(
        get(&served, &absent, READ, "")
            .error(404)
            .contains("not on this node")
    );
}

#[test]
fn a_client_that_is_cut_off_gets_the_rest_later() {
    let served = Served::start();
    let bytes = noise(8 << 20);
    let object = format!("objects/{}", sha256(&bytes));
    assert_eq!(put(&served, &object, bytes.len(), &bytes).status, 200);
    let mut stream = TcpStream::connect(served.addr).expect("connected");
    let ask = head("GET", &api("cell", &object), READ, "");
    stream.write_all(ask.as_bytes()).expect("sent");
    let mut some = vec![0; 100_000];
    stream.read_exact(&mut some).expect("some");
    drop(stream);
    let begin = some
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("a head")
        + 4;
    let mut got = some.split_off(begin);
    let rest = get(
        &served,
        &object,
        READ,
        &format!("Range: bytes={}-\r\n", got.len()),
    );
    assert_eq!(rest.status, 206);
    got.extend(rest.body);
    assert!(got == bytes);
}

#[test]
fn what_is_not_what_it_was_said_to_be_is_not_taken() {
    let (served, bytes, id) = begun();
    let before = served.objects("cell");
    let other = format!("objects/{}", sha256(b"other"));
    let none = |what: &str, r: &Reply, status| {
        let said = r.error(status);
        assert_eq!(served.objects("cell"), before, "{what}: {said}");
        said
    };
    let said = none("wrong bytes", &put(&served, &other, 5, b"othex"), 422);
    assert!(said.contains("not those of object"), "{said}");
    none(
        "of another",
        &put(&served, &other, bytes.len(), &bytes),
        422,
    );
    none(
        "too long",
        &put(&served, &format!("{other}?size=4"), 5, b"other"),
        422,
    );
    none(
        "too short",
        &put(&served, &format!("{other}?size=6"), 5, b"other"),
        422,
    );
    none(
        "no number",
        &put(&served, &format!("{other}?size=x"), 5, b"other"),
        422,
    );
    none(
        "a sign",
        &put(&served, &format!("{other}?size=+5"), 5, b"other"),
        422,
    );
    let huge = format!("{other}?size={}", (1_u64 << 40) + 1);
    let chunked = |rest: &str, body: &str| {
        let head = head(
            "PUT",
            &api("cell", rest),
            WRITE,
            "Transfer-Encoding: chunked\r\n",
        );
        exchange(&served, &head, body.as_bytes())
    };
    none(
        "no length",
        &chunked(&other, "5\r\nother\r\n0\r\n\r\n"),
        411,
    );
    none("huge", &chunked(&huge, "5\r\nother\r\n0\r\n\r\n"), 422);
    let sized = format!("{other}?size=5");
    none("longer", &chunked(&sized, "6\r\notherx\r\n0\r\n\r\n"), 422);
    none("shorter", &chunked(&sized, "4\r\nothe\r\n0\r\n\r\n"), 422);
    none("garbage", &chunked(&sized, "zz\r\nothe\r\n0\r\n\r\n"), 400);
    let gzip = "Content-Length: 5\r\nContent-Encoding: gzip\r\n";
    let gzip = head("PUT", &api("cell", &other), WRITE, gzip);
    none("gzip", &exchange(&served, &gzip, b"other"), 415);
    for bad in [
        "..",
        "../x",
        &id.to_uppercase(),
        &format!("{id}0"),
        "%2e%2e%2f",
    ] {
        let r = put(&served, &format!("objects/{bad}"), 5, b"other");
        none(bad, &r, 404);
    }
    assert_eq!(chunked(&sized, "5\r\nother\r\n0\r\n\r\n").status, 200);
    assert_eq!(
        put(&served, &format!("objects/{}", sha256(b"")), 0, b"").status,
        200
    );
    assert_eq!(served.objects("cell").0.len(), 2);
    // Once more does no harm.
    assert_eq!(
        put(&served, &format!("objects/{id}"), bytes.len(), &bytes).status,
        200
    );
    let verify = |oid: &str, size: i64| {
        let body = json!({ "oid": oid, "size": size }).to_string();
        json(&served, "POST", "cell", "objects/verify", WRITE, &body)
    };
    assert_eq!(verify(&id, 300_000).status, 200);
    assert_eq!(verify(&sha256(b""), 0).status, 200);
    verify(&id, 300_001).error(422);
    verify(&id, -1).error(422);
    verify(&sha256(b"x"), 1).error(404);
    verify("..", 1).error(422);
}

#[test]
fn an_upload_that_is_cut_off_leaves_nothing() {
    let (served, _, _) = begun();
    let before = served.objects("cell");
    let bytes = noise(4 << 20);
    let path = api("cell", &format!("objects/{}", sha256(&bytes)));
    let more = format!("Content-Length: {}\r\n", bytes.len());
    let head = head("PUT", &path, WRITE, &more);
    let mut stream = TcpStream::connect(served.addr).expect("connected");
    stream.write_all(head.as_bytes()).expect("sent");
    stream.write_all(&bytes[..3 << 20]).expect("sent");
    eventually("it comes", || served.objects("cell").1 == 1);
    drop(stream);
    eventually("it has gone", || served.objects("cell") == before);
}

#[test]
fn what_was_coming_when_the_node_died_is_removed() {
    let served = Served::start();
    let incoming = served.lfs("cell").join("incoming");
    std::fs::create_dir_all(&incoming).expect("made");
    std::fs::write(incoming.join("half"), b"of a file").expect("written");
    let object = format!("objects/{}", sha256(b"x"));
    assert_eq!(put(&served, &object, 1, b"x").status, 200);
    assert_eq!(served.objects("cell").1, 0);
}

#[test]
fn more_uploads_than_places_all_get_their_turn() {
    let served = Served::start();
    std::thread::scope(|s| {
        for n in 0..UPLOADS_MAX * 3 {
            let served = &served;
            s.spawn(move || {
                let bytes = n.to_le_bytes().repeat(20_000);
                let object = format!("objects/{}", sha256(&bytes));
                let r = put(served, &object, bytes.len(), &bytes);
                assert_eq!(r.status, 200, "{}", r.text());
            });
        }
    });
    assert_eq!(served.objects("cell").0.len(), UPLOADS_MAX * 3);
}

#[test]
fn locks_are_as_the_api_has_them_and_outlive_the_node() {
    let (served, _, _) = begun();
    let lock = |path: &str| {
        let body = json!({ "path": path, "ref": { "name": "refs/heads/main" } }).to_string();
        json(&served, "POST", "cell", "locks", WRITE, &body)
    };
    let r = lock("a b/ü.bin");
    assert_eq!(r.status, 201, "{}", r.text());
    let first = r.json()["lock"].clone();
    assert_eq!(first["path"], "a b/ü.bin");
    assert_eq!(first["owner"], json!({ "name": "cell" }));
    let at = first["locked_at"].as_str().expect("a time");
    assert!(
        at.len() == 20 && at.ends_with('Z') && at.contains('T'),
        "{at}"
    );
    let again = lock("a b/ü.bin");
    again.error(409);
    assert_eq!(again.json()["lock"], first);
    for bad in ["", "/etc/passwd", "../x", "a//b"] {
        lock(bad).error(422);
    }
    for n in 0..5 {
        assert_eq!(lock(&format!("f{n}")).status, 201);
    }
    let list = |query: &str| get(&served, &format!("locks?{query}"), READ, "").json();
    let count = |v: &Value| v["locks"].as_array().expect("a list").len();
    assert_eq!(count(&list("")), 6);
    let found = list("path=a+b%2F%C3%BC.bin&refspec=refs%2Fheads%2Fmain");
    assert_eq!(found, json!({ "locks": [first] }));
    let id = first["id"].as_str().expect("text");
    assert_eq!(list(&format!("id={id}")), found);
    assert_eq!(count(&list("id=999")), 0);
    let page = list("limit=4");
    assert_eq!(count(&page), 4);
    let cursor = page["next_cursor"].as_str().expect("more").to_owned();
    let page = list(&format!("limit=4&cursor={cursor}"));
    assert!(
        count(&page) == 2 && page.get("next_cursor").is_none(),
        "{page}"
    );
    get(&served, "locks?limit=x", READ, "").error(422);
    let verify = |body: &str| json(&served, "POST", "cell", "locks/verify", WRITE, body);
    let told = verify("{\"limit\":4}").json();
    assert_eq!(told["ours"].as_array().map(Vec::len), Some(4));
    assert_eq!(
        (&told["theirs"], &told["next_cursor"]),
        (&json!([]), &json!(cursor))
    );
    verify("{\"cursor\":\"x\"}").error(422);
    let unlock = |id: &str, body: &str| {
        let rest = format!("locks/{id}/unlock");
        json(&served, "POST", "cell", &rest, WRITE, body)
    };
    unlock("999", "{}").error(404);
    unlock("x", "{}").error(404);
    unlock(id, "garbage").error(400);
    assert_eq!(unlock(id, "{\"force\":false}").json()["lock"], first);
    unlock(id, "{}").error(404);
    // Another door on the same directory knows them.
    let kept = std::fs::read_to_string(served.lfs("cell").join("locks")).expect("kept");
    let kept: Value = serde_json::from_str(&kept).expect("json");
    assert_eq!(kept["locks"].as_object().map(serde_json::Map::len), Some(5));
    json(&served, "POST", "none", "locks", WRITE, "{\"path\":\"a\"}").error(404);
}

#[test]
fn locks_that_cannot_be_read_are_said_and_keep_no_file_from_coming() {
    let served = Served::start();
    let lfs = served.lfs("cell");
    std::fs::create_dir_all(&lfs).expect("made");
    std::fs::write(lfs.join("locks"), b"damaged").expect("written");
    let object = format!("objects/{}", sha256(b"x"));
    assert_eq!(put(&served, &object, 1, b"x").status, 200);
    let said = get(&served, "locks", READ, "").error(500);
    assert!(said.contains("could not read the locks"), "{said}");
    let body = "{\"path\":\"a\"}";
    json(&served, "POST", "cell", "locks", WRITE, body).error(500);
    assert_eq!(std::fs::read(lfs.join("locks")).expect("there"), b"damaged");
}
