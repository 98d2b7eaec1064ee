use super::*;

#[test]
fn an_empty_first_request_is_a_wildcard() {
    let mut client = Client::delta(&["a=1", "b=1"]);
    client.change(&[], &[]);
    expect(client.push(), &["a=1", "b=1"]);
    client.ack();
    assert_eq!(client.push(), None);
    client.becomes(&["a=1", "b=2", "c=1"]);
    expect(client.push(), &["b=2", "c=1"]);
}

#[test]
fn an_empty_request_after_names_is_no_wildcard() {
    let mut client = Client::delta(&["a=1", "b=1"]);
    client.change(&["a"], &[]);
    expect(client.push(), &["a=1"]);
    client.ack();
    client.change(&[], &["a"]);
    client.change(&[], &[]);
    assert_eq!(client.push(), None);
    client.becomes(&["a=2", "b=2"]);
    assert_eq!(client.push(), None);
}

#[test]
fn an_explicit_wildcard_beside_a_name() {
    let mut client = Client::delta(&["a=1", "b=1"]);
    client.change(&["*", "a"], &[]);
    expect(client.push(), &["a=1", "b=1"]);
    client.ack();
    client.change(&[], &["*"]);
    client.becomes(&["a=2", "b=2"]);
    expect(client.push(), &["a=2"]);
}

#[test]
fn a_legacy_wildcard_goes_on_beside_a_name() {
    let mut client = Client::delta(&["a=1", "b=1"]);
    client.change(&[], &[]);
    client.push();
    client.ack();
    client.change(&["a"], &[]);
    expect(client.push(), &["a=1"]);
    client.ack();
    client.becomes(&["a=1", "b=2"]);
    expect(client.push(), &["b=2"]);
}

#[test]
fn the_first_request_is_answered_even_with_nothing() {
    let mut client = Client::delta(&[]);
    client.change(&["*"], &[]);
    expect(client.push(), &[]);
    client.ack();
    assert_eq!(client.push(), None);
}

#[test]
fn a_missing_resource_is_answered_as_removed() {
    let mut client = Client::delta(&["a=1"]);
    client.change(&["a", "nowhere", "@10.9.9.9"], &[]);
    expect(client.push(), &["a=1", "-@10.9.9.9", "-nowhere"]);
    client.ack();
    client.becomes(&["a=1", "b=1"]);
    assert_eq!(client.push(), None, "it is answered once");
    client.becomes(&["a=1", "nowhere=1"]);
    expect(client.push(), &["nowhere=1"]);
}

#[test]
fn subscribing_again_resends_even_if_unchanged() {
    let mut client = Client::delta(&["a=1"]);
    client.change(&["a"], &[]);
    expect(client.push(), &["a=1"]);
    client.ack();
    client.change(&["a"], &[]);
    expect(client.push(), &["a=1"]);
    client.ack();
    client.change(&["gone"], &[]);
    expect(client.push(), &["-gone"]);
    client.ack();
    client.change(&["gone"], &[]);
    expect(client.push(), &["-gone"]);
}

#[test]
fn unsubscribing_stops_updates() {
    let mut client = Client::delta(&["a=1", "b=1"]);
    client.change(&["a", "b"], &[]);
    client.push();
    client.ack();
    client.change(&[], &["a"]);
    assert_eq!(client.push(), None);
    client.becomes(&["a=2", "b=1"]);
    assert_eq!(client.push(), None);
    assert_eq!(client.accepted(), ["b=1"]);
}

#[test]
fn a_phantom_unsubscribe_is_tolerated() {
    let mut client = Client::delta(&["a=1"]);
    client.change(&["a"], &[]);
    client.push();
    client.ack();
    client.change(&[], &["never", "@10.0.0.1", "x/*", "*"]);
    assert_eq!(client.push(), None);
    client.becomes(&["a=2"]);
    expect(client.push(), &["a=2"]);
}

#[test]
fn unsubscribing_from_a_name_that_the_wildcard_covers_is_answered() {
    let mut client = Client::delta(&["a=1|@10.0.0.1", "b=1"]);
    client.change(&["*", "a", "@10.0.0.1", "gone"], &[]);
    client.push();
    client.ack();
    client.change(&[], &["a"]);
    expect(client.push(), &["a=1"]);
    client.ack();
    client.change(&[], &["@10.0.0.1"]);
    expect(client.push(), &["a=1"]);
    client.ack();
    client.change(&[], &["gone"]);
    expect(client.push(), &["-gone"]);
}

#[test]
fn unsubscribing_from_a_member_that_a_glob_covers_is_answered() {
    let mut client = Client::delta(&["shop/web/1=1"]);
    client.change(&["shop/web/*", "shop/web/1"], &[]);
    client.push();
    client.ack();
    client.change(&[], &["shop/web/1"]);
    expect(client.push(), &["shop/web/1=1"]);
}

#[test]
fn known_versions_are_not_resent() {
    let mut client = Client::delta(&["a=1", "b=2|@10.0.0.2"]);
    client.known(&["a", "@10.0.0.2"], &[("a", "1"), ("b", "1")]);
    expect(client.push(), &["b=2"]);
    client.ack();
    assert_eq!(client.accepted(), ["a=1", "b=2"]);
}

#[test]
fn known_resources_that_are_gone_are_removed() {
    let mut client = Client::delta(&["a=1"]);
    client.known(&["*"], &[("a", "1"), ("b", "1")]);
    expect(client.push(), &["-b"]);
}

#[test]
fn a_reconnect_without_changes_resends_nothing() {
    let mut client = Client::delta(&["a=1|@10.0.0.1", "b=1"]);
    client.known(&["@10.0.0.1", "b"], &[("a", "1"), ("b", "1")]);
    expect(client.push(), &[]);
    client.ack();
    client.change(&[], &["b"]);
    client.becomes(&["a=1|@10.0.0.1", "b=2"]);
    assert_eq!(client.push(), None);
}

#[test]
fn a_stale_nonce_acknowledges_nothing_but_changes_names() {
    let mut client = Client::delta(&["a=1", "b=1"]);
    client.change(&["a"], &[]);
    client.push();
    assert_eq!(client.send(Some(77), None, change(&["b"], &[], &[])), Verdict::None);
    assert_eq!(client.push(), None, "the first push is still in flight");
    assert!(client.accepted().is_empty());
    client.ack();
    expect(client.push(), &["b=1"]);
}

#[test]
fn an_error_with_a_stale_nonce_rejects_nothing() {
    let mut client = Client::delta(&["a=1"]);
    client.change(&["a"], &[]);
    client.push();
    assert_eq!(client.send(Some(77), Some("a: no"), Names::default()), Verdict::None);
    assert!(client.machine.nack().is_none());
}

#[test]
fn an_acknowledgement_may_change_names() {
    let mut client = Client::delta(&["a=1", "b=1"]);
    client.change(&["a"], &[]);
    client.push();
    assert_eq!(client.send(Some(1), None, change(&["b"], &["a"], &[])), Verdict::Ack);
    expect(client.push(), &["b=1"]);
    assert!(client.accepted().is_empty());
}

#[test]
fn a_rejection_may_change_names() {
    let mut client = Client::delta(&["a=1", "b=1"]);
    client.change(&["a"], &[]);
    client.push();
    assert_eq!(client.send(Some(1), Some("no"), change(&["b"], &[], &[])), Verdict::Nack);
    expect(client.push(), &["b=1"]);
}

#[test]
fn one_push_in_flight_and_the_latest_wins() {
    let mut client = Client::delta(&["a=1"]);
    client.change(&["*"], &[]);
    expect(client.push(), &["a=1"]);
    client.becomes(&["a=2", "b=1"]);
    client.becomes(&["a=3"]);
    assert_eq!(client.push(), None);
    client.ack();
    expect(client.push(), &["a=3"]);
}

#[test]
fn a_change_that_is_undone_while_in_flight_sends_nothing() {
    let mut client = Client::delta(&["a=1"]);
    client.change(&["*"], &[]);
    client.push();
    client.becomes(&["a=2", "b=1"]);
    client.becomes(&["a=1"]);
    client.ack();
    assert_eq!(client.push(), None);
}

#[test]
fn a_rejected_version_is_not_resent_until_it_changes() {
    let mut client = Client::delta(&["a=1"]);
    client.change(&["*"], &[]);
    client.push();
    client.nack("bad");
    assert_eq!(client.push(), None);
    client.becomes(&["a=1", "b=1"]);
    expect(client.push(), &["b=1"]);
    client.ack();
    client.becomes(&["a=2", "b=1"]);
    expect(client.push(), &["a=2"]);
    client.ack();
    assert_eq!(client.accepted(), ["a=2", "b=1"]);
}

#[test]
fn going_back_to_the_version_before_a_rejected_one_is_sent() {
    let mut client = Client::delta(&["a=1"]);
    client.change(&["*"], &[]);
    client.push();
    client.ack();
    client.becomes(&["a=2"]);
    client.push();
    client.nack("a: bad");
    assert_eq!(client.accepted(), ["a=1"]);
    client.becomes(&["a=1"]);
    expect(client.push(), &["a=1"]);
}

#[test]
fn a_rejection_of_named_resources_accepts_the_others() {
    let mut client = Client::delta(&["a=1", "@fd00::1=1", "c=1"]);
    client.change(&["*"], &[]);
    client.push();
    client.nack("@fd00::1: address: unexpected\nunrelated: line");
    assert_eq!(client.accepted(), ["a=1", "c=1"]);
    let nack = client.machine.nack().unwrap();
    assert_eq!(nack.names, [Arc::from("@fd00::1")]);
    assert!(nack.reason.starts_with("@fd00::1: address"));
}

#[test]
fn a_rejection_that_names_nothing_rejects_all() {
    let mut client = Client::delta(&["a=1", "b=1"]);
    client.change(&["*"], &[]);
    client.push();
    client.nack("no idea what this is");
    assert!(client.accepted().is_empty());
}

#[test]
fn a_long_reason_is_cut_at_a_character() {
    let mut client = Client::delta(&["a=1"]);
    client.change(&["*"], &[]);
    client.push();
    client.nack(&"é".repeat(MAX_REASON));
    assert!(client.machine.nack().unwrap().reason.len() <= MAX_REASON);
}

#[test]
fn an_alias_is_answered_by_the_canonical_resource() {
    let mut client = Client::delta(&["shop/web=1|@10.0.0.1|@fd00::1"]);
    client.change(&["@10.0.0.1"], &[]);
    let push = client.machine.poll(&mut client.nonces, true).unwrap();
    assert_eq!(&*push.resources[0].name, "shop/web");
    assert_eq!(push.resources[0].aliases, [Arc::from("@10.0.0.1"), Arc::from("@fd00::1")]);
    client.ack();
    client.change(&["shop/web"], &[]);
    expect(client.push(), &["shop/web=1"]);
    client.ack();
    client.change(&[], &["@10.0.0.1"]);
    client.becomes(&["shop/web=2|@10.0.0.1"]);
    expect(client.push(), &["shop/web=2"]);
}

#[test]
fn an_alias_that_leads_nowhere_any_more_is_removed() {
    let mut client = Client::delta(&["a=1|@10.0.0.1"]);
    client.change(&["a", "@10.0.0.1"], &[]);
    client.push();
    client.ack();
    client.becomes(&["a=2"]);
    expect(client.push(), &["a=2", "-@10.0.0.1"]);
    client.ack();
    client.becomes(&["a=2", "b=1|@10.0.0.1"]);
    expect(client.push(), &["b=1"]);
}

#[test]
fn a_resource_held_by_alias_alone_goes_with_it() {
    let mut client = Client::delta(&["a=1|@10.0.0.1"]);
    client.change(&["@10.0.0.1"], &[]);
    client.push();
    client.ack();
    client.becomes(&["b=1"]);
    expect(client.push(), &["-@10.0.0.1", "-a"]);
}

#[test]
fn an_alias_that_moves_sends_the_new_resource() {
    let mut client = Client::delta(&["a=1|@10.0.0.1", "b=1"]);
    client.change(&["a", "@10.0.0.1"], &[]);
    client.push();
    client.ack();
    client.becomes(&["a=2", "b=2|@10.0.0.1"]);
    expect(client.push(), &["a=2", "b=2"]);
    client.ack();
    // Even when the new owner is held already, and looks the same.
    client.change(&["b"], &[]);
    client.push();
    client.ack();
    client.becomes(&["a=2|@10.0.0.1", "b=2"]);
    expect(client.push(), &["a=2"]);
}

#[test]
fn a_glob_follows_its_members() {
    let mut client = Client::delta(&["shop/web/1=1", "shop/web/2=1", "shop/web-2/1=1"]);
    client.change(&["shop/web/*"], &[]);
    expect(client.push(), &["shop/web/1=1", "shop/web/2=1"]);
    client.ack();
    client.becomes(&["shop/web/1=2", "shop/web/3=1"]);
    expect(client.push(), &["shop/web/1=2", "shop/web/3=1", "-shop/web/2"]);
    client.ack();
    client.becomes(&[]);
    expect(client.push(), &["-shop/web/1", "-shop/web/3"]);
    client.ack();
    client.becomes(&["shop/web/4=1"]);
    expect(client.push(), &["shop/web/4=1"]);
}

#[test]
fn an_empty_glob_is_answered_by_itself() {
    let mut client = Client::delta(&["shop/web/1=1"]);
    client.change(&["shop/none/*"], &[]);
    expect(client.push(), &["-shop/none/*"]);
    client.ack();
    client.becomes(&["shop/none/1=1"]);
    expect(client.push(), &["shop/none/1=1"]);
}

#[test]
fn unsubscribing_from_a_glob_forgets_its_members() {
    let mut client = Client::delta(&["shop/web/1=1", "a=1"]);
    client.change(&["shop/web/*", "a"], &[]);
    client.push();
    client.ack();
    client.change(&[], &["shop/web/*"]);
    assert_eq!(client.push(), None);
    assert_eq!(client.accepted(), ["a=1"]);
    client.change(&["shop/web/*"], &[]);
    expect(client.push(), &["shop/web/1=1"]);
}

#[test]
fn only_its_own_is_visible_in_a_scope() {
    let own = Scope::Own("shop/web".into());
    for (ask, wanted) in [
        ("*", &["shop/web=1"][..]),
        ("shop/web", &["shop/web=1"]),
        ("shop/db", &["-shop/db"]),
        ("@10.0.0.2", &["-@10.0.0.2"]),
        ("shop/*", &["shop/web=1"]),
        ("other/*", &["-other/*"]),
    ] {
        let set = set(&["other/x=1", "shop/db=1|@10.0.0.2", "shop/web=1"]);
        let machine = Subscription::new(type_url::INBOUND, Variant::Delta, own.clone());
        let mut client = Client { machine, set, nonces: 0 };
        client.change(&[ask], &[]);
        expect(client.push(), wanted);
    }
}

#[test]
fn removals_can_wait_for_other_types() {
    let mut client = Client::delta(&["a=1", "b=1"]);
    client.change(&["*"], &[]);
    client.push();
    client.ack();
    client.becomes(&["a=2"]);
    let push = client.machine.poll(&mut client.nonces, false).unwrap();
    assert!(push.removed.is_empty());
    assert_eq!(client.push(), None);
    client.ack();
    expect(client.push(), &["-b"]);
}

#[test]
fn too_many_names_are_refused() {
    let mut client = Client::delta(&[]);
    let long = "x".repeat(MAX_NAME + 1);
    let request = Request { names: change(&[&long], &[], &[]), ..Request::default() };
    assert_eq!(client.machine.request(request, &client.set), Err(TooManyNames));
    let names: Vec<String> = (0..=MAX_NAMES).map(|n| n.to_string()).collect();
    let names = Names::Change { subscribe: names, unsubscribe: Vec::new(), known: HashMap::new() };
    assert_eq!(client.machine.request(Request { names, ..Request::default() }, &client.set), Err(TooManyNames));
}

#[test]
fn unchanged_parts_of_a_snapshot_cost_no_push() {
    let mut client = Client::delta(&["a=1"]);
    client.change(&["*"], &[]);
    client.push();
    client.ack();
    let same = Arc::clone(&client.set);
    client.machine.advance(&same);
    client.becomes(&["a=1"]);
    assert_eq!(client.push(), None);
}
