//! AccessPolicy.

use super::{Problems, route, syntax};
use crate::{AccessAction, AccessOperation, AccessPolicySpec, AccessSource};

pub(crate) fn access_policy(spec: &AccessPolicySpec, problems: &mut Problems) {
    if !spec.target_refs.is_empty() && spec.selector.is_some() {
        problems.add("spec.selector", "targetRefs and selector exclude each other", "remove one of them");
    }
    for (index, target) in spec.target_refs.iter().enumerate() {
        problems.check(&format!("spec.targetRefs[{index}].name"), syntax::label(&target.name));
    }
    problems.unique("spec.targetRefs", &spec.target_refs, "");
    for (key, value) in spec.selector.iter().flat_map(|selector| &selector.match_labels) {
        let path = format!("spec.selector.matchLabels[{key:?}]");
        problems.check(&path, syntax::label_key(key));
        problems.check(&path, syntax::label_value(value));
    }
    if spec.rules.is_empty() && spec.action != AccessAction::Allow {
        let problem = format!("a policy with action {:?} and without rules does nothing", spec.action);
        problems.add("spec.rules", problem, "say what it matches; an empty rule {} matches everything");
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        for (name, sources) in [("from", &rule.from), ("notFrom", &rule.not_from)] {
            for (index, from) in sources.iter().enumerate() {
                source(&format!("{path}.{name}[{index}]"), from, problems);
            }
        }
        for (index, to) in rule.to.iter().enumerate() {
            operation(&format!("{path}.to[{index}]"), to, problems);
        }
    }
}

fn source(path: &str, source: &AccessSource, problems: &mut Problems) {
    // Read as "nobody" it would deny what its author wanted to allow, read as "everyone" the other way round.
    if *source == AccessSource::default() {
        let remedy = "name identities, namespaces, serviceAccounts, cidrs or authenticated, or remove the entry";
        problems.add(path, "it names no caller", remedy);
    }
    problems.check_each(&format!("{path}.identities"), &source.identities, syntax::identity);
    problems.check_each(&format!("{path}.namespaces"), &source.namespaces, syntax::label);
    problems.check_each(&format!("{path}.serviceAccounts"), &source.service_accounts, syntax::service_account);
    problems.check_each(&format!("{path}.cidrs"), &source.cidrs, syntax::cidr);
}

fn operation(path: &str, operation: &AccessOperation, problems: &mut Problems) {
    if *operation == AccessOperation::default() {
        problems.add(
            path,
            "it names nothing that is called",
            "name ports, methods, paths or the like, or remove the entry",
        );
    }
    problems.check_each(&format!("{path}.methods"), &operation.methods, syntax::method);
    problems.check_each(&format!("{path}.paths"), &operation.paths, syntax::path_pattern);
    problems.check_each(&format!("{path}.notPaths"), &operation.not_paths, syntax::path_pattern);
    problems.check_each(&format!("{path}.hosts"), &operation.hosts, syntax::host);
    route::key_matches(&format!("{path}.headers"), &operation.headers, syntax::judged_header, problems);
}
