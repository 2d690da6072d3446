//! Who stands how after which statements, in every order of arrival.

use super::*;
use crate::peers::key::NodeKey;
use crate::peers::statement::Leave;

fn key(n: u8) -> NodeKey {
    NodeKey::from_seed([n; 32])
}

fn certify(cell: &NodeKey, issuer: &NodeKey, subject: &NodeKey) -> Statement {
    let body = Body::Certificate(Certificate {
        cell: cell.node(),
        subject: subject.node(),
        issuer: issuer.node(),
        serial: 1,
        time_ms: 5,
        name: "n".to_owned(),
    });
    Statement::sign(issuer, &body)
}

fn forget(cell: &NodeKey, by: &NodeKey, subject: &NodeKey, keep: &[&Statement]) -> Statement {
    let body = Body::Forget(Forget {
        cell: cell.node(),
        subject: subject.node(),
        by: by.node(),
        time_ms: 9,
        heads: vec![1],
        keep: keep.iter().map(|s| s.id()).collect(),
    });
    Statement::sign(by, &body)
}

/// The roll of these statements; checks that the order of arrival is of no consequence.
fn roll(cell: &NodeKey, statements: &[Statement]) -> Roll {
    let mut forward = Roll::new(cell.node());
    forward.add(statements.to_vec()).unwrap();
    let mut backward = Roll::new(cell.node());
    for s in statements.iter().rev() {
        backward.add(vec![s.clone()]).unwrap();
    }
    backward.add(statements.to_vec()).unwrap();
    for s in statements.iter().rev() {
        backward.add(vec![s.clone()]).unwrap();
    }
    assert_eq!(forward.digest(), backward.digest());
    assert_eq!(forward.standings(), backward.standings());
    forward
}

#[test]
fn certificates_of_a_forgotten_node_that_the_revoker_did_not_know_are_void() {
    let (a, b, c, d, e) = (key(1), key(2), key(3), key(4), key(5));
    let ab = certify(&a, &a, &b);
    let bc = certify(&a, &b, &c);
    let bd = certify(&a, &b, &d);
    let de = certify(&a, &d, &e);
    let gone = forget(&a, &a, &b, &[&bc]);
    let r = roll(&a, &[certify(&a, &a, &a), ab, bc, bd.clone(), de, gone]);
    assert!(r.is_member(a.node()) && r.is_member(c.node()));
    assert!(matches!(
        r.standing(b.node()),
        Some(Standing::Forgotten { .. })
    ));
    assert_eq!(r.standing(d.node()), None);
    assert_eq!(
        r.standing(e.node()),
        None,
        "its issuer's certificate is void"
    );
    assert_eq!(r.standing_with(d.node(), &[bd]), None);
    assert_eq!(r.forgotten_heads(b.node()), vec![vec![1]]);
    // A second revoker that knew more keeps more.
    let mut more = r;
    more.add(vec![forget(&a, &c, &b, &[&certify(&a, &b, &d)])])
        .unwrap();
    assert!(more.is_member(d.node()) && more.is_member(c.node()));
}

#[test]
fn who_is_nearer_to_the_founder_wins_a_quarrel() {
    let (a, b, c) = (key(1), key(2), key(3));
    let certs = [certify(&a, &a, &b), certify(&a, &b, &c)];
    let mut all = certs.to_vec();
    all.push(forget(&a, &c, &b, &[]));
    all.push(forget(&a, &b, &c, &[]));
    let r = roll(&a, &all);
    assert!(r.is_member(b.node()));
    assert!(!r.is_member(c.node()));
    // A void node's word is void; the founder can undo what a stolen node did.
    let mut all = certs.to_vec();
    all.push(forget(&a, &b, &c, &[]));
    all.push(forget(&a, &a, &b, &[&certs[1]]));
    let r = roll(&a, &all);
    assert!(r.is_member(c.node()) && !r.is_member(b.node()));
}

#[test]
fn a_node_leaves_and_comes_back() {
    let (a, b, c) = (key(1), key(2), key(3));
    let ab = certify(&a, &a, &b);
    let bye = Statement::sign(
        &b,
        &Body::Leave(Leave {
            cell: a.node(),
            subject: b.node(),
            time_ms: 7,
            ends: vec![ab.id()],
            keep: vec![],
        }),
    );
    let late = certify(&a, &b, &c);
    let mut all = vec![ab, bye, late];
    let r = roll(&a, &all);
    assert!(matches!(r.standing(b.node()), Some(Standing::Left { .. })));
    assert_eq!(r.standing(c.node()), None, "issued after leaving");
    all.push(Statement::sign(
        &a,
        &Body::Certificate(Certificate {
            cell: a.node(),
            subject: b.node(),
            issuer: a.node(),
            serial: 2,
            time_ms: 8,
            name: "b".to_owned(),
        }),
    ));
    let r = roll(&a, &all);
    assert!(r.is_member(b.node()) && r.is_member(c.node()));
    assert_eq!(r.chain(c.node()).len(), 2);
}

#[test]
fn strangers_and_forgers_do_not_enter() {
    let (a, b, x, y) = (key(1), key(2), key(8), key(9));
    let mut r = Roll::new(a.node());
    // Signed by a stranger, for another cell, or by the wrong key.
    let forged = Statement::sign(
        &x,
        &Body::Certificate(Certificate {
            cell: a.node(),
            subject: x.node(),
            issuer: a.node(),
            serial: 0,
            time_ms: 0,
            name: "x".to_owned(),
        }),
    );
    let added = r
        .add(vec![certify(&a, &x, &y), certify(&x, &x, &y), forged])
        .unwrap();
    assert!(added.is_empty());
    assert_eq!(r.statements().count(), 0);
    r.add(vec![certify(&a, &a, &b)]).unwrap();
    assert_eq!(r.depth(b.node()), Some(1));
    assert_eq!(r.chain(b.node()).len(), 1);
}
