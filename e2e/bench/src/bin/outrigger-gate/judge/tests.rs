use super::*;
use crate::baseline::Tools;

fn counted(name: &str, allocations: f64, own: &[(&str, f64)]) -> Counted {
    Counted {
        name: name.to_owned(),
        instructions: own.iter().map(|(_, own)| own).sum(),
        allocations,
        bytes: 10.0 * allocations,
        own: own.iter().map(|(name, own)| ((*name).to_owned(), *own)).collect(),
        allocates: own.iter().take(1).map(|(name, _)| ((*name).to_owned(), allocations)).collect(),
    }
}

fn baseline(counted: &[Counted]) -> Baseline {
    let text = || "x".to_owned();
    Baseline::of(Tools { machine: text(), rustc: text(), valgrind: text(), libc: text() }, counted)
}

/// What the baseline said, and what is counted now.
fn verdict(before: &Counted, now: &Counted) -> Verdict {
    all(&baseline(std::slice::from_ref(before)), std::slice::from_ref(now), true).remove(0)
}

#[test]
fn three_percent_are_allowed_and_more_names_the_function() {
    let before = counted("route", 2.0, &[("matches", 800.0), ("select", 200.0)]);
    let verdict_of =
        |matches: f64| verdict(&before, &counted("route", 2.0, &[("matches", matches), ("select", 200.0)]));
    assert_eq!(verdict_of(800.0).finding, Finding::Same);
    assert_eq!(verdict_of(830.0).finding, Finding::Same);
    let worse = verdict_of(840.0);
    assert_eq!(worse.finding, Finding::Fails("+4.0 % instructions".to_owned()));
    assert_eq!(worse.grown, [Grown { function: "matches".to_owned(), before: 800.0, now: 840.0 }]);
    assert_eq!(verdict_of(760.0).finding, Finding::Better);
}

#[test]
fn one_more_allocation_fails_and_of_many_a_share() {
    let with = |allocations| counted("http", allocations, &[("poll", 1000.0)]);
    assert_eq!(verdict(&with(13.0), &with(13.03)).finding, Finding::Same);
    let worse = verdict(&with(13.0), &with(14.0));
    assert_eq!(worse.finding, Finding::Fails("+1.00 allocations".to_owned()));
    assert_eq!(worse.allocating, [Grown { function: "poll".to_owned(), before: 13.0, now: 14.0 }]);
    assert_eq!(worse.grown, []);
    assert_eq!(verdict(&with(0.0), &with(1.0)).finding, Finding::Fails("+1.00 allocations".to_owned()));
    assert_eq!(verdict(&with(13.0), &with(12.0)).finding, Finding::Better);
    assert_eq!(verdict(&with(1000.0), &with(1020.0)).finding, Finding::Same);
    assert!(verdict(&with(1000.0), &with(1040.0)).fails());
    // What is saved in one doesn't pay for the other.
    let fewer = counted("http", 14.0, &[("poll", 100.0)]);
    assert!(verdict(&with(13.0), &fewer).fails());
}

#[test]
fn cases_that_are_new_or_gone_fail() {
    let (old, new) = (counted("old", 0.0, &[("f", 1.0)]), counted("new", 0.0, &[("f", 1.0)]));
    let baseline = baseline(&[old]);
    let verdicts = all(&baseline, std::slice::from_ref(&new), true);
    assert_eq!(
        verdicts.iter().map(|it| (it.case.as_str(), it.fails())).collect::<Vec<_>>(),
        [("new", true), ("old", true)]
    );
    assert_eq!(all(&baseline, &[new], false).len(), 1);
}

#[test]
fn a_function_that_wasnt_kept_had_at_most_the_least() {
    let names: Vec<String> = (0..40).map(|index| format!("f{index}")).collect();
    let own: Vec<_> = names.iter().enumerate().map(|(index, name)| (name.as_str(), 100.0 + index as f64)).collect();
    let before = counted("http", 0.0, &own);
    let kept = Entry::of(&before).functions;
    assert_eq!(kept.0.len(), 25);
    assert_eq!(["f39", "f0", "new"].map(|name| kept.of_function(name)), [139.0, 115.0, 115.0]);
    let mut more = own.clone();
    more[0].1 = 400.0;
    let worse = verdict(&before, &counted("http", 0.0, &more));
    assert_eq!(worse.grown[0], Grown { function: "f0".to_owned(), before: 115.0, now: 400.0 });
}

#[test]
fn the_baseline_is_written_as_it_is_read() {
    let recorded = baseline(&[counted("route", 1.234, &[("outrigger_core::a", 10.04), ("b", 0.01)])]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gate.json");
    recorded.clone().save(&file, false).unwrap();
    assert_eq!(Baseline::load(&file).unwrap(), recorded);
    assert_eq!(recorded.cases["route"].functions.0.len(), 1);
    // Cases that weren't counted stay.
    baseline(&[counted("path", 0.0, &[("f", 1.0)])]).save(&file, true).unwrap();
    assert_eq!(Baseline::load(&file).unwrap().cases.len(), 2);
    assert!(recorded.other_tools(&recorded.tools).is_empty());
    let other = Tools { rustc: "rustc 2".to_owned(), ..recorded.tools.clone() };
    assert!(recorded.other_tools(&other).contains("rustc 2"));
}
