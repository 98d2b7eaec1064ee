//! What is refused, with which field and which remedy.

use outrigger_crds::{Problem, duplicates, parse};

/// Each document must have exactly one problem, at `field`; its problem and remedy contain these words.
fn table(cases: &[(&str, &str, &str, &str)]) {
    for (text, field, problem, remedy) in cases {
        let (loaded, problems) = parse("f.yaml", text);
        assert!(loaded.is_empty(), "{text} was accepted");
        let shown: String = problems.iter().map(|problem| format!("\n  {problem}")).collect();
        assert_eq!(problems.len(), 1, "{text} has the problems{shown}");
        let found = &problems[0];
        assert_eq!(found.field, *field, "{text} has{shown}");
        assert!(found.problem.contains(problem), "{text} has{shown}\nexpected: {problem}");
        assert!(found.remedy.contains(remedy), "{text} has{shown}\nexpected: {remedy}");
    }
}

/// As `table`, with the spec of an object of one kind.
fn specs(kind: &str, cases: &[(&str, &str, &str, &str)]) {
    for (spec, field, problem, remedy) in cases {
        let version = match kind {
            "HTTPRoute" | "GRPCRoute" => "gateway.networking.k8s.io/v1",
            "Service" => "v1",
            _ => "outrigger.dev/v1alpha1",
        };
        let text = format!("{{apiVersion: {version}, kind: {kind}, metadata: {{name: default}}, spec: {spec}}}");
        table(&[(&text, field, problem, remedy)]);
    }
}

/// As `specs`, with one rule of a route that is good otherwise.
fn rules(kind: &str, cases: &[(&str, &str, &str, &str)]) {
    for (rest, field, problem, remedy) in cases {
        let parent = if kind == "MeshRoute" { "{name: a}" } else { "{name: a, kind: Service, group: ''}" };
        let backends = if rest.contains("backendRefs") { "" } else { "backendRefs: [{name: a, port: 80}], " };
        let spec = format!("{{parentRefs: [{parent}], rules: [{{{backends}{rest}}}]}}");
        let field = if field.is_empty() { "spec.rules[0]".to_owned() } else { format!("spec.rules[0].{field}") };
        specs(kind, &[(&spec, &field, problem, remedy)]);
    }
}

fn display(text: &str) -> Vec<String> {
    parse("mesh/f.yaml", text).1.iter().map(Problem::to_string).collect()
}

#[test]
fn documents() {
    table(&[
        ("[]", "", "no object", "apiVersion, kind, metadata and spec"),
        ("x", "", "no object", "apiVersion"),
        ("a: 1", "kind", "missing", "AccessPolicy, HTTPRoute"),
        ("kind: 1", "kind", "string", "write one of"),
        ("{apiVersion: v1, kind: Pod}", "kind", "unknown kind \"Pod\"", "known are Service, Namespace"),
        ("{apiVersion: outrigger.dev/v1alpha1, kind: MeshRout}", "kind", "unknown", "did you mean MeshRoute?"),
        ("{kind: Service}", "apiVersion", "missing", "write v1"),
        ("{apiVersion: 1, kind: Service}", "apiVersion", "string", "write v1"),
        (
            "{apiVersion: outrigger.dev/v1, kind: MeshRoute}",
            "apiVersion",
            "\"outrigger.dev/v1\"",
            "outrigger.dev/v1alpha1",
        ),
        ("{apiVersion: v1, kind: Namespace}", "metadata", "missing", "add metadata"),
        ("{apiVersion: v1, kind: Namespace, metadata: {}}", "metadata.name", "missing", "give the object a name"),
        ("{apiVersion: v1, kind: Namespace, metadata: {name: A}}", "metadata.name", "\"A\"", "a-z, 0-9"),
        (
            "{apiVersion: v1, kind: Namespace, metadata: {nam: a, name: b}}",
            "metadata.nam",
            "unknown",
            "did you mean name?",
        ),
        (
            "{apiVersion: v1, kind: Namespace, metadata: {name: a, namespace: b}}",
            "metadata.namespace",
            "in no",
            "remove it",
        ),
        (
            "{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {outrigger.dev/mode: on}}}",
            "metadata.labels[\"outrigger.dev/mode\"]",
            "\"on\"",
            "sidecar, shared or none",
        ),
        (
            "{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {a: 1}}}",
            "metadata.labels.a",
            "a string, not a number",
            "put it in quotes",
        ),
        ("a: [", "", "line 2, column 1: ", "correct the YAML"),
        ("a: 1\nb: {\n\tc: 1", "", "line ", "correct the YAML"),
        ("a: 1\na: 2", "", "\"a\" is there twice", "correct the YAML"),
    ]);
    let large = format!("# {}\n", "x".repeat(5 << 20));
    table(&[(&large, "", "more than 4194304 bytes", "split it")]);
}

#[test]
fn one_line_says_it_all() {
    let text = "apiVersion: outrigger.dev/v1alpha1\nkind: MeshRoute\nmetadata: {name: cart, namespace: shop}\n\
        spec: {parentRefs: [{name: cart}], rules: [{backendRefs: [{name: a, port: 80}, {name: b, prot: 1}]}]}\n";
    assert_eq!(
        display(text),
        [
            "mesh/f.yaml: MeshRoute/shop/cart: spec.rules[0].backendRefs[1].prot: unknown field; did you mean port?",
            "mesh/f.yaml: MeshRoute/shop/cart: spec.rules[0].backendRefs[1].port: it is missing; \
            add port: Port of the Service",
        ]
    );
    assert_eq!(
        display("---\n---\nx\n"),
        [
            "mesh/f.yaml: document 1: the document is no object; write an object with apiVersion, kind, metadata and spec"
        ]
    );
}

#[test]
fn good_documents_are_returned_beside_bad_ones() {
    let good = "{apiVersion: v1, kind: Namespace, metadata: {name: a}}";
    let (loaded, problems) = parse("f.yaml", &format!("---\n{good}\n---\na: [\n---\nkind: Pod\n---\n{good}\n"));
    assert_eq!(loaded.iter().map(|loaded| loaded.document).collect::<Vec<_>>(), [0, 3]);
    assert_eq!(problems.iter().map(|problem| problem.document).collect::<Vec<_>>(), [1, 2]);
    assert!(problems[0].problem.starts_with("line 5, "), "{}", problems[0]);
    assert_eq!(
        duplicates(&loaded)[0].to_string(),
        "f.yaml: Namespace/a: metadata.name: it is already written in f.yaml, document 0; remove one of them or rename it"
    );
}

#[test]
fn types_and_ranges() {
    specs(
        "MeshRoute",
        &[
            ("", "spec", "an object, not", "leave it out"),
            (
                "{parentRefs: [], rules: [{backendRefs: [{name: a, port: 80}]}]}",
                "spec.parentRefs",
                "empty",
                "at least 1 entry",
            ),
            ("{parentRefs: [{name: a}], rules: []}", "spec.rules", "empty", "at least 1 entry"),
            ("{parentRefs: [{name: a}]}", "spec.rules", "missing", "What is done with which requests"),
            (
                "{parentRefs: {name: a}, rules: [{backendRefs: [{name: a, port: 80}]}]}",
                "spec.parentRefs",
                "a list, not an object",
                "dash",
            ),
        ][1..],
    );
    rules(
        "MeshRoute",
        &[
            (
                "backendRefs: [{name: a, port: '80'}]",
                "backendRefs[0].port",
                "an integer, not a string",
                "remove the quotes",
            ),
            ("backendRefs: [{name: a, port: 0}]", "backendRefs[0].port", "0 is out of range", "from 1 to 65535"),
            ("backendRefs: [{name: a, port: 65536}]", "backendRefs[0].port", "out of range", "from 1 to 65535"),
            ("backendRefs: [{name: a, port: 80.5}]", "backendRefs[0].port", "an integer, not a fraction", "reference"),
            ("backendRefs: [{name: a, port: 99999999999999999999}]", "backendRefs[0].port", "an integer", "reference"),
            ("backendRefs: [{name: a, port: 80, weight: -1}]", "backendRefs[0].weight", "-1", "0 to 1000000"),
            ("backendRefs: [{name: 1, port: 80}]", "backendRefs[0].name", "a string, not a number", "quotes"),
            ("matches: [{sharePercent: 101}]", "matches[0].sharePercent", "101", "1 to 100"),
            ("matches: [{path: {type: Prefix, value: /a}}]", "matches[0].path.type", "\"Prefix\"", "PathPrefix"),
            ("timeouts: {request: 5}", "timeouts.request", "a string, not a number", "quotes"),
            ("timeouts: {request: 5 s}", "timeouts.request", "\"5 s\"", "1m30s"),
            ("retry: {attempts: 1, codes: [200]}", "retry.codes[0]", "200", "400 to 599"),
            (
                "retry: {attempts: 1, nonIdempotent: 'true'}",
                "retry.nonIdempotent",
                "true or false",
                "remove the quotes",
            ),
            ("stickiness: {caller: false}", "stickiness.caller", "false isn't allowed", "write true or leave it out"),
            ("timeout: {request: 5s}", "timeout", "unknown field", "did you mean timeouts?"),
        ],
    );
}

#[test]
fn mesh_routes() {
    rules(
        "MeshRoute",
        &[
            ("backendRefs: []", "backendRefs", "empty", "RequestRedirect or DirectResponse"),
            ("backendRefs: [{name: A, port: 80}]", "backendRefs[0].name", "\"A\"", "a-z"),
            ("name: A_b", "name", "\"A_b\"", "a-z"),
            ("matches: [{path: {value: a}}]", "matches[0].path.value", "\"a\"", "begin with /"),
            (
                "matches: [{path: {type: RegularExpression, value: '('}}]",
                "matches[0].path.value",
                "unclosed group",
                "RE2",
            ),
            ("matches: [{method: get}]", "matches[0].method", "\"get\"", "upper case"),
            ("matches: [{headers: [{name: a b, value: c}]}]", "matches[0].headers[0].name", "\"a b\"", "letters"),
            ("matches: [{headers: [{name: a}]}]", "matches[0].headers[0].value", "missing", "Present"),
            (
                "matches: [{cookies: [{name: a, type: Absent, value: b}]}]",
                "matches[0].cookies[0].value",
                "Absent",
                "remove",
            ),
            ("matches: [{callers: [{}]}]", "matches[0].callers[0]", "exactly one", "identity, namespace"),
            ("matches: [{callers: [{identity: a}]}]", "matches[0].callers[0].identity", "\"a\"", "spiffe://"),
            (
                "matches: [{callers: [{serviceAccount: abc}]}]",
                "matches[0].callers[0].serviceAccount",
                "\"abc\"",
                "NAMESPACE/NAME",
            ),
        ],
    );
    specs(
        "MeshRoute",
        &[(
            "{parentRefs: [{name: a}, {name: a}], rules: [{backendRefs: [{name: a, port: 80}]}]}",
            "spec.parentRefs[1]",
            "same as spec.parentRefs[0]",
            "remove one",
        )],
    );
}

#[test]
fn mesh_filters() {
    rules(
        "MeshRoute",
        &[
            ("filters: [{type: Fault}]", "filters[0].fault", "type Fault needs it", "add fault"),
            (
                "filters: [{type: Fault, fault: {delay: {duration: 1s}}, urlRewrite: {hostname: a}}]",
                "filters[0].urlRewrite",
                "doesn't belong to type Fault",
                "set type to URLRewrite",
            ),
            (
                "filters: [{type: Fault, fault: {delay: {duration: 1s, percent: 101}}}]",
                "filters[0].fault.delay.percent",
                "101",
                "0 to 100",
            ),
            (
                "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: outrigger-caller, value: x}]}}]",
                "filters[0].requestHeaderModifier.set[0].name",
                "mesh's own",
                "without the prefix",
            ),
            (
                "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: a, value: \"b\\r\\nc: d\"}]}}]",
                "filters[0].requestHeaderModifier.add[0].value",
                "header's value",
                "printable",
            ),
            (
                "matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: \
                {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]",
                "filters[0].urlRewrite.path.type",
                "without a path prefix",
                "PathPrefix",
            ),
            (
                "filters: [{type: DirectResponse, directResponse: {status: 200}}], backendRefs: [{name: a, port: 80}]",
                "backendRefs",
                "answers already",
                "remove",
            ),
            (
                "backendRefs: [{name: a, port: 80, filters: [{type: Fault, fault: {abort: {status: 500}}}]}]",
                "backendRefs[0].filters[0].type",
                "before a backend is chosen",
                "rule's filters",
            ),
            (
                "timeouts: {request: 1s, backendRequest: 2s}",
                "timeouts.backendRequest",
                "2s",
                "at most timeouts.request",
            ),
            ("stickiness: {}", "stickiness", "exactly one", "header, cookie and caller"),
        ],
    );
}

#[test]
fn policies() {
    specs(
        "AccessPolicy",
        &[
            ("{}", "spec.action", "missing", "What happens"),
            ("{action: allow}", "spec.action", "\"allow\"", "did you mean Allow?"),
            ("{action: Deny}", "spec.rules", "does nothing", "{}"),
            (
                "{action: Allow, targetRefs: [{kind: Service, name: a}], selector: {matchLabels: {a: b}}}",
                "spec.selector",
                "exclude each other",
                "remove one",
            ),
            ("{action: Allow, selector: {matchLabels: {}}}", "spec.selector.matchLabels", "empty", "at least 1"),
            ("{action: Allow, rules: [{from: [{}]}]}", "spec.rules[0].from[0]", "no caller", "identities"),
            (
                "{action: Allow, rules: [{from: [{cidrs: [10.0.0.1/8]}]}]}",
                "spec.rules[0].from[0].cidrs[0]",
                "behind the first 8",
                "0",
            ),
            (
                "{action: Allow, rules: [{from: [{serviceAccounts: [abc]}]}]}",
                "spec.rules[0].from[0].serviceAccounts[0]",
                "abc",
                "NAMESPACE/NAME",
            ),
            (
                "{action: Allow, rules: [{notFrom: [{identities: [x]}]}]}",
                "spec.rules[0].notFrom[0].identities[0]",
                "\"x\"",
                "spiffe://",
            ),
            ("{action: Allow, rules: [{to: [{}]}]}", "spec.rules[0].to[0]", "names nothing", "ports"),
            ("{action: Allow, rules: [{to: [{paths: [/a*]}]}]}", "spec.rules[0].to[0].paths[0]", "*", "/*"),
            (
                "{action: Allow, rules: [{to: [{notPaths: [/a/../b]}]}]}",
                "spec.rules[0].to[0].notPaths[0]",
                "..",
                "normalise",
            ),
            ("{action: Allow, rules: [{to: [{ports: [0]}]}]}", "spec.rules[0].to[0].ports[0]", "0", "1 to 65535"),
            (
                "{action: Deny, rules: [{to: [{headers: [{name: Host, value: a}]}]}]}",
                "spec.rules[0].to[0].headers[0].name",
                "isn't compared",
                "hosts",
            ),
            (
                "{action: Deny, rules: [{to: [{headers: [{name: Upgrade, value: a}]}]}]}",
                "spec.rules[0].to[0].headers[0].name",
                "no policy sees it",
                "remove",
            ),
            (
                "{action: Deny, rules: [{to: [{headers: [{name: outrigger-caller, value: a}]}]}]}",
                "spec.rules[0].to[0].headers[0].name",
                "mesh's own",
                "remove",
            ),
            ("{action: Allow, rules: [{to: [{hosts: [A]}]}]}", "spec.rules[0].to[0].hosts[0]", "\"A\"", "lower-case"),
            (
                "{action: Allow, rules: [{to: [{path: [/a]}]}]}",
                "spec.rules[0].to[0].path",
                "unknown",
                "did you mean paths?",
            ),
        ],
    );
    let target = |rest: &str| format!("{{targetRefs: [{{kind: Service, name: a}}], {rest}}}");
    for (rest, field, problem, remedy) in [
        ("loadBalancer: {type: ConsistentHash}", "spec.loadBalancer.hashOn", "missing", "header, cookie or caller"),
        (
            "loadBalancer: {type: Random, hashOn: {caller: true}}",
            "spec.loadBalancer.hashOn",
            "ConsistentHash",
            "remove",
        ),
        (
            "loadBalancer: {type: LeastRequests}",
            "spec.loadBalancer.type",
            "LeastRequests",
            "did you mean LeastRequest?",
        ),
        ("connections: {connectTimeout: 0s}", "spec.connections.connectTimeout", "longer", "5s"),
        ("outlierEjection: {maxEjectionPercent: 101}", "spec.outlierEjection.maxEjectionPercent", "101", "0 to 100"),
        ("retryBudgetPercent: 0", "spec.retryBudgetPercent", "0", "1 to 100"),
        ("onControlPlaneLoss: Direct", "spec.onControlPlaneLoss", "Direct", "Continue and Closed"),
        ("onSidecarFailure: Open", "spec.onSidecarFailure", "Open", "Fallback, Closed and Direct"),
    ] {
        specs("TrafficPolicy", &[(&target(rest), field, problem, remedy)]);
    }
    specs(
        "TrafficPolicy",
        &[
            ("{targetRefs: []}", "spec.targetRefs", "empty", "at least 1 entry"),
            ("{targetRefs: [{kind: Namespace, name: other}]}", "spec.targetRefs[0].name", "\"other\"", "default"),
            (
                "{targetRefs: [{kind: Mesh, name: default}]}",
                "spec.targetRefs[0].kind",
                "whole mesh",
                "outrigger-system",
            ),
        ],
    );
}

#[test]
fn the_mesh_and_its_workloads() {
    specs(
        "MeshConfig",
        &[
            ("{trustDomain: A}", "spec.trustDomain", "\"A\"", "a-z"),
            ("{mtls: {mode: strict}}", "spec.mtls.mode", "strict", "did you mean Strict?"),
            ("{fallback: {sharedProxy: {service: a}}}", "spec.fallback.sharedProxy.namespace", "missing", "Namespace"),
            (
                "{fallback: {pools: [{namespaces: [], sharedProxy: {namespace: a, service: b}}]}}",
                "spec.fallback.pools[0].namespaces",
                "empty",
                "at least 1 entry",
            ),
            (
                "{fallback: {pools: [{namespaces: [a], sharedProxy: {namespace: A, service: b}}]}}",
                "spec.fallback.pools[0].sharedProxy.namespace",
                "\"A\"",
                "a-z",
            ),
            (
                "{fallback: {pools: [{namespaces: [a], sharedProxy: {namespace: a, service: b}}, \
                 {namespaces: [c, a], sharedProxy: {namespace: a, service: d}}]}}",
                "spec.fallback.pools[1].namespaces[1]",
                "spec.fallback.pools[0].namespaces[0]",
                "one pool",
            ),
        ],
    );
    table(&[(
        "{apiVersion: outrigger.dev/v1alpha1, kind: MeshConfig, metadata: {name: other}, spec: {}}",
        "metadata.name",
        "only",
        "name it default",
    )]);
    specs(
        "Workload",
        &[
            ("{addresses: [], serviceAccount: a}", "spec.addresses", "empty", "at least 1 entry"),
            ("{addresses: [a], serviceAccount: a}", "spec.addresses[0]", "\"a\"", "without port"),
            ("{addresses: ['10.0.0.1:80'], serviceAccount: a}", "spec.addresses[0]", "10.0.0.1:80", "without port"),
            ("{addresses: [0.0.0.0], serviceAccount: a}", "spec.addresses[0]", "one host", "reached"),
            ("{addresses: [10.0.0.1, 10.0.0.1], serviceAccount: a}", "spec.addresses[1]", "same", "remove"),
            ("{addresses: [10.0.0.1]}", "spec.serviceAccount", "missing", "Service account"),
            (
                "{addresses: [10.0.0.1], serviceAccount: a, mode: Sidecar}",
                "spec.mode",
                "Sidecar",
                "did you mean sidecar?",
            ),
            (
                "{addresses: [10.0.0.1], serviceAccount: a, ports: [{name: '80', port: 80}]}",
                "spec.ports[0].name",
                "\"80\"",
                "letter",
            ),
            (
                "{addresses: [10.0.0.1], serviceAccount: a, ports: [{name: a, port: 80}, {name: a, port: 81}]}",
                "spec.ports[1].name",
                "same",
                "change it",
            ),
        ],
    );
}

#[test]
fn kubernetes_and_gateway_api() {
    specs(
        "Service",
        &[
            ("{ports: [{port: 0}]}", "spec.ports[0].port", "0", "1 to 65535"),
            ("{ports: [{port: 80, targetPort: 0}]}", "spec.ports[0].targetPort", "0", "1 to 65535"),
            ("{ports: [{port: 80, targetPort: Web}]}", "spec.ports[0].targetPort", "Web", "a-z"),
            (
                "{ports: [{port: 80, targetPort: [1]}]}",
                "spec.ports[0].targetPort",
                "an integer or a string",
                "reference",
            ),
            ("{ports: [{port: 80, name: a}, {port: 81}]}", "spec.ports[1].name", "missing", "name each"),
            ("{ports: [{port: 80, protocol: HTTP}]}", "spec.ports[0].protocol", "unknown", "appProtocol"),
            ("{clusterIP: 10.0.0}", "spec.clusterIP", "10.0.0", "address"),
            ("{selectors: {a: b}}", "spec.selectors", "unknown", "did you mean selector?"),
        ],
    );
    rules(
        "HTTPRoute",
        &[
            ("matches: [{method: get}]", "matches[0].method", "get", "did you mean GET?"),
            ("matches: [{headers: [{name: a}]}]", "matches[0].headers[0].value", "missing", "compared"),
            ("backendRefs: [{name: a}]", "backendRefs[0].port", "missing", "Service's port"),
            (
                "backendRefs: [{name: a, port: 80, wieght: 1}]",
                "backendRefs[0].wieght",
                "unknown",
                "did you mean weight?",
            ),
            (
                "filters: [{type: URLRewrite, urlRewrite: {}}]",
                "filters[0].urlRewrite",
                "changes nothing",
                "hostname or path",
            ),
            (
                "filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a, port: 80}]",
                "backendRefs",
                "already",
                "remove",
            ),
            (
                "filters: [{type: RequestRedirect, requestRedirect: {statusCode: 304}}], backendRefs: []",
                "filters[0].requestRedirect.statusCode",
                "304",
                "301, 302",
            ),
            (
                "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, fraction: {numerator: 101}}}]",
                "filters[0].requestMirror.fraction.numerator",
                "more than 1",
                "denominator",
            ),
            (
                "filters: [{type: URLRewrite, urlRewrite: {hostname: a}}, {type: URLRewrite, urlRewrite: {hostname: b}}]",
                "filters[1].type",
                "second filter",
                "merge",
            ),
        ],
    );
    specs(
        "HTTPRoute",
        &[("{parentRefs: [{kind: Service, name: a}]}", "spec.parentRefs[0].group", "core group", "group: \"\"")],
    );
    rules(
        "GRPCRoute",
        &[
            ("matches: [{method: {}}]", "matches[0].method", "neither", "set one"),
            ("matches: [{method: {service: a/b}}]", "matches[0].method.service", "a/b", ".proto"),
            ("timeouts: {request: 1s}", "timeouts", "unknown field", "known are"),
        ],
    );
}

/// A route with as many matches by regular expression, two in each match.
fn with_regexes(count: usize, regex: &str) -> String {
    let header = format!("{{name: a, type: RegularExpression, value: '{regex}'}}");
    let both = format!("{{path: {{type: RegularExpression, value: '{regex}'}}, headers: [{header}]}}");
    let all = vec![both.as_str(); count / 2];
    let rule =
        |matches: &[&str]| format!("{{matches: [{}], backendRefs: [{{name: a, port: 80}}]}}", matches.join(", "));
    let rules: Vec<String> = all.chunks(16).map(rule).collect();
    let head = "apiVersion: outrigger.dev/v1alpha1, kind: MeshRoute, metadata: {name: a, namespace: shop}";
    format!("{{{head}, spec: {{parentRefs: [{{name: a}}], rules: [{}]}}}}", rules.join(", "))
}

#[test]
fn regular_expressions_are_limited_together() {
    for (count, regex) in [(256, "/v[0-9]+/([a-z]|[0-9]){1,32}"), (16, "(a{100}){60}")] {
        let (loaded, problems) = parse("f.yaml", &with_regexes(count, regex));
        assert!(loaded.len() == 1 && problems.is_empty(), "{count} times {regex}: {problems:?}");
    }
    let many = with_regexes(400, "/a.*");
    table(&[(&many, "spec.rules[8].matches[0].path.value", "more than 256 regular", "write several as one")]);
    let (loaded, problems) = parse("f.yaml", &with_regexes(256, "(a{100}){60}"));
    let [problem] = problems.as_slice() else { panic!("{problems:?}") };
    assert!(loaded.is_empty() && problem.to_string().contains("MeshRoute/shop/a: spec.rules["), "{problem}");
    assert!(problem.field.ends_with(".value") && problem.problem.contains("more than 16 MiB"), "{problem}");
    assert!(problem.remedy.contains("smaller repetitions"), "{problem}");
}
