use super::*;
use crate::status::{Fallback, Mode, ProxyPart};

const TERMS: Terms = Terms { patience: Duration::from_secs(60), watch: Duration::from_secs(20), allowed: 2 };

fn counts(tried: u64, failed: u64) -> Counts {
    Counts {
        tried,
        failed: [("answered 503".to_owned(), failed)].into_iter().filter(|(_, count)| *count > 0).collect(),
    }
}

fn runs(id: &str) -> Container {
    Container { running: Some(id.into()), ..Container::default() }
}

fn waits(reason: &str) -> Container {
    Container {
        waiting: Some((reason.into(), "words".into())),
        ended: Some("exit code 1".into()),
        ..Container::default()
    }
}

fn part(name: &'static str) -> ProxyPart {
    ProxyPart {
        name,
        version: None,
        sync: Sync::Synced,
        reason: None,
        controller: None,
        generation: None,
        current: 1,
        held: 1,
        certificate_expires: None,
        error: None,
    }
}

fn proxy() -> Proxy {
    Proxy {
        workload: "shop/front".into(),
        mode: Mode::Sidecar,
        version: None,
        sync: Sync::Synced,
        reason: None,
        fallback: None,
        certificate_expires: None,
        certificate_seconds: None,
        parts: vec![part("sidecar"), part("guard")],
    }
}

/// All is well with the container of this ID.
fn well_with(id: &str, sidecar: Counts, guard: Counts) -> Seen {
    Seen {
        unseen: None,
        gone: false,
        container: runs(id),
        ready: true,
        proxy: Some(proxy()),
        connected: true,
        counts: Some([sidecar, guard]),
        callers: Callers::default(),
    }
}

fn callers(name: &str, counts: Counts) -> Callers {
    Callers([(name.to_owned(), counts)].into())
}

fn well_as(id: &str) -> Seen {
    well_with(id, counts(0, 0), counts(0, 0))
}

fn only(container: Container) -> Seen {
    Seen { container, ..well_as("") }
}

/// What is said to looks at these seconds, up to the first that ends it.
fn follow(mut step: Step, start: Instant, looks: &[(u64, Seen)]) -> Next {
    let mut next = Next::Look(Depth::Pod);
    for (second, seen) in looks {
        next = step.on(start + Duration::from_secs(*second), seen);
        if !matches!(next, Next::Look(_)) {
            break;
        }
    }
    next
}

fn forward(looks: &[(u64, Seen)]) -> Next {
    let start = Instant::now();
    let known = callers("front", counts(100, 1));
    let before = Seen { callers: known, ..well_with("old", counts(1000, 10), counts(10, 0)) };
    follow(Step::new(Part::Sidecar, &before, TERMS, start), start, looks)
}

fn failed(next: Next) -> String {
    match next {
        Next::Failed(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_process_that_is_well_for_as_long_as_it_is_watched_is_done() {
    let start = Instant::now();
    let before = well_with("old", counts(1000, 10), counts(10, 0));
    let mut step = Step::new(Part::Sidecar, &before, TERMS, start);
    let looks = [
        (0, well_as("old"), Depth::Pod),
        // Its image is pulled.
        (5, only(waits("ErrImagePull")), Depth::Pod),
        (9, only(waits("PodInitializing")), Depth::Pod),
        (10, well_as("new"), Depth::Proxies),
        (11, Seen { connected: false, ..well_as("new") }, Depth::Proxies),
        (12, well_as("new"), Depth::Errors),
        // The old guard's ten aren't new, and one in a hundred has always failed.
        (20, well_with("new", counts(100, 1), counts(15, 2)), Depth::Errors),
    ];
    for (second, seen, depth) in looks {
        let now = start + Duration::from_secs(second);
        assert_eq!(step.on(now, &seen), Next::Look(depth), "{second}");
        assert_eq!(step.depth(now), depth);
    }
    let over = start + Duration::from_secs(32);
    assert_eq!(step.depth(over), Depth::All);
    let end = well_with("new", counts(200, 2), counts(15, 2));
    assert_eq!(step.on(over, &end), Next::Done(counts(205, 4)));
}

#[test]
fn a_process_that_cannot_start_is_given_up_at_once() {
    for reason in HOPELESS {
        let why = failed(forward(&[(0, well_as("old")), (3, only(waits(reason)))]));
        assert_eq!(why, format!("{reason}: words; it ended before: exit code 1"));
    }
}

#[test]
fn what_never_comes_is_given_up_when_patience_is_over() {
    type Change = fn(&mut Seen);
    let table: [(Change, &str); 6] = [
        (|seen| seen.proxy = None, "its proxies can't be asked"),
        (|seen| seen.connected = false, "it has no stream to a controller"),
        (|seen| seen.ready = false, "the pod isn't ready"),
        (
            |seen| seen.proxy.iter_mut().for_each(|proxy| proxy.sync = Sync::Stale),
            "its configuration isn't acknowledged: nobody says why",
        ),
        (
            |seen| seen.proxy.iter_mut().for_each(|proxy| proxy.parts[0].error = Some("refused".into())),
            "its sidecar doesn't answer: refused",
        ),
        (
            |seen| {
                let hung = Fallback {
                    state: "carrying".into(),
                    reason: Some("hung".into()),
                    since: None,
                    seconds: None,
                    connections: 0,
                    intended: false,
                };
                seen.proxy.iter_mut().for_each(|proxy| proxy.fallback = Some(hung.clone()));
            },
            "no sidecar accepts: the guard is carrying (hung)",
        ),
    ];
    for (change, why) in table {
        let mut seen = well_as("new");
        change(&mut seen);
        let looks = |last| [(10, seen.clone()), (59, seen.clone()), (last, seen.clone())];
        assert_eq!(forward(&looks(59)), Next::Look(Depth::Proxies));
        assert_eq!(failed(forward(&looks(60))), format!("not well after 60 s: {why}"));
        // As well at the end: it has been acknowledged once, and isn't any more.
        let end = [(10, well_as("new")), (11, well_as("new")), (31, seen.clone()), (90, seen.clone()), (91, seen)];
        assert_eq!(forward(&end[..4]), Next::Look(Depth::All));
        assert_eq!(failed(forward(&end)), format!("not well after 60 s: {why}"));
    }
    let never = failed(forward(&[(0, well_as("old")), (60, well_as("old"))]));
    assert_eq!(never, "not well after 60 s: the kubelet hasn't started it");
    let silent = Seen { counts: None, ..well_as("new") };
    let end = [(10, well_as("new")), (11, well_as("new")), (31, silent.clone()), (91, silent)];
    assert_eq!(failed(forward(&end)), "not well after 60 s: its metrics can't be read");
}

#[test]
fn errors_that_rise_and_a_process_that_ends_are_noticed_while_it_is_watched() {
    let begun = [(10, well_as("new")), (11, well_as("new"))];
    let then = |second, seen| forward(&[&begun[..], &[(second, seen)]].concat());
    // Of 100 one is usual, and two are allowed.
    assert_eq!(then(15, well_with("new", counts(100, 3), counts(10, 0))), Next::Look(Depth::Errors));
    let why = failed(then(15, well_with("new", counts(100, 4), counts(10, 0))));
    assert_eq!(why, "errors have risen: 4 failures in 100 tries, where 1 were usual (answered 503: 4)");
    // What the guard could not carry meanwhile counts as well.
    let why = failed(then(15, well_with("new", counts(0, 0), counts(20, 4))));
    assert!(why.starts_with("errors have risen: 4 failures in 10 tries"), "{why}");
    // What it breaks without counting it, callers count. Who wasn't there before says nothing.
    let seen_by = |name: &str, failed| Seen { callers: callers(name, counts(200, failed)), ..well_as("new") };
    assert_eq!(then(15, seen_by("front", 4)), Next::Look(Depth::Errors));
    let why = failed(then(15, seen_by("front", 5)));
    assert_eq!(why, "callers see more errors: 4 failures in 100 tries, where 1 were usual (answered 503: 4)");
    assert_eq!(then(15, seen_by("new", 100)), Next::Look(Depth::Errors));
    let ended = Seen { container: Container { ended: Some("OOMKilled".into()), ..runs("newer") }, ..well_as("") };
    assert_eq!(failed(then(15, ended)), "it ended by itself: OOMKilled");
    assert_eq!(then(15, Seen { gone: true, ..well_as("new") }), Next::Gone);
}

#[test]
fn a_look_at_nothing_is_no_failure_while_there_is_time() {
    let blind = Seen { unseen: Some("the API server doesn't answer".into()), ..Seen::default() };
    let (starts, settles) = ((10, well_as("new")), (11, well_as("new")));
    for begun in [vec![], vec![starts.clone()], vec![starts, settles]] {
        let last = if begun.len() == 2 { 91 } else { 60 };
        let looks = [&begun[..], &[(last - 1, blind.clone()), (last, blind.clone())]].concat();
        assert!(matches!(forward(&looks[..looks.len() - 1]), Next::Look(_)));
        assert_eq!(failed(forward(&looks)), "not well after 60 s: the API server doesn't answer");
    }
}

#[test]
fn on_the_way_back_only_time_ends_it() {
    let start = Instant::now();
    let before = only(waits("ImagePullBackOff"));
    let back = || Step::back(Part::Sidecar, &before, TERMS, start);
    let bad = well_with("new", counts(10, 10), counts(10, 0));
    let looks = [
        (0, before.clone()),
        (1, only(waits("CrashLoopBackOff"))),
        // The bad one tries once more, before the kubelet has read what it is to run.
        (2, only(runs("bad"))),
        (3, only(waits("CrashLoopBackOff"))),
        (4, bad.clone()),
        (5, bad.clone()),
        (6, bad),
    ];
    assert!(matches!(follow(back(), start, &looks), Next::Done(_)));
    let never = [(0, before.clone()), (60, before.clone())];
    assert_eq!(failed(follow(back(), start, &never)), "not well after 60 s: the kubelet hasn't started it");
}
