use std::sync::{Arc, Mutex};

use bytes::Bytes;
use outrigger_wire::names::ROTATION_ANNOTATION;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::*;
use crate::{certificate::names, fake};

const PATH: &str = "/api/v1/namespaces/outrigger-system/secrets/outrigger-root";
const PUBLISHED: &str = "/api/v1/namespaces/outrigger-system/configmaps/outrigger-trust";

/// One Secret, what is published of it, and how the API server is.
#[derive(Default)]
struct State {
    secret: Option<Value>,
    published: Option<Value>,
    version: u64,
    /// Instead of the next answers.
    failures: Vec<u16>,
    /// Written by somebody else just before the next write arrives.
    rival: Option<Value>,
    writes: usize,
}

#[derive(Clone, Default)]
pub(crate) struct Cluster(Arc<Mutex<State>>);

// === impl Cluster ===

impl Cluster {
    pub(crate) fn with(data: &Value) -> Self {
        let cluster = Self::default();
        cluster.put(data);
        cluster
    }

    pub(crate) fn put(&self, data: &Value) {
        self.0.lock().unwrap().put(data);
    }

    pub(crate) fn delete(&self) {
        self.0.lock().unwrap().secret = None;
    }

    pub(crate) fn fail(&self, codes: &[u16]) {
        self.0.lock().unwrap().failures = codes.to_vec();
    }

    /// As whoever leads publishes the roots.
    pub(crate) fn publish(&self, pem: &str, annotation: Option<String>) {
        let annotations = annotation.map(|text| json!({ ROTATION_ANNOTATION: text }));
        let map = json!({ "metadata": { "annotations": annotations }, "data": { "root.pem": pem } });
        self.0.lock().unwrap().published = Some(map);
    }

    pub(crate) fn published(&self) -> Value {
        self.0.lock().unwrap().published.clone().unwrap_or_default()
    }

    pub(crate) fn data(&self) -> Value {
        self.0.lock().unwrap().secret.as_ref().unwrap()["data"].clone()
    }

    fn writes(&self) -> usize {
        self.0.lock().unwrap().writes
    }

    pub(crate) fn root(&self) -> RootSecret {
        let state = Arc::clone(&self.0);
        let client = fake::client(move |line, body| std::future::ready(state.lock().unwrap().answer(&line, &body)));
        RootSecret::new(client, "outrigger-root".to_owned(), "cluster.local".to_owned(), names(Some("mesh.example")))
    }
}

// === impl State ===

impl State {
    fn put(&mut self, data: &Value) {
        self.version += 1;
        let metadata = json!({ "name": "outrigger-root", "resourceVersion": self.version.to_string() });
        self.secret = Some(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data }));
    }

    fn answer(&mut self, line: &str, body: &Value) -> (u16, Value) {
        if let Some(code) = self.failures.pop() {
            return fake::refusal(code);
        }
        let (method, path) = line.split_once(' ').unwrap();
        if path == PUBLISHED {
            assert_eq!(method, "GET");
            return self.published.clone().map_or_else(|| fake::refusal(404), |map| (200, map));
        }
        assert_eq!(path, PATH);
        if method == "PUT" {
            self.writes += 1;
            if let Some(rival) = self.rival.take() {
                self.put(&rival);
            }
            let Some(before) = &self.secret else { return fake::refusal(404) };
            if body["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"] {
                return fake::refusal(409);
            }
            self.put(&body["data"]);
        } else {
            assert_eq!(method, "GET");
        }
        self.secret.clone().map_or_else(|| fake::refusal(404), |secret| (200, secret))
    }
}

/// A certificate authority as a company has one.
pub(crate) struct Ca {
    pub(crate) pem: String,
    pub(crate) key: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Good until so many days from now.
pub(crate) fn ca(name: &str, above: Option<&Ca>, days: i64, change: impl FnOnce(&mut CertificateParams)) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let (now, day) = (std::time::SystemTime::now(), Duration::from_secs(24 * 3600));
    let away = day * u32::try_from(days.abs()).unwrap();
    params.not_before = (now - day * 30).into();
    params.not_after = if days < 0 { now - away } else { now + away }.into();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = match above {
        Some(above) => params.signed_by(&key, &above.issuer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    Ca { pem: certificate.pem(), key: key.serialize_pem(), issuer: Issuer::new(params, key) }
}

pub(crate) fn holding(certificate: &str, key: &str, further: &str) -> Value {
    json!({ "tls.crt": encoded(certificate), "tls.key": encoded(key), "ca.crt": encoded(further) })
}

fn encoded(text: &str) -> Value {
    serde_json::to_value(ByteString(text.as_bytes().to_vec())).unwrap()
}

pub(crate) fn made(trust_domain: &str) -> Value {
    let (certificate, key) = Signer::generate(trust_domain).unwrap();
    json!({ "tls.crt": encoded(&certificate), "tls.key": encoded(&key) })
}

async fn load(cluster: &Cluster) -> Result<Vec<Bytes>, RootError> {
    cluster.root().load().await.map(|(authority, _)| authority.roots())
}

#[tokio::test]
async fn an_empty_secret_is_filled_once() {
    // As the chart ships it, and as a Secret of type kubernetes.io/tls must be.
    for empty in [Value::Null, json!({}), json!({ "tls.crt": "", "tls.key": "" })] {
        let cluster = Cluster::with(&empty);
        let first = load(&cluster).await.unwrap();
        let written = cluster.data();
        assert_eq!(load(&cluster).await.unwrap(), first);
        assert_eq!((cluster.data(), cluster.writes()), (written, 1));
    }
}

#[tokio::test]
async fn the_second_of_two_replicas_takes_the_firsts_root() {
    let cluster = Cluster::with(&Value::Null);
    let rival = made("cluster.local");
    cluster.0.lock().unwrap().rival = Some(rival.clone());
    let second = load(&cluster).await.unwrap();
    assert_eq!(cluster.data(), rival);
    assert_eq!(load(&cluster).await.unwrap(), second);
}

#[tokio::test]
async fn who_changes_a_label_meanwhile_is_no_rival() {
    let cluster = Cluster::with(&Value::Null);
    cluster.0.lock().unwrap().rival = Some(Value::Null);
    let root = load(&cluster).await.unwrap();
    assert_eq!((load(&cluster).await.unwrap(), cluster.writes()), (root, 2));
}

#[tokio::test]
async fn a_companys_intermediate_signs_below_the_companys_root() {
    let root = ca("company", None, 300, |_| {});
    let upper = ca("clusters", Some(&root), 200, |_| {});
    let own = ca("mesh", Some(&upper), 100, |_| {});
    for (what, data) in [
        ("as cert-manager writes it", holding(&(own.pem.clone() + &upper.pem), &own.key, &root.pem)),
        ("all above in ca.crt", holding(&own.pem, &own.key, &(upper.pem.clone() + &root.pem))),
        ("all in tls.crt", holding(&(own.pem.clone() + &upper.pem + &root.pem), &own.key, "")),
    ] {
        let cluster = Cluster::with(&data);
        let (authority, _) = cluster.root().load().await.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(authority.roots_pem().matches("BEGIN").count(), 1, "{what}");
        let shown = authority.server_certificate(&["localhost"], Duration::from_secs(60)).unwrap();
        assert_eq!(shown.chain.len(), 3, "{what}: a leaf and two intermediates");
        assert_eq!((cluster.data(), cluster.writes()), (data, 0), "{what}");
    }
}

#[tokio::test]
async fn what_it_holds_is_never_overwritten_and_the_error_says_what_to_do() {
    let root = ca("company", None, 300, |_| {});
    let (own, other) = (ca("mesh", Some(&root), 100, |_| {}), ca("other", None, 300, |_| {}));
    let no_ca = ca("no CA", Some(&root), 100, |params| params.is_ca = IsCa::ExplicitNoCa);
    let old = ca("old", Some(&root), -1, |_| {});
    let elsewhere = ca("elsewhere", Some(&root), 100, |params| {
        params.subject_alt_names = vec![SanType::URI("spiffe://other.example".try_into().unwrap())];
    });
    // Permits URIs of one host and no others (RFC 5280, section 4.2.1.10).
    let bound = ca("bound", Some(&root), 100, |params| {
        let content = [b"\x30\x13\xa0\x11\x30\x0f\x86\x0d", &b"other.example"[..]].concat();
        params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], content)];
    });
    let crt = |text| json!({ "tls.crt": encoded(text) });
    for (what, data, words) in [
        ("garbage", holding("garbage", "garbage", ""), ["tls.crt: there is no PEM certificate", "put the certificate"]),
        ("no text", json!({ "tls.crt": "//79" }), ["tls.crt: there is no PEM certificate", "put the certificate"]),
        ("something else", json!({ "notes": encoded("mine") }), ["tls.crt: there is no", "put the certificate"]),
        ("no key", crt(&own.pem), ["tls.key: there is no PEM key", "put the key"]),
        ("no certificate", json!({ "tls.key": encoded(&own.key) }), ["tls.crt: there is no", "put the certificate"]),
        ("only roots", json!({ "ca.crt": encoded(&root.pem) }), ["tls.crt: there is no", "put the certificate"]),
        ("another's key", holding(&own.pem, &other.key, &root.pem), ["tls.key: the key is of another", "put the key"]),
        ("no CA", holding(&no_ca.pem, &no_ca.key, &root.pem), ["tls.crt: the certificate may not sign", "authority"]),
        ("expired", holding(&old.pem, &old.key, &root.pem), ["tls.crt: the certificate of \"CN=old\" has", "in force"]),
        ("elsewhere", holding(&elsewhere.pem, &elsewhere.key, &root.pem), ["domain other.example", "--trust-domain"]),
        ("bound", holding(&bound.pem, &bound.key, &root.pem), ["tls.crt: name constraints", "that permits"]),
        ("no root", holding(&own.pem, &own.key, ""), ["ca.crt: the certificate was signed by another", "put the root"]),
        ("another root", holding(&own.pem, &own.key, &other.pem), ["ca.crt: no root that is given", "put the root"]),
        ("a broken root", holding(&own.pem, &own.key, &root.pem[..200]), ["ca.crt: a certificate can't", "put whole"]),
        ("another domain", made("other.example"), ["tls.crt: the certificate is of trust", "--trust-domain"]),
    ] {
        let cluster = Cluster::with(&data);
        let error = load(&cluster).await.expect_err(what);
        let text = error.to_string();
        assert!(text.starts_with("Secret outrigger-system/outrigger-root, "), "{what}: {text}");
        assert!(words.iter().all(|words| text.contains(words)), "{what}: {text}");
        assert!(!format!("{error} {error:?}").contains("PRIVATE"), "{what}");
        assert_eq!((cluster.data(), cluster.writes()), (data, 0), "{what}");
    }
}

#[tokio::test]
async fn the_remedy_for_an_absent_secret_is_named() {
    let error = load(&Cluster::default()).await.unwrap_err().to_string();
    assert!(error.contains("outrigger-system/outrigger-root") && error.contains("--root-secret"), "{error}");
}

#[tokio::test]
async fn an_api_server_that_says_no_is_told_with_the_secrets_name() {
    let cluster = Cluster::with(&Value::Null);
    for code in [401, 403, 500] {
        cluster.fail(&[code]);
        let error = load(&cluster).await.unwrap_err().to_string();
        assert!(error.contains("outrigger-system/outrigger-root") && error.contains(&code.to_string()), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_the_api_server_and_for_people() {
    let minute = Duration::from_secs(60);
    let cluster = Cluster::default();
    cluster.fail(&[500, 403, 429]);
    let root = cluster.root();
    assert!(timeout(minute, root.wait()).await.is_err());
    cluster.put(&json!({ "tls.crt": encoded("garbage") }));
    assert!(timeout(minute, root.wait()).await.is_err());
    cluster.put(&Value::Null);
    assert!(timeout(minute, root.wait()).await.is_ok());
}
