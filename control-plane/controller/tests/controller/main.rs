//! The controller as its proxies see it: the real binary, real TLS, a folder of YAML. And as a cluster sees it: `kubernetes`.

// The lint exempts unit tests only.
#![allow(clippy::unwrap_used)]

mod cluster;
mod harness;
mod kubernetes;

use std::{collections::HashMap, fs, io::Write};

use harness::{Controller, SHOP, token, within};
use outrigger_wire::{
    names::type_url::{ENDPOINT, INBOUND, SERVICE, TRUST},
    proto::{
        config,
        discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest},
        envoy::config::core::v3::Node,
        google::rpc::Status as RpcStatus,
    },
};
use prost::Message;
use rcgen::{CertificateParams, KeyPair};
use tonic::Code;

pub(crate) fn csr() -> Vec<u8> {
    let asked = CertificateParams::new(["somebody.else".to_owned()]).unwrap();
    asked.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|resource| resource.name.as_str()).collect()
}

fn decode<T: Message + Default>(response: &DeltaDiscoveryResponse, at: usize) -> T {
    T::decode(&response.resources[at].resource.as_ref().unwrap().value[..]).unwrap()
}

fn with_port_8080() -> String {
    SHOP.replace("port: 80,", "port: 8080,")
}

#[tokio::test]
async fn a_token_gets_the_certificate_of_its_workload_only() {
    let controller = Controller::start();
    let issued = controller.issue(Some(&token("shop/web-1")), &csr()).await.unwrap();
    let text = String::from_utf8_lossy(&issued.chain[0]).into_owned();
    assert!(text.contains("spiffe://cluster.local/ns/shop/sa/web"));
    assert!(!text.contains("somebody.else"));
    assert_eq!(issued.roots, [controller.root().to_vec()]);
    assert_eq!(issued.not_after - issued.not_before, 24 * 3600 + 900);

    let refused = controller.issue(Some(&token("shop/web-1")), b"no request at all").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn without_a_valid_token_nothing_is_served() {
    let controller = Controller::start();
    // The token of a workload that isn't in the mesh.
    fs::write(controller.dir.path().join("tokens/shop.ghost"), token("shop/ghost")).unwrap();
    for token in
        [None, Some("shop/web-1:wrong-but-long-enough".to_owned()), Some(token("shop/ghost")), Some(token("shop/none"))]
    {
        let refused = controller.issue(token.as_deref(), &csr()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{token:?}");
        assert!(!refused.message().contains("shop"), "{refused}");
    }
    assert!(!controller.log().contains("secret-of"), "a token was logged");
}

#[tokio::test]
async fn a_change_of_a_file_reaches_the_proxy() {
    let controller = Controller::start();
    let mut proxy = controller.delta("shop/web-1").await;
    proxy.subscribe(SERVICE, &["@10.96.0.10"]).await;
    let first = proxy.next().await.unwrap();
    assert_eq!(names(&first), ["shop/web"]);
    assert!(first.resources[0].aliases.contains(&"@10.96.0.10".to_owned()));
    assert_eq!(decode::<config::Service>(&first, 0).ports[0].port, 80);
    proxy.ack(&first).await;

    controller.write("shop.yaml", &with_port_8080());
    let second = proxy.next().await.unwrap();
    assert_eq!(names(&second), ["shop/web"]);
    assert_eq!(decode::<config::Service>(&second, 0).ports[0].port, 8080);
    assert_ne!(second.resources[0].version, first.resources[0].version);
}

#[tokio::test]
async fn endpoints_come_and_go_with_workloads() {
    let controller = Controller::start();
    let mut proxy = controller.delta("shop/db-1").await;
    proxy.subscribe(ENDPOINT, &["shop/web/*", "shop/nothing/*"]).await;
    let first = proxy.next().await.unwrap();
    assert_eq!(
        (names(&first), &first.removed_resources[..]),
        (vec!["shop/web/web-1"], &["shop/nothing/*".to_owned()][..])
    );
    proxy.ack(&first).await;

    let second_workload = "
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {name: web-2, namespace: shop, labels: {app: web}}
spec: {addresses: [10.0.0.3], serviceAccount: web}
";
    controller.write("web-2.yaml", second_workload);
    let added = proxy.next().await.unwrap();
    assert_eq!(names(&added), ["shop/web/web-2"]);
    proxy.ack(&added).await;

    fs::remove_file(controller.dir.path().join("config/web-2.yaml")).unwrap();
    let removed = proxy.next().await.unwrap();
    assert_eq!(removed.removed_resources, ["shop/web/web-2"]);
}

#[tokio::test]
async fn nobody_sees_the_inbound_policy_of_another() {
    let controller = Controller::start();
    let mut proxy = controller.delta("shop/web-1").await;
    proxy.subscribe(INBOUND, &["shop/web-1", "shop/db-1"]).await;
    let answer = proxy.next().await.unwrap();
    assert_eq!((names(&answer), &answer.removed_resources[..]), (vec!["shop/web-1"], &["shop/db-1".to_owned()][..]));

    let mut curious = controller.delta("shop/web-1").await;
    curious.subscribe(INBOUND, &["*"]).await;
    assert_eq!(names(&curious.next().await.unwrap()), ["shop/web-1"]);
}

#[tokio::test]
async fn bad_yaml_keeps_the_last_good_state_and_is_shown() {
    let controller = Controller::start();
    let mut proxy = controller.delta("shop/web-1").await;
    proxy.subscribe(SERVICE, &["shop/web"]).await;
    let first = proxy.next().await.unwrap();
    proxy.ack(&first).await;

    controller.write("shop.yaml", &SHOP.replace("serviceAccount: web", "serviceAcount: web"));
    // Another file still changes for the good.
    let other = SHOP.split("---").next().unwrap().replace("web", "other").replace("10.96.0.10", "10.96.0.11");
    proxy.subscribe(SERVICE, &["shop/other"]).await;
    let absent = proxy.next().await.unwrap();
    assert_eq!(absent.removed_resources, ["shop/other"]);
    proxy.ack(&absent).await;
    controller.write("other.yaml", &other);
    let pushed = proxy.next().await.unwrap();
    assert_eq!((names(&pushed), pushed.removed_resources.len()), (vec!["shop/other"], 0));

    let problems = controller.json_when("/debug/problems", |problems| problems[0].is_object());
    let problem = &problems[0];
    assert!(problem["file"].as_str().unwrap().ends_with("shop.yaml"), "{problem:#}");
    assert!(problem["object"].as_str().unwrap().contains("shop/web-1"), "{problem:#}");
    assert!(problem["field"].as_str().unwrap().contains("serviceAcount"), "{problem:#}");
    assert!(!problem["remedy"].as_str().unwrap().is_empty());
    assert!(controller.get("/metrics").1.contains("outrigger_config_problems"));
    let resources = controller.json("/debug/resources?type=Service");
    assert_eq!(resources["types"][SERVICE]["shop/web"], first.resources[0].version);
    // One resource as it is served, by its name or an alias.
    let body = String::from_utf8_lossy(&first.resources[0].resource.as_ref().unwrap().value).into_owned();
    for name in ["shop/web", "@10.96.0.10"] {
        let (status, page) = controller.get(&format!("/debug/resource?type=Service&name={name}"));
        assert_eq!((status.as_str(), page.as_str()), ("HTTP/1.1 200 OK", body.as_str()), "{name}");
    }
    for missing in ["?type=Service&name=shop/none", "?type=None&name=shop/web", "?type=Service", ""] {
        let (status, _) = controller.get(&format!("/debug/resource{missing}"));
        assert_eq!(status, "HTTP/1.1 404 Not Found", "{missing}");
    }
}

#[tokio::test]
async fn a_reconnect_resends_nothing() {
    let controller = Controller::start();
    let mut proxy = controller.delta("shop/web-1").await;
    proxy.subscribe(SERVICE, &["shop/web"]).await;
    let first = proxy.next().await.unwrap();
    let known: HashMap<String, String> =
        first.resources.iter().map(|resource| (resource.name.clone(), resource.version.clone())).collect();
    drop(proxy);
    let (status, dir) = controller.stop();
    assert!(status.success());

    let controller = Controller::start_in(dir);
    let mut proxy = controller.delta("shop/web-1").await;
    proxy.reconnect(SERVICE, &["shop/web"], known).await;
    let again = proxy.next().await.unwrap();
    assert!(again.resources.is_empty() && again.removed_resources.is_empty(), "{again:?}");
}

#[tokio::test]
async fn acknowledgements_and_rejections_are_shown() {
    let controller = Controller::start();
    let mut proxy = controller.delta("shop/web-1").await;
    let node = Node { id: "web-1-pod".to_owned(), ..Node::default() };
    let subscribe = |type_url: &str| DeltaDiscoveryRequest {
        node: Some(node.clone()),
        type_url: type_url.to_owned(),
        resource_names_subscribe: vec!["*".to_owned()],
        ..DeltaDiscoveryRequest::default()
    };
    proxy.send(subscribe(TRUST)).await;
    let trust = proxy.next().await.unwrap();
    proxy.ack(&trust).await;
    proxy.send(subscribe(SERVICE)).await;
    let services = proxy.next().await.unwrap();
    proxy
        .send(DeltaDiscoveryRequest {
            type_url: SERVICE.to_owned(),
            response_nonce: services.nonce.clone(),
            error_detail: Some(RpcStatus { message: "shop/web: no such thing".to_owned(), ..RpcStatus::default() }),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    // The answer to a later request proves that the earlier ones were taken in.
    proxy.subscribe(INBOUND, &["shop/web-1"]).await;
    proxy.next().await.unwrap();

    let proxies = controller.json("/debug/proxies");
    let shown = &proxies[0];
    assert_eq!((shown["node"].as_str(), shown["workload"].as_str()), (Some("web-1-pod"), Some("shop/web-1")));
    assert_eq!(shown["types"][TRUST]["resources"]["cluster.local"], trust.resources[0].version);
    assert_eq!(shown["types"][SERVICE]["nack"]["names"][0], "shop/web");
    assert!(shown["types"][SERVICE]["resources"].get("shop/web").is_none());
    let metrics = controller.get("/metrics").1;
    for line in ["outrigger_nacks_total{type=\"Service\"} 1", "outrigger_connected_proxies 1"] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
}

#[tokio::test]
async fn state_of_the_world_is_served_too() {
    let controller = Controller::start();
    let (requests, mut responses) = controller.sotw("shop/web-1").await;
    let request = DiscoveryRequest { type_url: SERVICE.to_owned(), ..DiscoveryRequest::default() };
    requests.send(request.clone()).await.unwrap();
    let first = within(responses.message()).await.unwrap().unwrap();
    assert!(!first.resources.is_empty() && !first.version_info.is_empty());
    let ack = DiscoveryRequest { response_nonce: first.nonce, version_info: first.version_info, ..request };
    requests.send(ack).await.unwrap();
    controller.write("shop.yaml", &with_port_8080());
    let second = within(responses.message()).await.unwrap().unwrap();
    assert_eq!(second.resources.len(), first.resources.len());
}

#[tokio::test]
async fn stalled_and_odd_peers_disturb_nobody() {
    let controller = Controller::start();
    let stalled: Vec<_> = (0..64).map(|_| controller.raw()).collect();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 0x03, 0x01, 0xff, 0xff, 0x01], &[0; 4096]] {
        // It may hang up before all is written.
        let _ = controller.raw().write_all(garbage);
    }
    controller.issue(Some(&token("shop/web-1")), &csr()).await.unwrap();
    drop(stalled);
}

#[tokio::test]
async fn it_drains_when_told_to_stop() {
    let controller = Controller::start();
    let mut proxy = controller.delta("shop/web-1").await;
    proxy.subscribe(TRUST, &["*"]).await;
    proxy.next().await.unwrap();
    controller.terminate();
    assert_eq!(proxy.next().await.unwrap_err().code(), Code::Unavailable);
    let (status, _) = controller.stop();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn health_is_told_apart_from_readiness() {
    let controller = Controller::start();
    // A call is answered only after the first configuration.
    controller.issue(Some(&token("shop/web-1")), &csr()).await.unwrap();
    assert_eq!(controller.get("/readyz").0, "HTTP/1.1 200 OK");

    let empty = tempfile::tempdir().unwrap();
    for folder in ["config", "tokens"] {
        fs::create_dir(empty.path().join(folder)).unwrap();
    }
    let waiting = Controller::start_in(empty);
    assert_eq!(waiting.get("/healthz").0, "HTTP/1.1 200 OK");
    assert_eq!(waiting.get("/readyz").0, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(waiting.get("/nowhere").0, "HTTP/1.1 404 Not Found");
}
