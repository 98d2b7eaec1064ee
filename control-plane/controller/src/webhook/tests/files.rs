//! Certificates that somebody else keeps in files, replaced as a kubelet does it: files in a folder of their own, a link to
//! it that changes hands at once.

use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::*;

/// More than the port takes from one look at the files to the next.
const LOOK: Duration = Duration::from_secs(11);

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

// === impl Ca ===

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }

    /// Certificate and key, PEM.
    fn make(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([SERVICE.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// Puts files where those of `version` are to be, and lets the links lead there.
fn publish(dir: &Path, version: &str, (certificate, key): (&str, &str)) {
    fs::create_dir(dir.join(version)).unwrap();
    fs::write(dir.join(version).join("tls.crt"), certificate).unwrap();
    fs::write(dir.join(version).join("tls.key"), key).unwrap();
    std::os::unix::fs::symlink(version, dir.join("..next")).unwrap();
    fs::rename(dir.join("..next"), dir.join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        // The first time only.
        let _ = std::os::unix::fs::symlink(format!("..data/{file}"), dir.join(file));
    }
}

/// Lets the port look at the files.
async fn look() {
    tokio::time::pause();
    tokio::time::sleep(LOOK).await;
    tokio::time::resume();
}

#[tokio::test]
async fn they_are_replaced_under_open_connections() {
    let (first, second, dir) = (Ca::new(), Ca::new(), tempfile::tempdir().unwrap());
    let made = first.make();
    publish(dir.path(), "..1", (&made.0, &made.1));
    let port = Port::open_with(Some(dir.path().to_owned())).await;
    port.know("shop", &[("outrigger.dev/mode", "sidecar")]);
    let stream = TokioIo::new(port.connect_by(first.root.clone(), SERVICE, b"h2").await.unwrap());
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let ask = || async {
        let body = Full::<Bytes>::from(pod("shop").to_string());
        let request = Request::post(format!("https://{SERVICE}/inject")).body(body).unwrap();
        sender.clone().send_request(request).await.unwrap().status()
    };
    assert_eq!(ask().await, StatusCode::OK);

    let made = second.make();
    publish(dir.path(), "..2", (&made.0, &made.1));
    look().await;
    assert!(port.connect_by(second.root.clone(), SERVICE, b"h2").await.is_ok());
    assert!(port.connect_by(first.root.clone(), SERVICE, b"h2").await.is_err());
    assert_eq!(ask().await, StatusCode::OK, "on the connection of before");
    // Replicas go on as if there were no files.
    assert!(port.connect_by(port.root.clone(), "outrigger-controller.outrigger-system", b"h2").await.is_ok());
}

#[tokio::test]
async fn half_of_them_are_told_once_and_change_nothing() {
    let (ca, dir) = (Ca::new(), tempfile::tempdir().unwrap());
    let ((certificate, key), (next, next_key)) = (ca.make(), ca.make());
    publish(dir.path(), "..first", (&certificate, &key));
    let port = Port::open_with(Some(dir.path().to_owned())).await;
    let log = fake::Log::default();
    let _logging = log.begin();
    // As somebody pastes it who loses the ends of lines.
    let one_line = next_key.replace('\n', " ");
    for (case, (bad, bad_key, words)) in [
        (&certificate[..certificate.len() / 2], &key[..], "tls.crt: no whole PEM certificates"),
        ("", &key, "tls.crt: no whole PEM certificates"),
        (&next, &key, "tls.key: not the key of the first certificate"),
        (&next, &next_key[..next_key.len() / 2], "tls.key: no PEM key"),
        (&next, "", "tls.key: no PEM key"),
        (&next, &one_line, "tls.key: no PEM key"),
    ]
    .into_iter()
    .enumerate()
    {
        let before = log.text().len();
        publish(dir.path(), &format!("..bad-{case}"), (bad, bad_key));
        for _ in 0..3 {
            look().await;
        }
        let told = log.text()[before..].to_owned();
        let warnings: Vec<_> = told.lines().filter(|line| line.contains("the one before goes on")).collect();
        assert!(warnings.len() == 1 && warnings[0].contains(words), "{case}: {warnings:?}");
        // Neither as text nor as a list of bytes.
        assert!(!told.contains(&next_key[40..60]) && !told.contains("45, 45, 45"), "{case}: {told}");
        assert!(port.connect_by(ca.root.clone(), SERVICE, b"h2").await.is_ok(), "{case}");
        publish(dir.path(), &format!("..good-{case}"), (&certificate, &key));
        look().await;
    }
    fs::remove_file(dir.path().join("..data")).unwrap();
    look().await;
    assert!(port.connect_by(ca.root.clone(), SERVICE, b"h2").await.is_ok());

    publish(dir.path(), "..last", (&next, &next_key));
    look().await;
    assert!(log.text().contains("was renewed"), "{}", log.text());
}
