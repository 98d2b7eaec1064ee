//! Compiles regexes. All of one object are judged before any is compiled, since it is the compiling that costs.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_wire::{
    limits::{REGEX_LENGTH, REGEX_SIZE, REGEXES, REGEXES_SIZE},
    proto::config as wire,
};

use super::{Checked, problem};

pub(super) fn regex(field: &'static str, pattern: &str) -> Checked<Box<regex::Regex>> {
    if pattern.len() > REGEX_LENGTH {
        return Err(problem(field, format_args!("is longer than {REGEX_LENGTH} bytes")));
    }
    let build = |pattern: &str| {
        let built = regex::RegexBuilder::new(pattern).size_limit(REGEX_SIZE).dfa_size_limit(REGEX_SIZE).build();
        built.map_err(|error| problem(field, error))
    };
    // By itself first: "a)|(?:b" is no regex, but would be one between the brackets, and then not anchored.
    build(pattern)?;
    build(&format!("^(?:{pattern})$")).map(Box::new)
}

/// Those of each route by themselves: a table has many owners.
pub(super) fn judge_table(table: &wire::RouteTable) -> Checked<()> {
    let mut routes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for entry in &table.entries {
        let Some(of) = &entry.r#match else { continue };
        let keys = of.headers.iter().chain(&of.query).chain(&of.cookies);
        let mut patterns = of.path.iter().filter_map(of_path).chain(keys.filter_map(of_key)).peekable();
        if patterns.peek().is_some() {
            let rule = table.rules.get(entry.rule as usize).map_or("", |rule| rule.name.as_str());
            let route = rule.split_once('#').map_or(rule, |(route, _)| route);
            routes.entry(route).or_default().extend(patterns);
        }
    }
    routes.iter().try_for_each(|(route, patterns)| judge("route_tables.entries", route, patterns))
}

pub(super) fn judge_policy(policy: &wire::AccessPolicy) -> Checked<()> {
    let patterns = policy.rules.iter().flat_map(|rule| {
        let paths = rule.paths.iter().chain(&rule.not_paths).filter_map(of_path);
        paths.chain(rule.headers.iter().filter_map(of_key))
    });
    judge("policies.rules", &policy.name, &patterns.collect())
}

/// Each counts once: a table may have a route's match several times, for which nobody asked.
fn judge(field: &'static str, object: &str, patterns: &BTreeSet<&str>) -> Checked<()> {
    if patterns.len() > REGEXES {
        return Err(problem(field, format_args!("{object} has more than {REGEXES} regexes")));
    }
    if patterns.len() * REGEX_SIZE <= REGEXES_SIZE {
        return Ok(());
    }
    let whole = patterns.iter().map(|pattern| format!("^(?:{pattern})$"));
    match regex::RegexSetBuilder::new(whole).size_limit(REGEXES_SIZE).build() {
        Err(regex::Error::CompiledTooBig(_)) => {
            Err(problem(field, format_args!("the regexes of {object} take more than {REGEXES_SIZE} bytes")))
        }
        // What else is wrong with one, it is told itself.
        Ok(_) | Err(_) => Ok(()),
    }
}

fn of_path(path: &wire::PathMatch) -> Option<&str> {
    match &path.pattern {
        Some(wire::path_match::Pattern::Regex(pattern)) => Some(pattern),
        _ => None,
    }
}

fn of_key(key: &wire::KeyMatch) -> Option<&str> {
    match &key.value.as_ref()?.pattern {
        Some(wire::string_match::Pattern::Regex(pattern)) => Some(pattern),
        _ => None,
    }
}
