use super::*;

#[test]
fn an_empty_file_is_the_default() {
    for text in ["", "{}", "# nothing\n", "---\n"] {
        assert_eq!(InjectorConfig::from_yaml(text), Ok(InjectorConfig::default()), "{text:?}");
    }
}

#[test]
fn what_is_written_is_read() {
    let config = InjectorConfig {
        image: "example.org/outrigger@sha256:00".to_owned(),
        access_log: AccessLog::Json,
        no_ipv6: true,
        skip_outbound_ports: vec![5432],
        ..InjectorConfig::default()
    };
    let text = serde_yaml::to_string(&config).unwrap();
    assert_eq!(InjectorConfig::from_yaml(&text), Ok(config), "{text}");
}

#[test]
fn resources_are_merged_over_the_defaults() {
    let text = "resources: {sidecar: {requests: {cpu: 1}, limits: {cpu: 1.5, memory: ''}}, guard: {limits: }}";
    // An empty `limits:` is a null, which YAML files have where a template rendered nothing.
    let config = InjectorConfig::from_yaml(&text.replace("limits: }", "limits: {}}")).unwrap();
    let expected = ContainerResources {
        requests: Amounts { cpu: Some("1".into()), memory: Some("20Mi".into()) },
        limits: Amounts { cpu: Some("1.5".into()), memory: None },
    };
    assert_eq!(config.resources.sidecar, expected);
    assert_eq!(config.resources.guard, Resources::default().guard);
}

#[test]
fn errors_name_field_and_remedy() {
    let table = [
        ("imag: x", "imag: unknown field; did you mean image?"),
        ("resources: {sidcar: {}}", "resources.sidcar: unknown field (line 1 column 13); did you mean sidecar?"),
        ("workers: 0", "workers: \"0\" is no number of workers; write a number from 1 to 64"),
        ("controller: https://x:1", "controller: \"https://x:1\" is no address; write HOST:PORT, without a scheme"),
        ("skipInboundPorts: [80, 0]", "skipInboundPorts[1]: \"0\" is no port; write a number from 1 to 65535"),
        ("skipOutboundCidrs: [10/8]", "skipOutboundCidrs[0]: \"10/8\" is no address block; write it as 10.0.0.0/8"),
        ("image: 'a b'", "image: \"a b\" is no image; write it as"),
        ("resources: {guard: {requests: {memory: 8MB}}}", "resources.guard.requests.memory: \"8MB\" is no quantity"),
        ("resources: {guard: {limits: {memory: 64m}}}", "resources.guard.limits.memory: \"64m\" is a fraction"),
        (
            "resources: {guard: {requests: {memory: 80Mi}}}",
            "resources.guard.requests.memory: 80Mi is more than the limit, which is 64Mi; request less",
        ),
        ("accessLog: loud", "accessLog: unknown variant `loud`"),
        ("image: [", "see the injector's settings"),
        ("[]", "see the injector's settings"),
    ];
    for (text, expected) in table {
        let error = InjectorConfig::from_yaml(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    // All of them at once.
    let error = InjectorConfig::from_yaml("workers: 0\nlog: ''\nversion: ''").unwrap_err();
    assert_eq!(error.0.len(), 3, "{error}");
}
