use std::collections::BTreeMap;

use outrigger_model::Held;

use super::*;

#[test]
fn what_is_waited_for() {
    for (proxies, current, apart, missing) in [
        (0, 0, 0, None),
        (415, 415, 0, None),
        (415, 412, 0, Some("3 of 415 connected proxies haven't acknowledged it")),
        (415, 412, 1, Some("3 of 415 connected proxies haven't acknowledged it")),
        (2, 2, 1, Some("1 replicas of the controller don't answer, or don't have the same roots yet")),
    ] {
        assert_eq!(Known { proxies, current, apart, called: false }.missing("the same roots").as_deref(), missing);
    }
}

#[test]
fn replicas_count_together_if_they_serve_the_same_roots() {
    let counted = |mark: &str, proxies, current| Counted {
        mark: mark.to_owned(),
        held: Held { proxies, current, ..Held::default() },
        called: false,
    };
    let answer = |counted| Answer { objects: BTreeMap::from([(ROOTS.to_owned(), counted)]), ..Answer::default() };
    let own = counted("new", 3, 3);
    for (answers, silent, proxies, current, apart) in [
        (vec![], 0, 3, 3, 0),
        (vec![answer(counted("new", 4, 2))], 0, 7, 5, 0),
        (vec![answer(counted("new", 4, 4)), answer(counted("old", 5, 5))], 0, 7, 7, 1),
        (vec![Answer::default()], 1, 3, 3, 2),
    ] {
        assert_eq!(Known::of(ROOTS, &own, &answers, silent), Known { proxies, current, apart, called: false });
    }
}
