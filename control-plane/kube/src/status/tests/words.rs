//! What each case is called.

use outrigger_model::{Finding, Reason};

use super::{super::conditions::*, *};

fn facts<'a>(findings: &'a [&'a Finding], progress: &'a Progress, effective: bool) -> Facts<'a> {
    Facts { findings, progress, effective, serving: None, generation: Some(4), now: Timestamp::UNIX_EPOCH }
}

fn finding(field: &str, reason: Reason) -> Finding {
    Finding::new("X/a/b", field, reason, "something".to_owned(), "do it")
}

/// `TYPE=STATUS/REASON` of each condition.
fn short(conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]) -> String {
    conditions.iter().map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)).collect::<Vec<_>>().join(" ")
}

#[test]
fn programmed() {
    let progress = |held, unreachable| Progress { held, unreachable };
    let table = [
        (progress(held(0, 0), 0), "True Programmed no proxy needs it yet"),
        (progress(held(415, 415), 0), "True Programmed programmed on 415 of 415 proxies"),
        (progress(held(415, 412), 0), "False Pending programmed on 412 of 415 proxies"),
        (
            progress(Held { rejected: 2, ..held(415, 412) }, 0),
            "False Rejected programmed on 412 of 415 proxies, rejected by 2",
        ),
        (
            progress(held(3, 3), 1),
            "True Programmed programmed on 3 of 3 proxies; \
            proxies of 1 controller replicas that don't answer aren't counted",
        ),
    ];
    for (progress, expected) in table {
        let conditions = own(facts(&[], &progress, true), false, &[]);
        let last = conditions.last().unwrap();
        assert_eq!(format!("{} {} {}", last.status, last.reason, last.message), expected);
        assert_eq!(last.observed_generation, Some(4));
    }
}

#[test]
fn findings_and_what_they_break() {
    let none = Progress::default();
    let table = [
        (None, true, "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs Programmed=True/Programmed"),
        (
            Some(Reason::BackendNotFound),
            true,
            "Accepted=True/Accepted ResolvedRefs=False/BackendNotFound Programmed=True/Programmed",
        ),
        (
            Some(Reason::Ignored),
            true,
            "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs Programmed=True/Programmed",
        ),
        (
            Some(Reason::NoMatchingParent),
            false,
            "Accepted=False/NoMatchingParent ResolvedRefs=True/ResolvedRefs Programmed=False/NotAccepted",
        ),
        (
            Some(Reason::Invalid),
            true,
            "Accepted=False/Invalid ResolvedRefs=True/ResolvedRefs Programmed=True/Programmed",
        ),
    ];
    for (reason, effective, expected) in table {
        let finding = reason.map(|reason| finding("spec.x", reason));
        let findings: Vec<&Finding> = finding.iter().collect();
        assert_eq!(short(&own(facts(&findings, &none, effective), true, &[])), expected, "{reason:?}");
    }
}

#[test]
fn a_route_is_judged_for_each_parent() {
    let none = Progress::default();
    let parent = finding("spec.parentRefs[1]", Reason::NoMatchingParent);
    let port = finding("spec.parentRefs[1].sectionName", Reason::NoMatchingParent);
    let filter = |at: usize| finding(&format!("spec.rules[{at}].filters[0]"), Reason::UnsupportedValue);
    let (first, second) = (filter(0), filter(1));
    let ok = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs outrigger.dev/Programmed=True/Programmed";
    let no = "Accepted=False/NoMatchingParent ResolvedRefs=True/ResolvedRefs outrigger.dev/Programmed=True/Programmed";
    let partly = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs PartiallyInvalid=True/UnsupportedValue \
        outrigger.dev/Programmed=True/Programmed";
    let wholly =
        "Accepted=False/UnsupportedValue ResolvedRefs=True/ResolvedRefs outrigger.dev/Programmed=True/Programmed";
    let table: [(&[&Finding], usize, &str); 6] = [
        (&[&parent], 0, ok),
        (&[&parent], 1, no),
        (&[&port], 1, no),
        (&[&first], 0, partly),
        (&[&first, &second], 0, wholly),
        (&[], 0, ok),
    ];
    for (findings, at, expected) in table {
        assert_eq!(short(&route(facts(findings, &none, true), at, 2, &[])), expected, "{findings:?}");
    }
}

#[test]
fn many_findings_are_told_in_few_words() {
    let all: Vec<Finding> = (0..9).map(|at| finding(&format!("spec.x[{at}]"), Reason::Invalid)).collect();
    let findings: Vec<&Finding> = all.iter().collect();
    let conditions = own(facts(&findings, &Progress::default(), false), false, &[]);
    let message = &conditions[0].message;
    assert!(message.starts_with("spec.x[0]: something (do it); spec.x[1]:"), "{message}");
    assert!(message.ends_with("; and 6 more"), "{message}");
}
