use super::*;

#[test]
fn an_empty_list_is_a_wildcard_until_a_name_was_given() {
    let mut client = Client::sotw(&["a=1", "b=1"]);
    client.whole(&[]);
    expect(client.push(), &["a=1", "b=1"]);
    client.whole(&["*", "a"]);
    client.becomes(&["a=1", "b=2"]);
    expect(client.push(), &["a=1", "b=2"]);
    client.whole(&["a"]);
    client.becomes(&["a=1", "b=3"]);
    assert_eq!(client.push(), None);
    client.whole(&[]);
    client.becomes(&["a=2", "b=3"]);
    assert_eq!(client.push(), None);
}

#[test]
fn the_first_request_is_answered_even_with_nothing() {
    for names in [&[][..], &["*"], &["nowhere"]] {
        let mut client = Client::sotw(&[]);
        client.whole(names);
        expect(client.push(), &[]);
        client.whole(names);
        assert_eq!(client.push(), None);
    }
}

#[test]
fn every_push_is_the_full_set() {
    let mut client = Client::sotw(&["a=1", "b=1", "c=1"]);
    client.whole(&["a", "b"]);
    expect(client.push(), &["a=1", "b=1"]);
    client.whole(&["a", "b"]);
    assert_eq!(client.push(), None);
    client.becomes(&["a=1", "b=2", "c=2"]);
    expect(client.push(), &["a=1", "b=2"]);
    client.whole(&["a", "b"]);
    client.becomes(&["b=2"]);
    expect(client.push(), &["b=2"]);
}

#[test]
fn a_new_name_is_answered_even_if_the_set_stays() {
    let mut client = Client::sotw(&["a=1|@10.0.0.1"]);
    client.whole(&["a"]);
    client.push();
    client.whole(&["a", "@10.0.0.1"]);
    expect(client.push(), &["a=1"]);
}

#[test]
fn names_dropped_and_asked_for_again_are_resent() {
    let mut client = Client::sotw(&["a=1", "b=1"]);
    client.whole(&["a", "b"]);
    client.push();
    client.whole(&["a"]);
    assert_eq!(client.push(), None);
    client.whole(&["a", "b"]);
    expect(client.push(), &["a=1", "b=1"]);
}

#[test]
fn a_stale_nonce_still_changes_names() {
    let mut client = Client::sotw(&["a=1", "b=1"]);
    client.whole(&["a"]);
    client.push();
    let names = Names::Whole(vec!["a".to_owned(), "b".to_owned()]);
    assert_eq!(client.send(None, None, names), Verdict::None);
    assert_eq!(client.push(), None);
    client.whole(&["a", "b"]);
    expect(client.push(), &["a=1", "b=1"]);
}

#[test]
fn a_rejection_is_not_answered_until_something_changes() {
    let mut client = Client::sotw(&["a=1"]);
    client.whole(&[]);
    client.push();
    assert_eq!(client.send(Some(1), Some("no"), Names::Whole(Vec::new())), Verdict::Nack);
    assert_eq!(client.push(), None);
    client.becomes(&["a=2"]);
    expect(client.push(), &["a=2"]);
}

#[test]
fn removals_that_wait_stay_in_the_set() {
    let mut client = Client::sotw(&["a=1", "b=1"]);
    client.whole(&[]);
    client.push();
    client.whole(&[]);
    client.becomes(&["a=2"]);
    let push = client.machine.poll(&mut client.nonces, false).unwrap();
    assert_eq!(push.resources.len(), 2);
    client.whole(&[]);
    expect(client.push(), &["a=2"]);
}
