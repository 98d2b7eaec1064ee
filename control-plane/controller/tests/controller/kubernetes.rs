//! The Kubernetes mode: the real binary against an API server on loopback.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use outrigger_wire::proto::ca::{
    IssueRequest, IssueResponse, certificate_authority_client::CertificateAuthorityClient,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::{
    cluster::{Cluster, LEASE, TRUST},
    csr,
    harness::{PATIENCE, authorised, channel, connector, get, within},
};

async fn issue(address: SocketAddr, root: CertificateDer<'static>, token: &str) -> Result<IssueResponse, Status> {
    let mut client = CertificateAuthorityClient::new(channel(address, root).await);
    let request = authorised(IssueRequest { csr: Bytes::from(csr()) }, Some(token));
    within(client.issue(request)).await.map(tonic::Response::into_inner)
}

/// Asks for a pod of the namespace `shop` to be injected.
async fn inject(address: SocketAddr, root: CertificateDer<'static>) -> Value {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "web-1" },
        "spec": { "containers": [{ "name": "app", "image": "app:1" }] },
    });
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "1",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "namespace": "shop",
            "operation": "CREATE",
            "object": pod,
        },
    });
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = "outrigger-controller.outrigger-system.svc".try_into().unwrap();
    let stream = connector(root, b"http/1.1").connect(name, stream).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request =
        http::Request::post("/inject").header("host", "webhook").body(Full::<Bytes>::from(review.to_string()));
    let answer = within(sender.send_request(request.unwrap())).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice::<Value>(&body).unwrap()["response"].clone()
}

#[test]
fn it_waits_for_its_root_and_says_so() {
    let cluster = Cluster::new();
    let replica = cluster.start("outrigger-controller-1");
    replica.until("/healthz", "200");
    assert!(replica.until("/readyz", "503").contains("root"));
    // It is told to end while it waits.
    replica.terminate();
    assert!(replica.wait().success());

    let replica = cluster.start("outrigger-controller-1");
    let begun = Instant::now();
    while !replica.log().contains("--root-secret") {
        assert!(begun.elapsed() < PATIENCE, "the remedy isn't logged");
        thread::sleep(Duration::from_millis(10));
    }
    cluster.install();
    replica.until("/readyz", "200");
}

#[tokio::test]
async fn a_pods_token_gets_its_certificate() {
    let cluster = Cluster::new();
    cluster.install();
    let replica = cluster.start("outrigger-controller-1");
    replica.until("/readyz", "200");
    let root = cluster.root();
    // Nobody has told of that pod yet.
    let issued = issue(replica.grpc, root.clone(), "shop:front:front-1").await.unwrap();
    assert!(String::from_utf8_lossy(&issued.chain[0]).contains("spiffe://cluster.local/ns/shop/sa/front"));
    assert_eq!(issued.roots, [root.to_vec()]);

    assert_eq!(issue(replica.grpc, root.clone(), "guess").await.unwrap_err().code(), Code::Unauthenticated);
    cluster.be_away(true);
    let refused = issue(replica.grpc, root.clone(), "shop:front:front-2").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    // Those who were here a moment ago are remembered.
    issue(replica.grpc, root, "shop:front:front-1").await.unwrap();

    let metrics = get(replica.health, "/metrics").unwrap().1;
    for line in [
        "outrigger_token_checks_total{result=\"accepted\"} 1",
        "outrigger_token_checks_total{result=\"denied\"} 1",
        "outrigger_token_checks_total{result=\"remembered\"} 1",
        "outrigger_token_checks_total{result=\"unavailable\"} 1",
        "outrigger_certificates_issued_total 2",
        "outrigger_signer_expiry_timestamp_seconds",
        "outrigger_watch_synced{kind=\"Pod\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    for token in ["front-1", "front-2", "guess"] {
        assert!(!replica.log().contains(&format!("shop:front:{token}")), "a token was logged");
    }
    // Debugging is for whoever is on the machine.
    assert!(get(replica.health, "/debug/leader").unwrap().0.contains("404"));
    assert!(get(replica.admin, "/debug/leader").unwrap().0.contains("200"));
}

#[tokio::test]
async fn replicas_share_a_root_and_inject() {
    let cluster = Cluster::new();
    cluster.install();
    let replicas = [cluster.start("outrigger-controller-1"), cluster.start("outrigger-controller-2")];
    for replica in &replicas {
        replica.until("/readyz", "200");
        let answer = inject(replica.webhook, cluster.root()).await;
        assert!(answer["allowed"] == true && answer["patch"].is_string(), "{answer}");
        assert!(
            get(replica.health, "/metrics")
                .unwrap()
                .1
                .contains("outrigger_admissions_total{webhook=\"inject\",verdict=\"injected\"} 1")
        );
    }
}

#[tokio::test]
async fn a_replica_that_ends_gives_back_the_lease_and_goes_on_injecting_for_a_moment() {
    let cluster = Cluster::new();
    cluster.install();
    let replica = cluster.start("outrigger-controller-1");
    replica.until("/readyz", "200");
    let root = cluster.root();
    let holder = || cluster.object(LEASE)["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
    let until = |wanted: &str| {
        let begun = Instant::now();
        while holder() != wanted {
            assert!(begun.elapsed() < PATIENCE, "the Lease is held by {:?}", holder());
            thread::sleep(Duration::from_millis(10));
        }
    };
    until("outrigger-controller-1");

    replica.terminate();
    replica.until("/readyz", "503");
    until("");
    // Proxies are sent elsewhere at once; API servers learn of it late.
    assert!(std::net::TcpStream::connect(replica.grpc).is_err());
    assert_eq!(inject(replica.webhook, root).await["allowed"], true);
    replica.until("/healthz", "200");
    assert!(replica.wait().success());
}

#[tokio::test]
async fn a_replica_that_starts_while_the_root_is_changed_finds_what_was_decided() {
    let cluster = Cluster::new();
    cluster.install();
    let leader = cluster.start("outrigger-controller-1");
    leader.until("/readyz", "200");
    let old = cluster.root();
    let begun = Instant::now();
    let decided =
        || cluster.object(TRUST)["metadata"]["annotations"]["outrigger.dev/root-rotation"].as_str().map(str::to_owned);
    while decided().is_none() {
        assert!(begun.elapsed() < PATIENCE, "nothing is published: {}", cluster.object(TRUST));
        thread::sleep(Duration::from_millis(10));
    }
    let said: Value = serde_json::from_str(&decided().unwrap()).unwrap();
    let token = "shop:front:web-1";
    let issued = issue(leader.grpc, old.clone(), token).await.unwrap();
    assert_eq!(said["anchor"], issued.anchor);

    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "another root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    cluster.replace_root(&params.self_signed(&key).unwrap().pem(), &key.serialize_pem());
    let restarted = cluster.start("outrigger-controller-2");
    restarted.until("/readyz", "200");
    let (_, metrics) = get(restarted.admin, "/metrics").unwrap();
    assert!(metrics.contains("outrigger_trusted_roots 2"), "{metrics}");
    // The new root must not sign yet, and the old one's key isn't there any more.
    let refused = issue(restarted.grpc, cluster.root(), token).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::Unavailable, "another root signs still, and its key isn't here")
    );
    assert_eq!(issue(leader.grpc, old, token).await.unwrap().anchor, issued.anchor);
}
