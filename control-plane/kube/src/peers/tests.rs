//! Against a replica on loopback, with a certificate as the mesh's root signs it.

use std::{collections::BTreeSet, convert::Infallible, net::Ipv4Addr};

use hyper::{Response, server::conn::http1 as server, service::service_fn};
use outrigger_model::{Held, TypeSet};
use outrigger_wire::names::type_url::{ENDPOINT, SERVICE, TRUST};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use super::*;
use crate::{fake::Fake, fixtures::Proxies};

const NAME: &str = "outrigger-controller.outrigger-system";

/// A root as PEM, and a server's configuration with a certificate of it.
fn root_and_server(name: &str) -> (String, ServerConfig) {
    let root_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&root_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::from_params(&params, &root_key);
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key).unwrap();
    (root.pem(), server)
}

/// Answers like a replica whose proxies are `proxies`, to whoever has the token.
async fn serve(config: ServerConfig, proxies: Arc<Proxies>) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let proxies = Arc::clone(&proxies);
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let proxies = Arc::clone(&proxies);
                async move {
                    assert_eq!(request.uri().path(), PATH);
                    let permitted = request.headers()["authorization"] == "Bearer a-token";
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let (snapshot, affects) = view();
                    let answer = answer(&body, &snapshot, &affects, &*proxies, "a1").unwrap();
                    let mut response = Response::new(Full::<Bytes>::from(answer));
                    if !permitted {
                        *response.status_mut() = StatusCode::UNAUTHORIZED;
                    }
                    Ok::<_, Infallible>(response)
                }
            });
            let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    });
    (port, task)
}

fn view() -> (Arc<MeshSnapshot>, Arc<Affects>) {
    let derived = crate::fixtures::derived(
        "apiVersion: v1\nkind: Service\nmetadata: { name: front, namespace: shop }\n\
        spec: { clusterIP: 10.96.0.1, ports: [{ port: 80 }] }\n---\n\
        apiVersion: outrigger.dev/v1alpha1\nkind: MeshRoute\nmetadata: { name: r, namespace: shop }\n\
        spec: { parentRefs: [{ name: front }], rules: [{ backendRefs: [{ name: front, port: 80 }] }] }\n",
        None,
    );
    (Arc::clone(&derived.snapshot), Arc::clone(&derived.affects))
}

/// One other replica and this one; `ready` of both.
fn peers(root: &str, token: &str, port: u16, ready: bool) -> (Peers, tempfile::NamedTempFile) {
    let fake = Fake::default();
    let endpoint = |pod: &str| json!({ "addresses": ["127.0.0.1"], "conditions": { "ready": ready }, "targetRef": { "kind": "Pod", "name": pod } });
    // As of a service of both address families.
    for slice in ["x", "y"] {
        fake.put(
            &format!("apis/discovery.k8s.io/v1/namespaces/outrigger-system/endpointslices/{slice}"),
            json!({ "addressType": "IPv4", "endpoints": [endpoint("other"), endpoint("own")],
                "metadata": { "name": slice } }),
        );
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{token}\n")).unwrap();
    let (_, roots) = watch::channel(Arc::from(root));
    let peers = Peers { port, ..Peers::new(fake.client(), "own".to_owned(), roots, file.path().to_owned()) };
    (peers, file)
}

fn question() -> Question {
    Question { objects: vec!["MeshRoute/shop/r".to_owned(), "MeshRoute/shop/none".to_owned()], anchor: None }
}

#[tokio::test]
async fn another_replica_counts_its_own() {
    let (root, config) = root_and_server(NAME);
    let proxies = Arc::new(Proxies::default());
    let held = Held { proxies: 5, current: 4, ..Held::default() };
    proxies.set(held.clone());
    let (port, _server) = serve(config, proxies).await;
    let (peers, _file) = peers(&root, "a-token", port, true);
    let (answers, unreachable) = peers.ask(&question()).await;
    assert_eq!((answers.len(), unreachable), (1, 0));
    let (snapshot, affects) = view();
    let counted = answers[0].objects["MeshRoute/shop/r"].clone();
    let mark = Marks::new(&snapshot).of(affects.of("MeshRoute/shop/r"));
    assert_eq!(counted.clone().at(&mark), held);
    // What the other has derived of something else isn't what was asked about.
    assert_eq!(counted.at("another"), Held { proxies: 5, ..Held::default() });
}

#[tokio::test]
async fn who_can_not_be_trusted_or_reached_is_not_counted() {
    let (root, config) = root_and_server(NAME);
    let (other_root, other_name) = root_and_server("example.com");
    let (port, _server) = serve(config, Arc::default()).await;
    let (other_port, _other) = serve(other_name, Arc::default()).await;
    // root, token, port, ready, unreachable
    let table = [
        (&root, "a-token", port, true, 0),
        (&root, "no-token", port, true, 1),
        (&other_root, "a-token", port, true, 1),
        (&other_root, "a-token", other_port, true, 1),
        (&root, "a-token", 1, true, 1),
        // It isn't ready, so nobody expects an answer.
        (&root, "a-token", 1, false, 0),
    ];
    for (root, token, port, ready, expected) in table {
        let (peers, _file) = peers(root, token, port, ready);
        let (_, unreachable) = peers.ask(&question()).await;
        assert_eq!(unreachable, expected, "{token} {port} {ready}");
    }
}

#[test]
fn roots_can_be_asked_about_too() {
    let (snapshot, affects) = view();
    let proxies = Proxies::default();
    proxies.set(Held { proxies: 2, current: 2, ..Held::default() });
    let counted = count(&[ROOTS], &snapshot, &affects, &proxies).remove(ROOTS).unwrap();
    assert_eq!(counted.held.proxies, 2);
    let set = &snapshot.types[TRUST];
    assert_eq!(counted.mark, Marks::new(&snapshot).of(&Effects::from([(TRUST, Reach::All)])));
    // Other roots have another mark.
    let mut others = MeshSnapshot::clone(&snapshot);
    let mut changed = TypeSet::clone(set);
    let (name, trust) = set.resources.iter().next().map(|(name, trust)| (name.clone(), trust.clone())).unwrap();
    changed.resources.insert(name, Arc::new(outrigger_model::Resource { version: "other".into(), ..(*trust).clone() }));
    others.types.insert(TRUST, Arc::new(changed));
    assert_ne!(count(&[ROOTS], &others, &affects, &proxies)[ROOTS].mark, counted.mark);
}

#[test]
fn a_departure_is_counted_by_all_that_leads_to_the_pod() {
    let derived = crate::fixtures::derived(
        "apiVersion: v1\nkind: Service\nmetadata: { name: front, namespace: shop }\n\
        spec: { clusterIP: 10.96.0.1, selector: { app: a }, ports: [{ port: 80 }] }\n---\n\
        apiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: { name: a, namespace: shop, labels: { app: a } }\n\
        spec: { serviceAccount: a, mode: sidecar, addresses: [\"10.2.0.1\"] }\n",
        None,
    );
    let (snapshot, proxies) = (&derived.snapshot, Proxies::default());
    proxies.set(Held { proxies: 2, current: 2, ..Held::default() });
    let objects = ["Departure/shop/a", "Departure/shop/gone", ROOTS];
    let counted = count(&objects, snapshot, &derived.affects, &proxies);
    assert_eq!(objects.map(|object| counted[object].called), [true, false, false]);
    let effects = Effects::from([
        (ENDPOINT, Reach::Named(BTreeSet::from(["shop/front/a".into()]))),
        (SERVICE, Reach::Named(BTreeSet::from(["@10.2.0.1".into()]))),
    ]);
    assert_eq!(counted["Departure/shop/a"].mark, Marks::new(snapshot).of(&effects));
    assert_eq!(counted["Departure/shop/gone"].mark, Marks::new(snapshot).of(&Effects::new()));
}

#[test]
fn a_question_is_answered_in_json_of_this_shape() {
    let (snapshot, affects) = view();
    let proxies = Proxies::default();
    proxies.set(Held { proxies: 2, current: 1, ..Held::default() });
    let text = answer(br#"{"objects":["MeshRoute/shop/r"]}"#, &snapshot, &affects, &proxies, "a1").unwrap();
    let mark =
        Marks::new(&snapshot).of(&Effects::from([(SERVICE, Reach::Named(BTreeSet::from(["shop/front".into()])))]));
    let expected =
        json!({ "objects": { "MeshRoute/shop/r": { "mark": mark, "proxies": 2, "current": 1, "rejected": 0 } } });
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&text).unwrap(), expected);
    assert!(answer(b"{}", &snapshot, &affects, &proxies, "a1").is_err());
    let text = answer(br#"{"objects":[],"anchor":"b2"}"#, &snapshot, &affects, &proxies, "a1").unwrap();
    let expected =
        json!({ "objects": {}, "certificates": { "by": "a1", "have": [], "others": [], "silent": ["shop/a/?"] } });
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&text).unwrap(), expected);
}
