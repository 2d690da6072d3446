//! Requests and answers, right, cut off and false.

use super::*;
use crate::base::limit::VOLUME_NAME_BYTES_MAX;
use crate::chunk::manifest::NodeKind;
use crate::chunk::{ChunkId, Piece, Survey};
use crate::store::objects::Memory;
use crate::volume::view::HeadInfo;
use crate::volume::{Identity, Outlet};

struct Nobody;

impl Outlet for Nobody {
    fn committed(&self, _: &VolumeName, _: &HeadInfo, _: Option<Vec<u8>>) {}
}

fn open(dir: &std::path::Path) -> Arc<Volume> {
    let who = Identity {
        node: NodeId([1; 32]),
        name: "n1".to_owned(),
    };
    Volume::open(dir, "cell".parse().unwrap(), who, Arc::new(Nobody)).unwrap()
}

/// What a member gives of a file of so many pieces, and its name.
fn given(pieces: usize) -> (Sha256, Vec<u8>) {
    let piece = |_| {
        let mut id = [0; 32];
        getrandom::fill(&mut id).unwrap();
        Piece {
            id: ChunkId(id),
            len: 100_000,
        }
    };
    let mut sha256 = [0; 32];
    getrandom::fill(&mut sha256).unwrap();
    let survey = Survey {
        len: pieces as u64 * 100_000,
        sha256: Sha256(sha256),
        pieces: (0..pieces).map(piece).collect(),
    };
    let objects = Memory::default();
    let mut last = Vec::new();
    let mut put = |kind, bytes: Vec<u8>| {
        last.clone_from(&bytes);
        match kind {
            NodeKind::Blob => objects.put(ObjectKind::Blob, bytes),
            NodeKind::Tree => objects.put(ObjectKind::Tree, bytes),
        }
    };
    let (head, top) = manifest::write(&survey, &mut put).unwrap();
    let mut out = last;
    incoming::send(&objects, &[head, top], &[], &mut out).unwrap();
    (survey.sha256, out)
}

#[test]
fn a_request_is_as_long_as_may_be_read() {
    let volume: VolumeName = "v".repeat(VOLUME_NAME_BYTES_MAX).parse().unwrap();
    let id = Cid::File([7; 32]);
    let body = postcard::to_stdvec(&Ask { volume, id }).unwrap();
    assert!(body.len() < REQUEST_BYTES_MAX, "{}", body.len());
    for n in 0..body.len() {
        assert!(postcard::from_bytes::<Ask>(&body[..n]).is_err());
    }
}

#[test]
fn an_object_is_taken_only_if_it_is_the_one() {
    let object = |text: &[u8]| Object {
        kind: ObjectKind::Blob,
        data: Arc::new(text.to_vec()),
    };
    let id = id_of(ObjectKind::Blob, b"this");
    let this = pack::encode(&[(id, object(b"this"))]).unwrap();
    let other = id_of(ObjectKind::Blob, b"that");
    let that = pack::encode(&[(other, object(b"that"))]).unwrap();
    assert_eq!(*take_object(&id, &this[..]).unwrap().data, b"this");
    assert!(take_object(&id, &that[..]).is_err());
    for n in 0..this.len() {
        assert!(take_object(&id, &this[..n]).is_err(), "{n}");
    }
}

#[test]
fn a_manifest_is_taken_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let volume = open(&dir.path().join("v"));
    // The pack of the last does not go through the journal.
    for pieces in [0, 1, 300, 4_000] {
        let (sha256, bytes) = given(pieces);
        assert_eq!(bytes.len() as u64 > 2 * SMALL_PACK_BYTES, pieces == 4_000);
        let take = |bytes: &[u8]| take_manifest(&volume, sha256, bytes);
        let step = (bytes.len() / 50).max(1);
        for n in (0..bytes.len()).step_by(step) {
            assert!(take(&bytes[..n]).is_err(), "{n} of {}", bytes.len());
            let mut wrong = bytes.clone();
            wrong[n] ^= 1;
            assert!(take(&wrong).is_err(), "{n} of {}", bytes.len());
        }
        let head = take(&bytes).unwrap();
        assert_eq!(head.len, pieces as u64 * 100_000);
        let repo = &**volume.repo();
        let mut get = |id: &Oid, kind| {
            let kind = match kind {
                NodeKind::Blob => ObjectKind::Blob,
                NodeKind::Tree => ObjectKind::Tree,
            };
            repo.get(id, kind)
        };
        let listed = manifest::pieces(&head, &mut get).map(Result::unwrap);
        assert_eq!(listed.count(), pieces);
        // The rest need not come again.
        assert!(take(&bytes[..HEAD_BYTES]).is_ok());
        // Another file is not this one.
        let (other, _) = given(1);
        assert!(take_manifest(&volume, other, &bytes[..]).is_err());
    }
}
