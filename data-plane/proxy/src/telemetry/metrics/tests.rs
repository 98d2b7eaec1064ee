use std::time::Duration;

use super::*;

fn arc(text: &str) -> Arc<str> {
    Arc::from(text)
}

#[test]
fn encoded() {
    let metrics = Metrics::new();
    let series = metrics.http(Direction::Outbound, &arc("shop/front"), &arc("r\"1\n"), &arc("-"));
    series.record(200, Some(0), Duration::from_millis(2), 10, 20);
    series.record(503, None, Duration::from_secs(60), 0, 5);
    metrics.fallback(Direction::Inbound, FallbackReason::SidecarHung).inc();
    let _open = metrics.connections(Listener::Mesh).open();
    metrics.connection_shed();
    metrics.set_connections_limit(308);
    metrics.set_memory_level(2);
    metrics.policy(&arc("shop/deny")).denied.inc();

    let text = metrics.encode();
    let labels = r#"direction="outbound",service="shop/front",route="r\"1\n",peer="-""#;
    for line in [
        format!("outrigger_http_requests_total{{{labels},code=\"200\"}} 1"),
        format!("outrigger_http_requests_total{{{labels},code=\"503\"}} 1"),
        format!("outrigger_grpc_requests_total{{{labels},grpc_status=\"0\"}} 1"),
        format!("outrigger_http_request_duration_seconds_bucket{{le=\"0.001\",{labels}}} 0"),
        format!("outrigger_http_request_duration_seconds_bucket{{le=\"0.0025\",{labels}}} 1"),
        format!("outrigger_http_request_duration_seconds_bucket{{le=\"10.0\",{labels}}} 1"),
        format!("outrigger_http_request_duration_seconds_bucket{{le=\"+Inf\",{labels}}} 2"),
        format!("outrigger_http_request_duration_seconds_count{{{labels}}} 2"),
        format!("outrigger_http_response_bytes_total{{{labels}}} 25"),
        "outrigger_fallback_connections_total{direction=\"inbound\",reason=\"sidecar_hung\"} 1".into(),
        "outrigger_fallback_connections_total{direction=\"outbound\",reason=\"sidecar_hung\"} 0".into(),
        "outrigger_connections_active{listener=\"mesh\"} 1".into(),
        "outrigger_access_denied_total{policy=\"shop/deny\"} 1".into(),
        "outrigger_connections_limit 308".into(),
        "outrigger_memory_level 2".into(),
        "outrigger_connections_shed_total 1".into(),
        "# EOF".into(),
    ] {
        assert!(text.lines().any(|l| l == line), "no line {line}\nin\n{text}");
    }
}
